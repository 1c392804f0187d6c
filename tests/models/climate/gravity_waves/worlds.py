"""Hours of fluxes whose best prediction is known, a network that says it, and a column that says what a column can."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr

from models.climate.geometry import gaussian_grid
from models.climate.gravity_waves.certificate import Candidate, Limits, Parts, Stored, Witness, certify
from models.climate.gravity_waves.fields import UNITS
from models.climate.gravity_waves.metrics import blocks_of
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
            {name: (DIMS, one, {"units": UNITS[name]}) for name, one in values.items()}
            | {"zs": (DIMS[2:], zs, {"units": "m"})},
            {
                "time": ("time", self.time.astype(np.int64), {"units": "seconds since 1970-01-01"}),
                "level": ("level", level, {"units": "hPa"}),
                "lat": GRID.latitudes,
                "lon": GRID.longitudes,
            },
        )
        stored = Stored(self.dataset.assign(dict.fromkeys(("uw", "vw"), self.dataset["u"])), LEVELS)
        features = np.stack([stored.features(one) for one in self.time])
        fluxes = expected(features, around=True)
        fluxes += 0.8e-3 * np.tile(STRENGTH / STRENGTH.max(), 2)[:, None, None] * random.standard_normal(fluxes.shape)
        for name, half in (("uw", fluxes[:, :LEVELS]), ("vw", fluxes[:, LEVELS:])):
            self.dataset[name] = (DIMS, half.astype(np.float32), {"units": "Pa"})
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

    def written_out(self, features: np.ndarray) -> np.ndarray:
        return expected(features[None], around=True)[0]

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
            "written_out": self.written_out, "single": True, "column_single": True, "kept_from_column": 0,
            "multiple": 4, "rolls": True, "column_share": 1.0,
            **self.statistics,
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
