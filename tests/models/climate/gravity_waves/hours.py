"""Small datasets of fields and fluxes, written by hand, and the same ones stored as prepared datasets are."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import xarray as xr

from infra.grids import Parts, open_groups
from infra.trees import plant
from models.climate.geometry import gaussian_grid
from models.climate.gravity_waves.fields import DIMS, GROUP, UNITS
from models.common.contracts import Payload
from models.common.parts import Layout, Partitioned, Variable
from tasks.prepare import Work, make

NAMES = ("u", "v", "w", "t", "p", "zs", "uw", "vw")
PRESSURE = (3.0, 70.0, 400.0, 900.0, 1000.0)
"""hPa, top first."""

_hasty = patch("os.fsync", lambda _: None)
"""Nobody needs these files after a crash."""


def coded(name: str, hour: Any, level: Any, row: Any, column: Any) -> Any:
    """A value that tells where it is from, within what its units allow, exact in single precision."""
    place = (hour % 64) + level / 8 + row / 64 + column / 1024
    if name == "t":
        return 200 + place
    if name == "p":
        return 100 * np.array(PRESSURE)[level] * (1 + row / 64) + 0 * place
    if name == "zs":
        return 50.0 + row + column / 8 + 0 * place
    return (NAMES.index(name) + 1) * 8 + place / 4


def hand_written(
    hours: int = 5, *, levels: int = 3, rows: int = 4, columns: int = 6, apart: int = 7, start: str = "2010-01-01T00"
) -> xr.Dataset:
    """Fields and fluxes whose every value tells its place; like a store, with undecoded times."""
    grid = gaussian_grid(rows, columns)
    shape = (hours, levels, rows, columns)
    places = np.indices(shape)
    minutes = np.datetime64(start, "m").astype(int) + 60 * apart * np.arange(hours)
    return xr.Dataset(
        {name: (DIMS, coded(name, *places).astype(np.float32), {"units": UNITS[name]}) for name in NAMES},
        coords={
            "time": ("time", minutes, {"units": "minutes since 1970-01-01"}),
            "level": ("level", np.array(PRESSURE[:levels]), {"units": "hPa"}),
            "lat": ("lat", grid.latitudes, {"units": "degrees_north"}),
            "lon": ("lon", grid.longitudes, {"units": "degrees_east"}),
        },
    )


def stored(dataset: xr.Dataset, folder: Path, *, chunks: Mapping[str, int], shards: Mapping[str, int]) -> Payload:
    """The same dataset as a store opens it."""
    layout = Layout(
        variables={
            str(name): Variable(
                dims=DIMS, dtype="float32", attrs=dict(one.attrs), chunks=dict(chunks), shards=dict(shards)
            )
            for name, one in dataset.data_vars.items()
        },
        sizes={name: dataset.sizes[name] for name in DIMS},
        coordinates={name: ((name,), dataset[name].values, dict(dataset[name].attrs)) for name in DIMS},
    )
    parts = Parts(folder / "parts")
    arrays = {GROUP: {str(name): one.values for name, one in dataset.data_vars.items()}}
    with _hasty:
        parts.write("all", "0" * 32, {GROUP: layout}, arrays, {})
    return _joined(parts, {GROUP: layout}, [("0" * 32, {})], folder)


def prepared(recipe: Partitioned, folder: Path) -> Payload:
    """A recipe's dataset as a store opens it."""
    survey = recipe.survey({})
    parts = Parts(folder / "parts")
    light = {name: dataclasses.replace(one, coordinates={}) for name, one in survey.groups.items()}
    keys = [f"{number:032d}" for number in range(len(survey.parts))]
    with _hasty:
        for key, part in zip(keys, survey.parts, strict=True):
            make(recipe, light, Work(part=part, key=key, folder=parts.folder))
    return _joined(parts, survey.groups, [(key, part.at) for key, part in zip(keys, survey.parts, strict=True)], folder)


def _joined(parts: Parts, groups: Mapping[str, Layout], keys: list[tuple[str, Any]], folder: Path) -> Payload:
    for name in ("staging", "version"):
        (folder / name).mkdir()
    receipts = [(parts.receipt(key), at) for key, at in keys]
    with _hasty:
        tree = parts.join(folder / "staging", groups, [(one, at) for one, at in receipts if one is not None], {})
        plant(tree, folder / "version", "data")
    return {"data": open_groups(str(folder / "version" / "data.zarr"))}


def files_of(folder: Path, name: str) -> list[Path]:
    """Files of one stored variable."""
    return sorted(path for path in (folder / "version" / "data.zarr" / GROUP / name / "c").rglob("*") if path.is_file())
