"""A sound network of fluxes is certified, and every corruption of it is refused, by the claim that it breaks."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from models.climate.geometry import gaussian_grid
from models.climate.gravity_waves.certificate import (
    Candidate,
    Limits,
    Parts,
    Stored,
    Witness,
    certify,
    row_weights,
    upper_end,
)
from models.climate.gravity_waves.metrics import blocks_of, ratio_interval
from models.common.certificate import Certificate

DIMS = ("time", "level", "lat", "lon")
LEVELS, ROWS, COLUMNS = 3, 8, 16
GRID = gaussian_grid(ROWS, COLUMNS)
STRENGTH = np.array([0.2, 0.6, 1.0]) * 1e-3
"""Of the flux by level, Pa for a wind of 1 m/s."""

LIMITS = Limits(column=0.99, mean=0.98, sign=0.6, magnitude=3.0, slope=1.35, change=0.1, drag=0.1)


def hours(month: str, count: int) -> np.ndarray:
    return np.datetime64(f"{month}-01T00", "s") + np.arange(count) * np.timedelta64(37, "h")


def expected(features: np.ndarray, *, around: bool) -> np.ndarray:
    """The flux that follows from the wind, over hills twice: of a cell and its neighbours, or what the cell knows."""
    hill, u, v = features[:, 2], features[:, 3 : 3 + LEVELS], features[:, 3 + LEVELS : 3 + 2 * LEVELS]
    wind = np.concatenate([u, v], 1).astype(np.float64)
    mean = (wind + np.roll(wind, 1, -1) + np.roll(wind, -1, -1)) / 3 if around else wind / 3
    return np.asarray(np.tile(STRENGTH, 2)[:, None, None] * (mean * 1.7 + (hill / 500)[:, None]))


@dataclass(repr=False)
class World:
    """Hours of fluxes, a network that knows what can be known, a column that knows its own cell; to be corrupted."""

    seed: int = 0
    times: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.times = {
            "training": np.concatenate([hours("2010-01", 12), hours("2010-02", 10)]),
            "validation": hours("2010-04", 3),
            "test": np.concatenate([hours(f"2011-{month:02}", 8) for month in (3, 4, 5, 7, 8)]),
        }
        self.time = np.sort(np.concatenate(list(self.times.values())))
        random = np.random.default_rng(self.seed)
        shape = (len(self.time), LEVELS, *GRID.shape)
        values = {name: random.standard_normal(shape).astype(np.float32) for name in ("u", "v", "w", "t")}
        values["t"] += 250
        zs = np.abs(random.standard_normal(GRID.shape) * 400).astype(np.float32)
        level = np.array([10.0, 100.0, 1000.0])
        self.dataset = xr.Dataset(
            {name: (("time", "level", "lat", "lon"), one) for name, one in values.items()}
            | {"zs": (("lat", "lon"), zs)},
            {
                "time": (
                    "time",
                    self.time.astype("datetime64[m]").astype(np.int64),
                    {"units": "minutes since 1970-01-01"},
                ),
                "level": ("level", level, {"units": "hPa"}),
                "lat": GRID.latitudes,
                "lon": GRID.longitudes,
            },
        )
        stored = Stored(self.dataset.assign(dict.fromkeys(("uw", "vw"), self.dataset["u"])), LEVELS)
        features = np.stack([stored.features(one) for one in self.time])
        fluxes = expected(features, around=True)
        fluxes += 0.8e-3 * np.tile(STRENGTH / STRENGTH.max(), 2)[:, None, None] * random.standard_normal(fluxes.shape)
        halves = {"uw": fluxes[:, :LEVELS], "vw": fluxes[:, LEVELS:]}
        self.dataset = self.dataset.assign({name: (DIMS, one.astype(np.float32)) for name, one in halves.items()})
        self.read = dict(zip(self.time.tolist(), features, strict=True))
        self.true = {one: self.stored.fluxes(np.datetime64(one, "s")) for one in self.read}
        learned = np.isin(self.time, self.times["training"])
        known = {
            "feature": features[learned],
            "flux": np.stack([self.stored.fluxes(one) for one in self.time[learned]]),
        }
        self.statistics = {
            f"{name}_{what}": how(one.astype(np.float64), axis=(0, 2, 3))
            for name, one in known.items()
            for what, how in (("mean", np.mean), ("deviation", np.std))
        }
        self.statistics["feature_mean"][:2] = 0
        self.statistics["feature_deviation"][:2] = (90, 360)
        self.weights = {"body.weight": torch.arange(6.0), "flux_mean": torch.zeros(2 * LEVELS)}

    def features(self, time: np.ndarray) -> np.ndarray:
        return np.stack([self.read[one] for one in time.tolist()])

    def fluxes(self, time: np.ndarray) -> np.ndarray:
        return np.stack([self.true[one] for one in time.tolist()])

    @property
    def stored(self) -> Stored:
        return Stored(self.dataset, LEVELS)

    def ask(self, features: np.ndarray) -> np.ndarray:
        return expected(features, around=True).astype(np.float32)

    def ask_column(self, features: np.ndarray) -> np.ndarray:
        return expected(features, around=False).astype(np.float32)

    def certify(
        self,
        *,
        ask: Callable[[np.ndarray], np.ndarray] | None = None,
        told: Callable[[np.ndarray], np.ndarray] | None = None,
        beside: Callable[[np.ndarray], np.ndarray] | None = None,
        truth: Callable[[np.ndarray], np.ndarray] = lambda one: one,
        judged: np.ndarray | None = None,
        parts: dict[str, np.ndarray] | None = None,
        reported: dict[str, float] | None = None,
        statistics_hours: int = 1000,
        **candidate: Any,
    ) -> Certificate:
        """Judge as the judge does: `ask` is the network, `told` makes something else of all its answers."""
        ask = ask or self.ask
        judged = self.times["test"] if judged is None else judged
        seen = {name: candidate.get(name, self.statistics[name]) for name in ("flux_mean", "flux_deviation")}
        witness = Witness(
            latitude=GRID.latitudes,
            mean=seen["flux_mean"],
            deviation=seen["flux_deviation"],
            keep=list(judged[4:20:7]),
        )
        features = self.features(judged)
        answers, column = ask(features), (beside or self.ask_column)(features)
        answers = answers if told is None else told(answers)
        true = truth(self.fluxes(judged))
        for start in range(0, len(judged), 7):
            batch = slice(start, start + 7)
            witness.see(judged[batch], true[batch], answers[batch], column[batch])
        given: dict[str, Any] = {
            "weights": self.weights, "served": dict(self.weights), "ask": ask, "ask_column": self.ask_column,
            "multiple": 4, "rolls": True, "column_share": 1.0, **self.statistics,
        }  # fmt: skip
        return certify(
            stored=self.stored,
            parts=Parts(**(self.times | (parts or {}))),
            witness=witness,
            candidate=Candidate(**(given | candidate)),
            blocks=blocks_of(judged)[0],
            confidence=0.95,
            metrics=witness.metrics() | (reported or {}),
            statistics_hours=statistics_hours,
            limits=LIMITS,
        )


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def test_a_sound_network_is_certified(world: World) -> None:
    certificate = world.certify()
    assert certificate.failures() == ()
    assert certificate.holds
    assert certificate.kinds == "exact + statistical"
    assert len(certificate.claims) == 19
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
    "a column that says nothing when judged": (
        lambda world: {"beside": lambda features: 0 * world.ask_column(features)}, "column_answer_difference",
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
            weights=world.weights, served=world.weights, ask=world.ask, ask_column=world.ask_column, multiple=1,
            rolls=True, column_share=1.0, **world.statistics,
        ),
        blocks=blocks_of(judged_hours)[0], confidence=0.95, metrics=witness.metrics(), statistics_hours=100,
        limits=LIMITS,
    )  # fmt: skip
    assert "truth_not_as_stored" in {claim.name for claim in certificate.failures()}
