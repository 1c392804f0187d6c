"""The judgement of an audience: recall of held-out seeds as counted by hand; a certificate that corruptions break."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models.common.contracts import Payload
from models.marketing.audience_certificate import certify
from models.marketing.audience_judge import CHANCE, OURS, POPULAR, TRUTH, AudienceJudgementConfig, held_out, judge
from models.marketing.config import AudienceConfig, GeneratedSeedsConfig
from tests.models.marketing.audiences import CONFIG, Exhaustive, expanded

SETTINGS = AudienceJudgementConfig(folds=4, resamples=500, seed=1)


def test_recall_is_what_plain_loops_count() -> None:
    parts, sizes = expanded(), np.array([9, 60])
    seeds = parts["seeds"].tolist()
    fold = np.random.default_rng([1, 0]).permutation(len(seeds)) % 4
    found = held_out(parts, sizes, SETTINGS)
    for number in range(4):
        acting = [row for row in range(len(seeds)) if fold[row] != number]
        lists: dict[int, list[float]] = {}
        for row in acting:
            for at, cosine in zip(parts["places"][row].tolist(), parts["scores"][row].tolist(), strict=True):
                lists.setdefault(at, []).append(cosine)
        score = {at: sum(sorted([*values, *[-1.0] * 4])[-4:]) / 4 for at, values in lists.items()}
        others = {seeds[row] for row in acting}
        ranked = sorted((at for at in score if at not in others), key=lambda at: -score[at])
        for row in range(len(seeds)):
            if fold[row] == number:
                expected = [float(seeds[row] in ranked[:size]) for size in sizes.tolist()]
                assert found[OURS][row].tolist() == expected
    candidates = 413 - len(seeds) + np.bincount(fold)[fold]
    assert found[CHANCE] == pytest.approx(sizes[None, :] / candidates[:, None])


def test_equal_popularity_counts_as_an_order_by_lot() -> None:
    index = Exhaustive()
    parts = expanded(searcher=index)
    found, seeds = held_out(parts, np.array([60]), SETTINGS)[POPULAR][:, 0], parts["seeds"]
    fold = np.random.default_rng([1, 0]).permutation(len(seeds)) % 4
    for row, seed in enumerate(seeds.tolist()):
        others = set(seeds[fold != fold[row]].tolist())
        rivals = [index.popularity[at] for at in range(413) if at not in others]
        more = sum(one > index.popularity[seed] for one in rivals)
        equal = sum(one == index.popularity[seed] for one in rivals)
        assert found[row] == pytest.approx(min(max((60 - more) / equal, 0), 1))


def test_no_ranking_beats_the_truth_by_more_than_chance_and_look_alikes_beat_random() -> None:
    found = judge(expanded(), SETTINGS)
    assert found.certificate.holds, found.certificate.failures()
    metrics = found.metrics
    assert metrics["recall_low"] <= metrics["recall"] <= metrics["recall_high"]
    assert metrics["gain_over_random_low"] > 0.1
    assert metrics["gain_over_oracle_low"] < 0
    assert metrics["gain_over_popularity"] == pytest.approx(metrics["recall"] - metrics["recall_popularity"])
    assert [row["audience"] for row in found.table] == [15, 30, 60, 120, 240]
    assert [series.label for series in found.figures[0].series] == [OURS, CHANCE, POPULAR, TRUTH]


def test_seeds_that_chance_alone_chose_are_not_found_and_the_audience_is_degraded() -> None:
    gains, held = [], 0
    for seed in range(12):
        generated = GeneratedSeedsConfig(seeds=60, sharpness=0.0, seed=seed)
        found = judge(expanded(dataclasses.replace(CONFIG, generated=generated)), SETTINGS)
        gains.append(found.metrics["gain_over_random"])
        held += found.certificate.holds
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(11) + 0.01
    assert held <= 3, "the lower end of a 95 % interval is above zero in one of forty"


def test_an_audience_of_everybody_finds_everybody_who_can_be_found() -> None:
    parts = expanded(dataclasses.replace(CONFIG, neighbours=412, size=413))
    metrics = AudienceConfig(judgement=SETTINGS).analyse(parts).metrics
    assert metrics["recall"] == metrics["recall_random"] == 1


def _members(change: Callable[[list[Any], list[Any]], None]) -> Callable[[dict[str, Any]], None]:
    def corrupt(parts: dict[str, Any]) -> None:
        members, scores = (parts["answers"][name].to_pylist() for name in ("member", "score"))
        change(members, scores)
        parts["answers"] = pa.table({"member": members, "score": scores})

    return corrupt


def _lists(part: str, change: Callable[[Any], None]) -> Callable[[dict[str, Any]], None]:
    def corrupt(parts: dict[str, Any]) -> None:
        parts[part] = parts[part].copy()
        change(parts[part])

    return corrupt


def _seed_in(members: list[Any], scores: list[Any]) -> None:
    members[0] = f"m{expanded()['seeds'][0]}"


def _put(values: list[Any], at: int, value: Any) -> None:
    values[at] = value


def _drop_seed(parts: dict[str, Any]) -> None:
    """Take out of every list the first other seed that it holds, as an index would that lost it."""
    places, seeds = parts["places"].copy(), set(parts["seeds"].tolist())
    for row in range(len(places)):
        other = [at for at, one in enumerate(places[row, :-1].tolist()) if at and one in seeds]
        if other:
            outside = next(one for one in range(413) if one not in seeds and one not in places[row])
            places[row, other[0]] = outside
    parts["places"] = places


def _last_first(members: list[Any], scores: list[Any]) -> None:
    members.insert(0, members.pop())


def _reversed(members: list[Any], scores: list[Any]) -> None:
    members.reverse()
    scores.reverse()


def _without(at: slice) -> Callable[[dict[str, Any]], None]:
    def change(members: list[Any], scores: list[Any]) -> None:
        del members[at], scores[at]

    return _members(change)


CORRUPTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a member from nowhere": ("unknown_members", _members(lambda m, s: _put(m, 3, "ann"))),
    "a member without a name": ("unknown_members", _members(lambda m, s: _put(m, 3, None))),
    "a member twice": ("repeated_members", _members(lambda m, s: _put(m, 3, m[2]))),
    "a seed": ("seeds_chosen", _members(_seed_in)),
    "the worst first": ("members_out_of_order", _members(_reversed)),
    "a score off by a millionth": ("scores_off", _members(lambda m, s: _put(s, -1, s[-1] - 1e-6))),
    "scores of others": ("scores_off", _members(_last_first)),
    "the best is missing": ("better_left_out", _without(slice(0, 1))),
    "the last is missing": ("members_off", _without(slice(-1, None))),
    "nobody": ("members_off", _without(slice(None))),
    "cosines off by a millionth": ("cosines_off", _lists("scores", lambda one: np.add(one, 1e-6, out=one))),
    "another seed's vector": ("cosines_off", _lists("queries", lambda one: np.copyto(one[3], one[4]))),
    "a lost neighbour": ("neighbours_missing", _drop_seed),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_audience_is_refused_by_the_claim_that_it_breaks(name: str) -> None:
    claim, corrupt = CORRUPTIONS[name]
    sound: Payload = expanded()
    assert certify(sound).holds
    parts = dict(sound)
    corrupt(parts)
    assert claim in {one.name for one in certify(parts).failures()}
