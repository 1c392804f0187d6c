"""The controller holds its plan, its clips and its promises, and does nothing where nothing drifts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.adaptive.delivery import Course, Day, drifting, pacing_figure, run_day, simulate_day
from models.marketing.adaptive.pacing import Paced, Pacing, by_traffic, uniform


def paced(pacing: Pacing, ratios: np.ndarray) -> list[Paced]:
    """All states when each period spends its target times the given delivery."""
    states = [pacing.begin()]
    for ratio in ratios:
        target = states[-1].target
        states.append(pacing.after(states[-1], predicted=target, realised=target * ratio))
    return states


@settings(max_examples=50)
@given(
    st.lists(st.floats(0.1, 5), min_size=2, max_size=40),
    st.floats(0.1, 1e6),
    st.sampled_from(["forecast", "published"]),
)
def test_without_drift_it_spends_the_plan_to_the_last_digit(weights: list[float], budget: float, rule: str) -> None:
    pacing = Pacing(budget=budget, curve=by_traffic(np.array(weights)), rule=rule)  # type: ignore[arg-type]
    states = paced(replace(pacing, rule="forecast"), np.ones(len(weights)))
    assert np.allclose([state.spent for state in states], pacing.plan, rtol=1e-9)
    assert states[-1].target == 0


def test_the_published_rule_does_nothing_on_a_uniform_plan_without_drift() -> None:
    states = paced(Pacing(budget=48.0, curve=uniform(48), rule="published"), np.ones(48))
    assert np.allclose([state.target for state in states[:-1]], 1.0)


def test_the_published_rule_swings_for_ever_and_the_forecast_forgets() -> None:
    # a shock in one period: with known delivery e'' = -kappa e, roots of modulus one
    curve, ratios = uniform(400), np.ones(400)
    ratios[5] = 0.0

    def errors(**how: object) -> np.ndarray:
        pacing = Pacing(budget=400.0, curve=curve, smoothing=1e-6, trending=0.0, **how)  # type: ignore[arg-type]
        states, spent = [pacing.begin()], [0.0]
        for ratio in ratios:
            target = states[-1].target
            # the controller is told a delivery of one, so that only the rule is seen
            states.append(replace(pacing.after(states[-1], predicted=target, realised=target * ratio), ratio=1.0))
            spent.append(states[-1].spent)
        return np.asarray(pacing.plan - np.array(spent))

    swings, forgets = errors(rule="published"), errors(rule="forecast", band=0.0)
    assert np.abs(swings[300:390]).max() > 0.9
    assert np.abs(forgets[8:]).max() < 1e-9


@settings(max_examples=60)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=30),
    st.floats(0, 100),
    st.sampled_from(["forecast", "published", "open loop"]),
)
def test_spend_never_exceeds_the_budget_when_delivery_has_a_ceiling(
    ratios: list[float], budget: float, rule: str
) -> None:
    pacing = Pacing(budget=budget, curve=uniform(len(ratios)), rule=rule, ceiling=1.0)  # type: ignore[arg-type]
    assert paced(pacing, np.array(ratios))[-1].spent <= budget * (1 + 1e-12)


@settings(max_examples=40)
@given(st.lists(st.floats(0.0, 3.0), min_size=3, max_size=30), st.sampled_from(["forecast", "published", "open loop"]))
def test_targets_stay_inside_their_clip(ratios: list[float], rule: str) -> None:
    pacing = Pacing(budget=10.0, curve=uniform(len(ratios)), rule=rule, least=0.2, most=0.7)  # type: ignore[arg-type]
    states = paced(pacing, np.array(ratios))
    assert all(0.2 <= state.target <= 0.7 for state in states[:-1])
    for state in states[:-1]:
        low, high = pacing.row(state, 0.1)
        assert 0.2 <= low <= high <= 0.7


def test_the_row_is_the_target_with_its_tolerance_and_never_above_what_is_left() -> None:
    pacing = Pacing(budget=10.0, curve=uniform(10), ceiling=1.0)
    state = pacing.begin()
    assert pacing.row(state, 0.05) == (0.95, 1.05)
    low, high = pacing.row(replace(state, spent=9.5, target=0.5), 0.5)
    assert (low, high) == (0.25, 0.5)


def test_no_budget_spends_nothing() -> None:
    states = paced(Pacing(budget=0.0, curve=uniform(7)), np.ones(7))
    assert all(state.target == 0 and state.spent == 0 for state in states)


def test_delivery_of_nothing_is_divided_by_its_least_value() -> None:
    states = paced(Pacing(budget=10.0, curve=uniform(10), smallest=0.5, band=0.0), np.zeros(10))
    assert max(state.target for state in states) <= 10.0 / 0.5


def test_periods_without_traffic_get_nothing_and_the_rest_is_spent_before() -> None:
    pacing = Pacing(budget=6.0, curve=by_traffic(np.array([1.0, 0.0, 2.0, 0.0])))
    assert np.allclose([state.target for state in paced(pacing, np.ones(4))[:-1]], [2, 0, 4, 0])


def test_a_state_taken_up_again_goes_on_as_before() -> None:
    pacing, ratios = Pacing(budget=10.0, curve=uniform(12)), np.linspace(1, 0.5, 12)
    straight = paced(pacing, ratios)
    stored = Paced(**vars(straight[5]))
    for number in range(5, 12):
        stored = pacing.after(stored, predicted=stored.target, realised=stored.target * ratios[number])
    assert stored == straight[-1]


@pytest.mark.parametrize("after", [0.4, 0.7, 1.5])
def test_a_jump_of_delivery_is_believed_when_it_is_seen_twice(after: float) -> None:
    ratios = np.append(np.ones(20), np.full(20, after)) * (1 + 0.01 * np.random.default_rng(0).standard_normal(40))
    states = paced(Pacing(budget=40.0, curve=uniform(40)), ratios)
    assert abs(states[21].ratio / after - 1) > 0.15  # one odd period is followed as ever
    assert all(abs(state.ratio / after - 1) < 0.07 for state in states[25:])
    smoothed = 1.0
    for _ in range(5):
        smoothed += 0.3 * (after - smoothed)
    assert abs(states[25].ratio - after) < 0.4 * abs(smoothed - after)


def test_one_period_without_delivery_is_no_jump() -> None:
    ratios = np.ones(40)
    ratios[20] = 0.0
    states = paced(Pacing(budget=40.0, curve=uniform(40)), ratios)
    assert states[21].ratio == pytest.approx(0.7)
    assert max(state.spent - spent for state, spent in zip(states, np.arange(41), strict=True)) < 0.4
    assert states[-1].spent == pytest.approx(40, rel=1e-3)


def test_a_state_that_was_stored_before_surprises_were_kept_is_taken_up() -> None:
    old = {"period": 3, "spent": 3.0, "ratio": 0.9, "trend": -0.01, "target": 1.1}
    state = Pacing(budget=10.0, curve=uniform(10)).after(Paced(**old), predicted=1.1, realised=1.0)
    assert (state.period, state.odd) == (4, -1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": -1.0}, "budget.*-1"),
        ({"budget": float("nan")}, "budget.*nan"),
        ({"curve": np.array([0.0, 0.7, 0.5, 1.0])}, "must rise from 0 to 1.*-0.2"),
        ({"curve": np.array([0.1, 1.0])}, "must rise from 0 to 1, got 0.1"),
        ({"curve": np.array([0.0])}, "at least two"),
        ({"rule": "hope"}, "unknown rule 'hope'.*forecast"),
        ({"gain": 0.0}, "gain.*above 0"),
        ({"smoothing": 1.5}, "smoothing.*1.5"),
        ({"band": -0.1}, "band.*-0.1"),
        ({"least": 2.0, "most": 1.0}, "least <= most, got 2.0 and 1.0"),
        ({"smallest": 0.0}, "smallest delivery"),
        ({"ceiling": 0.0}, "ceiling"),
    ],
)
def test_bad_settings_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Pacing(**{"budget": 1.0, "curve": uniform(3), **change})  # type: ignore[arg-type]


def test_bad_amounts_are_named() -> None:
    pacing = Pacing(budget=1.0, curve=uniform(1))
    with pytest.raises(InputError, match="realised spend of period 1 is -1"):
        pacing.after(pacing.begin(), predicted=1.0, realised=-1.0)
    with pytest.raises(InputError, match="predicted spend of period 1 is nan"):
        pacing.after(pacing.begin(), predicted=float("nan"), realised=1.0)
    with pytest.raises(InputError, match="all 1 periods are over"):
        pacing.after(replace(pacing.begin(), period=1), predicted=1.0, realised=1.0)
    with pytest.raises(InputError, match="begin with must be above 0, got 0"):
        pacing.begin(0.0)
    with pytest.raises(InputError, match=r"tolerance.*2"):
        pacing.row(pacing.begin(), 2.0)
    with pytest.raises(InputError, match="not all zero"):
        by_traffic(np.zeros(3))
    with pytest.raises(InputError, match="at least one period, got 0"):
        uniform(0)


# --- simulated days ---------------------------------------------------------------------------------------------------


def day_of(kind: str, seed: int) -> tuple[Day, Pacing]:
    day = simulate_day(drifting(kind, 48), members=400, seed=seed)  # type: ignore[arg-type]
    return day, Pacing(budget=0.09 * day.all_cost, curve=by_traffic(day.traffic))


def courses(kind: str, rule: str, seeds: range) -> list[Course]:
    return [run_day(day, replace(pacing, rule=rule)) for day, pacing in (day_of(kind, seed) for seed in seeds)]


def test_under_falling_delivery_spend_is_right_where_the_open_loop_misses_by_a_fifth() -> None:
    held, open_loop = courses("falling", "forecast", range(4)), courses("falling", "open loop", range(4))
    assert max(abs(course.spend_error) for course in held) <= 0.01
    assert max(course.overshoot for course in held) <= 0.03
    assert max(course.spend_error for course in open_loop) <= -0.2
    # 30 seeds of larger days, with intervals, are in docs/results/marketing_bidding.md
    assert np.mean([course.regret for course in held]) <= 0.02 < np.mean([course.regret for course in open_loop])


@pytest.mark.parametrize("kind", ["step", "rising", "none"])
def test_other_drifts_are_held_too(kind: str) -> None:
    for course in courses(kind, "forecast", range(2)):
        assert abs(course.spend_error) <= 0.01
        assert course.overshoot <= 0.03


def test_after_a_jump_spend_does_not_run_ahead_of_its_plan() -> None:
    held = courses("step", "forecast", range(4))
    assert max(course.overshoot for course in held) <= 0.01
    assert np.mean([course.regret for course in held]) <= 0.045


def test_a_day_is_the_same_from_the_same_seed_and_no_run_beats_its_clairvoyant_without_luck() -> None:
    (one, pacing), (same, _) = day_of("none", 3), day_of("none", 3)
    first, second = run_day(one, pacing), run_day(same, pacing)
    assert first.spent.tobytes() == second.spent.tobytes()
    assert first.spent[-1] <= pacing.budget
    assert 0 <= first.regret <= 0.01


def test_the_figure_has_a_curve_for_each_rule_and_the_plan() -> None:
    runs = {rule: courses("falling", rule, range(2)) for rule in ("forecast", "open loop")}
    figure = pacing_figure(runs, "delivery falls from 1 to .4")
    assert [series.label for series in figure.series] == ["forecast", "open loop", "plan"]
    held = figure.series[0]
    assert len(held.x) == 49
    assert held.x[-1] == 100
    assert held.low[-1] <= held.y[-1] <= held.high[-1]
    assert abs(held.y[-1] - 100) < 1
    with pytest.raises(InputError, match="at least one course"):
        pacing_figure({}, "nothing")


def test_bad_days_are_named() -> None:
    with pytest.raises(InputError, match="unknown drift 'sideways'"):
        drifting("sideways", 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="chances from 0 to 1"):
        simulate_day(np.array([0.5, 1.2]), members=3, seed=0)
    day, pacing = day_of("none", 0)
    with pytest.raises(InputError, match="48 periods, the pacing 2"):
        run_day(day, replace(pacing, curve=uniform(2)))
