"""The dataset made again from raw input by other means, and what must hold of the whole: for the judge alone.

Nothing of the recipe is imported, nor the transforms and remaps that it uses. Legendre functions come from their
recurrences, meridians from dense trigonometric matrices onto Gaussian nodes, coarse means from dense matrices of
overlaps, files from the netCDF and GRIB libraries themselves. It is slow and reads plainly.

Shapes: K levels, I x J fine grid, N Gaussian nodes, T x C coarse grid; M zonal wavenumbers, L degrees.

Source:
    Recurrences: W. H. Press et al., Numerical Recipes, 3rd ed., section 6.7; orthonormal, Condon-Shortley phase.
"""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.certificate import Claim

if TYPE_CHECKING:
    import xarray as xr

    from models.climate.datasets.fluxes.config import FluxesConfig
    from models.common.parts import Part

Floats = NDArray[np.float64]
Array = NDArray[Any]

TOLERANCES: Mapping[str, float] = dict.fromkeys(("u", "v", "w", "t", "p", "dudp", "N2", "zs", "uw", "vw"), 1e-6)
"""Of the largest magnitude in a part: what is stored has 24 bits, and both sides compute in 53."""

GRAVITY, GAS_CONSTANT, KAPPA, STANDARD_GRAVITY, STANDARD_SURFACE = 9.81, 287.053, 0.286, 9.80665, 101325.0

NAMES: Mapping[str, tuple[str, ...]] = {
    "u": ("u", "U", "uwnd", "ugrd", "eastward_wind"),
    "v": ("v", "V", "vwnd", "vgrd", "northward_wind"),
    "w": ("w", "W", "omega", "OMEGA", "vvel", "lagrangian_tendency_of_air_pressure"),
    "t": ("t", "T", "temp", "tmp", "air", "air_temperature"),
    "sp": ("sp", "PS", "ps", "surface_air_pressure", "lnsp"),
    "zs": ("z", "Z", "zs", "orog", "PHIS", "geopotential", "surface_altitude"),
}
FACTORS: Mapping[str, float] = {
    "hPa s-1": 100.0,
    "Pa s-1": 1.0,
    "m s-1": 1.0,
    "kt": 1852 / 3600,
    "K": 1.0,
    "hPa": 100.0,
}
UNITS: Mapping[str, str] = {
    "u": "m s-1", "v": "m s-1", "w": "Pa s-1", "t": "K", "p": "Pa", "dudp": "m s-1 Pa-1", "N2": "s-2", "zs": "m",
    "uw": "Pa", "vw": "Pa",
}  # fmt: skip
PLAUSIBLE: Mapping[str, tuple[float, float]] = {
    "u": (-400, 400), "v": (-400, 400), "w": (-100, 100), "t": (100, 400), "p": (0, 120_000), "zs": (-1000, 10_000),
}  # fmt: skip
"""What stored values may be; temperatures in degrees Celsius, for one, are not."""


def reference(
    config: "FluxesConfig", part: "Part", files: Mapping[str, tuple[Path, ...]]
) -> Mapping[str, "xr.Dataset"]:
    """One part made again.

    Args:
        config: the settings.
        part: its name says which hour and levels; its files are read.
        files: not needed, the part names its own.

    Returns:
        "training", and "fluxes" if they are kept, in float32.

    Source:
        Ours, after section 1.1 of the recipe's description in `momentum` and `columns`.
    """
    import xarray as xr

    del files
    hour, first, last = _named(part)
    raw = _generated(config, hour) if config.source == "generated" else _read(part, hour)
    defects = set(config.reproduce) if config.compat == "mended" else {
        "century_leap", "zonal_mean_omega", "scalar_truncation", "beyond_the_pole",
    }  # fmt: skip
    grid, block = raw.grid, slice(first, last)
    u, v, w = (raw.fields[name][block].astype(np.float64) for name in ("u", "v", "w"))
    sphere = Sphere(grid)
    if "scalar_truncation" in defects:
        east, north = sphere.divergent(u, v, above=0)
        east, north = east - sphere.low_pass(east, config.truncation), north - sphere.low_pass(north, config.truncation)
    else:
        east, north = sphere.divergent(u, v, above=config.truncation)
    wave = w - (
        w.mean(axis=2, keepdims=True) if "zonal_mean_omega" in defects else sphere.low_pass(w, config.truncation)
    )
    uw, vw = east * wave / -GRAVITY, north * wave / -GRAVITY

    coarse = Coarse(grid, config.coarse_rows, config.coarse_columns, beyond="beyond_the_pole" in defects)
    flux_mean = coarse.means if config.remapping == "conservative" else coarse.exact_means
    count = len(raw.a)
    shape = (last - first, config.coarse_rows, config.coarse_columns)
    absent = np.full(shape, np.nan)
    made = {"u": coarse.means(u), "v": coarse.means(v), "w": coarse.means(w), "uw": flux_mean(uw), "vw": flux_mean(vw)}
    made["p"] = raw.a[block, None, None] + raw.b[block, None, None] * coarse.means(raw.surface[None])
    # a slope asks for a neighbour above and below, or for the two next at an end
    near = slice(max(first - 2, 0), min(last + 2, count))
    inside = slice(first - near.start, last - near.start)
    p = raw.a[near, None, None] + raw.b[near, None, None] * raw.surface
    made["dudp"] = coarse.means(_slope(raw.fields["u"][near].astype(np.float64), p)[inside]) if count > 1 else absent
    made["t"], made["N2"], made["zs"] = absent, absent, absent
    if "t" in raw.fields:
        temperature = raw.fields["t"][near].astype(np.float64)
        theta = temperature * (p / 1e5) ** -KAPPA
        made["t"] = coarse.means(temperature[inside])
        if count > 1:
            buoyancy = -(GRAVITY**2) / (GAS_CONSTANT * temperature) * _slope(np.log(theta), np.log(p))
            made["N2"] = coarse.means(buoyancy[inside])
    if raw.height is not None:
        made["zs"] = np.broadcast_to(coarse.means(raw.height[None]), shape)
    dims = ("time", "level", "lat", "lon")
    groups = {"training": xr.Dataset({name: (dims, values[None].astype(np.float32)) for name, values in made.items()})}
    if config.keep_fluxes:
        fine = {"uw": uw, "vw": vw}
        groups["fluxes"] = xr.Dataset({name: (dims, one[None].astype(np.float32)) for name, one in fine.items()})
    return groups


def some_levels(part: "Part", most: int, draw: random.Random) -> tuple["Part", ...]:
    """A part itself, or as many of its levels, drawn, each as a part of its own where it has more.

    Args:
        part: of one hour.
        most: levels.
        draw: draws them.
    """
    hour, first, last = _named(part)
    if last - first <= most:
        return (part,)
    return tuple(
        replace(
            part,
            name=f"{hour} levels {level + 1}-{level + 1}",
            at={group: {**at, "level": level} for group, at in part.at.items()},
        )
        for level in sorted(draw.sample(range(first, last), most))
    )


def _named(part: "Part") -> tuple[np.datetime64, int, int]:
    """The hour of a part, its first level and the one after its last, from zero."""
    found = re.fullmatch(r"(\S+) levels (\d+)-(\d+)", part.name)
    if found is None:
        raise ValueError(f"part {part.name!r} does not say its hour and levels.")
    return np.datetime64(found[1], "m"), int(found[2]) - 1, int(found[3])


def _slope(y: Floats, x: Floats) -> Floats:
    """dy/dx along the first axis: of the Lagrange parabola through three neighbours, or of the line through two."""
    out = np.empty_like(y)
    count = len(y)
    if count == 2:
        out[:] = (y[1] - y[0]) / (x[1] - x[0])
        return out
    for at in range(count):
        first = min(max(at - 1, 0), count - 3)
        a, b, c = (x[first + k] for k in range(3))
        here = x[at]
        out[at] = (
            y[first] * ((here - b) + (here - c)) / ((a - b) * (a - c))
            + y[first + 1] * ((here - a) + (here - c)) / ((b - a) * (b - c))
            + y[first + 2] * ((here - a) + (here - b)) / ((c - a) * (c - b))
        )
    return out


# Raw input.


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """A grid: colatitude (I,) in radians as stored, longitudes (J,) in degrees, kind of its rows."""

    colatitude: Floats
    longitude: Floats
    kind: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _Raw:
    """All levels of one hour."""

    fields: Mapping[str, Array]
    grid: Rows
    a: Floats
    b: Floats
    surface: Floats
    height: Floats | None


def _rows_of(latitudes: Array, longitudes: Array) -> Rows:
    """The grid of coordinates, made exact where they are rounded."""
    lat, count = np.asarray(latitudes, np.float64), len(latitudes)
    nodes, _ = np.polynomial.legendre.leggauss(count)
    candidates = {
        "point": np.linspace(0, 180, count),
        "centred": (np.arange(count) + 0.5) * 180 / count,
        "gaussian": np.degrees(np.arccos(nodes[::-1])),
    }
    for kind, colatitude in candidates.items():
        exact = colatitude if lat[0] > lat[-1] else colatitude[::-1]
        if np.abs(90 - exact - lat).max() < 1e-3:
            lon = np.round(float(longitudes[0]), 4) + np.arange(len(longitudes)) * 360 / len(longitudes)
            if np.abs(lon - longitudes).max() > 1e-3:
                break
            return Rows(colatitude=np.radians(exact), longitude=lon, kind=kind)
    raise ValueError(f"{count} latitudes from {lat[0]} to {lat[-1]} are no grid of the whole sphere.")


def _generated(config: "FluxesConfig", hour: np.datetime64) -> _Raw:
    """The generated atmosphere is the raw input: it is asked for all levels at once."""
    from models.climate.generator import atmosphere, gwsphere

    world = gwsphere.GwsphereConfig(
        rows=config.coarse_rows, columns=config.coarse_columns, levels=config.levels, seed=config.seed
    )
    latitude, longitude = gwsphere.era5_grid(config.rows, config.columns)
    found = gwsphere.fields_on(world, int(hour.astype("datetime64[h]").astype(np.int64)), latitude, longitude)
    return _Raw(
        fields={"u": found.u, "v": found.v, "w": found.omega, "t": found.t},
        grid=_rows_of(latitude, longitude),
        a=gwsphere.world_of(world).pressure,
        b=np.zeros(config.levels),
        surface=np.full((config.rows, config.columns), STANDARD_SURFACE),
        height=atmosphere.ground_of(config.seed, latitude, longitude),
    )


def _read(part: "Part", hour: np.datetime64) -> _Raw:
    """Every field of an hour from whichever file of the part holds it."""
    fields: dict[str, Array] = {}
    coordinates: dict[str, Any] = {}
    for path in map(Path, part.files):
        with _opened(path) as data:
            for ours, theirs in NAMES.items():
                called = [name for name in theirs if name in data.data_vars]
                called += [str(n) for n, one in data.data_vars.items() if one.attrs.get("standard_name") in theirs]
                if called and ours not in fields:
                    values = _at(data, called[0], hour, path, surface=ours in ("sp", "zs"))
                    if values is not None:
                        fields[ours] = _in_our_units(values, ours, called[0], data[called[0]].attrs.get("units", ""))
                        if ours == "u":
                            coordinates = _levels_of(data, called[0])
    height = fields.pop("zs", None)
    grid = coordinates["grid"]
    surface = fields.pop("sp", np.full((len(grid.colatitude), len(grid.longitude)), STANDARD_SURFACE))
    return _Raw(
        fields=fields,
        grid=grid,
        a=coordinates["a"],
        b=coordinates["b"],
        surface=surface.astype(np.float64),
        height=height,
    )


def _opened(path: Path) -> "xr.Dataset":
    import xarray as xr

    with path.open("rb") as stream:
        start = stream.read(4)
    if start == b"GRIB":
        return xr.open_dataset(path, engine="cfgrib", backend_kwargs={"indexpath": ""})
    engine: Any = "netcdf4"
    return xr.open_dataset(path, engine=engine)


def _axis(data: "xr.Dataset", name: str, called: tuple[str, ...]) -> str:
    return next((str(dim) for dim in data[name].dims if str(dim).lower() in called), "")


_TIMES = ("time", "valid_time")
_LEVELS = ("level", "lev", "model_level", "pressure_level", "hybrid", "isobaricinhpa", "plev", "number_of_level")
_LATS, _LONS = ("lat", "latitude", "y"), ("lon", "longitude", "x")


def _at(data: "xr.Dataset", name: str, hour: np.datetime64, path: Path, *, surface: bool) -> Array | None:
    """Values of one hour, levels from the top; None: the file has another hour."""
    one = data[name]
    time = _axis(data, name, _TIMES)
    if time:
        values = data[time].values
        if values.dtype.kind != "M":
            day = re.search(r"(\d{4})-?(\d\d)-?(\d\d)", path.name)
            start = np.datetime64("-".join(day.groups()) if day else "1970-01-01", "m")
            values = start + (values * 60).astype("timedelta64[m]")
        hits = np.flatnonzero(values.astype("datetime64[m]") == hour)
        if not len(hits):
            if not (surface and len(values)):
                return None
            hits = np.array([0])
        one = one.isel({time: int(hits[0])})
    elif (
        "time" in data.coords and data["time"].ndim == 0 and not surface and data["time"].values.astype("M8[m]") != hour
    ):
        return None
    level = _axis(data, name, _LEVELS)
    if level and surface:
        one = one.isel({level: 0})
    elif level:
        one = one.isel({level: np.argsort(data[level].values)})
    return np.asarray(one.squeeze(drop=True).values) if surface else np.asarray(one.values)


def _in_our_units(values: Array, ours: str, called: str, units: str) -> Array:
    """m/s, Pa/s, K, Pa, and m for heights of geopotentials."""
    if called == "lnsp":
        return np.exp(values.astype(np.float64))
    spelled = units.replace("**", "").replace("/", " ").replace(" s ", " ").strip()
    if ours == "zs":
        return values.astype(np.float64) / (1.0 if units.strip() in ("m", "gpm") else STANDARD_GRAVITY)
    factor = FACTORS.get(spelled, 1.0)
    return values if factor == 1.0 else (values.astype(np.float64) * factor).astype(np.float32)


def _levels_of(data: "xr.Dataset", name: str) -> dict[str, Any]:
    level = _axis(data, name, _LEVELS)
    numbers = np.sort(data[level].values.astype(np.float64))
    units = str(data[level].attrs.get("units", ""))
    grid = _rows_of(data[_axis(data, name, _LATS)].values, data[_axis(data, name, _LONS)].values)
    if units in ("hPa", "millibars", "mb", "mbar", "Pa"):
        a = numbers * (1.0 if units == "Pa" else 100.0)
        return {"a": a, "b": np.zeros(len(a)), "grid": grid}
    if "hyai" in data:
        half_a, half_b = data["hyai"].values, data["hybi"].values
    elif "GRIB_pv" in data[name].attrs:
        half_a, half_b = np.split(np.asarray(data[name].attrs["GRIB_pv"], np.float64), 2)
    else:
        text = (resources.files("models.climate.datasets.fluxes") / "levels.json").read_text(encoding="utf-8")
        table = json.loads(text)
        half_a, half_b = np.array(table["a_pascal"]), np.array(table["b"])
    at = numbers.astype(int)
    return {"a": (half_a[at - 1] + half_a[at]) / 2, "b": (half_b[at - 1] + half_b[at]) / 2, "grid": grid}


# Spherical harmonics.


def to_meridian(colatitude: Floats, kind: str, targets: Floats, *, odd: bool) -> Floats:
    """Matrix (N, I) from values on rows to values at other colatitudes, along the trigonometric series on meridians.

    Args:
        colatitude: (I,) radians, from the north or from the south.
        kind: "point" or "centred".
        targets: (N,) radians.
        odd: whether what is on the other side of a pole has the other sign.
    """
    rows = len(colatitude)
    steps = rows - 1 if kind == "point" else rows
    ends = np.isclose(colatitude, 0) | np.isclose(colatitude, np.pi)
    k = np.arange(steps + 1)
    weight = np.where((k == 0) | (k == steps), 1.0, 2.0) / steps
    wave = np.sin if odd else np.cos
    found = (wave(np.outer(targets, k)) * weight) @ wave(np.outer(k, colatitude))
    return np.asarray(found * np.where(ends, 0.5, 1.0))


class Sphere:
    """Analysis and synthesis on one grid, order by order, for many levels at once."""

    def __init__(self, grid: Rows) -> None:
        self.grid = grid
        rows, columns = len(grid.colatitude), len(grid.longitude)
        self.degree = rows - 2 if grid.kind == "point" else rows - 1
        self.order = min(self.degree, (columns - 1) // 2)
        sines, self.weights = np.polynomial.legendre.leggauss(rows if grid.kind == "gaussian" else rows + 1)
        self.nodes = np.arccos(sines[::-1])
        # From rows to nodes, what is even and what is odd across the poles.
        if grid.kind == "gaussian":
            turned = np.eye(rows) if grid.colatitude[0] < grid.colatitude[-1] else np.eye(rows)[::-1]
            self.onto = (turned, turned)
        else:
            self.onto = tuple(to_meridian(grid.colatitude, grid.kind, self.nodes, odd=odd) for odd in (False, True))  # type: ignore[assignment]

    def divergent(self, u: Floats, v: Floats, *, above: int) -> tuple[Floats, Floats]:
        """grad chi of winds (K, I, J), degrees beyond `above`."""
        columns = len(self.grid.longitude)
        eastward, northward = (np.fft.rfft(one, axis=2) / columns for one in (u, v))
        out_u, out_v = np.zeros_like(eastward), np.zeros_like(northward)
        for m in range(self.order + 1):
            onto = self.onto[(m + 1) % 2]  # a wind component changes sign over the pole where a scalar does not
            at_nodes_u, at_nodes_v = eastward[:, :, m] @ onto.T, northward[:, :, m] @ onto.T
            slope, over = _gradients(m, self.degree, np.concatenate([self.nodes, self.grid.colatitude]))
            count = len(self.nodes)
            degrees = np.arange(m, self.degree + 1)
            keep = degrees > max(above, 0)
            scale = np.where(keep, 1.0 / np.maximum(degrees * (degrees + 1.0), 1.0), 0.0)
            # Inner product with grad Y = (dY/dtheta southward, i m Y / sin theta eastward), 2 pi from longitude.
            south, east = -at_nodes_v * self.weights, at_nodes_u * self.weights
            chi = 2 * np.pi * (south @ slope[:, :count].T - 1j * (east @ over[:, :count].T)) * scale
            out_v[:, :, m] = -(chi @ slope[:, count:])
            out_u[:, :, m] = 1j * (chi @ over[:, count:])
        back = (np.fft.irfft(one * columns, columns, axis=2) for one in (out_u, out_v))
        east_part, north_part = back
        return east_part, north_part

    def low_pass(self, field: Floats, degree: int) -> Floats:
        """Degrees 0..`degree` of scalars (K, I, J)."""
        columns = len(self.grid.longitude)
        waves = np.fft.rfft(field, axis=2) / columns
        out = np.zeros_like(waves)
        top = min(degree, self.degree)
        for m in range(min(top, self.order) + 1):
            onto = self.onto[m % 2]
            table = _legendre(m, top, np.concatenate([self.nodes, self.grid.colatitude]))
            count = len(self.nodes)
            coefficients = 2 * np.pi * ((waves[:, :, m] @ onto.T * self.weights) @ table[:, :count].T)
            out[:, :, m] = coefficients @ table[:, count:]
        return np.asarray(np.fft.irfft(out * columns, columns, axis=2))


def _legendre(m: int, degree: int, theta: Floats, *, less: int = 0) -> Floats:
    """Orthonormal P_lm(cos theta) / sin(theta)^less for l = m..`degree`, (L, N)."""
    sine, cosine = np.sin(theta), np.cos(theta)
    k = np.arange(1, m + 1)
    norm = (-1) ** m * np.sqrt(np.prod((2 * k + 1) / (2 * k)) / (4 * np.pi))
    table = np.zeros((degree - m + 1, len(theta)))
    table[0] = norm * sine ** (m - less)
    if degree > m:
        table[1] = np.sqrt(2 * m + 3) * cosine * table[0]
    for n in range(m + 2, degree + 1):
        a = np.sqrt((4 * n * n - 1) / (n * n - m * m))
        b = np.sqrt(((n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1))
        table[n - m] = a * (cosine * table[n - m - 1] - b * table[n - m - 2])
    return table


def _gradients(m: int, degree: int, theta: Floats) -> tuple[Floats, Floats]:
    """dP_lm/dtheta and m P_lm / sin(theta), (L, N) each, finite at the poles."""
    if m == 0:
        slope = np.zeros((degree + 1, len(theta)))
        n = np.arange(1, degree + 1)[:, None]
        slope[1:] = np.sqrt(n * (n + 1.0)) * _legendre(1, degree, theta)
        return slope, np.zeros_like(slope)
    over = _legendre(m, degree, theta, less=1)
    n = np.arange(m, degree + 1)[:, None]
    before = np.concatenate([np.zeros((1, len(theta))), over[:-1]])
    slope = n * np.cos(theta) * over - np.sqrt((2 * n + 1.0) * (n * n - m * m) / (2 * n - 1.0)) * before
    return slope, m * over


# What must hold of the whole.


def checks(groups: Mapping[str, "xr.Dataset"]) -> tuple[Claim, ...]:
    """What the stored dataset must be, whatever it was made from.

    Args:
        groups: "training" and, if kept, "fluxes"; decoded or not. Their attributes say how means were taken and which
            published defects are repeated.

    Returns:
        Claims on axes, units, missing values, and on what the variables must be to one another.

    Source:
        Ours.
    """
    training = groups["training"]
    rows, columns = training.sizes["lat"], training.sizes["lon"]
    hours = np.unique(
        np.linspace(0, training.sizes["time"] - 1, min(HOURS, training.sizes["time"])).astype(int)
    ).tolist()
    of = f"{len(hours)} of {training.sizes['time']} hours were looked at."
    claims = [
        _count("axes_out_of_order", [fault for one in groups.values() for fault in _axis_faults(one)],
               "time, level and longitude rise, latitudes run one way, coarse ones are Gaussian."),
        _count("groups_apart", _shared_axes(groups), "both groups have the same hours and levels."),
        _count("wrong_units", _unit_faults(groups), "units of every variable."),
        _count("missing_or_implausible_fields", _value_faults(training, hours),
               f"fields with values missing, infinite, or outside what the atmosphere has; {of}"),
        _count("pressure_not_of_level", _pressure_faults(training, hours),
               f"fields whose pressure does not rise downwards, or is not that of the level's label; {of}"),
        _count("height_not_of_surface", _height_faults(training, hours),
               f"fields of zs that differ from the first; {of}"),
    ]  # fmt: skip
    sample = _sample(training.sizes["time"], training.sizes["level"])
    if training.sizes["level"] > 2:
        claims.append(_agreement(training, "dudp", sample))
        if not np.isnan(training["N2"][:1, :1].values).all():
            claims.append(_agreement(training, "N2", sample))
    if "fluxes" in groups:
        fine = groups["fluxes"]
        grid = _rows_of(fine["lat"].values, fine["lon"].values)
        repeated = str(training.attrs.get("published_defects", "")).split()
        coarse = Coarse(grid, rows, columns, beyond="beyond_the_pole" in repeated)
        spectral = training.attrs.get("remapping") == "spectral"
        claims.append(_means_of_fluxes(fine, training, coarse, sample, spectral=spectral))
        if "scalar_truncation" not in repeated:  # which is what makes such waves
            claims.append(_polar_waves(fine, sample))
        if "beyond_the_pole" not in repeated:
            claims.append(_integrals(fine, training, coarse, sample, spectral=spectral))
    return tuple(claims)


HOURS = 96
"""At most so many hours are looked at value by value, spread over the whole; the run itself has looked at all."""


def _count(name: str, found: list[str], what: str) -> Claim:
    first = f" The first: {found[0]}; prepare again from files that are right." if found else ""
    return Claim(name=name, kind="exact", value=len(found), limit=0, detail=what[0].upper() + what[1:] + first)


def _sample(hours: int, levels: int, most: int = 24) -> list[tuple[int, int]]:
    """Hours and levels, spread over the whole; always the first and the last."""
    spots = np.unique(np.linspace(0, hours * levels - 1, min(most, hours * levels)).astype(int))
    return [(int(spot // levels), int(spot % levels)) for spot in spots]


def _numbers(values: Array) -> Floats:
    return values.astype("datetime64[s]").astype(np.float64) if values.dtype.kind == "M" else values.astype(np.float64)


def _axis_faults(group: "xr.Dataset") -> list[str]:
    faults = []
    for name in ("time", "level", "lon"):
        steps = np.diff(_numbers(group[name].values))
        faults += [f"{name} does not rise after entry {at}" for at in np.flatnonzero(~(steps > 0))[:3]]
    steps = np.diff(_numbers(group["lat"].values))
    if (np.sign(steps) != np.sign(steps[0])).any() or np.abs(group["lat"].values).max() > 90:
        faults.append("lat does not run one way between the poles")
    if group.sizes["lat"] and group.attrs.get("title", "").startswith("Momentum fluxes of gravity waves and"):
        nodes = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(group.sizes["lat"])[0]))
        if np.abs(group["lat"].values - nodes).max() > 1e-4:
            faults.append("latitudes of the coarse cells are not Gaussian ones from the south")
    if abs(float(group["lon"].values[-1] - group["lon"].values[0]) - 360 + 360 / group.sizes["lon"]) > 1e-3:
        faults.append("longitudes are no whole circle")
    return faults


def _shared_axes(groups: Mapping[str, "xr.Dataset"]) -> list[str]:
    if "fluxes" not in groups:
        return []
    fine, coarse = groups["fluxes"], groups["training"]
    return [f"{name} differs between the groups" for name in ("time", "level")
            if not np.array_equal(fine[name].values, coarse[name].values)]  # fmt: skip


def _unit_faults(groups: Mapping[str, "xr.Dataset"]) -> list[str]:
    return [
        f"{group}/{name} is in {one.attrs.get('units')!r}, must be in {UNITS[str(name)]!r}"
        for group, data in groups.items()
        for name, one in data.data_vars.items()
        if one.attrs.get("units") != UNITS[str(name)]
    ]


def _value_faults(training: "xr.Dataset", hours: list[int]) -> list[str]:
    """Fields, hour by hour, which are neither whole nor absent as a kind, or beyond what is plausible."""
    faults = []
    absent = {str(name) for name in ("t", "N2", "zs", "dudp") if np.isnan(training[name][:1].values).all()}
    for hour in hours:
        for name in map(str, training.data_vars):
            values = training[name][hour].values
            if name in absent:
                faults += [f"{name} of hour {hour}: some values"] * bool((~np.isnan(values)).any())
                continue
            low, high = PLAUSIBLE.get(name, (-1e4, 1e4))
            wrong = ~((values >= low) & (values <= high)).all(axis=(1, 2))
            faults += [f"{name} of hour {hour}, level {level + 1}" for level in np.flatnonzero(wrong)]
    return faults


def _pressure_faults(training: "xr.Dataset", hours: list[int]) -> list[str]:
    faults = []
    labels = training["level"].values.astype(np.float64) * 100
    for hour in hours:
        p = training["p"][hour].values.astype(np.float64)
        # The highest ground has a surface pressure of half the standard one.
        wrong = ~((p <= 1.1 * labels[:, None, None]) & (p >= 0.4 * labels[:, None, None])).all(axis=(1, 2))
        falls = np.concatenate([[False], ~(np.diff(p, axis=0) > 0).all(axis=(1, 2))])
        faults += [f"hour {hour}, level {level + 1}" for level in np.flatnonzero(wrong | falls)]
    return faults


def _height_faults(training: "xr.Dataset", hours: list[int]) -> list[str]:
    first = training["zs"][0, 0].values
    if np.isnan(first).all():
        return []
    faults = []
    for hour in hours:
        same = (training["zs"][hour].values == first).all(axis=(1, 2))
        faults += [f"hour {hour}, level {level + 1}" for level in np.flatnonzero(~same)]
    return faults


def _agreement(training: "xr.Dataset", name: str, sample: list[tuple[int, int]]) -> Claim:
    """Means of a derivative against the derivative of means: not equal, but never of other sign or place."""
    worst, where = 1.0, ""
    for hour in sorted({hour for hour, _ in sample}):
        p = training["p"][hour].values.astype(np.float64)
        if name == "dudp":
            other = _slope(training["u"][hour].values.astype(np.float64), p)
        else:
            t = training["t"][hour].values.astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):  # what is no temperature is refused beside
                other = -(GRAVITY**2) / (GAS_CONSTANT * t) * _slope(np.log(t) - KAPPA * np.log(p), np.log(p))
        found = training[name][hour].values.astype(np.float64)
        for level in sorted({level for at, level in sample if at == hour}):
            away = float(np.sqrt(np.square(found[level] - other[level]).sum()))
            near = 1 - away / max(float(np.sqrt(np.square(other[level]).sum())), 1e-300)
            if not near >= worst:
                worst, where = near, f"hour {hour}, level {level + 1}"
    return Claim(
        name=f"agreement_of_{name}",
        kind="bounded",
        value=worst,
        limit=0.5,
        sense="at least",
        detail=f"one less the relative distance of the stored {name} from that of the stored coarse columns, on "
        f"{len(sample)} maps; the worst is {where or 'none'}.",
    )


def _means_of_fluxes(
    fine: "xr.Dataset", training: "xr.Dataset", coarse: "Coarse", sample: list[tuple[int, int]], *, spectral: bool
) -> Claim:
    worst, where = 0.0, "none"
    for hour, level in sample:
        for name in ("uw", "vw"):
            field = fine[name][hour, level].values.astype(np.float64)[None]
            mean = (coarse.exact_means(field) if spectral else coarse.means(field))[0]
            gap = np.abs(training[name][hour, level].values - mean).max() / max(float(np.abs(field).max()), 1e-300)
            if not gap <= worst:
                worst, where = float(gap), f"{name} of hour {hour}, level {level + 1}"
    return Claim(
        name="difference_of_coarse_fluxes",
        kind="bounded",
        value=worst,
        limit=1e-6,
        detail=f"coarse fluxes against means of the stored fine ones over the same cells, relative to the largest "
        f"fine value, on {len(sample)} maps; the worst is {where}.",
    )


def _polar_waves(fine: "xr.Dataset", sample: list[tuple[int, int]]) -> Claim:
    """On a pole, a wind times a scalar goes round once as the direction of east does; anything else is no field."""
    worst, where = 0.0, "none"
    for hour, level in sample:
        for name in ("uw", "vw"):
            for row in (0, -1):
                if abs(abs(float(fine["lat"][row])) - 90) > 1e-6:
                    continue
                line = fine[name][hour, level, row].values.astype(np.float64)
                waves = np.abs(np.fft.rfft(line))
                scale = float(np.abs(fine[name][hour, level].values).max()) * len(line)
                rest = float(np.delete(waves, 1).max()) / max(scale, 1e-300)
                if not rest <= worst:
                    worst, where = rest, f"{name} of hour {hour}, level {level + 1}"
    return Claim(
        name="polar_waves",
        kind="bounded",
        value=worst,
        limit=1e-3,
        detail=f"amplitude, on the poles, of zonal wavenumbers other than 1, relative to the largest value, on "
        f"{len(sample)} maps; the worst is {where}.",
    )


def _integrals(
    fine: "xr.Dataset", training: "xr.Dataset", coarse: "Coarse", sample: list[tuple[int, int]], *, spectral: bool
) -> Claim:
    """Area integrals before and after, by weights of their own."""
    area = np.array([_cap(a, b) for a, b in zip(coarse.edges[:-1], coarse.edges[1:], strict=True)]) / 2
    share = area @ coarse.rows
    if spectral:
        # What is odd across the poles, as the zonal mean of a wind is, times sin(theta), over a whole meridian.
        nodes, weights = np.polynomial.legendre.leggauss(2 * fine.sizes["lat"])
        theta = np.pi / 2 * (1 + nodes)
        odd = to_meridian(coarse.grid.colatitude, coarse.grid.kind, theta, odd=True)
        share = np.pi / 4 * (weights * np.sin(theta)) @ odd
    worst, where = 0.0, "none"
    for hour, level in sample:
        for name in ("uw", "vw"):
            field = fine[name][hour, level].values.astype(np.float64)
            before = share @ field.mean(axis=1)
            after = area @ training[name][hour, level].values.astype(np.float64).mean(axis=1)
            gap = abs(before - after) / max(float(np.abs(field).max()), 1e-300)
            if not gap <= worst:
                worst, where = float(gap), f"{name} of hour {hour}, level {level + 1}"
    return Claim(
        name="area_integral_difference",
        kind="bounded",
        value=worst,
        limit=1e-6,
        detail=f"global means of fine and coarse fluxes, relative to the largest fine value, on {len(sample)} maps; "
        f"the worst is {where}.",
    )


# Coarse cells.


class Coarse:
    """Means over the cells of a Gaussian grid, south first, by dense matrices."""

    def __init__(self, grid: Rows, rows: int, columns: int, *, beyond: bool = False) -> None:
        self.grid = grid
        _, weights = np.polynomial.legendre.leggauss(rows)
        self.edges = np.degrees(np.arcsin(np.clip(np.concatenate([[-1.0], np.cumsum(weights) - 1]), -1, 1)))
        self.edges[-1] = 90.0
        self.west = (np.arange(columns + 1) - 0.5) * 360 / columns
        latitude = 90 - np.degrees(grid.colatitude)
        bounds = self._bounds(latitude, beyond=beyond)
        self.rows = np.zeros((rows, len(latitude)))
        for at in range(rows):
            south, north = self.edges[at], self.edges[at + 1]
            whole = _cap(south, north)
            for i in range(len(latitude)):
                low, high = max(min(bounds[i], bounds[i + 1]), south), min(max(bounds[i], bounds[i + 1]), north)
                if high > low:
                    self.rows[at, i] = _cap(low, high) / whole
        self.columns = np.zeros((columns, len(grid.longitude)))
        step = 360 / len(grid.longitude)
        for at in range(columns):
            for turn in (-720, -360, 0, 360, 720):
                low = np.maximum(grid.longitude - step / 2 + turn, self.west[at])
                high = np.minimum(grid.longitude + step / 2 + turn, self.west[at + 1])
                self.columns[at] += np.clip(high - low, 0, None) / (360 / columns)

    def _bounds(self, latitude: Floats, *, beyond: bool) -> Floats:
        if beyond:
            # As published, in single precision, and half a step over the poles, where a cell has no area left.
            single = latitude.astype(np.float32)
            middle = (np.float32(0.5) * (single[1:] + single[:-1])).astype(np.float64)
            ends = (
                middle[0] + np.float64(single[0] - single[1]),
                middle[-1] - np.float64(single[-2] - single[-1]),
            )
            bounds = np.concatenate([[ends[0]], middle, [ends[1]]])
            return np.asarray(np.where(np.abs(bounds) > 90, np.sign(bounds) * 180 - bounds, bounds))
        if self.grid.kind == "gaussian":
            _, weights = np.polynomial.legendre.leggauss(len(latitude))
            edges = np.degrees(np.arcsin(np.clip(np.concatenate([[-1.0], np.cumsum(weights) - 1]), -1, 1)))
            edges[-1] = 90.0
            return np.asarray(edges if latitude[0] < latitude[-1] else edges[::-1])
        middle = (latitude[1:] + latitude[:-1]) / 2
        return np.concatenate([[90.0 * np.sign(latitude[0])], middle, [90.0 * np.sign(latitude[-1])]])

    def means(self, fields: Floats) -> Floats:
        """(K, T, C) of fields (K, I, J), each value the mean of its cell."""
        return np.asarray(self.rows @ fields @ self.columns.T)

    def exact_means(self, fields: Floats) -> Floats:
        """(K, T, C) of wind-like fields (K, I, J): the trigonometric series integrated, by quadrature over latitude."""
        columns = fields.shape[2]
        waves = np.fft.rfft(fields, axis=2) / columns
        m = np.arange(waves.shape[2])
        west, east = (
            np.radians(self.west[:-1] - self.grid.longitude[0]),
            np.radians(self.west[1:] - self.grid.longitude[0]),
        )
        both = np.where((m == 0) | (2 * m == columns), 1.0, 2.0)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (np.exp(1j * m[:, None] * east) - np.exp(1j * m[:, None] * west)) / (1j * m[:, None] * (east - west))
        mean[0] = 1.0
        nodes, weights = np.polynomial.legendre.leggauss(max(8, 4 * fields.shape[1] // len(self.rows)))
        out = np.empty((len(fields), *(len(self.rows), len(self.west) - 1)))
        for at in range(len(self.rows)):
            south, north = np.radians(90 - self.edges[at]), np.radians(90 - self.edges[at + 1])
            theta = (south + north) / 2 + (south - north) / 2 * nodes
            share = weights * np.sin(theta)
            share /= share.sum()
            across = [
                share @ to_meridian(self.grid.colatitude, self.grid.kind, theta, odd=odd) for odd in (True, False)
            ]
            # Even wavenumbers of a wind are odd across the poles.
            line = np.where(m % 2 == 0, np.tensordot(across[0], waves, (0, 1)), np.tensordot(across[1], waves, (0, 1)))
            out[:, at] = (line @ (both * mean)).real
        return out


def _cap(low: float, high: float) -> float:
    """Area between two latitudes over 2 pi, without losing digits near the poles."""
    low, high = np.radians(low), np.radians(high)
    return float(2 * np.cos((low + high) / 2) * np.sin((high - low) / 2))
