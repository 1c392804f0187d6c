"""Fluxes of gravity waves: accuracy of transforms, fluxes and means, and the time of remapping and of one hour.

python -m benchmarks climate_fluxes [--levels 137] [--runs FOLDER] [--most CPU_SECONDS] [--write]

Accuracy is against analytic fields, and against the saved references of windspharm where HEADRACE_MIRROR names a folder
that has them. Remaps run interleaved in one process, five rounds; what they are compared with is one pass that reads
the same fields. The hour is read from netCDF files as ERA5 on model levels gives them, 601 x 1200, every level with all
the scales that the grid resolves, and made part by part as a worker does.
"""

import argparse
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from rich.console import Console

from benchmarks._pieces import markdown, measured
from models.climate import geometry, harmonics, remapping
from models.climate.datasets.fluxes import columns, fields, momentum, prepare
from models.climate.datasets.fluxes.config import FluxesConfig, paper
from models.climate.geometry import Grid, gaussian_grid, regular_grid
from models.climate.harmonics import Harmonics
from models.climate.remapping import Conservative, SpectralMeans

PAGE = Path(__file__).parent.parent / "docs" / "results" / "climate_fluxes.md"
CODE = [Path(str(module.__file__)) for module in (geometry, harmonics, remapping, columns, fields, momentum, prepare)]

Array = NDArray[Any]

T42 = gaussian_grid(64, 128)
GRIDS: Mapping[str, Grid] = {
    "601 x 1200, poles": regular_grid(601, 1200),
    "721 x 1440, poles": regular_grid(721, 1440),
    "360 x 576, centred": regular_grid(360, 576, poles=False),
    "64 x 128, Gaussian": T42,
}
DEGREES = (22, 100, 179, 200)
FIELDS, ROUNDS = 20, 5


def main(options: Sequence[str] = ()) -> None:
    """Measure what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks climate_fluxes")
    parser.add_argument("--levels", type=int, default=137, help="levels of the hour, 14 to 137")
    parser.add_argument("--runs", default="", help="folder of the pieces; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/climate_fluxes.md")
    chosen = parser.parse_args(options)
    if not 14 <= chosen.levels <= 137:
        parser.error("--levels must be 14 to 137.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with tempfile.TemporaryDirectory(prefix="climate-fluxes-") as folder:
        pieces = _pieces(chosen.levels, Path(folder))
        found = measured("climate_fluxes", pieces, [*CODE, Path(__file__)], folder=chosen.runs, most=chosen.most)
    if found is None:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(chosen.levels, found)
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def _pieces(levels: int, folder: Path) -> dict[str, Callable[[], Any]]:
    pieces: dict[str, Callable[[], Any]] = {}
    for name in GRIDS:
        pieces[f"transform {name}"] = partial(_transform, name)
    for kind in ("regular", "gaussian"):
        pieces[f"windspharm {kind} {os.environ.get('HEADRACE_MIRROR', '')}"] = partial(_windspharm, kind)
    for degree in DEGREES:
        pieces[f"wave {degree}"] = partial(_wave, degree)
    for name in list(GRIDS)[:3]:
        pieces[f"integral {name}"] = partial(_integral, name)
    for name in list(GRIDS)[:2]:
        pieces[f"remap {name}"] = partial(_remaps, name)
    together = paper().levels_at_once
    for block in range(-(-levels // together)):
        pieces[f"hour {levels} {block}"] = partial(_block, levels, block, folder)
    pieces[f"memory {levels}"] = partial(_memory, levels, folder)
    return pieces


def _error(found: Array, truth: Array) -> float:
    return float(np.abs(found - truth).max() / np.abs(truth).max())


def _random(sphere: Harmonics, seed: int, slope: float) -> Array:
    """Random coefficients (K,) whose size falls with a power of the degree; no mean."""
    count = len(sphere.degrees)
    random = np.random.default_rng(seed)
    drawn = (random.normal(size=count) + 1j * random.normal(size=count)) / (1 + sphere.degrees) ** slope
    drawn[: sphere.degree + 1].imag = 0
    drawn[0] = 0
    return np.asarray(drawn)


def _transform(name: str) -> dict[str, float]:
    """Potential parts and truncations of random fields with all resolved degrees."""
    sphere = Harmonics(grid=GRIDS[name])
    wind = np.stack([_random(sphere, 0, 1.5), _random(sphere, 1, 1.5)])
    u, v = sphere.synthesise_wind(wind)
    fine = wind[:1].copy()
    fine[:, sphere.degrees <= 21] = 0
    white = _random(sphere, 2, 0.0)
    field = sphere.synthesise(white)
    truths = {0: sphere.synthesise_wind(wind[:1]), 21: sphere.synthesise_wind(fine)}
    errors = {
        f"above {above}": max(map(_error, sphere.irrotational(u, v, above=above), truth))
        for above, truth in truths.items()
    }
    errors["low-pass"] = _error(sphere.low_pass(field, 21), sphere.synthesise(np.where(sphere.degrees <= 21, white, 0)))
    single = sphere.irrotational(u.astype(np.float32), v.astype(np.float32), above=21)
    errors["stored"] = max(_error(one.astype(np.float32), truth) for one, truth in zip(single, truths[21], strict=True))
    return errors


def _windspharm(kind: str) -> dict[str, float]:
    """Largest relative difference from saved float32 references; empty where they are not."""
    folder = Path(os.environ.get("HEADRACE_MIRROR", "/nowhere")) / "climate" / "oracle_windspharm" / kind
    if not folder.is_dir():
        return {}

    def saved(name: str) -> Array:
        return np.asarray(np.load(folder / f"{name}.ref.npy").squeeze(), np.float64)

    u, v = saved("uwnd"), saved("vwnd")
    sphere = Harmonics(grid=regular_grid(*u.shape) if kind == "regular" else gaussian_grid(*u.shape, north_first=True))
    parts = sphere.analyse_wind(u, v)
    turning = sphere.synthesise_wind(np.stack([0 * parts[1], parts[1]]))
    found = {
        "irrotational": dict(zip(("uchi", "vchi"), sphere.irrotational(u, v), strict=True)),
        "rotational": dict(zip(("upsi", "vpsi"), turning, strict=True)),
        "divergence, vorticity": {"div": sphere.divergence(u, v), "vrt": sphere.vorticity(u, v)},
        "potentials": dict(zip(("psi", "chi"), sphere.potential(u, v), strict=True)),
        "gradient": dict(zip(("chigradu", "chigradv"), sphere.gradient(saved("chi")), strict=True)),
        "T21": {"vrt_trunc": sphere.low_pass(saved("vrt"), 21)},
    }
    return {what: max(_error(one, saved(name)) for name, one in some.items()) for what, some in found.items()}


def _analytic(grid: Grid, degree: int) -> tuple[Array, Array, Array]:
    """u, v, omega of chi = R cos^l(lat) cos(l lon), omega = cos^l(lat) sin(l lon)."""
    lat, lon = np.radians(grid.latitudes)[:, None], np.radians(grid.longitudes)
    power = np.cos(lat) ** (degree - 1)
    u, v = -degree * power * np.sin(degree * lon), -degree * power * np.sin(lat) * np.cos(degree * lon)
    return u, v, np.cos(lat) ** degree * np.sin(degree * lon)


def _means(degree: int) -> tuple[Array, Array]:
    """Means of u omega and v omega over the cells of T42: latitude by quadrature, longitude in closed form."""
    x, w = np.polynomial.legendre.leggauss(40)
    rows = []
    for low, high in np.radians(np.stack([T42.latitude_bounds[:-1], T42.latitude_bounds[1:]], 1)):
        lat = (low + high) / 2 + (high - low) / 2 * x
        area, power = w * np.cos(lat), np.cos(lat) ** (2 * degree - 1)
        rows.append([(area * power).sum() / area.sum(), (area * power * np.sin(lat)).sum() / area.sum()])
    u_row, v_row = np.array(rows).T[:, :, None]
    lon, half = np.radians(T42.longitudes), np.pi / T42.shape[1]
    damped = np.sin(2 * degree * half) / (2 * degree * half)
    u_means = -degree * u_row * (1 - damped * np.cos(2 * degree * lon)) / 2
    return u_means, -degree * v_row * damped * np.sin(2 * degree * lon) / 2


def _wave(degree: int) -> dict[str, float]:
    """Errors of the flux of one wave on 721 x 1440, and of its means, relative to the largest zonal flux."""
    grid = GRIDS["721 x 1440, poles"]
    u, v, omega = _analytic(grid, degree)
    sphere = Harmonics(grid=grid)
    east, north = sphere.irrotational(u, v, above=21)
    wave = sphere.high_pass(omega, 21)
    scale, truth = np.abs(u * omega).max(), _means(degree)
    found = {"grid": max(np.abs(east * wave - u * omega).max(), np.abs(north * wave - v * omega).max()) / scale}
    cells, spectral = Conservative(source=grid, target=T42), SpectralMeans(source=grid, target=T42)
    for name, pair in (
        ("spectral", (spectral(east * wave, wind=True), spectral(north * wave, wind=True))),
        ("conservative", (cells(east * wave), cells(north * wave))),
    ):
        errors = [np.abs(one - right).max() for one, right in zip(pair, truth, strict=True)]
        found[name] = max(errors) / np.abs(truth[0]).max()
    found["integral"] = abs(float(T42.mean(cells(east * wave))) / float(T42.mean(truth[0])) - 1)
    return {name: float(value) for name, value in found.items()}


def _integral(name: str) -> dict[str, float]:
    """Change of the area integral of white noise around 280, and of the noise relative to its size."""
    grid = GRIDS[name]
    noise = np.random.default_rng(0).normal(size=grid.shape)
    remap = Conservative(source=grid, target=T42)
    warm, cold = remap(noise + 280), remap(noise)
    before = float(grid.mean(noise + 280))
    return {
        "double": abs(float(T42.mean(warm)) / before - 1),
        "stored": abs(float(T42.mean(warm.astype(np.float32))) / before - 1),
        "noise": abs(float(T42.mean(cold)) - float(grid.mean(noise))) / float(np.abs(noise).max()),
    }


def _remaps(name: str) -> dict[str, list[float]]:
    """CPU milliseconds a field of every way, round by round, interleaved."""
    grid = GRIDS[name]
    data = (np.random.default_rng(0).normal(size=(FIELDS, *grid.shape)) + 280).astype(np.float32)
    remap, spectral = Conservative(source=grid, target=T42), SpectralMeans(source=grid, target=T42)
    rows, across = remap.rows.dense(grid.shape[0]), remap.columns.dense(grid.shape[1]).T
    rows4, across4 = rows.astype(np.float32), across.astype(np.float32)
    few, few_across = sp.csr_matrix(rows), sp.csr_matrix(across)
    full = sp.kron(few, few_across.T, format="csr")
    out = np.empty((FIELDS, *T42.shape), np.float32)
    ways: dict[str, Callable[[], Any]] = {
        "one pass that reads": lambda: data.sum(),
        "ours": lambda: remap(data, out),
        "ours, missing values left out": lambda: remap.skipping(data, out),
        "ours, spectral means": lambda: spectral(data, out),
        "separable, sparse, double": lambda: np.stack([(few @ field) @ few_across for field in data]),
        "separable, dense, single": lambda: (rows4 @ data) @ across4,
        "separable, dense, double": lambda: (rows @ data.astype(np.float64)) @ across,
        "one sparse matrix of all pairs": lambda: full @ data.reshape(FIELDS, -1).T.astype(np.float64),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(ROUNDS + 1):
        for way, run in ways.items():
            begun = time.process_time()
            run()
            if turn:
                taken[way].append((time.process_time() - begun) / FIELDS * 1e3)
    return taken


@functools.cache
def _archive(levels: int, folder: Path) -> FluxesConfig:
    """Files of one hour: mixtures of a few random fields with all resolved scales, different on every level."""
    grid = GRIDS["601 x 1200, poles"]
    sphere = Harmonics(grid=grid)
    winds = [sphere.synthesise_wind(np.stack([0.3 * _random(sphere, 2 * k, 1.5), _random(sphere, 2 * k + 1, 1.5)]))
             for k in range(3)]  # fmt: skip
    scalars = [sphere.synthesise(_random(sphere, 10 + k, 1.2)) for k in range(6)]

    def mixed(some: Sequence[Array], level: int, size: float, mean: float = 0.0) -> Array:
        weights = np.cos(level / 10 + np.arange(len(some)))
        return np.asarray(mean + size * np.tensordot(weights, np.stack(some), 1), np.float32)

    _write(folder / "U20150301_ml.nc", grid, "u", "m s**-1", levels, lambda k: mixed([w[0] for w in winds], k, 8))
    _write(folder / "V20150301_ml.nc", grid, "v", "m s**-1", levels, lambda k: mixed([w[1] for w in winds], k, 8))
    _write(folder / "W20150301_ml.nc", grid, "w", "Pa s**-1", levels, lambda k: mixed(scalars[:3], k, 0.2))
    _write(folder / "T20150301_ml.nc", grid, "t", "K", levels, lambda k: mixed(scalars[3:], k, 3, 230 + k / 5))
    _write(folder / "PS20150301_ml.nc", grid, "sp", "Pa", 0, lambda _: mixed(scalars[:1], 0, 500, 98_500))
    _write(folder / "ZS20150301_ml.nc", grid, "z", "m**2 s**-2", 0, lambda _: mixed(scalars[1:2], 0, 300, 5_000))
    return _configuration(folder)


def _configuration(folder: Path) -> FluxesConfig:
    named = paper()
    return replace(named, **{
        name: str(folder / Path(getattr(named, name)).name)
        for name in ("u", "v", "omega", "temperature", "surface_pressure", "surface_height")
    })  # fmt: skip


def _write(path: Path, grid: Grid, name: str, units: str, levels: int, make: Callable[[int], Array]) -> None:
    rows, across = grid.shape
    with netCDF4.Dataset(path, "w") as file:
        sizes = {"time": 1, **({"level": levels} if levels else {}), "latitude": rows, "longitude": across}
        for dim, size in sizes.items():
            file.createDimension(dim, size)
        axes = {"time": ([0], "hours since 2015-03-01"), "latitude": (grid.latitudes, "degrees_north"),
                "longitude": (grid.longitudes, "degrees_east"), "level": (np.arange(levels) + 1, "1")}  # fmt: skip
        for dim in sizes:
            values, axis_units = axes[dim]
            axis = file.createVariable(dim, "i4" if dim in ("time", "level") else "f4", (dim,))
            axis.setncatts({"long_name": "model_level_number"} if dim == "level" else {"units": axis_units})
            axis[:] = values
        chunks = (1, 1, rows, across) if levels else (1, rows, across)
        data = file.createVariable(name, "f4", tuple(sizes), chunksizes=chunks)
        data.units = units
        for level in range(max(levels, 1)):
            data[(0, level) if levels else (0,)] = make(level)


def _survey(config: FluxesConfig) -> Any:
    return config.survey({name: (Path(place.replace("*", "20150301")),) for name, place in config.sources().items()})


def _block(levels: int, block: int, folder: Path) -> dict[str, float]:
    """CPU seconds of one part, and of what it spends them on."""
    config = _archive(levels, folder)
    part = _survey(config).parts[block]
    if block == 0:
        config.part(part)  # compile, and fill what is kept of headers
    spent: dict[str, float] = {"reading": 0.0, "wind": 0.0, "omega": 0.0, "remapping": 0.0, "columns": 0.0}
    watched = [
        (fields.FileFields, "load", "reading"), (momentum.WaveFlux, "winds", "wind"),
        (momentum.WaveFlux, "vertical", "omega"), (Conservative, "__call__", "remapping"),
        (columns, "derivative", "columns"), (columns, "log_theta", "columns"), (columns, "stratification", "columns"),
    ]  # fmt: skip
    kept = [getattr(owner, name) for owner, name, _ in watched]
    try:
        for (owner, name, what), original in zip(watched, kept, strict=True):
            setattr(owner, name, _timed(original, spent, what))
        begun = time.process_time()
        config.part(part)
        spent["all"] = time.process_time() - begun
    finally:
        for (owner, name, _), original in zip(watched, kept, strict=True):
            setattr(owner, name, original)
    return spent


def _timed(run: Callable[..., Any], spent: dict[str, float], what: str) -> Callable[..., Any]:
    @functools.wraps(run)
    def timed(*given: Any, **named: Any) -> Any:
        begun = time.process_time()
        try:
            return run(*given, **named)
        finally:
            spent[what] += time.process_time() - begun

    return timed


def _memory(levels: int, folder: Path) -> list[float]:
    """Resident MiB of a process of its own, before and after a part of the middle."""
    _archive(levels, folder)
    code = f"from benchmarks.climate_fluxes import in_own_process; in_own_process({str(folder)!r})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in said.stdout.split()]


def in_own_process(folder: str) -> None:
    """Make the part in the middle; print the largest resident MiB before and after."""
    config = _configuration(Path(folder))
    survey = _survey(config)
    before = _largest()
    config.part(survey.parts[len(survey.parts) // 2])
    sys.stdout.write(f"{before:.0f} {_largest():.0f}\n")


def _largest() -> float:
    """Largest resident MiB of this process since it began; `getrusage` would count what its parent held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _page(levels: int, found: Mapping[str, Any]) -> list[str]:
    accuracy = [
        (name, *(f"{found[f'transform {name}'][what]:.1e}" for what in ("above 0", "above 21", "low-pass", "stored")))
        for name in GRIDS
    ]
    saved = {
        kind: found[f"windspharm {kind} {os.environ.get('HEADRACE_MIRROR', '')}"] for kind in ("regular", "gaussian")
    }
    waves = [
        (degree, *(f"{found[f'wave {degree}'][what]:.1e}" for what in
                   ("grid", "spectral", "conservative", "integral")))
        for degree in DEGREES
    ]  # fmt: skip
    integrals = [
        (name, *(f"{found[f'integral {name}'][what]:.1e}" for what in ("double", "stored", "noise")))
        for name in list(GRIDS)[:3]
    ]
    return [
        "# Fluxes of gravity waves",
        "",
        f"Written by `python -m benchmarks climate_fluxes --levels {levels} --write`. Times are CPU time on one "
        "core of a machine that others used too.",
        "",
        "## Transforms",
        "",
        "Random winds with all degrees that the grid resolves, amplitudes falling with l^-1.5; largest error over the "
        "largest value. The low-pass is of white noise, whose finest degrees are as strong as any. Stored: winds given "
        "and results kept in single precision.",
        "",
        *markdown(("grid", "irrotational part", "its degrees beyond 21", "degrees up to 21", "stored"), accuracy),
        "",
        *_saved(saved),
        "",
        "## Flux of an analytic wave",
        "",
        "chi = R cos^l(lat) cos(l lon), omega = cos^l(lat) sin(l lon) on 721 x 1440, through irrotational part, "
        "high-passes and product; then means over the cells of T42 against quadrature of the analytic flux. Both "
        "components, relative to the largest zonal flux.",
        "",
        *markdown(("degree l", "on the grid", "spectral means", "conservative means", "their integral"), waves),
        "",
        "Conservative remapping takes the value at a point for the mean of its cell, and keeps the sum of values times "
        "areas, which differs from the wave's own integral by the last column. Single cells differ by more, where "
        "their edges cut cells of the fine grid. Spectral means integrate the field that the fine grid resolves.",
        "",
        "## Area integrals of conservative means",
        "",
        "Noise of deviation 1 around 280, to T42.",
        "",
        *markdown(
            ("grid", "double precision", "stored in single precision", "of the noise alone, over its largest"),
            integrals,
        ),
        "",
        "## Time of remapping to T42",
        "",
        f"{FIELDS} fields in single precision, {ROUNDS} rounds interleaved; ratio to one pass that reads the "
        "same fields (numpy's sum), median with the least and the most of the rounds.",
        "",
        *markdown(("grid", "way", "ratio to one pass", "ms a field"), _ratios(found)),
        "",
        "## One hour of ERA5",
        "",
        *_hour(levels, found),
    ]


def _saved(saved: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not all(saved.values()):
        return ["The references of windspharm were not at hand: HEADRACE_MIRROR named no folder that has them."]
    rows = [(what, *(f"{saved[kind][what]:.1e}" for kind in saved)) for what in saved["regular"]]
    head = ("reference", "73 x 144, regular", "72 x 144, Gaussian")
    return ["Against the saved float32 references of windspharm:", "", *markdown(head, rows)]


def _ratios(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name in list(GRIDS)[:2]:
        taken = found[f"remap {name}"]
        passes = taken["one pass that reads"]
        for way, times in taken.items():
            ratios = [one / other for one, other in zip(times, passes, strict=True)]
            middle = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append((name, way, middle, f"{statistics.median(times):.2f}"))
    return rows


def _hour(levels: int, found: Mapping[str, Any]) -> list[str]:
    blocks = [value for key, value in found.items() if key.startswith(f"hour {levels} ")]
    total = {what: sum(block[what] for block in blocks) for what in blocks[0]}
    rest = total["all"] - sum(value for what, value in total.items() if what != "all")
    words = {
        "wind": "winds: one analysis, one synthesis of degrees beyond 21",
        "omega": "omega: degrees up to 21 taken off",
        "columns": "derivatives: shear and stratification at full resolution",
        "reading": "reading",
        "remapping": "conservative means of eight fields a level",
    }
    rows = [(words[what], f"{total[what]:.2f}", f"{1e3 * total[what] / levels:.1f}") for what in words]
    rows += [("products and the rest", f"{rest:.2f}", f"{1e3 * rest / levels:.1f}")]
    rows += [("all", f"{total['all']:.2f}", f"{1e3 * total['all'] / levels:.1f}")]
    before, after = found[f"memory {levels}"]
    return [
        f"{levels} levels at 601 x 1200 in parts of {paper().levels_at_once} levels, from files in the page cache to "
        f"arrays; storing them is measured elsewhere. A part adds {after - before:.0f} MiB to the {before:.0f} MiB of "
        "the process.",
        "",
        *markdown(("step", "CPU seconds", "ms a level"), rows),
    ]
