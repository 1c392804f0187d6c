"""gwsphere: winds, temperatures and gravity waves of a whole sphere, with the waves' momentum flux known.

The large scale is that of `atmosphere`, degrees 1 to 21 alone. Hills, and jets where the wind turns quickly with
height, send up packets of waves around degrees 80 to 105; `rays` follows them. What a packet carries is the truth: how
much of it a recipe finds again, or a network predicts, can be counted. Windows of packets are as narrow as a cell of
the lattice, which leaves the waves a few hundredths of their power in degrees below 22; they are not projected.

`nonlocality` scales the way that packets go sideways. At 0 the flux of a column is a function of the column alone
(winds, temperature, height of the ground, latitude) and of chance; at 1 what arrives aloft has come from hundreds of
kilometres to the side, as in the atmosphere.

Everything at an hour is a function of the configuration and the hour: any hour can be made alone, to the bit.

Shapes: L levels, top first, I x J the lattice of sources and of the truth (Gaussian latitudes, south first), P packets
of a source, A x B any other grid, R rays.

Source: ours; section 2 of Fritts and Alexander 2003 for the waves.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from pathlib import Path

import netCDF4
import numpy as np
from numpy.typing import NDArray

from models.climate.generator import rays
from models.climate.generator.atmosphere import (
    GRAVITY,
    KAPPA,
    SCALE_HEIGHT,
    SURFACE,
    Atmosphere,
    ground_of,
    hour_of,
    stability,
)  # fmt: skip
from models.climate.generator.background import RADIUS
from models.climate.generator.chance import stream
from models.climate.generator.files import coordinates
from models.climate.geometry import Grid, gaussian_grid
from models.common.configuration import check, setting

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

_INTERMITTENT, _PHASE = 10, 11
"""What chance is asked for, beside what the atmosphere asks."""

SPEEDS = (17.7, 26.3)
"""Phase speeds over the flow at a jet, m/s: quartiles of N(0, 15 m/s) beyond 15 m/s; slower waves do not get far."""

HEADINGS = (135.0, 225.0)
"""Directions in which jets send the waves of each speed, degrees from east: upstream of a jet from the west."""

HILL_DEGREE = 120
JET_DEGREES = (105, 80)
"""Horizontal wavenumbers of packets, as degrees: of hills, and of jets for each of the speeds."""

HILL_LEVEL, JET_LEVEL = SURFACE, 50_000.0
"""Pressures at which packets start, Pa; the nearest levels are taken."""

HILL_FLUX, JET_FLUX = 4e-3, 4e-3
"""Largest fluxes at the source, Pa."""

SHEAR = 1.2e-3
"""1/s: shear beneath a jet from which on it sends out waves."""

ERA5 = {
    "U": ("u", "m s**-1", "U component of wind"),
    "V": ("v", "m s**-1", "V component of wind"),
    "T": ("t", "K", "Temperature"),
    "W": ("w", "Pa s**-1", "Vertical velocity"),
}
"""Letter of the file to name, unit and words of its variable."""


@dataclass(frozen=True, kw_only=True)
class GwsphereConfig:
    """A world of gravity waves; the defaults are the grid of T42 with few levels."""

    rows: int = setting(64, "Rows", "Gaussian latitudes of the sources and of the truth, 8 to 512.", ge=8, le=512)
    columns: int = setting(128, "Columns", "Longitudes of the sources and of the truth, 16 to 1024.", ge=16, le=1024)
    levels: int = setting(12, "Levels", "Levels from 1 to 1000 hPa, equal in ln p, 6 to 200.", ge=6, le=200)
    nonlocality: float = setting(
        1.0, "Non-locality", "Factor of the waves' sideways way, 0 (columns) to 1 (physical).", ge=0, le=1
    )
    intermittency: float = setting(
        0.5, "Intermittency", "Standard deviation of ln flux at the source that nothing tells, 0 to 2.", ge=0, le=2
    )
    seed: int = setting(0, "Seed", "Which world, 0 to 2147483647.", ge=0, le=2147483647)

    def __post_init__(self) -> None:
        """Hold the settings to their limits."""
        check(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fields:
    """The atmosphere at one hour on some grid, float32, top first.

    Attributes:
        u, v: wind (L, A, B), m/s.
        t: temperature (L, A, B), K.
        omega: vertical motion (L, A, B), Pa/s; positive is down.
    """

    u: Singles
    v: Singles
    t: Singles
    omega: Singles


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """The lattice at one hour: what a network sees, and what it should say.

    Attributes:
        u, v, t, omega: as in `Fields`; waves are finer than the lattice and not in them.
        theta: potential temperature (L, I, J), K.
        n2: squared buoyancy frequency (L, I, J), 1/s2.
        zs: height of the ground (I, J), m.
        uw, vw: the truth: vertical flux of eastward and northward momentum (L, I, J), Pa.
    """

    u: Singles
    v: Singles
    t: Singles
    omega: Singles
    theta: Singles
    n2: Singles
    zs: Singles
    uw: Singles
    vw: Singles


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """What does not change with time.

    Attributes:
        config: which world.
        grid: the lattice.
        pressure: (L) Pa, top first.
        zs: height of the ground on the lattice (I, J), m.
    """

    config: GwsphereConfig
    grid: Grid
    pressure: Floats

    @property
    def latitude(self) -> Floats:
        """(I) degrees north, south first."""
        return self.grid.latitudes

    @property
    def longitude(self) -> Floats:
        """(J) degrees east from 0."""
        return self.grid.longitudes

    @property
    def area(self) -> Floats:
        """(I, J) share of the sphere."""
        return self.grid.area_weights

    @property
    def height(self) -> Floats:
        """(L) log-pressure height, m."""
        return SCALE_HEIGHT * np.log(SURFACE / self.pressure)

    @property
    def density(self) -> Floats:
        """(L) reference density, kg/m3: that of an atmosphere of the scale height's temperature."""
        return self.pressure / (GRAVITY * SCALE_HEIGHT)

    @property
    def zs(self) -> Floats:
        """(I, J) height of the ground, m."""
        return self.air.ground

    @cached_property
    def air(self) -> Atmosphere:
        """The large scale on the lattice."""
        return Atmosphere(self.config.seed, self.latitude, self.longitude)


@lru_cache(maxsize=4)
def world_of(config: GwsphereConfig) -> World:
    """What does not change with time; kept, not to be written to."""
    pressure = np.geomspace(100.0, SURFACE, config.levels)
    return World(config=config, grid=gaussian_grid(config.rows, config.columns), pressure=pressure)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Launch:
    """Packets of all sources at one hour: fluxes (I, J, P) at the source and what `rays.trace` wants beside."""

    flux: Floats
    level: NDArray[np.int64]
    east: Floats
    north: Floats
    speed: Floats
    wavenumber: Floats


def _at(field_LIJ: Floats, height: Floats, wanted: float) -> Floats:
    """A column's value at a height between two levels."""
    upper = int(np.clip(np.searchsorted(-height, -wanted), 1, len(height) - 1))
    share = (wanted - height[upper]) / (height[upper - 1] - height[upper])
    return np.asarray(field_LIJ[upper] + share * (field_LIJ[upper - 1] - field_LIJ[upper]))


def _sources(world: World, hour: int, u: Floats, v: Floats, buoyancy: Floats, ground: Floats) -> _Launch:
    """What each column sends up, by its own winds, stability and ground."""
    config, height = world.config, world.height
    shape = (config.rows, config.columns)
    u_low, v_low = _at(u, height, 1_500.0), _at(v, height, 1_500.0)
    wind = np.hypot(u_low, v_low)
    n_low = _at(buoyancy, height, 1_500.0)
    hills = np.minimum(0.3 * ground, 600.0)
    k_hill = HILL_DEGREE / RADIUS
    hill = 0.5 * world.density[-1] * k_hill * n_low * wind * np.minimum(hills, wind / n_low) ** 2
    hill = HILL_FLUX * np.tanh(hill / HILL_FLUX)

    du = _at(u, height, 10_000.0) - _at(u, height, 3_000.0)
    dv = _at(v, height, 10_000.0) - _at(v, height, 3_000.0)
    shear = np.hypot(du, dv) / 7_000.0
    jet = JET_FLUX * np.tanh(np.maximum(shear / SHEAR - 1.0, 0.0) ** 2)

    packets = 1 + len(SPEEDS)
    flux, east, north, speed = (np.zeros((*shape, packets)) for _ in range(4))
    level = np.full(packets, int(np.abs(np.log(world.pressure / JET_LEVEL)).argmin()))
    level[0] = int(np.abs(np.log(world.pressure / HILL_LEVEL)).argmin())
    wavenumber = np.array([HILL_DEGREE, *JET_DEGREES]) / RADIUS
    flux[..., 0] = hill
    # waves that stand over hills run against the wind, as fast as it
    calm = np.maximum(wind, 1e-9)
    east[..., 0], north[..., 0] = -u_low / calm, -v_low / calm
    u_jet, v_jet = u[level[1]], v[level[1]]
    for p, (own, heading) in enumerate(zip(SPEEDS, HEADINGS, strict=True), start=1):
        flux[..., p] = jet / len(SPEEDS)
        east[..., p], north[..., p] = np.cos(np.radians(heading)), np.sin(np.radians(heading))
        speed[..., p] = u_jet * east[..., p] + v_jet * north[..., p] + own
    if config.intermittency:
        chance = stream(config.seed, _INTERMITTENT, hour).standard_normal((*shape, 2))
        factor = np.exp(config.intermittency * chance - config.intermittency**2 / 2)
        flux[..., :1] *= factor[..., :1]
        flux[..., 1:] *= factor[..., 1:]
    # too weak to be felt anywhere
    flux[flux < 1e-7] = 0.0
    return _Launch(flux=flux, level=level, east=east, north=north, speed=speed, wavenumber=wavenumber)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Moment:
    """The lattice at one hour in double precision; `path` (R, L, 5) only where waves are to be drawn."""

    u: Floats
    v: Floats
    t: Floats
    omega: Floats
    n2: Floats
    uw: Floats
    vw: Floats
    launch: _Launch
    path: Singles


def _moment(config: GwsphereConfig, hour: int, *, recorded: bool = False) -> _Moment:
    """The world's own atmosphere and what its waves carry."""
    world = world_of(config)
    u, v, t, omega = world.air.fields(hour, world.pressure)
    return _flown(world, hour, u, v, t, omega, world.zs, recorded=recorded)


def _flown(
    world: World, hour: int, u: Floats, v: Floats, t: Floats, omega: Floats, ground: Floats, *, recorded: bool
) -> _Moment:  # fmt: skip
    """Send packets through an atmosphere."""
    n2 = stability(t, world.pressure)
    buoyancy = np.sqrt(np.maximum(n2, 2e-5))
    launch = _sources(world, hour, u, v, buoyancy, ground)
    uw, vw = np.zeros_like(u), np.zeros_like(u)
    rows = int((launch.flux > 0).sum()) if recorded else 0
    path = np.zeros((rows, len(u), 5), np.float32)
    rays.trace(
        world.latitude, world.grid.row_weights, world.height, world.density, u, v, buoyancy,
        launch.flux, launch.level, launch.east, launch.speed, launch.north, launch.wavenumber,
        float(world.config.nonlocality), uw, vw, path,
    )  # fmt: skip
    return _Moment(u=u, v=v, t=t, omega=omega, n2=n2, uw=uw, vw=vw, launch=launch, path=path)


def fluxes_of(
    config: GwsphereConfig, hour: int, u: Floats, v: Floats, t: Floats, ground: Floats
) -> tuple[Floats, Floats]:  # fmt: skip
    """The fluxes of a given atmosphere on the lattice: the function that a network is asked to learn.

    Args:
        config: which world; its winds and its ground are not used.
        hour: for the chance of the sources alone.
        u, v: wind (L, I, J), m/s.
        t: temperature (L, I, J), K.
        ground: height of the ground (I, J), m.

    Returns:
        uw and vw (L, I, J), Pa, in double precision. At non-locality 0 and without intermittency those of a column
        depend on the column and its latitude alone, to the bit.

    Source:
        Ours; see `rays.trace`.
    """
    now = _flown(world_of(config), hour, u, v, t, np.zeros_like(u), ground, recorded=False)
    return now.uw, now.vw


def state_of(config: GwsphereConfig, hour: int) -> State:
    """The lattice at one hour: large scale and true fluxes.

    Args:
        config: which world.
        hour: hours since 1970-01-01T00 UTC.

    Returns:
        The state, float32; the same bits whenever and wherever it is made.

    Source:
        Ours; see the module.
    """
    world, now = world_of(config), _moment(config, hour)
    theta = now.t * (world.pressure[:, None, None] / SURFACE) ** -KAPPA
    arrays = {name: getattr(now, name) for name in ("u", "v", "t", "omega", "n2", "uw", "vw")}
    arrays |= {"theta": theta, "zs": world.zs}
    return State(**{name: array.astype(np.float32) for name, array in arrays.items()})


def truth_of(config: GwsphereConfig, hour: int) -> tuple[Singles, Singles]:
    """The true fluxes uw and vw (L, I, J) at one hour, Pa: what a recipe should find on the lattice."""
    now = _moment(config, hour)
    return now.uw.astype(np.float32), now.vw.astype(np.float32)


def features_of(config: GwsphereConfig, hour: int) -> tuple[Singles, Singles]:
    """One sample in the published channel order: latitude, longitude, zs, u, v, theta, omega; and uw, vw.

    Args:
        config: which world.
        hour: hours since 1970-01-01T00 UTC.

    Returns:
        (3 + 4 L, I, J) and (2 L, I, J), float32, degrees and SI units, top first.

    Source:
        The order of channels is that of the loaders of the published non-local flux models (Gupta et al. 2024).
    """
    world, state = world_of(config), state_of(config, hour)
    place = np.stack([
        np.broadcast_to(world.latitude[:, None], world.zs.shape),
        np.broadcast_to(world.longitude[None, :], world.zs.shape),
        world.zs,
    ]).astype(np.float32)  # fmt: skip
    features = np.concatenate([place, state.u, state.v, state.theta, state.omega])
    return features, np.concatenate([state.uw, state.vw])


def era5_grid(rows: int, columns: int) -> tuple[Floats, Floats]:
    """Latitudes from the north pole to the south pole, both included, and longitudes from 0: ERA5's regular grids."""
    latitude = (np.arange(rows - 1, -1, -1) * 2 - (rows - 1)) * 90.0 / (rows - 1)
    return np.asarray(latitude), np.asarray(np.arange(columns) * 360.0 / columns)


def fields_on(
    config: GwsphereConfig,
    hour: int,
    latitude: Floats,
    longitude: Floats,
    levels: Sequence[int] | None = None,
) -> Fields:
    """The atmosphere on another grid, with the waves that it resolves: those of at most two thirds of its rows.

    Args:
        config: which world.
        hour: hours since 1970-01-01T00 UTC.
        latitude: (A) degrees, either order, poles allowed.
        longitude: (B) degrees, rising in equal steps.
        levels: numbers of levels, 0 at the top; None: all.

    Returns:
        Fields (levels, A, B); a level has the same bits alone and in company. Waves are gradients of a potential, with
        rho u' w' averaging to the truth over each cell but for the chance meeting of overlapping packets.

    Source:
        Ours; see `rays.draw`.
    """
    world = world_of(config)
    air = _air(config.seed, tuple(latitude.tolist()), tuple(longitude.tolist()))
    chosen = list(range(config.levels)) if levels is None else list(levels)
    u, v, t, omega = air.fields(hour, world.pressure[chosen])
    finest = len(latitude) * 2 / 3
    if finest >= min(HILL_DEGREE, *JET_DEGREES):
        _draw(world, _moment_of_waves(config, hour), finest, chosen, hour, latitude, longitude, (u, v, t, omega))
    single = [array.astype(np.float32) for array in (u, v, t, omega)]
    return Fields(u=single[0], v=single[1], t=single[2], omega=single[3])


@lru_cache(maxsize=2)
def _air(seed: int, latitude: tuple[float, ...], longitude: tuple[float, ...]) -> Atmosphere:
    return Atmosphere(seed, np.array(latitude), np.array(longitude))


@lru_cache(maxsize=1)
def _moment_of_waves(config: GwsphereConfig, hour: int) -> _Moment:
    return _moment(config, hour, recorded=True)


def _draw(
    world: World, now: _Moment, finest: float, levels: list[int], hour: int, latitude: Floats, longitude: Floats,
    fields: tuple[Floats, Floats, Floats, Floats],
) -> None:  # fmt: skip
    """Add the waves that a grid resolves to its fields."""
    u, v, t, omega = fields
    there = np.argwhere(now.launch.flux > 0)
    resolved = now.launch.wavenumber[there[:, 2]] * RADIUS <= finest
    i, j, p = there[resolved].T
    shape = now.launch.flux.shape
    start = stream(world.config.seed, _PHASE).random(shape)[i, j, p] * 2 * np.pi
    k, speed = now.launch.wavenumber[p], now.launch.speed[i, j, p]
    start -= np.remainder(k * speed * 3600.0, 2 * np.pi) * (hour % 24)
    north = world.latitude
    middle = np.concatenate([[north[0]], (north[1:] + north[:-1]) / 2, [north[-1]]])
    heights = np.diff(middle)
    heights[[0, -1]] = heights[[1, -2]]
    rows = path = now.path[resolved]
    for number, level in enumerate(levels):
        path = np.ascontiguousarray(rows[:, level], np.float64)
        alive = path[:, 2] > 0
        path = path[alive]
        spacing = np.interp(path[:, 0], north, heights)
        warmth = np.zeros_like(t[number])
        n = float(np.sqrt(np.maximum(now.n2[level], 2e-5).mean()))
        rays.draw(
            latitude, longitude, spacing, path, now.launch.east[i, j, p][alive], now.launch.north[i, j, p][alive],
            k[alive], start[alive], world.density[level], n, 360.0 / world.config.columns, float(world.longitude[0]),
            u[number], v[number], omega[number], warmth,
        )  # fmt: skip
        t[number] *= 1 + warmth


def write_era5(
    config: GwsphereConfig,
    folder: Path,
    first: date,
    days: int,
    *,
    hours: int = 24,
    grid: tuple[int, int] = (73, 144),
) -> tuple[Path, ...]:
    """Write days as archives of ERA5 on model levels hold them: a file for each variable and day.

    Args:
        config: which world; its levels are numbered from 1 at the top.
        folder: where to; made if absent.
        first: first day.
        days: how many.
        hours: of each day, from 0 UTC on.
        grid: rows from pole to pole and columns from 0 degrees; (601, 1200) is 0.3 degrees.

    Returns:
        `U/V/T/WYYYYMMDD_ml.nc` by day and letter, with u, v (m/s), t (K), w (Pa/s) in (time, level, latitude,
        longitude); and `ZS.nc` with the height of the ground (m) and the pressure of the levels (Pa).

    Source:
        File names and dimensions as the published flux script of WxC-Bench reads them; units as ERA5 spells them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    latitude, longitude = era5_grid(*grid)
    pressure = world_of(config).pressure
    written = []
    for number in range(days):
        day = np.datetime64(first) + np.timedelta64(number, "D")
        start = hour_of(str(day))
        name = str(day).replace("-", "")
        with ExitStack() as open_files:
            arrays = {}
            for letter, (variable, unit, words) in ERA5.items():
                written.append(folder / f"{letter}{name}_ml.nc")
                file = open_files.enter_context(netCDF4.Dataset(written[-1], "w", format="NETCDF4"))
                coordinates(
                    file,
                    time=(
                        np.arange(hours, dtype=np.int32),
                        {"units": f"hours since {day} 00:00:00", "calendar": "gregorian"},
                    ),
                    level=(np.arange(1, config.levels + 1, dtype=np.int32), {"long_name": "model_level_number"}),
                    latitude=(latitude.astype(np.float32), {"units": "degrees_north"}),
                    longitude=(longitude.astype(np.float32), {"units": "degrees_east"}),
                )
                arrays[variable] = file.createVariable(variable, "f4", ("time", "level", "latitude", "longitude"))
                arrays[variable].setncatts({"units": unit, "long_name": words})
                arrays[variable].set_auto_mask(False)
            for hour in range(hours):
                for level in range(config.levels):
                    fields = fields_on(config, start + hour, latitude, longitude, [level])
                    for variable, values in zip("uvtw", (fields.u, fields.v, fields.t, fields.omega), strict=True):
                        arrays[variable][hour, level] = values[0]
    written.append(folder / "ZS.nc")
    with netCDF4.Dataset(written[-1], "w", format="NETCDF4") as file:
        coordinates(
            file,
            level=(np.arange(1, config.levels + 1, dtype=np.int32), {"long_name": "model_level_number"}),
            latitude=(latitude.astype(np.float32), {"units": "degrees_north"}),
            longitude=(longitude.astype(np.float32), {"units": "degrees_east"}),
        )
        file.createVariable("pressure", "f8", ("level",))[:] = pressure
        file["pressure"].units = "Pa"
        file.createVariable("zs", "f4", ("latitude", "longitude"))[:] = ground_of(config.seed, latitude, longitude)
        file["zs"].units = "m"
    return tuple(written)
