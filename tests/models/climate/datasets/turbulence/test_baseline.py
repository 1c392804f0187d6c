"""The baseline: what the network, its rivals and the split are worth, on samples whose truth is known."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.datasets.turbulence.baseline import (
    BaselineConfig,
    baseline,
    climatology,
    fit,
    leakage,
    logistic,
    network,
    normalised,
    samples_of,
    scores,
)
from models.common.errors import InputError

LEVELS = 3


def groups_of(seed: int = 0, days: int = 16, noise: float = 0.3, weather: float = 0.0) -> dict[str, xr.Dataset]:
    """Cells where turbulence is wind shear of the column, or, by `weather`, the mood of the day around it."""
    rng = np.random.default_rng(seed)
    parts = []
    for day in range(days):
        row, column = (values.ravel() for values in np.meshgrid(np.arange(4, 14, 1), np.arange(5, 12), indexing="ij"))
        keep = rng.random(len(row)) < 0.6
        row, column = row[keep], column[keep]
        profiles = {name: rng.normal(size=(len(row), LEVELS)) for name in ("T", "U", "V", "OMEGA", "RH", "H", "PL")}
        mood = np.sin(0.9 * row + 2.1 * day) + np.cos(0.8 * column - 1.3 * day)
        signal = (1 - weather) * (profiles["U"][:, 0] - profiles["U"][:, 2]) + weather * mood
        turbulent = signal + noise * rng.normal(size=len(row)) > 0.4
        parts.append(
            xr.Dataset(
                {
                    "TURBULENCE": ("sample", turbulent.astype("f4")),
                    "time": ("sample", np.full(len(row), 19_000 + day, "i4")),
                    "band": ("sample", np.full(len(row), 1, "i1")),
                    "row": ("sample", row.astype("i2")),
                    "column": ("sample", column.astype("i2")),
                    "split": ("sample", np.full(len(row), day % 4 == 2, "i1")),
                    **{name: (("sample", "z"), values.astype("f4")) for name, values in profiles.items()},
                }
            )
        )
    grids = xr.Dataset({"Turbulence": (("lat", "lon"), np.zeros((19, 36), "u1"))})
    return {"training": xr.concat(parts, "sample"), "grids": grids}


def test_network_and_regression_find_what_climatology_cannot_know() -> None:
    found = baseline(groups_of(), 0, BaselineConfig(epochs=10, learning_rate=3e-3, replicates=100))
    for name in ("mlp", "logistic"):
        assert found[f"{name}_skill"][0] > 0.6
        assert found[f"{name}_skill"][1] > found["climatology_skill"][2]
    for value, low, high in found.values():
        assert low <= value <= high
    assert found["test_days"][0] == 4
    assert found["samples"][0] == groups_of()["training"].sizes["sample"]


def test_a_random_split_lends_what_whole_days_do_not() -> None:
    samples = samples_of(groups_of(weather=1.0, noise=0.05), BaselineConfig(), 0)
    found = leakage(samples, 0)
    assert found["leak_neighbour_share_days"][0] == 0
    assert found["leak_copy_skill_days"][0] == 0
    assert found["leak_neighbour_share_random"][0] > 0.95
    assert found["leak_copy_skill_gain"][0] > 0.3


def test_the_draw_of_the_other_kind_is_made_where_the_dataset_has_one_only() -> None:
    groups = groups_of(weather=1.0)
    by_days = leakage(samples_of(groups, BaselineConfig(), 0), 0)
    single = leakage(samples_of(groups, BaselineConfig(held_out="random"), 0), 0)
    for found in (by_days, single):
        assert found["leak_neighbour_share_days"][0] == 0
        assert found["leak_neighbour_share_random"][0] > 0.9


def test_scores_are_those_of_the_table_of_hits_and_misses() -> None:
    said = np.array([1, 1, 1, 0, 0, 0, 0, 0, 1, 0], bool)
    truth = np.array([1, 1, 0, 0, 0, 0, 0, 1, 1, 1], bool)
    found = scores(said, truth, np.arange(10), 50, 0)
    tp, fp, tn, fn = 3, 1, 4, 2
    expected = {
        "accuracy": (tp + tn) / 10,
        "pod": tp / (tp + fn),
        "pofd": fp / (fp + tn),  # printed upstream as FAR
        "far": fp / (tp + fp),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "skill": tp / (tp + fn) - fp / (fp + tn),
    }
    assert {name: value for name, (value, _, _) in found.items()} == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 9))
def test_intervals_hold_the_value_and_one_day_has_none(seed: int, days: int) -> None:
    rng = np.random.default_rng(seed)
    said, truth, day = rng.random(90) < 0.4, rng.random(90) < 0.3, rng.integers(0, days, 90)
    for value, low, high in scores(said, truth, day, 200, seed).values():
        assert np.isnan(value) or low <= value + 1e-12
        assert np.isnan(value) or value - 1e-12 <= high
        if days == 1 and np.isfinite(value):
            assert low == value == high


def test_intervals_over_days_are_as_wide_as_days_differ() -> None:
    """Ten days, each all hits or all misses: the share of hits varies as of ten draws, not of a thousand."""
    day = np.repeat(np.arange(10), 100)
    truth = np.ones(1000, bool)
    said = day < 5
    value, low, high = scores(said, truth, day, 4000, 1)["pod"]
    assert value == 0.5
    assert (low, high) == pytest.approx((0.2, 0.8), abs=0.05)  # binomial quantiles of 10 draws at one half


def test_missing_values_are_at_the_mean_and_what_never_changes_is_zero() -> None:
    features = np.array([[1, 5, np.nan], [3, 5, 2], [5, 5, 4], [100, 7, 8]], "f4")
    train = np.array([True, True, True, False])
    found = normalised(features, train)
    np.testing.assert_allclose(found[:3, 0], [-1.2247449, 0, 1.2247449], rtol=1e-6)
    assert found[:, 1].tolist() == [0, 0, 0, 0]
    assert found[0, 2] == 0
    np.testing.assert_allclose(found[:, 2], [0, -1, 1, 5])


def test_the_network_is_the_published_one() -> None:
    model = network(238)
    widths = [(layer.in_features, layer.out_features) for layer in model if isinstance(layer, torch.nn.Linear)]
    assert widths == [(238, 100), (100, 60), (60, 60), (60, 40), (40, 20), (20, 1)]
    assert sum(parameter.numel() for parameter in model.parameters()) == 23_900 + 6_060 + 3_660 + 2_440 + 820 + 21
    assert isinstance(model[-1], torch.nn.Sigmoid)


def test_the_best_epoch_is_kept_and_the_classes_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)).astype("f4")
    y = x[:, 0] + 0.2 * rng.normal(size=400) > 1.2  # one in nine
    torch.manual_seed(0)
    model = network(4)
    config = BaselineConfig(epochs=12, learning_rate=1e-2)
    best = fit(model, x[:300], y[:300], x[300:], y[300:], config)
    with torch.no_grad():
        said = model(torch.from_numpy(x[300:]))[:, 0]
        loss = float(torch.nn.functional.binary_cross_entropy(said, torch.from_numpy(y[300:].astype("f4"))))
    assert loss == pytest.approx(best, rel=1e-6)
    assert (said.numpy()[y[300:]] > 0.5).mean() > 0.8


def test_the_regression_has_the_coefficients_at_which_the_slope_is_zero() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 3)).astype("f4")
    y = rng.random(300) < 1 / (1 + np.exp(-(0.5 + 2 * x[:, 0] - x[:, 1])))
    model = logistic(x, y, ridge=1.0)
    origin = float(np.log(model(np.zeros((1, 3)))[0] / (1 - model(np.zeros((1, 3)))[0])))
    slope = [float(np.log(model(np.eye(3))[k] / (1 - model(np.eye(3))[k]))) - origin for k in range(3)]
    weight = np.where(y, 1 - y.mean(), y.mean())
    residual = weight * (model(x) - y)
    np.testing.assert_allclose(residual.sum(), 0, atol=1e-6)
    np.testing.assert_allclose(x.T @ residual + np.array(slope), 0, atol=1e-4)


def test_climatology_knows_places_of_the_training_days_only() -> None:
    groups = groups_of(days=12)
    training = groups["training"]
    training["TURBULENCE"] = ("sample", (training["row"].values >= 9).astype("f4"))
    samples = samples_of(groups, BaselineConfig(), 0)
    share = climatology(samples, prior=1.0)
    assert share[samples.row >= 10].min() > 0.8
    assert share[samples.row < 8].max() < 0.2


def test_the_same_seed_gives_the_same_answer() -> None:
    config = BaselineConfig(epochs=2, replicates=20)
    one, other = (baseline(groups_of(days=8), 5, config) for _ in range(2))
    assert one == other
    assert baseline(groups_of(days=8), 6, config) != one


def test_without_columns_or_with_one_class_there_is_nothing_to_measure() -> None:
    groups: Any = groups_of(days=8)
    with pytest.raises(InputError, match=r"no training samples; name MERRA-2 files"):
        baseline({"grids": groups["grids"]}, 0)
    groups["training"]["TURBULENCE"][:] = 0
    with pytest.raises(InputError, match=r"not both classes"):
        baseline(groups, 0)
