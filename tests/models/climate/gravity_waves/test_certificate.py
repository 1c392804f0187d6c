"""A sound network of fluxes is certified, and every corruption of it is refused, by the claim that it breaks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models.climate.geometry import gaussian_grid
from models.climate.gravity_waves.certificate import (
    Candidate,
    Parts,
    Stored,
    Witness,
    certify,
    row_weights,
    upper_end,
)
from models.climate.gravity_waves.fields import FluxFields
from models.climate.gravity_waves.metrics import blocks_of, ratio_interval
from tests.models.climate.gravity_waves.worlds import GRID, LEVELS, LIMITS, STRENGTH, World


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_sound_network_is_certified(world: World) -> None:
    certificate = world.certify()
    assert certificate.failures() == ()
    assert certificate.holds
    assert certificate.kinds == "exact + statistical"
    assert len(certificate.claims) == 23
    found = {claim.name: claim.value for claim in certificate.claims}
    assert found["mse_over_column"] < 0.9 and found["slope_factor"] < 1.05


def test_statistics_of_a_sample_of_the_hours_are_held_to_what_a_sample_tells(world: World) -> None:
    claim = next(one for one in world.certify(statistics_hours=10).claims if one.name == "statistics_difference")
    assert claim.kind == "statistical" and claim.holds and claim.value > 1e-4
    assert "10 of 22 hours" in claim.detail


def test_a_network_with_zeros_beyond_the_seam_is_not_held_to_rolls(world: World) -> None:
    certificate = world.certify(rolls=False)
    assert certificate.holds
    assert "roll_difference" not in {claim.name for claim in certificate.claims}


# --- corruptions ------------------------------------------------------------------------------------------------------

Corruption = Callable[[World], dict[str, Any]]


def network(change: Callable[[np.ndarray], np.ndarray]) -> Corruption:
    """The network itself is wrong: whoever asks it hears the same."""
    return lambda world: {"ask": lambda features: change(world.ask(features)).astype(np.float32)}


def judged(change: Callable[[np.ndarray], np.ndarray]) -> Corruption:
    """What the judge holds for the network's answers is not what the network says."""
    return lambda world: {"told": change}


def turned(flux: np.ndarray) -> np.ndarray:
    """Levels upside down."""
    count = flux.shape[1] // 2
    return np.concatenate([flux[:, :count][:, ::-1], flux[:, count:][:, ::-1]], 1)


def climatology(world: World) -> dict[str, Any]:
    climate = world.fluxes(world.times["training"]).mean(0)
    return {"ask": lambda features: np.broadcast_to(climate, (len(features), *climate.shape)).astype(np.float32)}


def hole(flux: np.ndarray) -> np.ndarray:
    out = flux.copy()
    out[len(out) // 2, 3, 2, 5] = np.nan
    return out


def zeros_beyond(features: np.ndarray) -> np.ndarray:
    """The flux of a network that sees nothing west of Greenwich and east of the last column."""
    wind = features[:, 3 : 3 + 2 * LEVELS].astype(np.float64)
    padded = np.pad(wind, ((0, 0), (0, 0), (0, 0), (1, 1)))
    mean = (padded[..., 1:-1] + padded[..., 2:] + padded[..., :-2]) / 3
    hill = (features[:, 2] / 500)[:, None]
    return (np.tile(STRENGTH, 2)[:, None, None] * (mean * 1.7 + hill)).astype(np.float32)


def other_years(world: World) -> dict[str, Any]:
    other = world.fluxes(world.times["test"]).astype(np.float64)
    return {"flux_mean": other.mean((0, 2, 3)), "flux_deviation": other.std((0, 2, 3))}


def best_months(world: World) -> dict[str, Any]:
    test = world.times["test"]
    return {"judged": test[test < np.datetime64("2011-08-01")]}


CORRUPTIONS: dict[str, tuple[Corruption, str]] = {
    "sign flipped": (network(lambda flux: -flux), "sign_right"),
    "levels upside down": (network(turned), "mse_over_column"),
    "latitudes reversed": (network(lambda flux: flux[:, :, ::-1]), "mse_over_column"),
    "longitudes shifted": (network(lambda flux: np.roll(flux, 1, -1)), "mse_over_column"),
    "uw and vw swapped": (network(lambda flux: np.roll(flux, LEVELS, 1)), "mse_over_column"),
    "half as strong again": (network(lambda flux: 1.5 * flux), "slope_factor"),
    "half as strong": (network(lambda flux: 0.5 * flux), "slope_factor"),
    "in mPa": (network(lambda flux: 1e3 * flux), "magnitude_factor"),
    "nothing": (network(np.zeros_like), "mse_over_mean"),
    "a climatology": (climatology, "change_correlation"),
    "one cell is no number": (network(hole), "values_not_finite"),
    "the column itself": (lambda world: {"ask": world.ask_column}, "mse_over_column"),
    "drag upside down": (
        network(lambda flux: flux[:, [1, 1, 0, 4, 4, 3]]), "column_drag_correlation",
    ),
    "hours shuffled": (judged(lambda flux: np.roll(flux, 5, 0)), "network_answer_difference"),
    "answers of a better network": (judged(lambda flux: 1.05 * flux), "network_answer_difference"),
    "levels of truth and answers upside down": (lambda world: {"truth": turned, "told": turned}, "truth_not_as_stored"),
    "truth smoothed": (
        lambda world: {"truth": lambda flux: (flux + np.roll(flux, 1, -1) + np.roll(flux, -1, -1)) / 3},
        "truth_not_as_stored",
    ),
    "truth in mPa": (lambda world: {"truth": lambda flux: 1e3 * flux}, "truth_not_as_stored"),
    "months of training judged": (
        lambda world: {"judged": world.times["training"], "parts": {"test": world.times["training"]}},
        "months_of_training_judged",
    ),
    "a month of the test learned": (
        lambda world: {"parts": {"training": np.sort(np.append(world.times["training"], world.times["test"][-3:]))}},
        "months_of_training_judged",
    ),
    "the best months only": (best_months, "test_months_not_judged"),
    "an hour judged twice": (
        lambda world: {"judged": np.sort(np.append(world.times["test"], world.times["test"][7]))}, "hours_not_of_test",
    ),
    "hours of nobody": (
        lambda world: {"parts": {"test": world.times["test"][5:]}}, "hours_not_of_test",
    ),
    "statistics of other years": (other_years, "statistics_difference"),
    "statistics of the features scaled": (
        lambda world: {"feature_deviation": 1.01 * world.statistics["feature_deviation"]}, "statistics_difference",
    ),
    "other weights": (
        lambda world: {"served": world.weights | {"body.weight": torch.arange(6.0) + 1e-6}}, "weights_not_as_trained",
    ),
    "a weight missing": (lambda world: {"served": {"flux_mean": torch.zeros(6)}}, "weights_not_as_trained"),
    "a column that learned half as long": (lambda world: {"column_share": 0.5}, "column_budget"),
    "a column that is told less": (lambda world: {"kept_from_column": 3}, "features_kept_from_column"),
    "a column that learned nothing": (
        lambda world: {
            "ask_column": lambda features: -world.ask_column(features),
            "beside": lambda features: -world.ask_column(features),
        },
        "column_over_mean",
    ),
    "one level of the other sign": (
        network(lambda flux: flux * np.array([1, 1, 1, -1, 1, 1], np.float32)[:, None, None]), "worst_flux_over_mean",
    ),
    "a column that says nothing when judged": (
        lambda world: {"beside": lambda features: 0 * world.ask_column(features)}, "column_answer_difference",
    ),
    "a network that still drops numbers": (
        network(lambda flux: flux * (1 + 0.02 * np.sign(np.sin(1e7 * flux)))), "written_out_difference",
    ),
    "a seam at Greenwich": (lambda world: {"ask": zeros_beyond}, "roll_difference"),
    "a better correlation reported": (lambda world: {"reported": {"correlation": 0.95}}, "reported_difference"),
    "an error not reported": (lambda world: {"reported": {"mse": math.nan}}, "reported_difference"),
}  # fmt: skip


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_refused_by_the_claim_that_it_breaks(world: World, name: str) -> None:
    corrupt, broken = CORRUPTIONS[name]
    certificate = world.certify(**corrupt(world))
    assert not certificate.holds
    assert broken in {claim.name for claim in certificate.failures()}


def test_other_worlds_are_certified_too() -> None:
    for seed in (1, 2):
        assert World(seed).certify().failures() == ()


# --- the reference itself ---------------------------------------------------------------------------------------------


def test_a_store_is_read_top_first_and_south_first_whatever_its_order(world: World) -> None:
    turned_about = world.dataset.isel(lat=slice(None, None, -1), level=slice(None, None, -1))
    other, time = Stored(turned_about, LEVELS), world.time[3]
    np.testing.assert_array_equal(other.features(time), world.stored.features(time))
    np.testing.assert_array_equal(other.fluxes(time), world.stored.fluxes(time))
    lower = Stored(turned_about, 2)
    kept = [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14]
    np.testing.assert_array_equal(lower.features(time), world.stored.features(time)[kept])


def test_a_store_in_double_precision_is_read_in_single_like_the_judge(world: World) -> None:
    uw = world.dataset["uw"]
    fine = world.dataset.assign(uw=(uw.dims, uw.values.astype(np.float64) * (1 + 1e-9), uw.attrs))
    time, read = world.time[0], FluxFields(fine).read([0])[1]
    assert read is not None
    np.testing.assert_array_equal(Stored(fine, LEVELS).fluxes(time), read[0])
    assert Stored(fine, LEVELS).fluxes(time).dtype == np.float32


def test_potential_temperature_is_that_of_the_published_inputs(world: World) -> None:
    features = world.stored.features(world.time[0])
    t = world.dataset["t"].values[0].astype(np.float64)
    theta = t * (np.array([1e3, 1e4, 1e5])[:, None, None] / 1e5) ** -0.286
    np.testing.assert_allclose(features[3 + 2 * LEVELS : 3 + 3 * LEVELS], theta, rtol=1e-6)
    given = world.dataset.assign(theta=world.dataset["t"] * 2)
    np.testing.assert_array_equal(
        Stored(given, LEVELS).features(world.time[0])[3 + 2 * LEVELS : 3 + 3 * LEVELS], world.dataset["t"].values[0] * 2
    )


@pytest.mark.parametrize("rows", [8, 64])
def test_rows_weigh_as_the_lattice_says(rows: int) -> None:
    np.testing.assert_allclose(row_weights(gaussian_grid(rows, 16).latitudes), gaussian_grid(rows, 16).row_weights)
    point = np.linspace(-90, 90, 19)
    assert row_weights(point).sum() == pytest.approx(1, abs=1e-14)
    assert row_weights(point)[9] == pytest.approx(np.sin(np.radians(5)), rel=1e-12)


def test_the_upper_end_is_that_of_the_interval_that_is_reported() -> None:
    random = np.random.default_rng(3)
    above, below, block = random.random(40), 1 + random.random(40), np.repeat(np.arange(5), 8)
    found = ratio_interval(above, below, block, confidence=0.9)
    assert upper_end(above, below, block, 0.9) == pytest.approx(found.high, rel=1e-12)
    assert upper_end(above, below, np.zeros(40), 0.9) == math.inf


def test_answers_in_half_precision_are_held_to_what_it_can_hold(world: World) -> None:
    def half(features: np.ndarray) -> np.ndarray:
        return torch.from_numpy(world.ask(features)).bfloat16().float().numpy()

    assert world.certify(ask=half, single=False).failures() == ()
    assert {claim.name for claim in world.certify(ask=half).failures()} == {"written_out_difference"}
    wrong = world.certify(ask=lambda features: 1.1 * half(features), single=False)
    assert "written_out_difference" in {claim.name for claim in wrong.failures()}


def test_a_witness_without_kept_hours_vouches_for_nothing(world: World) -> None:
    witness = Witness(
        latitude=GRID.latitudes,
        mean=world.statistics["flux_mean"],
        deviation=world.statistics["flux_deviation"],
        keep=[],
    )
    judged_hours = world.times["test"]
    features = world.features(judged_hours)
    witness.see(
        judged_hours,
        world.fluxes(judged_hours),
        world.ask(features),
        world.ask_column(features),
    )
    certificate = certify(
        stored=world.stored, parts=Parts(**world.times), witness=witness,
        candidate=Candidate(
            weights=world.weights, served=world.weights, ask=world.ask, ask_column=world.ask_column,
            written_out=world.written_out, single=True, column_single=True, multiple=1, rolls=True, column_share=1.0,
            kept_from_column=0, **world.statistics,
        ),
        blocks=blocks_of(judged_hours)[0], confidence=0.95, metrics=witness.metrics(), statistics_hours=100,
        limits=LIMITS,
    )  # fmt: skip
    assert "truth_not_as_stored" in {claim.name for claim in certificate.failures()}
