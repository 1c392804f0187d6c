"""A logistic fit is the minimum of its loss, whatever units, weights and ridge; where there is none it says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from models.common.contracts import InputError
from models.marketing.logistic import fit_logistic

Floats = NDArray[np.float64]


def labelled(seed: int, rows: int = 60) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (rows, 3)) * [1.0, 30.0, 0.01] + [0.0, 500.0, 0.0]
    y = (rng.random(rows) < expit(x[:, 0])).astype(float)
    y[:2] = [0, 1]
    return x, y


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.floats(0.1, 50))
def test_it_is_the_optimum_that_another_search_finds(seed: int, ridge: float) -> None:
    x, y = labelled(seed)
    weight = np.random.default_rng(seed).exponential(1, len(y))
    z = (x - x.mean(0)) / x.std(0)

    def cost(at: Floats) -> float:
        line = at[0] + z @ at[1:]
        return float((weight * (np.logaddexp(0, line) - y * line)).sum() + ridge / 2 * (at[1:] ** 2).sum())

    model = fit_logistic(x, y, weight, ridge=ridge)
    standard = np.append(model.offset + model.slope @ x.mean(0), model.slope * x.std(0))
    best = minimize(cost, np.zeros(4), method="BFGS", options={"gtol": 1e-8})
    assert cost(standard) <= best.fun + 1e-9
    np.testing.assert_allclose(standard, best.x, atol=2e-5)
    assert weight @ model(x) == pytest.approx(weight @ y, rel=1e-10)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1e-9, 1e-6, 1e-3, 1.0, 20.0, 1e3, 1e6]),
    st.integers(3, 3000),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_with_a_ridge_the_slope_of_the_loss_is_zero_at_its_end(seed: int, ridge: float, rows: int, mass: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, (rows, 4))
    y = (rng.random(rows) < expit(2 * x[:, 0] - 3)).astype(float)
    y[:2] = [0, 1]
    weight = mass * rng.exponential(1, rows)
    model = fit_logistic(x, y, weight, ridge=ridge)
    rest, scale = weight * (y - model(x)), x.std(0)
    force = ((x - x.mean(0)) / scale).T @ rest - ridge * model.slope * scale
    assert abs(rest.sum()) < 1e-7 * weight.sum()
    assert np.abs(force).max() < 1e-7 * weight.sum()


def test_the_larger_the_ridge_the_smaller_the_slopes() -> None:
    x, y = labelled(3)
    lengths = [np.linalg.norm(fit_logistic(x, y, ridge=ridge).slope * x.std(0)) for ridge in 10.0 ** np.arange(-6, 7)]
    assert np.all(np.diff(lengths) < 0)
    assert lengths[-1] < 1e-4
    limit = fit_logistic(x, y, ridge=0.0)
    np.testing.assert_allclose(fit_logistic(x, y, ridge=1e-9).slope, limit.slope, rtol=1e-8)


def test_weights_count_copies_and_rows_without_weight_are_not_there() -> None:
    x, y = labelled(5)
    twice = fit_logistic(np.concatenate([x, x]), np.concatenate([y, y]), ridge=2.0)
    heavy = fit_logistic(x, y, np.full(len(y), 2.0), ridge=2.0)
    np.testing.assert_allclose(twice.logits(x), heavy.logits(x), atol=1e-10)
    outlier = np.concatenate([x, [[1e9, -1e9, 1e9]]])
    without = fit_logistic(outlier, np.append(y, 1.0), np.append(np.ones(len(y)), 0.0), ridge=2.0)
    np.testing.assert_allclose(without.logits(x), fit_logistic(x, y, ridge=2.0).logits(x), atol=1e-12)


@pytest.mark.parametrize("unit", [1e-300, 1e-12, 1.0, 1e12, 1e200])
def test_the_unit_of_a_column_does_not_matter(unit: float) -> None:
    x, y = labelled(7)
    times = np.random.default_rng(7).integers(1, 4, len(y))
    plain = fit_logistic(x[:, :1], y, times)
    np.testing.assert_allclose(fit_logistic(x[:, :1] * unit, y, times)(x[:, :1] * unit), plain(x[:, :1]), atol=1e-9)


def test_the_place_of_zero_does_not_matter() -> None:
    x, y = labelled(8)
    np.testing.assert_allclose(fit_logistic(x + 1e4, y)(x + 1e4), fit_logistic(x, y)(x), atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e-9, 1e9])
def test_columns_that_do_not_vary_get_no_slope_and_change_nothing(ridge: float, constant: float) -> None:
    x, y = labelled(1)
    wider = fit_logistic(np.column_stack([x, np.full(len(y), constant)]), y, ridge=ridge)
    plain = fit_logistic(x, y, ridge=ridge)
    assert wider.slope[3] == 0
    assert wider.offset == plain.offset
    assert wider.slope[:3].tolist() == plain.slope.tolist()


def test_without_columns_the_chance_is_the_mean_label() -> None:
    model = fit_logistic(np.zeros((5, 0)), np.array([0, 0, 0, 1, 1.0]))
    np.testing.assert_allclose(model(np.zeros((2, 0))), 0.4, rtol=1e-14)


def test_columns_that_repeat_each_other_share_the_slope() -> None:
    x, y = labelled(2)
    for ridge in (0.0, 3.0):
        both = fit_logistic(np.column_stack([x[:, :1], x[:, :1]]), y, ridge=ridge)
        assert both.slope[0] == pytest.approx(both.slope[1], rel=1e-9)
    np.testing.assert_allclose(
        fit_logistic(np.column_stack([x[:, :1], x[:, :1]]), y, ridge=0.0)(np.column_stack([x[:, :1], x[:, :1]])),
        fit_logistic(x[:, :1], y, ridge=0.0)(x[:, :1]),
        atol=1e-9,
    )


@pytest.mark.parametrize("ridge", [1e-9, 1e-3, 1.0, 1e6])
def test_labels_that_a_line_parts_have_an_answer_with_any_ridge(ridge: float) -> None:
    x = np.arange(20.0)[:, None]
    model = fit_logistic(x, x[:, 0] >= 10, ridge=ridge)
    assert np.isfinite(model.slope).all()
    # between 9 and 10, by symmetry
    assert -model.offset / model.slope[0] == pytest.approx(9.5, abs=1e-6)


def test_labels_that_a_line_parts_need_a_ridge_and_it_is_said() -> None:
    x = np.arange(20.0)[:, None]
    apart = x[:, 0] >= 10
    with pytest.raises(InputError, match="parts the labels; use a ridge above 0"):
        fit_logistic(x, apart, ridge=0.0)
    # touching at one value: no chance is 0 or 1 there, and still no slope is finite
    touching = np.append(x, [[10.0]])[:, None]
    with pytest.raises(InputError, match="parts the labels"):
        fit_logistic(touching, np.append(apart, 0.0), ridge=0.0)
    # one row among many that a column of its own tells
    rare = np.column_stack([np.random.default_rng(0).normal(size=5000), np.arange(5000) == 77])
    label = np.random.default_rng(1).random(5000) < 0.5
    with pytest.raises(InputError, match="parts the labels"):
        fit_logistic(rare, label, ridge=0.0)
    # labels that cross have an answer, however steep
    steep = fit_logistic(np.append(x, [[8.0], [11.0]])[:, None], np.append(apart, [1.0, 0.0]), ridge=0.0)
    assert np.isfinite(steep.slope).all()


def test_a_slope_that_is_steep_for_an_outlier_s_sake_is_no_parting() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2000, 1))
    y = (rng.random(2000) < expit(x[:, 0])).astype(float)
    x[0], y[0] = -1e3, 0.0
    model = fit_logistic(x, y, ridge=0.0)  # in standard units the slope is above 20
    assert model.slope[0] * x.std() > 20
    rest = y - model(x)
    assert abs(rest.sum()) < 1e-7 and abs(x[:, 0] @ rest) < 1e-6


def test_labels_may_be_shares() -> None:
    x = np.array([[0.0], [1.0]])
    model = fit_logistic(x, np.array([0.25, 0.75]), ridge=0.0)
    np.testing.assert_allclose(model(x), [0.25, 0.75], atol=1e-12)


def test_bad_input_is_named() -> None:
    x, y = labelled(0)
    for features, label, weight, ridge, words in (
        (x, y[:5], None, 1.0, r"\(60, 3\), \(5,\)"),
        (x[:0], y[:0], None, 1.0, "at least one"),
        (np.where(x > 500, np.nan, x), y, None, 1.0, r"features of row \d+, column 1 are nan, must be finite"),
        (x, y + 0.5, None, 1.0, r"label of row \d+ is 1.5, must be 0 to 1"),
        (x, np.ones(60), None, 1.0, "labels of 60 rows with weight are alike, 1,"),
        (x, y, 1 - y, 1.0, "rows with weight are alike, 0,"),
        (x, y, np.zeros(60), 1.0, "labels of 0 rows"),
        (x, y, -y, 1.0, r"weight of row \d+ is -1.0, must be 0 or more"),
        (x, y, None, -1.0, "ridge must be 0 or more and finite, got -1"),
        (x, y, None, np.nan, "ridge must be 0 or more and finite, got nan"),
    ):
        with pytest.raises(InputError, match=words):
            fit_logistic(features, label, weight, ridge=ridge)
