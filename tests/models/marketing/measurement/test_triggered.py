"""Triggered analysis: the variance it saves, the checks that it makes, and logs that are wrong."""

import numpy as np
import pytest
from scipy import stats

from models.common.contracts import InputError
from models.marketing.measurement.heavy_tails import RefusedError
from models.marketing.measurement.power import binomial_band
from models.marketing.measurement.sample_ratio import sample_ratio, trigger_ratio
from models.marketing.measurement.triggered import one_sided_effect, triggered_effect
from tests.proofs.marketing import FAULTS, experiment

RUNS = 150


def test_the_diluted_effect_is_the_rate_times_the_effect_within() -> None:
    data = experiment(np.random.default_rng(1), 0.1, 0.5, units=4000)
    found = triggered_effect(**data)
    differ = data["decision_treatment"] == 1
    inside = [data["outcome"][differ & (data["arm"] == side)].mean() for side in (0, 1)]
    assert found.rate == differ.mean()
    assert found.diluted.value == pytest.approx(differ.mean() * (inside[1] - inside[0]), rel=1e-12)
    assert found.triggered.low < 0.5 < found.triggered.high
    assert found.diluted.low < 0.05 < found.diluted.high
    assert not found.alarms


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_variance_falls_by_the_rate_and_the_interval_still_holds(rate: float) -> None:
    values, missed, complement = [], 0, 0
    for run in range(RUNS):
        found = triggered_effect(**experiment(np.random.default_rng((2, run)), rate, 0.1, units=4000))
        values.append((found.diluted.value, found.everybody.difference, found.variance_ratio))
        missed += not found.diluted.low <= 0.1 * rate <= found.diluted.high
        complement += found.complement is not None and found.complement.p_value <= 0.05
    diluted, everybody, told = np.array(values).T
    assert told.mean() < 1.15 * rate
    assert diluted.var() / everybody.var() < 1.6 * rate  # a ratio of variances of 150 runs: 1.6 is four of its errors
    low, high = binomial_band(RUNS, 0.05, 1e-4)
    assert low <= missed <= high
    assert low <= complement <= high


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_logs_are_detected(fault: str) -> None:
    caught = 0
    for run in range(20):
        rng = np.random.default_rng((3, run))
        data = experiment(rng, 0.2, 0.3)
        FAULTS[fault](rng, data)
        caught += bool(triggered_effect(**data).alarms)
    assert caught >= 17


def test_alarms_name_what_differs() -> None:
    data = experiment(np.random.default_rng(4), 0.2, 0.0)
    lost = (data["arm"] == 1) & (np.random.default_rng(5).random(len(data["arm"])) < 0.3)
    data["decision_treatment"][lost] = 0
    (alarm,) = triggered_effect(**data).alarms
    assert alarm.startswith("triggered units: control ")
    assert "MISMATCH" in alarm


def test_decisions_may_be_names() -> None:
    data = experiment(np.random.default_rng(6), 0.3, 0.1, units=900)
    named = {key: np.where(data[key] == 1, "email", "nothing") for key in ("decision_control", "decision_treatment")}
    assert triggered_effect(**{**data, **named}).diluted == triggered_effect(**data).diluted


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"outcome": np.append(np.zeros(899), np.nan)}, "outcome of unit 899 is nan"),
        ({"arm": np.full(900, 2)}, "arm of unit 0 is 2"),
        ({"decision_treatment": np.zeros(5)}, "decisions of the treatment have the shape"),
        ({"decision_control": np.array([None] * 900)}, "control's decision for unit 0 is missing"),
        ({"outcome": np.zeros(3)}, "outcomes have the shape"),
        ({"decision_treatment": np.full(900, "0")}, "int64 of the control and <U1 of the treatment"),
    ],
)
def test_bad_logs_are_refused_by_unit_and_column(change: dict[str, np.ndarray], told: str) -> None:
    data = experiment(np.random.default_rng(7), 0.3, 0.1, units=900)
    with pytest.raises(InputError, match=told):
        triggered_effect(**{**data, **change})


def test_without_triggered_units_there_is_no_effect_to_tell() -> None:
    data = experiment(np.random.default_rng(8), 0.0, 0.0, units=100)
    with pytest.raises(RefusedError, match="0 and 0 units triggered"):
        triggered_effect(**data)


# ------------------------------------------------------------------------------------------------- one-sided logs


def one_sided(rng: np.random.Generator, units: int = 4000) -> dict[str, np.ndarray]:
    data = experiment(rng, 0.0, 0.0, units=units)
    may = rng.random(units) < 0.25
    triggers = may & (rng.random(units) < 0.8) & (data["arm"] == 1)
    before = data["outcome"] + rng.standard_normal(units)
    outcome = data["outcome"] + 0.5 * triggers
    return {"outcome": outcome, "arm": data["arm"], "triggered": triggers, "before": before, "never": ~may}


def test_augmentations_of_mean_zero_lower_the_variance_and_move_nothing() -> None:
    values, missed = [], 0
    for run in range(RUNS):
        found = one_sided_effect(**one_sided(np.random.default_rng((9, run))))
        values.append((found.effect.value, found.plain.difference, found.variance_ratio))
        missed += not found.effect.low <= 0.1 <= found.effect.high
    effect, plain, told = np.array(values).T
    assert abs(effect.mean() - 0.1) < 4 * effect.std() / np.sqrt(RUNS)
    assert told.mean() < 0.4
    assert effect.var() / plain.var() < 0.6
    low, high = binomial_band(RUNS, 0.05, 1e-4)
    assert low <= missed <= high


def test_without_augmentations_it_is_the_plain_difference() -> None:
    data = one_sided(np.random.default_rng(10))
    found = one_sided_effect(data["outcome"], data["arm"], data["triggered"])
    assert found.effect.value == pytest.approx(found.plain.difference, rel=1e-12)
    assert found.effect.standard_error == pytest.approx(found.plain.standard_error, rel=1e-9)
    assert found.per_triggered == pytest.approx(found.effect.value / found.rate)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_the_unit_of_money_does_not_matter(unit: float) -> None:
    data = one_sided(np.random.default_rng(15))
    plain, found = one_sided_effect(**data), one_sided_effect(**{**data, "outcome": data["outcome"] * unit})
    assert found.variance_ratio == pytest.approx(plain.variance_ratio, rel=1e-9)
    assert found.effect.low == pytest.approx(plain.effect.low * unit, rel=1e-9)
    data = experiment(np.random.default_rng(16), 0.3, 0.1, units=900)
    whole, moved = triggered_effect(**data), triggered_effect(**{**data, "outcome": data["outcome"] * unit})
    assert moved.variance_ratio == pytest.approx(whole.variance_ratio, rel=1e-12)
    assert moved.diluted.high == pytest.approx(whole.diluted.high * unit, rel=1e-12)


def test_a_number_known_before_helps_whatever_its_unit_and_its_neighbours() -> None:
    data = one_sided(np.random.default_rng(17))
    noise = np.random.default_rng(18).standard_normal(4000)
    plain = one_sided_effect(**{**data, "before": np.column_stack([data["before"], noise])})
    moved = one_sided_effect(**{**data, "before": np.column_stack([data["before"] * 1e-9, noise * 1e9])})
    assert moved.variance_ratio == pytest.approx(plain.variance_ratio, rel=1e-6)
    assert moved.coefficients[:2] == pytest.approx(plain.coefficients[:2] * [1e9, 1e-9], rel=1e-6)
    for useless in (np.full(4000, 0.1), data["arm"]):  # the arm itself is no number known before, and takes no part
        same = one_sided_effect(data["outcome"], data["arm"], data["triggered"], before=useless)
        assert same.effect.value == pytest.approx(same.plain.difference, rel=1e-12)
        assert same.variance_ratio == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(("units", "numbers"), [(12, 5), (30, 20), (200, 50)])
def test_many_numbers_known_before_do_not_make_the_interval_too_narrow(units: int, numbers: int) -> None:
    """With coefficients taken as known intervals of 95 % cover 88, 79 and 91 %."""
    rng, runs, missed = np.random.default_rng((units, numbers)), 1000, 0
    arm = np.repeat([0, 1], units)
    for _ in range(runs):
        found = one_sided_effect(
            rng.standard_normal(2 * units), arm, arm, before=rng.standard_normal((2 * units, numbers))
        )
        missed += not found.effect.low <= 0 <= found.effect.high
    assert missed <= binomial_band(runs, 0.06, 1e-4)[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"triggered": np.append(np.zeros(3999), np.nan)}, "triggered of unit 3999 is nan, must be yes or no"),
        ({"triggered": np.zeros(3)}, r"triggered has the shape \(3,\), there are 4000 units"),
        ({"never": np.full(4000, 2)}, "never of unit 0 is 2"),
        ({"before": np.zeros(3)}, r"have the shape \(3,\), there are 4000 units; give a row each"),
        ({"before": np.append(np.zeros(3999), np.inf)}, "number 0 known before of unit 3999 is inf"),
    ],
)
def test_bad_one_sided_logs_are_refused_by_unit(change: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(InputError, match=told):
        one_sided_effect(**{**one_sided(np.random.default_rng(19)), **change})


def test_a_unit_that_can_never_trigger_and_did_is_refused() -> None:
    data = one_sided(np.random.default_rng(11))
    data["never"] = data["never"] | data["triggered"]
    with pytest.raises(InputError, match="triggered and can never trigger"):
        one_sided_effect(**data)


# ------------------------------------------------------------------------------------------------- sample ratios


def test_a_fair_split_holds_and_a_crooked_one_does_not() -> None:
    assert sample_ratio({"control": 5080, "treatment": 4920}, {"treatment": 1, "control": 1}).holds
    crooked = sample_ratio({"control": 5200, "treatment": 4800}, {"treatment": 1, "control": 1})
    assert not crooked.holds
    assert "control 5,200 (expected 5,000.0)" in crooked.sentence()


def test_shares_belong_to_arms_by_name_and_not_by_place() -> None:
    assert sample_ratio({"control": 9000, "treatment": 1000}, {"treatment": 0.1, "control": 0.9}).p_value == 1


def test_sample_ratios_raise_false_alarms_as_often_as_said() -> None:
    rng = np.random.default_rng(12)
    shares = {"a": 5, "b": 3, "c": 2}
    drawn = rng.multinomial(30_000, [0.5, 0.3, 0.2], size=1000).tolist()
    p = [sample_ratio(dict(zip(shares, counts, strict=True)), shares) for counts in drawn]
    low, high = binomial_band(1000, 0.05, 1e-4)
    assert low <= sum(check.p_value <= 0.05 for check in p) <= high


@pytest.mark.parametrize("shares", [(0.97, 0.01, 0.01, 0.01), (0.9, 0.05, 0.05), (0.5, 0.5)])
@pytest.mark.parametrize("units", [40, 200, 2_000_000])
def test_few_expected_units_raise_no_more_false_alarms_than_said(shares: tuple[float, ...], units: int) -> None:
    """Chi-squared would alarm ten times too often where an arm expects one unit."""
    rng, runs, names = np.random.default_rng(20), 600, tuple(f"arm {number}" for number in range(len(shares)))
    meant = dict(zip(names, shares, strict=True))
    drawn = rng.multinomial(units, shares, size=runs).tolist()
    p = np.array([sample_ratio(dict(zip(names, counts, strict=True)), meant).p_value for counts in drawn])
    for level in (0.05, 1e-3):
        assert (p <= level).sum() <= binomial_band(runs, level, 1e-4)[1]


def test_few_triggers_among_many_units_are_compared_exactly() -> None:
    arms = {"control": 3_000_000, "treatment": 3_000_000}
    exact = stats.hypergeom(6_000_000, 3_000_000, 5)
    assert trigger_ratio({"control": 0, "treatment": 5}, arms).p_value == pytest.approx(2 * exact.pmf(0), rel=1e-5)
    most = {arm: units - count for (arm, units), count in zip(arms.items(), (0, 5), strict=True)}
    assert trigger_ratio(most, arms).p_value == pytest.approx(2 * exact.pmf(0), rel=1e-5)
    three = {"a": 10**6, "b": 10**6, "c": 10**6}
    assert trigger_ratio({"a": 0, "b": 0, "c": 4}, three).p_value == pytest.approx(3 / 3**4, rel=1e-5)


@pytest.mark.parametrize("units", [4000, 4_000_000])
def test_rates_of_triggers_are_compared_given_the_units_of_each_arm(units: int) -> None:
    arms = {"control": 3 * units, "treatment": units}
    assert trigger_ratio({"control": 3 * units // 10, "treatment": units // 10}, arms).p_value == pytest.approx(1)
    assert not trigger_ratio({"control": 3 * units // 10, "treatment": units // 8}, arms).holds


@pytest.mark.parametrize(
    ("counts", "shares", "told"),
    [
        ({"a": 5, "b": 5}, {"a": 1, "c": 1}, "arms b, c are in one of"),
        ({"a": 5}, {"a": 1}, "needs two arms"),
        ({"a": 5, "b": 5}, {"a": 1, "b": 0}, "must be above zero"),
        ({"a": 3.5, "b": 5}, {"a": 1, "b": 1}, "a has 3.5 units, must be a whole number"),
        ({"a": 5, "b": float("nan")}, {"a": 1, "b": 1}, "b has nan units"),
        ({"a": 5, "b": -1}, {"a": 1, "b": 1}, "b has -1 units"),
    ],
)
def test_a_split_that_says_nothing_is_refused(counts: dict[str, int], shares: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sample_ratio(counts, shares)


def test_more_triggered_than_units_is_refused() -> None:
    with pytest.raises(ValueError, match="control has 12 triggered of 10 units"):
        trigger_ratio({"control": 12, "treatment": 3}, {"control": 10, "treatment": 10})


def test_arms_without_units_have_no_rate() -> None:
    with pytest.raises(ValueError, match=r"units in each of them, got \{'a': 0, 'b': 20, 'c': 9\}; leave out empty"):
        trigger_ratio({"a": 0, "b": 10, "c": 3}, {"a": 0, "b": 20, "c": 9})
