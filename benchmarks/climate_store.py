"""The store of datasets: an hour of winds from files to a synced store, the write path, a second run, memory.

python -m benchmarks climate_store [--levels 137] [--workers 2] [--rounds 5] [--write]

The hour is that of `climate_fluxes`: netCDF files as ERA5 on model levels gives them, 601 x 1200, read before so that
they lie in the page cache; every part is read, transformed, remapped, checked, compressed, hashed, written and flushed
by a worker, and the whole is put together. The write path is what `infra.grids` does to an array, beside a plain file
of the same stored bytes, written and flushed, in turn. Memory is the largest of a process that makes some hours one
after another, and ten times as many.
"""

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks._pieces import markdown
from benchmarks.climate_fluxes import _archive, _largest
from infra.grids import Parts
from models.climate.datasets.fluxes.config import FluxesConfig
from models.common.parts import Layout, Variable
from tasks.prepare import Work, keys_of, make

PAGE = Path(__file__).parent.parent / "docs" / "results" / "climate_store.md"
CORES = 2


def main(options: Sequence[str] = ()) -> None:
    """Measure, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks climate_store")
    parser.add_argument("--levels", type=int, default=137, help="levels of the hour, 14 to 137")
    parser.add_argument("--workers", type=int, default=CORES, help="processes that make parts")
    parser.add_argument("--rounds", type=int, default=5, help="of the write path")
    parser.add_argument("--write", action="store_true", help="write docs/results/climate_store.md")
    chosen = parser.parse_args(options)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with tempfile.TemporaryDirectory(dir=os.environ.get("HEADRACE_BENCH_FOLDER")) as name:
        folder = Path(name)
        lines = [*_hour(chosen.levels, chosen.workers, folder), *_write_path(chosen.rounds, folder), *_memory()]
    command = f"python -m benchmarks climate_store --levels {chosen.levels} --workers {chosen.workers}"
    head = [
        "# The store of datasets",
        "",
        f"Written by `{command} --rounds {chosen.rounds} --write` on {datetime.now(UTC):%Y-%m-%d}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.",
        "",
    ]
    console.print("\n".join([*head, *lines]))
    if chosen.write:
        PAGE.write_text("\n".join([*head, *lines]) + "\n", encoding="ascii")
        console.print(f"wrote docs/results/{PAGE.name}")


def _hour(levels: int, workers: int, folder: Path) -> list[str]:
    """From files in the page cache through the synced store, and the same once more."""
    raw = folder / "raw"
    raw.mkdir()
    config = _archive(levels, raw)
    for file in raw.iterdir():
        with file.open("rb") as handle:
            while handle.read(1 << 24):
                pass
    size = sum(file.stat().st_size for file in raw.iterdir())
    parts = Parts(folder / "parts")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_warm) as pool:
        list(pool.map(_warm, range(workers)))  # interpreters and imports are not the work
        os.sync()
        begun = time.perf_counter()
        survey = config.survey(
            {name: tuple(sorted(Path(place).parent.glob(Path(place).name))) for name, place in config.sources().items()}
        )
        keys = keys_of(config, survey, {file: Path(file).name for part in survey.parts for file in part.files})
        light = {group: dataclasses.replace(one, coordinates={}) for group, one in survey.groups.items()}
        work = [Work(part=part, key=keys[part.name], folder=parts.folder) for part in survey.parts]
        cpu = sum(pool.map(partial(_made, config, light), work))
        receipts = [parts.receipt(keys[part.name]) for part in survey.parts]
        staging = folder / "staging"
        staging.mkdir()
        parts.join(staging, survey.groups, [(r, p.at) for r, p in zip(receipts, survey.parts, strict=True) if r], {})
        wall = time.perf_counter() - begun
    begun = time.perf_counter()
    again = Parts(parts.folder)
    there = sum(again.receipt(key) is not None for key in keys.values())
    second = time.perf_counter() - begun
    stored = sum(file.stat().st_size for file in parts.folder.rglob("*") if file.is_file())
    return [
        "## One hour, from files to the synced store",
        "",
        *markdown(
            ("levels", "raw files", "stored", "parts", "workers", "seconds", "CPU seconds of the workers"),
            [(levels, f"{size / 2**20:.0f} MiB", f"{stored / 2**20:.0f} MiB", len(work), workers, f"{wall:.1f}",
              f"{cpu:.1f}")],
        ),
        "",
        f"Looking whether all {there} parts are there and whole, by a second run: {second:.2f} s, nothing written.",
        "",
    ]  # fmt: skip


def _warm(_: int = 0) -> None:
    """Import what a worker needs, and compile what is compiled."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import models.climate.datasets.fluxes.prepare  # noqa: F401
    import tasks.prepare  # noqa: F401
    from models.climate.datasets.fluxes.config import tiny

    recipe = tiny()
    recipe.part(recipe.survey({}).parts[0])


def _made(config: FluxesConfig, groups: Any, work: Work) -> float:
    begun = time.process_time()
    make(config, groups, work)
    return time.process_time() - begun


def _write_path(rounds: int, folder: Path) -> list[str]:
    """The write path beside a plain file of the same bytes."""
    rng = np.random.default_rng(0)
    y, x = np.linspace(-1, 1, 601)[:, None], np.linspace(0, 2 * np.pi, 1200)[None]
    waves = [(k, np.cos((k % 7) * np.pi * y)) for k in range(1, 20)]
    smooth = (250 + 20 * sum(rng.normal() / (k + 1) * np.cos(k * x + level) * shape for k, shape in waves)
              for level in range(64))  # fmt: skip
    values = np.stack([one + 0.02 * rng.normal(size=(601, 1200)) for one in smooth]).astype(np.float32)[None]
    sizes = {"time": 1, "level": 64, "lat": 601, "lon": 1200}
    shapes = {
        "whole levels, 16 a file": ({"time": 1, "level": 16}, {"time": 1, "level": 16}),
        "chunks of 103 x 180 in shards of 16 levels": (
            {"time": 1, "level": 1, "lat": 103, "lon": 180}, {"time": 1, "level": 16},
        ),
    }  # fmt: skip
    rows = []
    for name, (chunks, shards) in shapes.items():
        variable = Variable(dims=tuple(sizes), dtype="float32", chunks=chunks, shards=shards)
        groups = {"g": Layout(variables={"x": variable}, sizes=sizes)}
        ours, plain, stored, cpu = [], [], 0, []
        for _ in range(rounds):
            place = folder / "written"
            shutil.rmtree(place, ignore_errors=True)
            os.sync()
            begun, spent = time.perf_counter(), time.process_time()
            receipt = Parts(place).write("part", "0" * 32, groups, {"g": {"x": values}}, {})
            ours.append(time.perf_counter() - begun)
            cpu.append(time.process_time() - spent)
            stored = sum(piece.length for piece in receipt.pieces)
            data = rng.bytes(stored)
            os.sync()
            begun = time.perf_counter()
            with (folder / "plain").open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            plain.append(time.perf_counter() - begun)
        ratios = sorted(a / b for a, b in zip(ours, plain, strict=True))
        rows.append(
            (
                name, f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                f"{values.nbytes / 2**20 / statistics.median(ours):.0f}",
                f"{stored / 2**20 / statistics.median(plain):.0f}", f"{stored / values.nbytes:.3f}",
                f"{statistics.median(cpu):.2f}",
            )
        )  # fmt: skip
    return [
        "## The write path",
        "",
        f"{values.nbytes / 2**20:.0f} MiB of float32, {rounds} rounds in turn; compressed, with a CRC-32C of every "
        "chunk and a SHA-256 of every file, all files and folders flushed.",
        "",
        *markdown(
            (
                "shards", "ratio to a plain file of the stored bytes, flushed", "MiB/s of the array", "MiB/s plain",
                "stored / array", "CPU seconds",
            ),
            rows,
        ),
        "",
    ]  # fmt: skip


def _memory() -> list[str]:
    """Largest resident memory of a process that makes some hours, and ten times as many."""
    rows = []
    for hours in (3, 30):
        code = f"from benchmarks.climate_store import make_hours; make_hours({hours})"
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        rows.append((hours, *said.split()))
    growth = float(rows[1][2]) / float(rows[0][2])
    return [
        "## Memory",
        "",
        "A process that makes generated hours of 24 levels on 0.5 degrees, puts them together, and merges statistics.",
        "",
        *markdown(("hours", "parts", "largest MiB", "of that imports"), rows),
        "",
        f"Ten times the data take {growth:.3f} times the memory.",
    ]


def make_hours(hours: int) -> None:
    """Make so many hours in this process; print parts, the largest resident MiB, and that of the imports."""
    from tasks.prepare import statistics as merged

    imports = _largest()
    config = FluxesConfig(hours=hours, rows=361, columns=720, levels=24, levels_at_once=12, coarse_rows=64,
                          coarse_columns=128)  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        parts = Parts(Path(name) / "parts")
        survey = config.survey({})
        keys = keys_of(config, survey, {})
        light = {group: dataclasses.replace(one, coordinates={}) for group, one in survey.groups.items()}
        for part in survey.parts:
            make(config, light, Work(part=part, key=keys[part.name], folder=parts.folder))
        receipts = [found for part in survey.parts if (found := parts.receipt(keys[part.name]))]
        (Path(name) / "staging").mkdir()
        placed = [(receipt, part.at) for receipt, part in zip(receipts, survey.parts, strict=True)]
        parts.join(Path(name) / "staging", survey.groups, placed, {})
        merged(survey, receipts)
    sys.stdout.write(f"{len(survey.parts)} {_largest():.0f} {imports:.0f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
