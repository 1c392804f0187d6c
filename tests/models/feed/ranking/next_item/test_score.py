"""Scores of histories, places of targets, and a ranker carried over to another catalogue."""

import numpy as np
import torch

from models.feed.events.splits import Split
from models.feed.events.table import Events
from models.feed.ranking.next_item.data import Histories, Questions, questions
from models.feed.ranking.next_item.score import Scorer, blocks, carried_over, ranks
from tests.models.feed.ranking.next_item.sequences import events_of, random_ranker, simulated


def test_a_place_counts_items_that_score_as_high_and_were_not_met() -> None:
    asked = Questions(
        user=np.array([0, 1, 2, 3]),
        history=Histories(item=np.array([0, 0, 2, 4, 1]), start=np.array([0, 1, 3, 5, 5])),
        target=np.array([1, 1, 1, 3]),
    )
    score = np.array(
        [
            [9.0, 5.0, 5.0, 7.0, 1.0],  # item 0 was met; 2 ties, 3 is above
            [9.0, 5.0, 6.0, 7.0, 1.0],  # items 0 and 2 were met; 3 is above
            [0.0, 5.0, 5.0, 5.0, 9.0],  # the target itself was met and stays; 2 and 3 tie
            [0.0, 0.0, 0.0, -np.inf, 0.0],  # what cannot be recommended is never found
        ]
    )
    assert ranks(asked, score)[:3].tolist() == [2, 1, 2]
    assert ranks(asked, score)[3] > 10**6


def test_blocks_are_all_questions_in_order() -> None:
    data = simulated()
    asked = questions(Events.from_payload(data), Split.from_payload(data), "test")
    parts = list(blocks(asked, 3_000_000))
    assert [len(part) for part in parts[:-1]] == [2] * (len(parts) - 1)
    assert np.concatenate([part.user for part in parts]).tolist() == asked.user.tolist()
    assert np.concatenate([part.history.item for part in parts]).tolist() == asked.history.item.tolist()


def test_a_scorer_keeps_the_weights_that_it_was_made_of() -> None:
    network = random_ranker(31)
    scorer, history = Scorer(network), Histories(item=np.array([3, 4]), start=np.array([0, 2]))
    before = scorer.logits(history)
    network.begin(torch.zeros_like(network.items.weight), torch.zeros(31, dtype=torch.bool))
    assert np.isfinite(before).all()
    assert np.isneginf(Scorer(network).logits(history)).all()
    assert np.isfinite(scorer.logits(history)).all()


def test_the_best_items_are_in_the_order_of_their_scores_and_none_was_met() -> None:
    scorer = Scorer(random_ranker(31))
    history = Histories(item=np.array([3, 4, 9, 9]), start=np.array([0, 3, 4]))
    score, best = scorer.logits(history), scorer.best(history, 5)
    for row, met in enumerate(({3, 4, 9}, {9})):
        right = [item for item in np.argsort(-score[row]).tolist() if item not in met]
        assert best[row].tolist() == right[:5]


def test_a_ranker_carried_over_scores_the_same_items_alike_and_never_recommends_new_ones() -> None:
    old = events_of({"ann": "abcab", "bob": "dab"}, items="abcd")
    new = events_of({"ann": "cab", "eve": "dxx"}, items="xdcba")
    network = random_ranker(4)
    known = torch.tensor([True, True, False, True])
    network.begin(network.items.weight, known)
    moved = carried_over(network, old, new)
    names = {name: place for place, name in enumerate(new.item_ids.to_pylist())}
    place = np.array([names[name] for name in old.item_ids.to_pylist()])
    item = np.array([0, 1, 3, 0])
    start = np.array([0, 4])
    before = Scorer(network).logits(Histories(item=item, start=start))[0]
    after = Scorer(moved).logits(Histories(item=place[item], start=start))[0]
    np.testing.assert_allclose(after[place], before, rtol=1e-5)
    assert np.isneginf(after[[names["x"], names["c"]]]).all()
    assert np.isfinite(after[[names["a"], names["b"], names["d"]]]).all()
