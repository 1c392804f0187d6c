"""The fields of one hour as a network is given them: large-scale inputs and the fluxes that waves carry.

Whatever the order of a store's levels and latitudes, channels come top first and rows from the south. Values are in the
units of the store, degrees and SI; nothing is scaled here.

Shapes: N hours, F = 3 + 4 L feature channels, O = 2 L flux channels, L levels, top first, I latitudes, south first,
J longitudes from Greenwich.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.climate.geometry import Grid, grid_of
from models.climate.gravity_waves.chunks import Hours, LabelledHours, hours_of
from models.common.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from models.common.contracts import Payload

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

GROUP = "training"
"""Group of a dataset that has the fields: that of the prepared datasets, and of our own lattice."""

DIMS = ("time", "level", "lat", "lon")

REFERENCE_PRESSURE = 1e5
KAPPA = 0.286
"""Pa, and R / c_p of the potential temperature theta = T (p / p0)^-kappa, as in the published inputs
(coarsegrain_computed_momentum_fluxes.py of NASA-IMPACT/WxC-Bench, lines 88-91)."""

FLUXES = ("uw", "vw")

UNITS = {
    "u": "m s-1",
    "v": "m s-1",
    "w": "Pa s-1",
    "t": "K",
    "theta": "K",
    "p": "Pa",
    "zs": "m",
    "uw": "Pa",
    "vw": "Pa",
}
"""Units that values must have, as CF spells them."""

BOUNDS = {
    "u": (-400.0, 400.0),
    "v": (-400.0, 400.0),
    "w": (-100.0, 100.0),
    "t": (100.0, 400.0),
    "theta": (100.0, 20_000.0),
    "p": (1e-3, 120_000.0),
    "zs": (-1000.0, 10_000.0),
    "uw": (-10_000.0, 10_000.0),
    "vw": (-10_000.0, 10_000.0),
}
"""Beyond these a value has other units than its variable says: those which the prepared datasets are held to."""

PRESSURE_FACTOR = 3.0
"""How far the mean pressure of a level may be from its label, as a factor; over high ground levels lie higher."""

CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
"""Those whose days are the days of UTC since 1582; others have other months."""

NOTHING = np.zeros(0, np.float32)

_ALIKE = {"m/s": "m s-1", "pa/s": "pa s-1", "kelvin": "k", "metre": "m", "meter": "m", "metres": "m", "meters": "m",
          "pascal": "pa", "n m-2": "pa"}  # fmt: skip
"""Other spellings of the same units, in lower case."""


class FluxFields:
    """Hours of a dataset; read by any number of threads at once.

    Attributes:
        place: what errors call the dataset.
        time: (T) hours as datetime64[s], rising, UTC.
        level: (L) hPa, top first: the levels' labels.
        grid: the lattice, south first.
        has_fluxes: whether the dataset says what the waves carry.
    """

    def __init__(self, dataset: "xr.Dataset", *, place: str = GROUP, dropped_levels: int = 0) -> None:
        """Look at names, units and axes; values are not read.

        Args:
            dataset: u, v, w, and t with p (or theta alone), on (time, level, lat, lon), and zs on these, on
                (time, lat, lon) or (lat, lon); uw and vw if the fluxes are known. Without p, the levels' labels are the
                pressure.
            place: what errors call it.
            dropped_levels: levels at the top that are left out; 15 of 137 as published (training.py of
                amangupta2/nonlocal_gwfluxes).

        Raises:
            InputError: a variable or axis is missing, has other dimensions or units or is packed, hours do not rise,
                or the lattice is no whole sphere from Greenwich.
        """
        self.place = place
        self._label = place or "the root group"
        self._look_for(dataset)
        self.time = _times(dataset, self._label)
        self.has_fluxes = all(name in dataset for name in FLUXES)
        self._set_levels(dataset, dropped_levels)
        self._set_grid(dataset)
        self._levelled: dict[str, Hours] = {
            name: hours_of(dataset[name].variable, f"{self._label}/{name}")
            for name in ("u", "v", "w", "t", "theta", "p", *FLUXES)
            if name in dataset and dataset[name].dims == DIMS
        }
        self._surface = self._surface_of(dataset)
        self._absent = {name: _absent(dataset[name]) for name in UNITS if name in dataset}
        # Pressure seldom changes from hour to hour on a lattice; the power is taken anew only where it does.
        self._exner: tuple[Any, Floats] = (None, (self.pressure[:, None, None] / REFERENCE_PRESSURE) ** -KAPPA)

    @classmethod
    def of(cls, data: "Payload", *, group: str = GROUP, dropped_levels: int = 0) -> "FluxFields":
        """The fields of a dataset of the store.

        Args:
            data: its part `data` maps groups to datasets, opened lazily.
            group: which of them.
            dropped_levels: see `FluxFields`.

        Raises:
            InputError: there is no such group, or its fields cannot be used.
        """
        groups = data.get("data", {})
        if group not in groups:
            raise InputError(f"the dataset has no group {group!r}, only {sorted(groups)}; prepare fluxes or a lattice.")
        return cls(groups[group], place=group, dropped_levels=dropped_levels)

    # ------------------------------------------------------------------------------------------------- what it is

    def __len__(self) -> int:
        return len(self.time)

    @property
    def levels(self) -> int:
        """L."""
        return len(self.level)

    @property
    def features(self) -> int:
        """F = 3 + 4 L: latitude, longitude, height of the ground; u, v, theta, omega on levels."""
        return 3 + 4 * self.levels

    @property
    def outputs(self) -> int:
        """O = 2 L: uw and vw on levels."""
        return 2 * self.levels

    @property
    def shape(self) -> tuple[int, int]:
        """(I, J)."""
        return self.grid.shape

    @property
    def latitude(self) -> Floats:
        """(I) degrees north, rising."""
        return self.grid.latitudes

    @property
    def longitude(self) -> Floats:
        """(J) degrees east, rising from Greenwich."""
        return self.grid.longitudes

    @property
    def area(self) -> Floats:
        """(I, J) share of the sphere of every cell; they sum to one."""
        return self.grid.area_weights

    @property
    def pressure(self) -> Floats:
        """(L) Pa, top first: the levels' labels."""
        return self.level * 100.0

    # ------------------------------------------------------------------------------------------------------ reading

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> tuple[Singles, Singles | None]:
        """Hours, by their number in the dataset.

        Args:
            rows: (N) which hours, in any order.

        Returns:
            features (N, F, I, J): latitude and longitude in degrees, height of the ground in m, u, v in m/s, theta in
            K, omega in Pa/s; and fluxes (N, O, I, J) in Pa: uw, vw; None where the dataset has none. Float32.

        Raises:
            InputError: a value is missing or no finite number, or a file is damaged.

        Source:
            The order of channels is that of the loaders of amangupta2/nonlocal_gwfluxes (dataloader_definition.py).
        """
        features_NFIJ = np.empty((len(rows), self.features, *self.shape), np.float32)
        fluxes_NOIJ = np.empty((len(rows), self.outputs, *self.shape), np.float32) if self.has_fluxes else None
        for n, row in enumerate(rows):
            self.read_into(int(row), features_NFIJ[n], None if fluxes_NOIJ is None else fluxes_NOIJ[n])
        return features_NFIJ, fluxes_NOIJ

    def read_into(self, row: int, features_FIJ: Singles, fluxes_OIJ: Singles | None) -> None:
        """One hour into arrays that are there already; see `read`.

        Args:
            row: which hour.
            features_FIJ: is filled.
            fluxes_OIJ: is filled; None: fluxes are not read.

        Raises:
            InputError: see `read`; or fluxes are wanted that the dataset lacks.
            IndexError: there is no such hour.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"{self._label} has hours 0 to {len(self) - 1}, got {row}.")
        count = self.levels
        features_FIJ[0] = self.latitude[:, None]
        features_FIJ[1] = self.longitude
        self._read_surface(row, features_FIJ[2])
        u, v, theta, w = (features_FIJ[3 + k * count : 3 + (k + 1) * count] for k in range(4))
        self._read("u", row, u)
        self._read("v", row, v)
        self._read("w", row, w)
        if "theta" in self._levelled:
            self._read("theta", row, theta)
        else:
            self._read("t", row, theta)
            np.multiply(theta, self._factor(row), out=theta, casting="same_kind")
            self._refuse_odd("theta", row, theta)
        if fluxes_OIJ is not None:
            if not self.has_fluxes:
                raise InputError(f"{self._label} has no uw and vw to learn from; use a dataset with fluxes.")
            self._read("uw", row, fluxes_OIJ[:count])
            self._read("vw", row, fluxes_OIJ[count:])

    def _read(self, name: str, row: int, out_LIJ: Singles) -> None:
        self._fetch(self._levelled[name], row, self._kept, out_LIJ)
        self._turn(out_LIJ)
        self._refuse_odd(name, row, out_LIJ)

    def _fetch(self, hours: Hours, row: int, levels: slice, out_LIJ: Singles) -> None:
        try:
            hours.read(row, levels, out_LIJ)
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{hours.place} cannot be read at {self._hour(row)} ({error}); restore it.") from error

    def _turn(self, out: Singles) -> None:
        """Top first and south first."""
        if self._bottom_first and out.ndim == 3:
            out[...] = out[::-1].copy()
        if self._north_first:
            out[...] = out[..., ::-1, :].copy()

    def _factor(self, row: int) -> Floats:
        """(L, I, J) or (L, 1, 1): (p / p0)^-kappa, in double precision."""
        if "p" not in self._levelled:
            return self._exner[1]
        pressure = np.empty((self.levels, *self.shape), np.float32)
        self._read("p", row, pressure)
        known, factor = self._exner
        if known is not None and np.array_equal(known, pressure):
            return factor
        double = pressure.astype(np.float64)
        away = np.log(double.mean(axis=(1, 2)) / self.pressure)
        worst = int(np.abs(away).argmax())
        if abs(away[worst]) > np.log(PRESSURE_FACTOR):
            raise InputError(
                f"{self._label}: p at {self._hour(row)} averages {double[worst].mean():.6g} on the level labelled "
                f"{self.level[worst]:g} hPa, expected about {self.pressure[worst]:.6g} Pa; convert p, or label levels."
            )
        factor = (double / REFERENCE_PRESSURE) ** -KAPPA
        self._exner = (pressure, factor)
        return factor

    def _read_surface(self, row: int, out_IJ: Singles) -> None:
        surface = self._surface
        if isinstance(surface, np.ndarray):
            out_IJ[...] = surface
        else:
            self._fetch(surface, row, slice(0, 1), out_IJ[None])
        self._turn(out_IJ)
        self._refuse_odd("zs", row, out_IJ)

    def _refuse_odd(self, name: str, row: int, values: Singles) -> None:
        """Say where the first value is that is no finite number, or beyond what its units allow."""
        low, high = BOUNDS[name]
        absent = self._absent.get(name, NOTHING)
        absent = absent[(absent >= low) & (absent <= high)]  # any other is out of bounds
        missing = np.isin(values, absent) if absent.size else NOTHING
        if values.min() >= low and values.max() <= high and not missing.any():  # false of a NaN
            return
        odd = ~np.isfinite(values)
        remedy = "are no finite numbers. Prepare that hour again, or leave its month out."
        if missing.any():
            odd, remedy = missing, "stand for missing ones. Prepare that hour again, or leave its month out."
        if not odd.any():
            odd = (values < low) | (values > high)
            remedy = f"are outside {low:g} to {high:g} {UNITS[name]}. Check the units of {name}."
        *above, i, j = (int(k) for k in np.argwhere(odd)[0])
        height = f", level {above[0] + 1} from the top ({self.level[above[0]]:g} hPa)" if above else ""
        raise InputError(
            f"{self._label}: {name} at {self._hour(row)}{height}, latitude {self.latitude[i]:.2f}, longitude "
            f"{self.longitude[j]:.2f} is {values[(*above, i, j)]}; {int(odd.sum())} of {odd.size} values {remedy}"
        )

    def _hour(self, row: int) -> str:
        return str(self.time[row].astype("datetime64[m]"))

    # ------------------------------------------------------------------------------------------------- looking at it

    def _look_for(self, dataset: "xr.Dataset") -> None:
        """Refuse what is missing or measured otherwise."""
        names = set(map(str, dataset.variables))
        needed = {"u", "v", "w", "zs", *DIMS, *(("theta",) if "theta" in names else ("t",))}
        if missing := sorted(needed - names):
            raise InputError(
                f"{self._label} has no {', '.join(missing)}; it has {', '.join(sorted(names))}. Fields need u, v, w, "
                "t (with p) or theta, and zs, on time, level, lat and lon."
            )
        half = [name for name in FLUXES if name in names]
        if len(half) == 1:
            raise InputError(f"{self._label} has {half[0]} and not the other of uw and vw; give both, or none.")
        for name, units in UNITS.items():
            if name not in names:
                continue
            dims = tuple(map(str, dataset[name].dims))
            allowed = (DIMS, ("time", *DIMS[2:]), DIMS[2:]) if name == "zs" else (DIMS,)
            if dims not in allowed:
                raise InputError(
                    f"{self._label}: {name} lies on {dims}, expected {' or '.join(map(str, allowed))}; transpose it."
                )
            given = dataset[name].attrs.get("units")
            if given is None or _spelled(str(given)) != units.lower():
                raise InputError(
                    f"{self._label}: {name} is in {given or 'no known units'}, expected {units}; convert it, and say "
                    "so in its attribute units."
                )
        for name in (*UNITS, *DIMS):
            attrs = dataset[name].attrs if name in names else {}
            if attrs.get("scale_factor", 1) != 1 or attrs.get("add_offset", 0) != 0:
                raise InputError(f"{self._label}: {name} is packed by scale_factor and add_offset; write it as floats.")

    def _set_levels(self, dataset: "xr.Dataset", dropped: int) -> None:
        values = np.asarray(dataset["level"].values, np.float64)
        units = str(dataset["level"].attrs.get("units", "no known units"))
        factor = {"hpa": 1.0, "millibar": 1.0, "mbar": 1.0, "mb": 1.0, "pa": 0.01}.get(units.strip().lower())
        if factor is None:
            raise InputError(f"{self._label}: level is in {units}, expected hPa or Pa; label levels by their pressure.")
        steps = np.diff(values)
        if not (np.isfinite(values).all() and (values > 0).all() and ((steps > 0).all() or (steps < 0).all())):
            raise InputError(f"{self._label}: level does not run one way: {values.tolist()}; sort the levels.")
        if not 0 <= dropped < len(values):
            raise InputError(
                f"{self._label} has {len(values)} levels, and {dropped} shall be dropped; keep one at least."
            )
        self._bottom_first = bool(len(values) > 1 and steps[0] < 0)
        self._kept = slice(0, len(values) - dropped) if self._bottom_first else slice(dropped, len(values))
        top_first = values[::-1] if self._bottom_first else values
        self.level: Floats = np.asarray(top_first[dropped:] * factor)

    def _set_grid(self, dataset: "xr.Dataset") -> None:
        grid = grid_of(dataset["lat"].values, dataset["lon"].values, name=self._label)
        step = 360.0 / len(grid.longitudes)
        if not grid.periodic or not 0 <= grid.longitudes[0] < step:
            raise InputError(
                f"{self._label}: longitudes from {grid.longitudes[0]:g} to {grid.longitudes[-1]:g} are no whole circle "
                "from 0; roll them to begin at Greenwich, or prepare the whole circle."
            )
        south, north = sorted((float(grid.latitude_bounds[0]), float(grid.latitude_bounds[-1])))
        apart = 180.0 / len(grid.latitudes)
        if max(90.0 - north, south + 90.0) > 0.75 * apart:
            raise InputError(
                f"{self._label}: latitudes from {grid.latitudes.min():g} to {grid.latitudes.max():g} degrees are no "
                "whole sphere; prepare it from pole to pole, or give latitudes in degrees."
            )
        # where a row on a pole was cut off, the one before it reaches there, so that areas sum to the sphere's
        ends = np.sign(grid.latitude_bounds[[0, -1]]) * 90.0
        grid = replace(grid, latitude_bounds=np.concatenate([ends[:1], grid.latitude_bounds[1:-1], ends[1:]]))
        self._north_first = grid.north_first and len(grid.latitudes) > 1
        self.grid: Grid = grid.flipped() if self._north_first else grid

    def _surface_of(self, dataset: "xr.Dataset") -> Singles | Hours:
        """The height of the ground: once and for all, or hour by hour."""
        zs = dataset["zs"]
        if zs.dims == DIMS:
            return hours_of(zs.variable, f"{self._label}/zs")
        if zs.dims == DIMS[2:]:
            return np.asarray(zs.values, np.float32)
        return LabelledHours(variable=zs.variable, place=f"{self._label}/zs")


def _times(dataset: "xr.Dataset", place: str) -> NDArray[np.datetime64]:
    """Hours as datetime64[s], whether the store decodes times or not."""
    values, units = dataset["time"].values, str(dataset["time"].attrs.get("units", ""))
    calendar = str(dataset["time"].attrs.get("calendar", CALENDARS[0])).lower()
    if calendar not in CALENDARS:
        raise InputError(f"{place}: time is in the calendar {calendar}, expected {CALENDARS[0]}; give dates of UTC.")
    if values.dtype.kind == "M":
        times = values.astype("datetime64[s]")
    else:
        said = re.fullmatch(
            r"(second|minute|hour|day)s? since (\d{4}-\d{2}-\d{2})(?:[T ](\d{1,2}:\d{2}(?::\d{2})?)(?:\.0*)?)?"
            r"(?: ?(?:Z|UTC|GMT|[+-]?0{1,2}(?::?00)?))?",
            units.strip(),
        )
        if said is None:
            raise InputError(f"{place}: time is in {units or 'no known units'}, expected minutes since a date of UTC.")
        seconds = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}[said[1]]
        clock = said[3] or "00:00"
        begin = np.datetime64(f"{said[2]}T{'0' * (clock[1] == ':')}{clock}", "s")
        if values.dtype == np.float32 and (np.spacing(np.abs(values)).max() * seconds > 1) and (values % 1).any():
            raise InputError(
                f"{place}: time is in single precision and in {units}, which is minutes away; write whole minutes."
            )
        count = np.asarray(values, np.float64) * seconds
        count = np.where(np.abs(count) < 1e11, count, np.nan)  # within 3,000 years; no fill
        times = np.where(np.isnan(count), np.datetime64("NaT"), begin + np.round(np.nan_to_num(count)).astype("m8[s]"))
    if np.isnat(times).any():
        at = int(np.isnat(times).argmax())
        raise InputError(f"{place}: hour {at + 1} of {len(times)} has no time ({values[at]}); drop it, or date it.")
    if not len(times):
        raise InputError(f"{place} has no hours; prepare some days.")
    if len(late := np.flatnonzero(np.diff(times) <= np.timedelta64(0, "s"))):
        at = int(late[0])
        raise InputError(
            f"{place}: hour {times[at + 1]} follows {times[at]}; every hour must be there once, in order. Sort the "
            "time axis, and drop what is there twice."
        )
    return np.asarray(times)


def _absent(variable: "xr.DataArray") -> Singles:
    """Numbers that stand for a missing value, where the dataset does not turn them into NaN itself."""
    told = [variable.attrs[name] for name in ("_FillValue", "missing_value") if name in variable.attrs]
    return np.concatenate([NOTHING, *(np.atleast_1d(np.asarray(one, np.float64)) for one in told)]).astype(np.float32)


def _spelled(units: str) -> str:
    """Units in lower case, with spaces and signed exponents: "m s**-1" and "m/s" become "m s-1"."""
    plain = re.sub(
        r"\s+", " ", units.strip().lower().replace("**", "").replace("^", "").replace("*", " ").replace(".", " ")
    )
    return _ALIKE.get(plain, plain)
