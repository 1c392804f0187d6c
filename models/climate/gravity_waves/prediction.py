"""Fluxes that a trained network predicts for the hours of a dataset, made and stored part by part.

A part is the hours of a day, or of some days. It depends on the network, on the fields of its own hours and on nothing
else, so parts are made in any order, once, and another day adds a part and changes none.

Shapes: N hours, F = 3 + 4 L features, O = 2 L fluxes, L levels, top first, I x J latitudes, south first, x longitudes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.climate.gravity_waves.fields import DIMS, FLUXES, GROUP, FluxFields
from models.climate.gravity_waves.files import write_hours
from models.climate.gravity_waves.networks import FluxNetwork, of_fluxes
from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload
from models.common.parts import Layout, Part, PreparationConfig, Survey, Variable
from models.common.threads import one_thread

if TYPE_CHECKING:
    import xarray as xr

PREDICTED = "predicted"
"""Group of what is made."""

STRANGE = 8.0
"""Deviations by which the mean of a map may lie off the mean of the hours of training; levels of another pressure, and
other units, lie further."""

_WORDS: Mapping[str, str] = {
    "uw": "predicted vertical flux of eastward momentum by waves",
    "vw": "predicted vertical flux of northward momentum by waves",
}


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    """From which fields fluxes are predicted, and in which pieces."""

    elsewhere: ClassVar[tuple[str, ...]] = ("name", "dataset", "location", "group", "days_together")

    name: str = setting(
        "predicted", "Name", "Name of what is made: lower case letters, digits and hyphens.", min_length=1
    )
    dataset: str = setting(
        "",
        "Dataset",
        "Name of a live dataset with the fields, such as `datasets-fluxes`; empty: what the network learned from.",
    )
    location: str = setting(
        "",
        "Folder",
        "Path of a Zarr tree with the fields, under a data root, in place of a dataset; empty: a dataset.",
    )
    group: str = setting(GROUP, "Group", "Group that has the fields; empty: the root.")
    days_together: int = setting(
        1, "Days of a part", "Days whose hours make one part, 1 to 366; more where there are few hours.", ge=1, le=366
    )
    hours_at_once: int = setting(
        4, "Hours at once", "Hours that the network is asked together, 1 to 1024.", ge=1, le=1024
    )
    accelerator: Literal["auto", "cpu", "gpu"] = setting(
        "cpu", "Accelerator", "Where to predict: cpu, gpu, or auto for a GPU when there is one."
    )

    def __post_init__(self) -> None:
        check(self)
        if self.location and self.dataset:
            raise ValueError(
                f"PredictionConfig.dataset must be empty when location names a folder, got {self.dataset!r} and "
                f"{self.location!r}; say which of them."
            )

        if "://" in self.location:
            raise ValueError(
                f"PredictionConfig.location must be a path on this machine, got {self.location!r}; copy the tree from "
                "there, or prepare a dataset."
            )

    def sources(self) -> Mapping[str, str]:
        """The files of the folder; see `models.common.contracts.Gridding`."""
        return {"fields": f"{self.location.rstrip('/')}/**/*"} if self.location else {}

    def survey(self, data: Payload, network: torch.nn.Module) -> Survey:
        """Days and the layout of what is made; see `models.common.contracts.Gridding`."""
        fields = self._fields(data, of_fluxes(network))
        day_T = fields.time.astype("datetime64[D]")
        window_T = day_T.astype(np.int64) // self.days_together
        parts = []
        for window in np.unique(window_T):
            rows = np.flatnonzero(window_T == window)
            first, last = str(day_T[rows[0]]), str(day_T[rows[-1]])
            parts.append(
                Part(
                    name=first if first == last else f"{first} to {last}",
                    at={PREDICTED: {"time": int(rows[0])}},
                    about={"hours": [str(hour) for hour in fields.time[rows]]},
                )
            )
        return Survey(parts=tuple(parts), groups={PREDICTED: _layout(fields)})

    def content(self, data: Payload, part: Part) -> str:
        """Digest of the fields of a part, as they are read; see `models.common.contracts.Gridding`.

        A GPU rounds otherwise, so it counts which of the two `auto` means here.
        """
        fields, found = self._all(data), hashlib.sha256(_device(self.accelerator).type.encode())
        found.update(np.ascontiguousarray(fields.level).tobytes())
        features_FIJ = np.empty((fields.features, *fields.shape), np.float32)
        for row in self._rows(fields, part):
            fields.read_into(row, features_FIJ, None)
            found.update(features_FIJ.data)
        return found.hexdigest()

    def part(self, data: Payload, network: torch.nn.Module, part: Part) -> "Mapping[str, xr.Dataset]":
        """Predict the hours of a part; see `models.common.contracts.Gridding`."""
        import xarray as xr

        flux_network = of_fluxes(network)
        fields = self._fields(data, flux_network)
        rows, count = self._rows(fields, part), fields.levels
        made = {name: np.empty((len(rows), count, *fields.shape), np.float32) for name in FLUXES}
        device = _device(self.accelerator)
        flux_network = flux_network.to(device).eval()
        for first in range(0, len(rows), self.hours_at_once):
            some = slice(first, first + self.hours_at_once)
            features_NFIJ = np.empty((len(rows[some]), fields.features, *fields.shape), np.float32)
            for n, row in enumerate(rows[some]):
                fields.read_into(row, features_NFIJ[n], None)
            _refuse_strange(fields, flux_network, rows[first], features_NFIJ)
            with torch.no_grad(), one_thread():  # the same bits however many workers share the cores
                told_NOIJ = flux_network.fluxes(torch.from_numpy(features_NFIJ).to(device)).float().cpu().numpy()
            made["uw"][some], made["vw"][some] = told_NOIJ[:, :count], told_NOIJ[:, count:]
        return {PREDICTED: xr.Dataset({name: (DIMS, values) for name, values in made.items()})}

    def export(self, groups: "Mapping[str, xr.Dataset]", folder: Path) -> tuple[Path, ...]:
        """One netCDF file a month, written hour by hour; see `models.common.parts.Partitioned`."""
        dataset, written = groups[PREDICTED], []
        month_T = np.asarray(dataset["time"].values).astype(np.int64).astype("datetime64[m]").astype("datetime64[M]")
        for month in np.unique(month_T):
            rows = np.flatnonzero(month_T == month)
            path = folder / f"fluxes_{self.name}_{month}.nc"
            written.append(write_hours(dataset, rows, FLUXES, path, compressed=False))
        return tuple(written)

    def _all(self, data: Payload) -> FluxFields:
        return FluxFields.of(data, group=self.group)

    def _fields(self, data: Payload, network: FluxNetwork) -> FluxFields:
        """The fields on the levels that the network knows: those nearest to the ground."""
        fields = self._all(data)
        if fields.levels < network.levels:
            raise InputError(
                f"the fields have {fields.levels} levels, the network learned from {network.levels}; predict from "
                "fields on its levels."
            )
        if not network.knows(fields.shape):
            raise InputError(
                f"the fields are on a lattice of {fields.shape}, the network learned from one of {network.lattice}, "
                "whose neighbours lie elsewhere; predict from fields on its lattice."
            )
        return FluxFields.of(data, group=self.group, dropped_levels=fields.levels - network.levels)

    @staticmethod
    def _rows(fields: FluxFields, part: Part) -> list[int]:
        hours = np.array(part.about["hours"], "datetime64[s]")
        rows = np.searchsorted(fields.time, hours)
        gone = fields.time[np.minimum(rows, len(fields) - 1)] != hours
        if gone.any():
            raise InputError(
                f"{part.name}: the fields have no hour {hours[gone][0]} any more; let the folder be while it is read."
            )
        return [int(row) for row in rows]


@dataclass(frozen=True, kw_only=True)
class PredictionFlowConfig:
    """What is predicted, how the work is done, and where the files go."""

    data: PredictionConfig = setting(PredictionConfig, "Fluxes", "From which fields, and in which pieces.")
    preparation: PreparationConfig = setting(PreparationConfig, "Preparation", "How the parts are made.")
    folder: str = setting(
        "", "Folder of files", "Where netCDF files go, one a month, under a data root; empty: none are written."
    )


def _layout(fields: FluxFields) -> Layout:
    minutes = fields.time.astype("datetime64[m]").astype(np.int64)
    pressure = {"units": "hPa", "positive": "down", "long_name": "pressure of the level"}
    axes: dict[str, tuple[tuple[str, ...], Any, dict[str, str]]] = {
        "time": (("time",), minutes, {"units": "minutes since 1970-01-01", "standard_name": "time"}),
        "level": (("level",), fields.level, pressure),
        "lat": (("lat",), fields.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
        "lon": (("lon",), fields.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
    }
    rows, columns = fields.shape
    return Layout(
        variables={
            name: Variable(
                dims=DIMS,
                dtype="float32",
                attrs={"units": "Pa", "long_name": words},
                chunks={"time": 1},
                shards={"time": 1},
                low=-10_000,
                high=10_000,
                missing=0.0,
                along=("level",),
            )
            for name, words in _WORDS.items()
        },
        sizes={"time": len(minutes), "level": fields.levels, "lat": rows, "lon": columns},
        coordinates=axes,
        attrs={"title": "Momentum fluxes of gravity waves, predicted by a network", "Conventions": "CF-1.11"},
    )


def _device(accelerator: str) -> torch.device:
    gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if gpu else "cpu")


def _refuse_strange(fields: FluxFields, network: FluxNetwork, row: int, features_NFIJ: "NDArray[np.float32]") -> None:
    """Refuse fields that are far from all that the network has seen: levels of another pressure, other units.

    Args:
        fields: where they are from.
        network: knows mean and deviation of every feature over the hours that it learned from.
        row: the first hour.
        features_NFIJ: the hours.
    """
    mean_F = (features_NFIJ.mean((0, 3), dtype=np.float64) * fields.area.sum(1)).sum(1)
    usual_F, deviation_F = (one.double().cpu().numpy() for one in (network.feature_mean, network.feature_deviation))
    off_F = np.abs(mean_F - usual_F) / deviation_F
    off_F[:3] = 0.0  # the lattice may be another one
    worst = int(np.argmax(off_F))
    if off_F[worst] <= STRANGE:
        return
    kind, level = divmod(worst - 3, fields.levels)
    raise InputError(
        f"{fields.place}: the mean of {('u', 'v', 'theta', 'omega')[kind]} at {fields.level[level]:g} hPa is "
        f"{mean_F[worst]:.6g} at {fields.time[row]}, {off_F[worst]:.0f} deviations off {usual_F[worst]:.6g}, that "
        "of the hours which the network learned from; predict from fields on its levels, in its units."
    )
