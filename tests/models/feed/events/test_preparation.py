"""Which log is read, how it is divided, and what is refused, whatever is made of it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from models.common.contracts import InputError
from models.feed.events.preparation import LogConfig, MovieLensConfig, divided, refuse_responses
from models.feed.events.simulator import SimulatorConfig, simulate
from models.feed.events.table import Events

FEED = SimulatorConfig(users=47, sessions=7.0)


def feed() -> Events:
    return simulate(FEED).events


def test_a_simulated_feed_comes_with_the_best_scores_that_are_possible() -> None:
    events, oracles = LogConfig(simulator=FEED).read({})
    assert {"oracle_pointwise", "oracle_setwise"} <= set(oracles)
    assert all(len(score) == len(events) for score in oracles.values())


def test_movielens_is_read_in_both_of_its_forms(tmp_path: Path) -> None:
    atomic, csv = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"], ["userId,movieId,rating,timestamp"]
    for number in range(200):
        row = (number % 7, number % 13, 1 + (number * 3) % 5, 1_600_000_000 + 4000 * number)
        atomic.append("\t".join(str(value) for value in row))
        csv.append(",".join(str(value) for value in row))
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    movies = ["movieId,title,genres"]
    for number in range(13):
        items.append(f"{number}\tFilm {number}\t1990\tDrama Comedy")
        movies.append(f"{number},Film {number} (1990),Drama|Comedy")
    for name, lines in (("a.inter", atomic), ("a.item", items), ("ratings.csv", csv), ("movies.csv", movies)):
        (tmp_path / name).write_text("\n".join(lines))
    found = []
    for ratings, films in (("a.inter", "a.item"), ("ratings.csv", "movies.csv")):
        config = LogConfig(source="movielens", movielens=MovieLensConfig(ratings=ratings, movies=films))
        files = {"ratings": tmp_path / ratings, "movies": tmp_path / films}
        assert config.sources() == {"ratings": ratings, "movies": films}
        events, oracles = config.read(files)
        assert not oracles
        found.append(events)
    one, other = found
    assert one.label.tolist() == other.label.tolist()
    assert one.categories("genres").names == other.categories("genres").names == ("Comedy", "Drama")
    assert one.label.mean() == pytest.approx(0.4)


def test_parts_follow_one_another_and_each_has_both_responses() -> None:
    events = feed()
    split = divided(events, (0.1, 0.1), "simulator")
    assert events.time[split.train].max() < events.time[split.validation].min()
    assert events.time[split.validation].max() < events.time[split.test].min()
    assert "Global time: 0.8 / 0.1 / 0.1" in split.protocol


def test_one_label_throughout_a_part_is_refused() -> None:
    silent = replace(feed(), actions=np.zeros_like(feed().actions))
    with pytest.raises(InputError, match="log what was shown and passed over too"):
        divided(silent, (0.1, 0.1), "table")


def test_events_that_cannot_be_split_are_refused_by_their_source() -> None:
    events = feed()
    with pytest.raises(InputError, match="the events of table cannot be used"):
        divided(events.take(np.arange(len(events)) < 2), (0.1, 0.1), "table")


def test_the_first_wrong_response_is_named_with_the_remedy() -> None:
    events = feed()
    actions = events.actions.copy()
    actions[[7, 9], 1] = 3
    wrong = replace(events, actions=actions)
    with pytest.raises(InputError, match=r"of event 7 is 3 \(and 1 more\); responses are 0 or 1, say in"):
        refuse_responses(wrong, wrong.actions > 1, "0 or 1")
    refuse_responses(events, events.actions > 1, "0 or 1")


@dataclass(frozen=True, kw_only=True)
class OwnConfig(LogConfig):
    """As a system has it: refusals speak of the form that the person filled in."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Upper"}, "must be lower case"),
        ({"source": "table"}, "OwnConfig.table.events must name a file"),
        ({"test": 0.6}, "OwnConfig.test must be at most 0.4"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_remedy(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OwnConfig(**change)  # type: ignore[arg-type]
