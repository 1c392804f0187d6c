"""What every ranker in service does, whatever its network: asked over HTTP, told, cut short, asked by many at once.

A system's file of tests derives a class from `ServedRanker` and says how its network and its service are made.
"""

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.feed.events.kept import Kept
from models.feed.events.known import Asked, AskError, Identifier, Item, Told
from models.feed.events.limits import Limits
from models.feed.events.service import service
from models.feed.events.splits import Split
from models.feed.events.table import Events


class World:
    """A small feed, a network of it, and what the network says of the test part when it is judged.

    Args:
        data: the data set.
        open: opens the service of a data set, with so many bytes for histories.
        judged: row numbers and logits of sessions, as the judge asks for them.
    """

    def __init__(
        self,
        data: Payload,
        open: Callable[[Payload, float], Any],
        judged: Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.float32]]],
    ) -> None:
        self.data, self.open = data, open
        self.events = Events.from_payload(data)
        self.split = Split.from_payload(data)
        self.users, self.items = self.events.user_ids.to_pylist(), self.events.item_ids.to_pylist()
        self.sessions = np.unique(self.events.session[self.split.test])
        self.rows, self.logit = judged(self.sessions)

    @cached_property
    def served(self) -> Any:
        return self.open(self.data, 2**24)

    def of(self, session: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.events.session == session)

    def question(self, session: int) -> dict[str, Any]:
        rows, events = self.of(session), self.events
        return {
            "user": self.users[events.user[rows[0]]],
            "time": int(events.time[rows[0]]),
            "candidates": [self.items[code] for code in events.item[rows]],
        }

    def right(self, session: int) -> NDArray[np.float32]:
        return self.logit[np.searchsorted(self.rows, self.of(session))]

    def told(self, row: int) -> Told:
        events = self.events
        actions = dict(zip(events.tasks, events.actions[row].tolist(), strict=True))
        return Told(Item(self.items[events.item[row]]), int(events.time[row]), actions)

    def asked(self, session: int) -> Asked:
        question = self.question(session)
        return Asked(question["user"], None, question["time"], tuple(map(Item, question["candidates"])))

    def without(self, user: Identifier) -> Payload:
        """The data set with another identifier in place of a user's."""
        names = pa.array([888_888 if one == user else one for one in self.users])
        table = self.data["users"]
        return {**self.data, "users": table.set_column(table.column_names.index("id"), "id", names)}

    def until(self, row: int) -> Payload:
        """The data set as it was when some events had happened, with the codes that it has now."""
        cut = self.events.take(np.arange(row)).payload()
        known = {name: part[:row] for name, part in self.data.items() if name == "features"}
        return {**self.data, **cut, **known}


def client_of(served: Any, limits: Limits | None = None) -> TestClient:
    return TestClient(service(lambda: (served, "test@1"), limits))


def logits(answer: dict[str, Any], tasks: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, T) in the order in which the candidates were asked about."""
    out = np.full((len(answer["items"]), len(tasks)), np.nan)
    for one in answer["items"]:
        out[one["place"]] = [one["logits"][task] for task in tasks]
    return out


class ServedRanker:
    """What every served ranker does; a subclass gives `past_of`, and `world`, a fixture of its module."""

    def past_of(self, served: Any, user: Identifier) -> Sequence[NDArray[Any]]:
        """Arrays of the events that are kept of a user."""
        raise NotImplementedError

    def test_what_is_served_is_what_was_judged_to_the_bit(self, world: World) -> None:
        client, tasks = client_of(world.open(world.data, 2**24)), world.events.tasks
        for session in world.sessions:
            answer = client.post("/rank", json=world.question(session)).json()
            assert np.array_equal(logits(answer, tasks), world.right(session).astype(np.float64))
            main = [one["logits"][tasks[0]] for one in answer["items"]]
            assert main == sorted(main, reverse=True)
            for one in answer["items"]:
                right = world.served.network.chances(np.array([[one["logits"][task] for task in tasks]], np.float32))
                assert list(one["chances"].values()) == right[0].tolist()
        counts = client.get("/metrics").json()
        assert counts["requests"] == len(world.sessions) == counts["hits"] + counts["extended"] + counts["misses"]
        assert counts["extended"] > 0
        assert 0 < counts["bytes"] <= counts["bytes_limit"]
        assert 0 < counts["latency_ms_p50"] <= counts["latency_ms_p95"]

    def test_one_candidate_more_or_less_changes_only_what_the_network_lets_it(self, world: World) -> None:
        question = world.question(world.sessions[0])
        client, tasks = client_of(world.served), world.events.tasks
        whole = logits(client.post("/rank", json=question).json(), tasks)
        turned = question | {"candidates": question["candidates"][::-1]}
        assert np.abs(logits(client.post("/rank", json=turned).json(), tasks)[::-1] - whole).max() <= 1e-6
        top = client.post("/rank", json=question | {"k": 3}).json()["items"]
        assert top == client.post("/rank", json=question).json()["items"][:3]

    def test_what_is_told_is_as_if_the_log_had_it(self, world: World) -> None:
        """Told event by event, as it happens, and asked at the beginning of every test session."""
        begin = int(world.events.before(world.events.time[world.split.test[:1]])[0])
        served, told = world.open(world.until(begin), 2**24), Kept(2**24)
        waiting = {int(session) for session in world.sessions}
        for row in range(begin, len(world.events)):
            session = int(world.events.session[row])
            if session in waiting:
                waiting.remove(session)
                scores = served.rank(world.asked(session), told)
                assert np.abs(scores.logit - world.right(session)).max() <= 1e-6
            told.add(world.users[world.events.user[row]], [world.told(row)])
        assert not waiting
        assert served.counts()["extended"] > 0

    def test_a_history_that_is_given_is_as_good_as_one_that_is_known(self, world: World) -> None:
        for session in world.sessions[:10]:
            asked, rows = world.asked(session), world.of(session)
            user = world.events.user[rows[0]]
            past = np.flatnonzero((world.events.user == user) & (world.events.time < asked.time))
            given = asked._replace(history=tuple(world.told(row) for row in past))
            scores = world.served.rank(given, Kept(0))
            assert np.abs(scores.logit - world.right(session)).max() <= 1e-6
            assert scores.seen == len(past)

    def test_a_moment_before_all_known_events_has_no_history(self, world: World) -> None:
        asked = world.asked(world.sessions[-1])
        early = world.served.rank(asked._replace(time=0), Kept(0))
        stranger = world.served.rank(asked._replace(time=0, history=()), Kept(0))
        assert early.seen == 0
        assert np.array_equal(early.logit, stranger.logit)

    def test_an_event_told_twice_counts_once_and_with_its_last_response(self, world: World) -> None:
        asked = world.asked(world.sessions[-1])
        row = world.of(int(world.sessions[0]))[0]
        one, opposite = world.told(row), dict.fromkeys(world.events.tasks, 1.0)
        told, once = Kept(2**24), Kept(2**24)
        told.add(asked.user, [one, one])
        told.add(asked.user, [one._replace(actions=opposite)])
        once.add(asked.user, [one._replace(actions=opposite)])
        first, second = (world.served.rank(asked, kept) for kept in (told, once))
        assert np.array_equal(first.logit, second.logit)
        assert first.seen == second.seen
        assert not np.array_equal(first.logit, world.right(int(world.sessions[-1])))

    def test_an_unknown_item_is_its_categories_alone(self, world: World) -> None:
        asked = world.asked(world.sessions[0])
        with pytest.raises(AskError, match=r"candidates\[1\]: 'nobody knows it': this item is unknown"):
            world.served.rank(asked._replace(candidates=(asked.candidates[0], Item("nobody knows it"))), Kept(0))
        kinds = tuple(world.events.categories("category").names)
        some, other, same = (
            world.served.rank(asked._replace(candidates=(Item(name, kind),)), Kept(0))
            for name, kind in (("x", kinds[:1]), ("x", kinds[1:2]), ("y", (*kinds[:1], "no such category")))
        )
        assert some.unknown.all()
        assert np.array_equal(some.logit, same.logit)
        assert not np.array_equal(some.logit, other.logit)
        mixed = world.served.rank(asked._replace(candidates=(*asked.candidates, Item("x", ()))), Kept(0))
        assert mixed.unknown.tolist() == [False] * len(asked.candidates) + [True]
        assert np.array_equal(world.served.rank(asked, Kept(0)).logit, world.right(world.sessions[0]))

    @pytest.mark.parametrize("item", [int, str])
    def test_an_event_is_one_however_its_item_is_written(self, world: World, item: type) -> None:
        client, question = client_of(world.open(world.data, 2**24)), world.question(world.sessions[-1])
        asked, name = world.asked(world.sessions[-1]), world.items[0]
        first, then = (
            {"item": spelled, "time": asked.time - 1} for spelled in (item(name), (str, int)[item is str](name))
        )
        told = Kept(2**24)
        told.add(asked.user, [Told(Item(name), asked.time - 1, dict.fromkeys(world.events.tasks, 1.0))])
        right = world.open(world.data, 0).rank(asked, told)
        for event, response in ((first, 0), (then, 1)):
            new = {"user": asked.user, "events": [{**event, "actions": dict.fromkeys(world.events.tasks, response)}]}
            assert client.post("/events", json=new).json()["events"] == 1
        answer = client.post("/rank", json=question).json()
        assert answer["seen"] == right.seen
        assert np.array_equal(logits(answer, world.events.tasks), right.logit.astype(np.float64))

    def test_what_is_kept_of_a_history_is_its_own_memory(self, world: World) -> None:
        """A part of a longer array would keep all of it alive, and be counted as the part alone."""
        served, asked = world.open(world.data, 2**24), world.asked(world.sessions[-1])
        served.rank(asked, Kept(0))
        parts = self.past_of(served, asked.user)
        assert parts
        assert all(len(part) and part.base is None for part in parts)

    def test_a_damaged_version_is_said_by_its_health(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        served = world.open(world.data, 0)
        whole = served.rank
        monkeypatch.setattr(served, "rank", lambda *some: whole(*some)._replace(logit=np.full((1, 2), np.nan)))
        reply = client_of(served).get("/health")
        assert (reply.status_code, reply.json()["field"]) == (503, "logit")
        assert "test@1 is damaged; roll it back" in reply.json()["detail"]

    def test_a_new_user_whose_name_is_zero_is_somebody(self, world: World) -> None:
        """What is told of her counts as what is told of any other whom the log lacks."""
        assert 0 in world.users
        answers = []
        for user in (0, 999_999):
            told = Kept(2**24)
            told.add(user, [world.told(row) for row in world.split.train[:5].tolist()])
            lacking = world.open(world.without(0), 0)
            answers.append(lacking.rank(world.asked(world.sessions[0])._replace(user=user), told).logit)
        assert np.array_equal(*answers)

    def test_a_new_user_has_the_history_that_she_is_told_of(self, world: World) -> None:
        asked = world.asked(world.sessions[0])._replace(user=999_999)
        told = Kept(2**24)
        told.add(999_999, [world.told(row) for row in world.split.train[:5]])
        known = world.served.rank(asked, told)
        stranger = world.served.rank(asked, Kept(0))
        assert (known.seen, stranger.seen) == (5, 0)
        assert not np.array_equal(known.logit, stranger.logit)
        given = world.served.rank(asked._replace(history=told.of(999_999)), Kept(0))
        assert given.seen == 5

    def test_histories_take_at_most_their_bytes(self, world: World) -> None:
        roomy = world.open(world.data, 2**24)
        for session in world.sessions:
            roomy.rank(world.asked(session), Kept(0))
        size = roomy.counts()["bytes"] / 3
        tight, none = world.open(world.data, size), world.open(world.data, 0)
        for session in world.sessions:
            for served in (tight, none):
                assert np.array_equal(served.rank(world.asked(session), Kept(0)).logit, world.right(session))
            assert tight.counts()["bytes"] <= size
        assert tight.counts()["evicted"] > 0
        assert none.counts()["bytes"] == none.counts()["histories"] == 0

    def test_answers_while_events_come_are_those_of_some_order(self, world: World) -> None:
        session = int(world.sessions[-1])
        asked = world.asked(session)
        row = int(world.of(session)[0])
        news = [world.told(other)._replace(time=asked.time - 60 + number) for number, other in enumerate(
            np.random.default_rng(0).permutation(row)[:6])]  # fmt: skip
        states, kept = [world.right(session)], Kept(2**24)
        for one in news:
            kept.add(asked.user, [one])
            states.append(world.open(world.data, 0).rank(asked, kept).logit)
        client, over = client_of(world.open(world.data, 2**24)), threading.Event()
        found: list[int] = []
        wrong: list[Any] = []

        def ask() -> None:
            while not over.is_set() or not found or found[-1] < len(news):
                answer = logits(client.post("/rank", json=world.question(session)).json(), world.events.tasks)
                away = [float(np.abs(answer - state).max()) for state in states]
                (found if min(away) <= 1e-6 else wrong).append(int(np.argmin(away)))
                if wrong:
                    return

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for one in news:
            event = {"item": one.item.id, "time": one.time, "actions": dict(one.actions)}
            assert client.post("/events", json={"user": asked.user, "events": [event]}).status_code == 200
        over.set()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert max(found) == len(news)

    def test_what_was_told_is_forgotten_by_bytes_and_the_log_remains(self, world: World) -> None:
        client = client_of(world.served, Limits(told_megabytes=0.002))
        question = world.question(world.sessions[0])
        new = [{"item": world.items[0], "time": number} for number in range(3)]
        assert client.post("/events", json={"user": question["user"], "events": new}).json()["events"] == 3
        assert client.post("/rank", json=question).json()["seen"] > 3
        for user in world.users[:10]:
            client.post("/events", json={"user": user, "events": new})
        counts = client.get("/metrics").json()
        assert counts["told_evicted"] > 0
        assert counts["told_bytes"] <= counts["told_bytes_limit"]
        many = [{"item": world.items[0], "time": number} for number in range(1000)]
        assert client.post("/events", json={"user": 5, "events": many}).json()["events"] == 0

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ("{", "body"),
            ("", "body"),
            ("[1]", "body"),
            ('{"user": 1}', "candidates"),
            ('{"user": 1, "candidates": []}', "candidates"),
            ('{"user": 1, "candidates": [NaN]}', "candidates[0]"),
            ('{"user": 1, "candidates": ["zz"]}', "candidates[0]"),
            ('{"user": 1, "candidates": [1, {"item": "zz"}]}', "candidates[1]"),
            ('{"user": 1, "candidates": [{"item": 1, "categories": [3]}]}', "candidates[0].categories[0]"),
            ('{"user": true, "candidates": [1]}', "user"),
            ('{"user": {}, "candidates": [1]}', "user"),
            ('{"user": 1, "time": -3, "candidates": [1]}', "time"),
            ('{"user": 1, "time": 1.5, "candidates": [1]}', "time"),
            ('{"user": 1, "time": 1e400, "candidates": [1]}', "time"),
            ('{"user": 1, "time": 9e99, "candidates": [1]}', "time"),
            ('{"user": 1, "candidates": [1], "k": 0}', "k"),
            ('{"user": 1, "candidates": [1], "more": 0}', "more"),
            ('{"candidates": [1], "history": [{"item": 1, "time": 5, "actions": {"no": 1}}]}', "history[0].actions"),
            ('{"candidates": [1], "history": [{"item": 1, "time": 5, "actions": {"click": 2}}]}',
             "history[0].actions.click"),
            ('{"candidates": [1], "history": [{"item": "zz", "time": 5}]}', "history[0].item"),
        ],
    )  # fmt: skip
    def test_a_wrong_question_is_told_field_value_and_remedy(self, world: World, body: str, field: str) -> None:
        reply = client_of(world.served).post("/rank", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 422
        refusal = reply.json()
        assert refusal["field"] == field
        assert refusal["detail"].startswith(field)
        assert len(refusal["detail"]) > len(field) + 20

    def test_a_request_that_asks_too_much_is_refused_before_it_is_answered(self, world: World) -> None:
        client = client_of(world.served, Limits(candidates=5, events=3, megabytes=1))
        many = {"candidates": [world.items[0]] * 6}
        assert client.post("/rank", json=many).json()["field"] == "candidates"
        new = {"user": 1, "events": [{"item": world.items[0], "time": 1}] * 4}
        assert client.post("/events", json=new).json()["field"] == "events"
        assert client.get("/metrics").json()["told_users"] == 0
        large = client.post("/rank", content=b"[" + b"1," * 600_000, headers={"Content-Type": "application/json"})
        assert large.status_code == 413
        deep = client.post("/rank", content=b"[" * 100_000, headers={"Content-Type": "application/json"})
        assert deep.status_code in (400, 422)
        assert client.get("/health").json() == {"status": "healthy", "version": "test@1"}

    def test_events_that_one_version_lacks_are_passed_over_by_it(self, world: World) -> None:
        asked, told = world.asked(world.sessions[0]), Kept(2**24)
        told.add(asked.user, [Told(Item("of a later version"), asked.time - 9, {})])
        told.add(asked.user, [Told(Item(world.items[0]), asked.time - 8, {"another task": 1.0})])
        assert np.array_equal(world.served.rank(asked, told).logit, world.right(world.sessions[0]))
