"""The ridge fit is the minimum of its loss, with weights for copies and columns in any unit."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from models.common.contracts import InputError
from models.marketing.adaptive.logistic import fit_ridge, logits


def labelled(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (rows, 3)) * [1.0, 30.0, 0.01] + [0.0, 500.0, 0.0]
    y = (rng.random(rows) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    y[:2] = [0, 1]
    return x, y


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.floats(0.1, 50))
def test_it_minimises_its_loss(seed: int, ridge: float) -> None:
    x, y = labelled(seed)
    weight = np.random.default_rng(seed).exponential(1, len(y))
    z = (x - x.mean(0)) / x.std(0)

    def loss(beta: np.ndarray) -> float:
        line = beta[0] + z @ beta[1:]
        return float((weight * (np.logaddexp(0, line) - y * line)).sum() + ridge / 2 * (beta[1:] ** 2).sum())

    found = fit_ridge(x, y, ridge=ridge, weight=weight)
    standard = np.append(found[0] + found[1:] @ x.mean(0), found[1:] * x.std(0))
    assert loss(standard) <= scipy.optimize.minimize(loss, np.zeros(4)).fun + 1e-6


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_weights_count_copies_and_units_do_not_matter(seed: int) -> None:
    x, y = labelled(seed)
    times = np.random.default_rng(seed).integers(1, 4, len(y))
    # standardized by rows, so copies are compared where every row is copied alike
    twice = fit_ridge(np.concatenate([x, x]), np.concatenate([y, y]), ridge=2.0)
    assert logits(twice, x) == pytest.approx(
        logits(fit_ridge(x, y, ridge=2.0, weight=np.full(len(y), 2.0)), x), abs=1e-6
    )
    scaled = fit_ridge(x * [7.0, 0.1, 100.0] + 3.0, y, weight=times)
    assert logits(scaled, x * [7.0, 0.1, 100.0] + 3.0) == pytest.approx(
        logits(fit_ridge(x, y, weight=times), x), abs=1e-6
    )


def test_labels_that_a_feature_parts_have_an_answer() -> None:
    x = np.arange(10.0)[:, None]
    found = logits(fit_ridge(x, x[:, 0] >= 5), x)
    assert np.isfinite(found).all()
    assert ((found > 0) == (x[:, 0] >= 5)).all()


def test_columns_that_do_not_vary_get_no_coefficient() -> None:
    x, y = labelled(1)
    found = fit_ridge(np.column_stack([x, np.full(len(y), 0.1)]), y)
    assert found[4] == 0
    assert found[:4] == pytest.approx(fit_ridge(x, y))


def test_bad_input_is_named() -> None:
    x, y = labelled(0)
    for act, words in (
        (lambda: fit_ridge(x, y[:5]), r"\(60, 3\), \(5,\)"),
        (lambda: fit_ridge(np.where(x > 500, np.nan, x), y), "must be finite"),
        (lambda: fit_ridge(x, np.ones(60)), "zeros and ones, both"),
        (lambda: fit_ridge(x, y, weight=-y), "zero or more"),
        (lambda: fit_ridge(x, y, ridge=0.0), "above zero, got 0"),
    ):
        with pytest.raises(InputError, match=words):
            act()
