"""Hours of a generated world on its lattice, as the prepared datasets of fluxes have them.

The group `training` has names, dimensions, units and attributes of that of the datasets system's fluxes, with what the
networks read: winds, temperature, pressure, height of the ground, and the waves' fluxes, which here are the truth. A
file holds some hours of one variable; one hour of it, all levels, is read at once.

Shapes: H hours of a part, L levels, top first, I x J latitudes (south first) x longitudes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from models.climate.generator.gwsphere import GwsphereConfig, state_of, world_of
from models.climate.gravity_waves.fields import DIMS, GROUP
from models.climate.gravity_waves.files import write_hours
from models.common.configuration import check, setting
from models.common.parts import Layout, Part, Survey, Variable

if TYPE_CHECKING:
    import xarray as xr

_WORDS: Mapping[str, tuple[str, str, str, float, float]] = {
    # units, long name, standard name, and bounds beyond which the world has gone wrong
    "u": ("m s-1", "eastward wind", "eastward_wind", -400, 400),
    "v": ("m s-1", "northward wind", "northward_wind", -400, 400),
    "w": ("Pa s-1", "pressure velocity", "lagrangian_tendency_of_air_pressure", -100, 100),
    "t": ("K", "temperature", "air_temperature", 100, 400),
    "p": ("Pa", "pressure", "air_pressure", 0, 120_000),
    "zs": ("m", "height of the surface", "surface_altitude", -1000, 10_000),
    "uw": ("Pa", "vertical flux of eastward momentum by waves", "", -10_000, 10_000),
    "vw": ("Pa", "vertical flux of northward momentum by waves", "", -10_000, 10_000),
}


_LEVEL = "pressure of the level over a surface of 1013.25 hPa"


def _world() -> GwsphereConfig:
    return GwsphereConfig(rows=16, columns=32, levels=6)


@dataclass(frozen=True, kw_only=True)
class LatticeConfig:
    """A generated world on its lattice: which hours of which years; made part by part."""

    elsewhere: ClassVar[tuple[str, ...]] = ("name", "years", "hours_apart")

    name: str = setting("lattice", "Name", "Name of the dataset: lower case letters, digits and hyphens.", min_length=1)
    years: tuple[int, ...] = setting(
        (2010, 2012, 2014, 2015), "Years", "Years of which there are hours, each 1970 to 2200.", min_length=1
    )
    hours_apart: int = setting(
        97,
        "Hours apart",
        "Hours from one to the next, from the first of every year, 1 to 8760; what has no factor in common with 24 "
        "meets every hour of the day.",
        ge=1,
        le=8760,
    )
    hours_together: int = setting(
        24, "Hours of a file", "Hours that one part makes and one stored file holds, 1 to 744.", ge=1, le=744
    )
    world: GwsphereConfig = setting(_world, "World", "Its lattice, levels and waves, and its start.")

    def __post_init__(self) -> None:
        check(self)
        if sorted(set(self.years)) != list(self.years) or not all(1970 <= year <= 2200 for year in self.years):
            raise ValueError(
                f"LatticeConfig.years must be years from 1970 to 2200, rising, each once, got {self.years}."
            )

    @property
    def hours(self) -> tuple[int, ...]:
        """Hours since 1970-01-01T00 UTC, rising; each is in the year that it begins in."""
        found: list[int] = []
        for year in self.years:
            first, last = (int(datetime(one, 1, 1, tzinfo=UTC).timestamp()) // 3600 for one in (year, year + 1))
            found += range(first, last, self.hours_apart)
        return tuple(found)

    def sources(self) -> Mapping[str, str]:
        """None: everything is generated."""
        return {}

    def survey(self, files: Mapping[str, tuple[Path, ...]]) -> Survey:
        """So many hours a part; see `models.common.parts.Partitioned`."""
        hours = self.hours
        parts = []
        for first in range(0, len(hours), self.hours_together):
            own = hours[first : first + self.hours_together]
            parts.append(
                Part(
                    name=f"{_said(own[0])} to {_said(own[-1])}",
                    at={GROUP: {"time": first}},
                    about={"hours": list(own)},
                )
            )
        return Survey(parts=tuple(parts), groups={GROUP: self._layout(hours)})

    def part(self, part: Part) -> "Mapping[str, xr.Dataset]":
        """Some hours; see `models.common.parts.Partitioned`."""
        import xarray as xr

        hours, world = part.about["hours"], world_of(self.world)
        size = (len(hours), len(world.pressure), *world.grid.shape)
        made = {name: np.empty(size, np.float32) for name in _WORDS}
        made["p"][:] = world.pressure[:, None, None]
        for at, hour in enumerate(hours):
            state = state_of(self.world, hour)
            for name in ("u", "v", "t", "uw", "vw", "zs"):
                made[name][at] = getattr(state, name)
            made["w"][at] = state.omega
        return {GROUP: xr.Dataset({name: (DIMS, values) for name, values in made.items()})}

    def export(self, groups: "Mapping[str, xr.Dataset]", folder: Path) -> tuple[Path, ...]:
        """One netCDF file a year, in the words of the store, written hour by hour."""
        dataset, written = groups[GROUP], []
        minutes = np.asarray(dataset["time"].values).astype(np.int64)
        year_T = minutes.astype("datetime64[m]").astype("datetime64[Y]").astype(np.int64) + 1970
        for year in np.unique(year_T).tolist():
            rows = np.flatnonzero(year_T == year)
            path = folder / f"lattice_{self.name}_{year}.nc"
            written.append(write_hours(dataset, rows, map(str, dataset.data_vars), path, compressed=True))
        return tuple(written)

    def _layout(self, hours: tuple[int, ...]) -> Layout:
        world = world_of(self.world)
        rows, columns = world.grid.shape
        axes: dict[str, tuple[tuple[str, ...], Any, dict[str, str]]] = {
            "time": (
                ("time",),
                np.array(hours, np.int64) * 60,
                {"units": "minutes since 1970-01-01", "standard_name": "time"},
            ),
            "level": (
                ("level",),
                world.pressure / 100.0,
                {
                    "units": "hPa",
                    "positive": "down",
                    "long_name": _LEVEL,
                },
            ),
            "lat": (("lat",), world.latitude, {"units": "degrees_north", "standard_name": "latitude"}),
            "lon": (("lon",), world.longitude, {"units": "degrees_east", "standard_name": "longitude"}),
        }
        return Layout(
            variables={name: self._variable(name) for name in _WORDS},
            sizes={"time": len(hours), "level": len(world.pressure), "lat": rows, "lon": columns},
            coordinates=axes,
            attrs={
                "title": "Momentum fluxes of gravity waves and their large-scale inputs, generated",
                "Conventions": "CF-1.11",
                "comment": f"World {self.world.seed}; waves go {self.world.nonlocality:g} times as far sideways as in "
                "the atmosphere, and fluxes are what their packets carry. Pressures are those of the levels.",
            },
        )

    def _variable(self, name: str) -> Variable:
        units, long_name, standard_name, low, high = _WORDS[name]
        attrs = {"units": units, "long_name": long_name, **({"standard_name": standard_name} if standard_name else {})}
        return Variable(
            dims=DIMS,
            dtype="float32",
            attrs=attrs,
            # the ground is the same on every level, and read on one
            chunks={"time": 1, "level": 1} if name == "zs" else {"time": 1},
            shards={"time": self.hours_together},
            low=low,
            high=high,
            missing=0.0,
            along=("level",),
        )


def _said(hour: int) -> str:
    return str(np.datetime64(hour, "h"))
