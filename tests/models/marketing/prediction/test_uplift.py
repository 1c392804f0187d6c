"""Uplift scores are right when either nuisance is, learners find what varies, and intervals cover."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from models.common.contracts import InputError
from models.marketing.prediction.uplift import (
    Chance,
    CrossFitted,
    Ridge,
    area_under_uplift,
    calibrate,
    cross_fit,
    fit_uplift,
    mean_uplift,
    qini,
)

Floats = NDArray[np.float64]


def _members(size: int, seed: int, *, confounded: bool = False) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Features, treatment, outcome, true uplift, true propensity."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(size, 3))
    chance = expit(0.8 * x[:, 0]) if confounded else np.full(size, 0.3)
    treated = (random.random(size) < chance).astype(float)
    uplift = 0.5 + x[:, 1]
    outcome = 2 * x[:, 0] + x[:, 2] + treated * uplift + random.normal(size=size)
    return x, treated, outcome, uplift, chance


def test_the_mean_uplift_of_confounded_members_is_found_where_a_difference_of_means_is_not() -> None:
    x, treated, outcome, uplift, _ = _members(20_000, 0, confounded=True)
    found = mean_uplift(cross_fit(x, treated, outcome, learner=Ridge()).scores)
    assert abs(found.value - uplift.mean()) < 4 * found.error
    assert abs(outcome[treated == 1].mean() - outcome[treated == 0].mean() - 0.5) > 1


@pytest.mark.parametrize("wrong", ["outcomes", "propensity"])
def test_scores_are_right_when_either_nuisance_is(wrong: str) -> None:
    x, treated, outcome, uplift, chance = _members(100_000, 1, confounded=True)
    true0 = 2 * x[:, 0] + x[:, 2]
    known = CrossFitted(
        treated=treated,
        outcome=outcome,
        without=np.zeros(100_000) if wrong == "outcomes" else true0,
        treatment=np.ones(100_000) if wrong == "outcomes" else true0 + uplift,
        propensity=np.full(100_000, 0.5) if wrong == "propensity" else chance,
    )
    found = mean_uplift(known.scores)
    assert abs(found.value - uplift.mean()) < 4 * found.error


def test_propensities_are_found_where_rounding_hides_the_last_step() -> None:
    """Of 5000 logistic fits one once searched on for ever, for its cost could no longer tell its last step."""
    random = np.random.default_rng((9000, 0, 681))
    x = random.normal(size=(1500, 3))
    treated = (random.random(1500) < expit(0.7 * x[:, 0])).astype(float)
    known = cross_fit(x, treated, np.zeros(1500), learner=Ridge())
    assert np.corrcoef(known.propensity, expit(0.7 * x[:, 0]))[0, 1] > 0.95


def test_what_is_said_of_a_member_was_learned_from_others() -> None:
    x, treated, outcome, _, _ = _members(200, 2)
    plain = cross_fit(x, treated, outcome, learner=Ridge(), propensity=np.full(200, 0.3))
    outcome[7] += 1e6
    moved = cross_fit(x, treated, outcome, learner=Ridge(), propensity=np.full(200, 0.3))
    assert moved.without[7] == plain.without[7] and moved.treatment[7] == plain.treatment[7]
    assert not np.array_equal(moved.without + moved.treatment, plain.without + plain.treatment)


@pytest.mark.parametrize("kind", ["t", "x", "dr"])
@pytest.mark.parametrize("confounded", [False, True])
def test_every_learner_finds_who_gains(kind: str, confounded: bool) -> None:
    x, treated, outcome, _, _ = _members(8000, 3, confounded=confounded)
    known = cross_fit(x, treated, outcome, learner=Ridge())
    model = fit_uplift(x, known, kind=kind, learner=Ridge())  # type: ignore[arg-type]
    fresh, *_, true, _ = _members(2000, 4)
    assert np.abs(model(fresh) - true).mean() < 0.12


def test_chances_of_a_rare_response_are_cross_fitted_too() -> None:
    random = np.random.default_rng(5)
    x, treated = random.normal(size=(20_000, 2)), (random.random(20_000) < 0.5).astype(float)
    outcome = (random.random(20_000) < expit(-3 + x[:, 0] + treated * 0.7)).astype(float)
    true = (expit(-3 + x[:, 0] + 0.7) - expit(-3 + x[:, 0])).mean()
    known = cross_fit(x, treated, outcome, learner=Chance(), propensity=np.full(20_000, 0.5))
    found = mean_uplift(known.scores)
    assert abs(found.value - true) < 4 * found.error
    assert known.without.min() >= 0 and known.treatment.max() <= 1
    t = fit_uplift(x, known, kind="t", learner=Chance())
    assert np.corrcoef(t(x), x[:, 0])[0, 1] > 0.8


def _slow_area(scores: Floats, said: Floats) -> float:
    """Mean over all pairs of s_i (1 if j is said less, 1/2 if alike)."""
    less = (said[None, :] < said[:, None]) + 0.5 * (said[None, :] == said[:, None])
    return float((scores[:, None] * less).mean())


def test_the_area_is_the_mean_over_pairs_and_qini_takes_random_order_off() -> None:
    random = np.random.default_rng(6)
    scores, said = random.normal(size=200), random.integers(0, 20, 200).astype(float)
    area = area_under_uplift(scores, said)
    assert area.value == pytest.approx(_slow_area(scores, said), rel=1e-12)
    assert qini(scores, said).value == pytest.approx(area.value - scores.mean() / 2, rel=1e-12)
    assert qini(scores, np.zeros(200)).value == pytest.approx(0, abs=1e-15)
    assert area_under_uplift(scores, -said).value == pytest.approx(scores.mean() - area.value, rel=1e-9)


def test_intervals_of_qini_and_area_cover_the_truth() -> None:
    # said is uniform and scores have the mean said: the area is E[s F(s)] = 1/3 and Qini 1/3 - 1/4 = 1/12
    inside = np.zeros(2)
    for seed in range(400):
        random = np.random.default_rng(seed)
        said = random.random(150)
        scores = said + random.standard_t(5, 150)
        for place, (function, true) in enumerate(((area_under_uplift, 1 / 3), (qini, 1 / 12))):
            found = function(scores, said)
            inside[place] += found.low < true < found.high
    # 95 % of 400 is 380; 362 to 395 has 99.9 % (exact binomial)
    assert np.all((inside >= 362) & (inside <= 395)), inside


def test_calibration_tells_a_true_model_from_one_that_says_twice_too_much() -> None:
    x, treated, outcome, uplift, _ = _members(40_000, 7)
    scores = cross_fit(x, treated, outcome, learner=Ridge(), propensity=np.full(40_000, 0.3)).scores
    true, twice = calibrate(scores, uplift), calibrate(scores, 2 * uplift)
    assert true.slope.low < 1 < true.slope.high and abs(true.offset.value) < 4 * true.offset.error
    assert twice.slope.high < 0.6
    assert np.all(np.abs(true.found - true.said) < 4.5 * true.error)
    assert np.all(np.diff(true.said) > 0)


def test_what_cannot_be_told_is_refused_by_name() -> None:
    x, treated, outcome, _, _ = _members(200, 8)
    with pytest.raises(InputError, match="propensity of member 0 is 0, outside"):
        cross_fit(x, treated, outcome, learner=Ridge(), propensity=np.zeros(200))
    with pytest.raises(InputError, match="treated of member 0"):
        cross_fit(x, treated + 0.5, outcome, learner=Ridge())
    with pytest.raises(InputError, match="outcome of member 3"):
        cross_fit(x, treated, np.where(np.arange(200) == 3, np.nan, outcome), learner=Ridge())
    with pytest.raises(InputError, match="there are 3 treated members; 10 are needed"):
        cross_fit(x, np.arange(200) < 3, outcome, learner=Ridge())
    with pytest.raises(InputError, match="one length, 10 or more"):
        qini(np.zeros(5), np.zeros(5))
    with pytest.raises(InputError, match="not all is said alike"):
        calibrate(np.zeros(50), np.zeros(50))
    with pytest.raises(InputError, match="score of member 2 is nan"):
        area_under_uplift(np.where(np.arange(50) == 2, np.nan, 0.0), np.arange(50.0))
    with pytest.raises(InputError, match="2 or more, got"):
        mean_uplift(np.ones(1))
    with pytest.raises(InputError, match="penalty of a ridge must be 0 or more and finite, got -5"):
        Ridge(penalty=-5.0)
    known = cross_fit(x, treated, outcome, learner=Ridge())
    with pytest.raises(InputError, match="unknown kind of learner 's'; known are 't', 'x' and 'dr'"):
        fit_uplift(x, known, kind="s", learner=Ridge())


@pytest.mark.parametrize("unit", [1e-200, 1e-9, 1.0, 1e9, 1e140])
def test_calibration_is_the_regression_of_scores_on_what_was_said_in_any_unit(unit: float) -> None:
    """Least squares and White's errors, written out for one column."""
    rng = np.random.default_rng(12)
    said = 5 + rng.normal(size=300)
    scores = 2 + 0.7 * said + rng.normal(size=300) * said
    away = said - said.mean()
    slope = away @ scores / (away @ away)
    rest = scores - scores.mean() - slope * away
    error = np.sqrt((away**2 * rest**2).sum()) / (away @ away)
    found = calibrate(scores * unit, said * unit)
    assert found.slope.value == pytest.approx(slope, rel=1e-9)
    assert found.slope.error == pytest.approx(error, rel=1e-9)
    assert found.offset.value == pytest.approx((scores.mean() - slope * said.mean()) * unit, rel=1e-9)


def test_a_column_that_does_not_vary_moves_no_ridge() -> None:
    x, _, outcome, _, _ = _members(200, 8)
    for penalty in (0.0, 1.0):
        plain = Ridge(penalty=penalty)(x, outcome)
        wider = Ridge(penalty=penalty)(np.column_stack([x, np.full(200, 0.1)]), outcome)
        # 0.1 repeated has a spread of rounding errors, in which units another value would be 1e16 away
        np.testing.assert_allclose(wider(np.column_stack([x, np.full(200, 0.7)])), plain(x), rtol=1e-12)
