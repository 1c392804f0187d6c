"""Reading one hour of model levels: ours beside the plain netCDF library and xarray, all over one pass of the file.

    python -m benchmarks climate_readers [--levels 137] [--rounds 5] [--write]

A file holds one variable on 601 x 1200 points, as the archive of ERA5 gives it; four of them make an hour of fluxes. It
lies in the page cache. All ways read it in the same round, in turning order, on one thread; CPU seconds are counted,
so neighbours on the machine do not matter much. One pass is `numpy.fromfile` of the whole file. The stored numbers are
what the library gives without decoding; decoded means masked, scaled and, by xarray and by us, in single precision.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr
from rich.console import Console

from benchmarks._pieces import markdown
from models.climate.datasets import readers

PAGE = Path(__file__).parent.parent / "docs" / "results" / "climate_readers.md"
KINDS = tuple((form, dtype) for form in ("NETCDF4", "NETCDF3_64BIT_OFFSET") for dtype in ("float32", "int16"))
SHAPE = (601, 1200)
HEAD = (
    "file",
    "MB",
    "one pass, s",
    "stored numbers",
    "library, decoded",
    "xarray, decoded",
    "ours",
    "ours, whole hour, s",
)


def main(options: Sequence[str] = ()) -> None:
    """Measure all kinds of files, print the table, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks climate_readers")
    parser.add_argument("--levels", type=int, default=137, help="levels of the file, 1 to 137")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, 1 to 100")
    parser.add_argument("--write", action="store_true", help="write docs/results/climate_readers.md")
    chosen = parser.parse_args(options)
    if not 1 <= chosen.levels <= 137 or not 1 <= chosen.rounds <= 100:
        parser.error("--levels must be 1 to 137, --rounds 1 to 100.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    rows = []
    for form, dtype in KINDS:
        with tempfile.TemporaryDirectory(prefix="climate-readers-") as folder:
            path = written(Path(folder), form, dtype, chosen.levels)
            rows.append(_row(path, form, dtype, chosen.rounds))
    lines = [
        "# Reading one hour of model levels",
        "",
        f"{chosen.levels} levels of 601 x 1200 points, one variable, in the page cache; medians of {chosen.rounds} "
        "interleaved rounds in CPU seconds, of which the middle columns are multiples of one pass over the bytes. "
        f"`python -m benchmarks climate_readers --levels {chosen.levels} --rounds {chosen.rounds} --write`.",
        "",
        *markdown(HEAD, rows),
    ]
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {PAGE.relative_to(PAGE.parent.parent.parent)}")


def written(folder: Path, form: Any, dtype: str, levels: int) -> Path:
    """A file with one hour of one variable: contiguous where the format can, fill declared, none used."""
    path, random = folder / "U20150301_ml.nc", np.random.default_rng(0)
    packed = dtype == "int16"
    sizes = {"time": 1, "level": levels, "latitude": SHAPE[0], "longitude": SHAPE[1]}
    with netCDF4.Dataset(path, "w", format=form) as file:
        for name, size in sizes.items():
            file.createDimension(name, size)
        for name, values, units in (
            ("time", np.array([1009368], np.int32), "hours since 1900-01-01"),
            ("level", np.arange(1, levels + 1, dtype=np.int32), "1"),
            ("latitude", (90 - 0.3 * np.arange(SHAPE[0])).astype(np.float32), "degrees_north"),
            ("longitude", (0.3 * np.arange(SHAPE[1])).astype(np.float32), "degrees_east"),
        ):
            file.createVariable(name, values.dtype, (name,))[:] = values
            file[name].units = units
        fill = np.int16(-32767) if packed else np.float32(9.96921e36)
        field = file.createVariable("u", dtype, tuple(sizes), fill_value=fill, contiguous=form == "NETCDF4")
        field.set_auto_maskandscale(False)
        field.units = "m s**-1"
        if packed:
            field.scale_factor, field.add_offset = 0.0017, 3.0
        for level in range(levels):
            draw = random.integers(-32000, 32000, SHAPE) if packed else random.normal(0, 20, SHAPE)
            field[0, level] = draw.astype(dtype)
    return path


def _row(path: Path, form: str, dtype: str, rounds: int) -> list[str]:
    def stored() -> Any:
        with netCDF4.Dataset(path) as file:
            file.set_auto_maskandscale(False)
            return file["u"][0]

    def library() -> Any:
        with netCDF4.Dataset(path) as file:
            return file["u"][0]

    def by_xarray() -> Any:
        with xr.open_dataset(path, engine="netcdf4") as data:
            return data["u"][0].values.astype(np.float32, copy=False)

    def ours() -> Any:
        return readers.read(path, {"u": readers.NAMES["u"]}, at={"time": 0}, units={"u": "m s-1"})["u"].values

    ways: list[Callable[[], Any]] = [lambda: np.fromfile(path, np.uint8), stored, library, by_xarray, ours]
    # packed numbers are rounded once by us, twice where the scale was taken in single precision
    if not np.allclose(ours(), by_xarray(), rtol=1e-5, atol=1e-4):
        raise SystemExit(f"{form} {dtype}: ours and xarray read different values.")
    spent: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds):
        for number in np.roll(np.arange(len(ways)), turn).tolist():
            begun = time.process_time()
            ways[number]()
            spent[number].append(time.process_time() - begun)
    once, *others = (statistics.median(one) for one in spent)
    size = path.stat().st_size / 1e6
    ratios = [f"{other / once:.2f}" for other in others]
    return [f"{form} {dtype}", f"{size:.0f}", f"{once:.3f}", *ratios, f"{4 * others[-1]:.2f}"]
