"""Small precipitation datasets, generated or from files that are written here."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from models.climate.datasets.precipitation.config import PrecipitationConfig
from models.climate.generator import precipitation as world
from models.common.parts import Survey

WORLD = world.PrecipitationWorldConfig(rows=20, columns=36, lost=0.2, seed=3)
FIRST, LAST = date(2000, 5, 30), date(2000, 6, 2)
"""Two days of PERSIANN-CDR and two of IMERG."""


def written(folder: Path, first: date = FIRST, last: date = LAST) -> PrecipitationConfig:
    """Files of a generated world in the formats of the archives, and the settings that read them."""
    world.write_gridsat(WORLD, folder / "gridsat", first, last)
    world.write_patmosx(WORLD, folder / "patmosx", first, last)
    world.write_ssmi(WORLD, folder / "ssmi", first, last)
    world.write_rain(WORLD, folder / "rain", first, last)
    return PrecipitationConfig(
        source="files",
        gridsat=f"{folder}/gridsat/*.nc",
        patmosx=f"{folder}/patmosx/*.nc",
        ssmi=f"{folder}/ssmi/*.nc",
        persiann=f"{folder}/rain/PERSIANN*.nc",
        imerg=f"{folder}/rain/3B-DAY*.nc4",
        rows=14,
        columns=24,
    )


def found(config: PrecipitationConfig) -> dict[str, tuple[Path, ...]]:
    """What the catalogue finds for the sources."""
    return {name: tuple(sorted(Path(place).parent.glob(Path(place).name))) for name, place in config.sources().items()}


def stored(config: PrecipitationConfig, survey: Survey) -> dict[str, xr.Dataset]:
    """All parts put together, undecoded, as the store opens them."""
    pieces: dict[str, list[xr.Dataset]] = {name: [] for name in survey.groups}
    for part in survey.parts:
        for name, made in config.part(part).items():
            pieces[name].append(made)
    out: dict[str, xr.Dataset] = {}
    for name, layout in survey.groups.items():
        along = "hour" if name == "stage4" else "time"
        whole = xr.concat(pieces[name], along) if len(pieces[name]) > 1 else pieces[name][0]
        assert dict(whole.sizes) == dict(layout.sizes)
        whole = whole.assign_coords(dict(layout.coordinates))
        for key, variable in layout.variables.items():
            assert whole[key].dtype == np.dtype(variable.dtype)
            assert whole[key].dims == variable.dims
            whole[key].attrs = dict(variable.attrs)
        whole.attrs = dict(layout.attrs)
        out[name] = whole
    return out


def but(config: PrecipitationConfig, **changes: Any) -> PrecipitationConfig:
    """The same settings but for some."""
    return replace(config, **changes)
