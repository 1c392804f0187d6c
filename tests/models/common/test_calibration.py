"""Calibrated chances follow the rates, keep the order, and come back from their arrays bit for bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.calibration import KNOTS, Isotonic, fit_isotonic, fit_tasks, keep_mean, staircase
from models.feed.events.metrics import auc, calibration_error, calibration_ratio, log_loss

cases = st.lists(
    st.tuples(st.integers(-6, 6), st.integers(0, 1), st.sampled_from([0.5, 1.0, 3.0])), min_size=1, max_size=30
)


def best_staircase(score: list[float], label: list[float], weight: list[float]) -> dict[float, float]:
    """Least weighted squares without a violation, by the max-min formula (Robertson, Wright & Dykstra 1988, 1.4.4):
    the fit at score s is the largest, over starts a <= s, of the smallest, over ends b >= s, mean of [a, b]."""
    knots = sorted(set(score))

    def mean(low: float, high: float) -> float:
        rows = [row for row, value in enumerate(score) if low <= value <= high]
        return sum(weight[row] * label[row] for row in rows) / sum(weight[row] for row in rows)

    return {s: max(min(mean(a, b) for b in knots if b >= s) for a in knots if a <= s) for s in knots}


@settings(max_examples=120)
@given(cases)
def test_the_fit_is_the_best_staircase(case: list[tuple[int, int, float]]) -> None:
    score, label, weight = ([float(value) for value in column] for column in zip(*case, strict=True))
    fit = staircase(np.array(score), np.array(label), np.array(weight), prior=0)
    right = best_staircase(score, label, weight)
    found: dict[float, list[float]] = {}
    for value, chance in right.items():
        found.setdefault(round(chance, 9), []).append(value)
    np.testing.assert_allclose(fit.chance, sorted(found), atol=1e-9)
    for knots, centre in zip((found[chance] for chance in sorted(found)), fit.score, strict=True):
        mass = [sum(w for s, w in zip(score, weight, strict=True) if s == knot) for knot in knots]
        assert centre == pytest.approx(np.average(knots, weights=mass), abs=1e-9)


@settings(max_examples=80)
@given(cases, st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=20))
def test_it_never_falls_and_never_leaves_zero_to_one(case: list[tuple[int, int, float]], asked: list[float]) -> None:
    score, label, weight = (np.array(column, float) for column in zip(*case, strict=True))
    fit = fit_isotonic(score, label, weight)
    chance = fit(np.sort(asked))
    assert (np.diff(chance) >= 0).all() and (chance >= 0).all() and (chance <= 1).all()
    if 0 < label.mean() < 1:
        assert chance.min() > 0 and chance.max() < 1, "the made-up events keep certainty away"


@settings(max_examples=150)
@given(cases)
def test_chances_have_the_mean_of_the_labels_they_were_fitted_to(case: list[tuple[int, int, float]]) -> None:
    score, label, weight = (np.array(column, float) for column in zip(*case, strict=True))
    step, fit = staircase(score, label, weight), fit_isotonic(score, label, weight)
    assert np.average(fit(score), weights=weight) == pytest.approx(np.average(label, weights=weight), abs=1e-9)
    assert fit.score.tolist() == step.score.tolist(), "the knots stay where they are"
    away = fit.chance - step.chance
    assert (away >= -1e-15).all() or (away <= 1e-15).all(), "all move in one direction"


def test_a_few_events_in_broad_steps_are_right_on_average_which_the_broken_line_alone_is_not() -> None:
    draw = np.random.default_rng(6)
    score = draw.exponential(size=340)
    label = (draw.random(340) < 0.05 + 0.1 * (score > 2)).astype(np.float64)
    step, fit = staircase(score, label), fit_isotonic(score, label)
    assert abs(step(score).mean() / label.mean() - 1) > 0.01
    assert fit(score).mean() == pytest.approx(label.mean(), abs=1e-12)
    inside = (score > fit.score[0]) & (score < fit.score[-1])
    assert auc(label[inside], fit(score[inside])) == auc(label[inside], score[inside])


def test_a_mean_that_no_line_reaches_leaves_the_function_as_it_is() -> None:
    step = Isotonic(score=np.array([0.0, 1.0]), chance=np.array([0.2, 0.8]))
    for label in (0.0, 1.0):
        assert keep_mean(step, np.array([0.0, 1.0]), np.array([label, label])) is step
    up = keep_mean(step, np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    np.testing.assert_allclose(up.chance, [0.6, 0.9])
    down = keep_mean(step, np.array([0.0, 1.0]), np.array([0.0, 0.5]))
    np.testing.assert_allclose(down.chance, [0.1, 0.4])


@pytest.mark.parametrize("fine", [False, True])
def test_each_task_is_fitted_alone_and_pools_where_there_would_be_too_many_knots(fine: bool) -> None:
    draw, size = np.random.default_rng(0), 40_000
    score = np.sort(draw.standard_normal(size)).astype(np.float32)
    label = (np.arange(size) / size > draw.random(size)).astype(np.float32)
    if fine:  # an increasing staircase of rates that has more steps than are kept
        label = (np.repeat(np.arange(KNOTS * 2), -(-size // (KNOTS * 2)))[:size] / (KNOTS * 2)).astype(np.float32)
    first, second = fit_tasks(np.stack([score, -score], 1), np.stack([label, 1 - label], 1), KNOTS)
    for step, values, truth in ((first, score, label), (second, -score, 1 - label)):
        assert len(step.score) <= KNOTS
        assert (len(step.score) > KNOTS // 2) == fine
        assert step(values).mean() == pytest.approx(truth.mean(dtype=np.float64), abs=1e-9)
        assert np.abs(step(values) - truth).mean() < (0.01 if fine else 0.5)
    assert (np.diff(first(score)) >= 0).all()


def drawn(seed: int, size: int = 20_011) -> tuple[Any, Any]:
    """Scores of a model that is far too sure, and labels."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1, size)
    label = (rng.random(size) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return (1 / (1 + np.exp(-(2.5 * logit + 1)))).astype(np.float32), label


def test_it_makes_an_overconfident_model_right_on_a_later_slice_and_keeps_its_order() -> None:
    score, label = drawn(0)
    later, truth = drawn(1)
    fit = fit_isotonic(score, label)
    chance = fit(later)
    assert calibration_error(truth, later) > 0.1 and calibration_error(truth, chance) < 0.015
    assert abs(calibration_ratio(truth, chance) - 1) < 0.03
    assert log_loss(truth, chance) < log_loss(truth, later) - 0.05
    order = np.argsort(later, kind="stable")
    assert (np.diff(chance[order]) >= 0).all()
    assert abs(auc(truth, chance) - auc(truth, later)) < 1e-4
    inside = (later > fit.score[0]) & (later < fit.score[-1])
    assert auc(truth[inside], chance[inside]) == auc(truth[inside], later[inside]), "there it rises strictly"


def test_weights_count_like_repeated_events() -> None:
    rng = np.random.default_rng(2)
    score, label, times = rng.normal(size=47), rng.integers(0, 2, 47), rng.integers(1, 4, 47)
    weighted = fit_isotonic(score, label, times)
    repeated = fit_isotonic(np.repeat(score, times), np.repeat(label, times))
    np.testing.assert_allclose(weighted.chance, repeated.chance)
    np.testing.assert_allclose(weighted.score, repeated.score)


def test_the_order_of_events_does_not_matter_to_a_bit() -> None:
    score, label = drawn(3, 501)
    order = np.random.default_rng(0).permutation(501)
    one, other = fit_isotonic(score, label), fit_isotonic(score[order], label[order])
    np.testing.assert_array_equal(one.chance, other.chance)
    np.testing.assert_array_equal(one.score, other.score)


def test_one_kind_of_label_gives_one_chance() -> None:
    fit = fit_isotonic(np.array([1.0, 2, 3]), np.ones(3))
    assert fit(np.array([-9.0, 2.5, 9])).tolist() == [1, 1, 1]


def test_it_comes_back_from_its_arrays_bit_for_bit() -> None:
    score, label = drawn(4)
    fit = fit_isotonic(score, label)
    np.testing.assert_array_equal(Isotonic.from_payload(dict(fit.payload()))(score), fit(score))
    assert fit(score.reshape(-1, 1)).shape == (20_011, 1)


@pytest.mark.parametrize(
    ("score", "label", "weight", "message"),
    [
        ([1, np.nan], [0, 1], [1, 1], "score of row 1 is nan"),
        ([1, 2], [0, 2], [1, 1], "label of row 1 is 2.0"),
        ([1, 2], [0, 1], [1, 0], "weight of row 1 is 0.0"),
        ([1, 2], [0], [1, 1], "rows of one length"),
        ([], [], [], "at least 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    score: list[float], label: list[float], weight: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_isotonic(np.array(score, float), np.array(label, float), np.array(weight, float))


@pytest.mark.parametrize(
    ("score", "chance", "message"),
    [
        ([1.0, 1.0], [0.1, 0.2], "Isotonic.score must rise and be finite, got 1.0 at 1"),
        ([1.0, 2.0], [0.3, 0.2], "Isotonic.chance must rise"),
        ([1.0, np.nan], [0.1, 0.2], "Isotonic.score must rise"),
        ([1.0, 2.0], [0.1, 1.2], "must lie from 0 to 1"),
        ([], [], "at least one"),
        ([1.0], [0.1, 0.2], "as many scores as chances"),
    ],
)
def test_arrays_that_are_no_rising_function_are_refused(score: list[float], chance: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Isotonic(score=np.array(score), chance=np.array(chance))
