"""The loader of hours: how long a step of training waits for its batch, and how fast hours are read.

python -m benchmarks gravity_waves_loader [--rounds 3] [--most CPU_SECONDS] [--runs FOLDER] [--write]

Steps are those of a real training: forward, loss, backward, AdamW, of the networks of the small preset on 12 levels,
and of the published U-Net on 122 of 137 levels, 491 features on 64 x 128, stored as the dataset of fluxes stores them.
The step keeps to one thread, the loader to one more. Every hour of the dataset is met once in a pass. Before a cold
pass the page cache is told to forget the files; how much the disk then gave is counted. The first step of a process is
made before the pass.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks._pieces import markdown, measured
from infra.grids import Parts, open_groups
from infra.trees import plant
from models.climate.generator.gwsphere import GwsphereConfig
from models.climate.gravity_waves import batches, chunks, fields
from models.climate.gravity_waves.chunks import LabelledHours
from models.climate.gravity_waves.config import FluxNetworkConfig, of_fluxes, paper, small
from models.climate.gravity_waves.fields import GROUP, FluxFields
from models.climate.gravity_waves.lattice import LatticeConfig
from models.common.parts import Layout
from tasks.prepare import Work, make

PAGE = Path(__file__).parent.parent / "docs" / "results" / "gravity_waves_loader.md"
CODE = [Path(str(module.__file__)) for module in (batches, chunks, fields)]
FLUXES = ({"time": 1, "level": 1}, {"time": 1, "level": 14})
"""Chunks and files of the published preset of the dataset of fluxes."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, its hours, and how they are stored.

    Attributes:
        shape: what its dataset is called.
        system: network, batches and loss.
        once: whether one pass must do, because it takes minutes.
    """

    shape: str
    system: FluxNetworkConfig
    once: bool = False


@cache
def cases() -> Mapping[str, Case]:
    """What is measured; a published batch is 40 hours, of which a step here has as many as memory bears."""
    preset, published = small(), paper().trained
    few = replace(published.training, batch_size=2, accelerator="cpu")
    return {
        "small, U-Net": Case(shape="small", system=preset.trained),
        "small, column": Case(shape="small", system=preset.baseline),
        "paper, U-Net": Case(shape="paper", system=replace(published, training=few), once=True),
    }


def lattices() -> Mapping[str, tuple[LatticeConfig, int, tuple[dict[str, int], dict[str, int]] | None]]:
    """Datasets: which hours of which world, levels that are dropped, and how they are stored if not as a lattice is."""
    world = small().data.lattice.world
    return {
        "small": (LatticeConfig(years=(2010,), hours_apart=137, world=world), 0, None),
        "paper": (
            LatticeConfig(years=(2010,), hours_apart=730, hours_together=3, world=GwsphereConfig(levels=137)),
            paper().data.reading.dropped_levels,
            FLUXES,
        ),
    }


def main(options: Sequence[str] = ()) -> None:
    """Measure what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gravity_waves_loader")
    parser.add_argument("--rounds", type=int, default=3, help="passes over the hours, each cached and cold")
    parser.add_argument("--runs", default="", help="folder of datasets and pieces; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/gravity_waves_loader.md")
    chosen = parser.parse_args(options)
    if chosen.rounds < 1:
        parser.error("--rounds must be at least 1.")
    torch.set_num_threads(1)
    runs = Path(chosen.runs or Path(tempfile.gettempdir()) / "headrace" / "gravity_waves_loader")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    pieces: dict[str, Callable[[], Any]] = {}
    for shape in lattices():
        for cold in (False, True):
            for way in ("loader, 1 thread", "loader, 2 threads", "xarray"):
                pieces[f"read {shape} {way} {cold}"] = partial(read, runs, shape, way, cold)
    for name, case in cases().items():
        for number in range(1 if case.once else chosen.rounds):
            for cold in (False, True):
                pieces[f"{name} {cold} {number}"] = partial(learn, runs, name, cold)
    found = measured("gravity_waves_loader", pieces, [*CODE, Path(__file__)], folder=chosen.runs, most=chosen.most)
    if found is None:
        console.print("the time was spent before the last piece; call again to go on.")
        return
    head = [
        "# The loader of hours of gravity-wave fluxes",
        "",
        f"Written by `python -m benchmarks gravity_waves_loader --rounds {chosen.rounds} --write` on "
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.",
        "",
    ]
    lines = [*head, *_waits(chosen.rounds, found), *_reads(found)]
    console.print("\n".join(lines))
    if chosen.write:
        PAGE.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote docs/results/{PAGE.name}")


def learn(runs: Path, name: str, cold: bool) -> dict[str, Any]:
    """One pass of training over the hours of a case: seconds of every step, and of every wait for a batch; CPU seconds.

    The step works in this thread, so what the process spends beyond it is reading, and that of its first batch.
    """
    case = cases()[name]
    tree = dataset(runs, case.shape)
    data = {"data": open_groups(str(tree))}
    torch.manual_seed(0)
    network = of_fluxes(case.system.network(case.system.sizes(data)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    network.train()

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        case.system.loss(network, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    found = case.system.batches(data, rank=0, processes=1)
    values, area = next(iter(found.epoch(1)))
    first = ((values.to("cpu")), area)
    for _ in range(1 if case.shape == "paper" else 3):
        step(first)
    del values, first
    if cold:
        forget(tree)
    before, waits, steps = given_by_disk(), [], []
    all_threads, own = time.process_time(), time.thread_time()
    passing = iter(found.epoch(0))
    for _ in range(len(found)):
        begun = time.perf_counter()
        values, area = next(passing)
        batch = (values.to("cpu"), area)
        waited = time.perf_counter()
        step(batch)
        waits.append(waited - begun)
        steps.append(time.perf_counter() - waited)
    own = time.thread_time() - own
    return {
        "waits": waits,
        "steps": steps,
        "cpu": own / len(steps),
        "cpu of readers": (time.process_time() - all_threads - own) / len(steps),
        "disk": given_by_disk() - before,
        "hours": len(values),
    }


def read(runs: Path, shape: str, way: str, cold: bool) -> dict[str, Any]:
    """All hours once, without a network."""
    tree = dataset(runs, shape)
    _, dropped, _ = lattices()[shape]
    opened = FluxFields(open_groups(str(tree))[GROUP], dropped_levels=dropped)
    if way == "xarray":
        group = open_groups(str(tree))[GROUP]
        opened._levelled = {
            one: LabelledHours(variable=group[one].variable, place=one) for one in opened._levelled
        }  # fmt: skip
    threads = 2 if "2" in way else 1
    features, fluxes = (
        np.empty((threads, channels, *opened.shape), np.float32) for channels in (opened.features, opened.outputs)
    )
    rows = np.random.default_rng(0).permutation(len(opened)).tolist()
    opened.read_into(rows[0], features[0], fluxes[0])  # what is made once

    def some(number: int) -> None:
        for row in rows[number::threads]:
            opened.read_into(row, features[number], fluxes[number])

    if cold:
        forget(tree)
    before, begun, spent = given_by_disk(), time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(threads)))
    return {
        "seconds": time.perf_counter() - begun,
        "cpu": time.process_time() - spent,
        "disk": given_by_disk() - before,
        "hours": len(rows),
        "bytes": features[0].nbytes + fluxes[0].nbytes,
        "features": opened.features,
    }


def dataset(runs: Path, shape: str) -> Path:
    """The tree of a dataset; made if it is not there."""
    recipe, _, how = lattices()[shape]
    folder = runs / shape
    tree = folder / "version" / "data.zarr"
    if (tree / "zarr.json").exists():
        return tree
    folder.mkdir(parents=True)
    survey = recipe.survey({})
    groups: dict[str, Layout] = dict(survey.groups)
    if how is not None:
        groups[GROUP] = replace(
            groups[GROUP],
            variables={
                name: replace(one, chunks=how[0], shards=how[1]) for name, one in groups[GROUP].variables.items()
            },
        )
    parts = Parts(folder / "parts")
    light = {name: dataclasses.replace(one, coordinates={}) for name, one in groups.items()}
    receipts = []
    for number, part in enumerate(survey.parts):
        key = f"{number:032d}"
        make(recipe, light, Work(part=part, key=key, folder=parts.folder))
        if (receipt := parts.receipt(key)) is not None:
            receipts.append((receipt, part.at))
    for name in ("staging", "planted"):
        (folder / name).mkdir()
    plant(parts.join(folder / "staging", groups, receipts, {}), folder / "planted", "data")
    (folder / "planted").rename(folder / "version")
    return tree


def forget(tree: Path) -> None:
    """Let the page cache forget the files of a tree."""
    os.sync()
    for file in tree.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def given_by_disk() -> int:
    """Bytes that this process has had from disks so far; 0 where the system does not count them."""
    counts = Path("/proc/self/io")
    lines = counts.read_text().splitlines() if counts.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _waits(rounds: int, found: Mapping[str, Any]) -> list[str]:
    rows, shares = [], []
    for name, case in cases().items():
        for cold in (False, True):
            ones = [found[f"{name} {cold} {number}"] for number in range(1 if case.once else rounds)]
            whole = [100 * sum(one["waits"]) / sum(one["steps"]) for one in ones]
            later = [100 * sum(one["waits"][1:]) / sum(one["steps"][1:]) for one in ones]
            steps = [value for one in ones for value in one["steps"]]
            shares.append(statistics.median(later))
            rows.append(
                (
                    name, "cold" if cold else "cached", ones[0]["hours"], len(ones[0]["steps"]),
                    f"{1e3 * statistics.median(steps):.0f}",
                    f"{1e3 * statistics.median(one['cpu'] for one in ones):.0f}",
                    f"{1e3 * statistics.median(one['cpu of readers'] for one in ones):.1f}",
                    f"{1e3 * statistics.median(one['waits'][0] for one in ones):.0f}",
                    f"{1e3 * statistics.mean(w for one in ones for w in one['waits'][1:]):.1f}",
                    f"{statistics.median(later):.2f} ({min(later):.2f} to {max(later):.2f})",
                    f"{statistics.median(whole):.2f}",
                    f"{statistics.median(one['disk'] for one in ones) / 2**20:.0f}",
                )
            )  # fmt: skip
    return [
        "## How long a step waits",
        "",
        f"{rounds} passes of the small networks, one of the published U-Net; median, and lowest to highest. The first "
        "batch of a pass is waited for; what it takes stands apart, and counts in the last but one column. Times are "
        "of the clock but where it says CPU, and the machine has other work. Readers that take less of the CPU than "
        "the step does can keep up with it on a core of their own.",
        "",
        *markdown(
            (
                "network", "files", "hours a step", "steps a pass", "ms a step", "CPU ms a step",
                "CPU ms of readers", "first wait, ms", "mean later wait, ms",
                "waits after the first, % of steps", "all waits, % of steps", "MiB from disk",
            ),
            rows,
        ),
        "",
        f"The largest share of the time of steps that waits after the first take is {max(shares):.2f} %; it should be "
        "5 % at most.",
        "",
    ]  # fmt: skip


def _reads(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for shape in lattices():
        for cold in (False, True):
            for way in ("loader, 1 thread", "loader, 2 threads", "xarray"):
                one = found[f"read {shape} {way} {cold}"]
                rows.append(
                    (
                        f"{shape}, {one['features']} features", way, "cold" if cold else "cached",
                        f"{one['bytes'] / 2**20:.1f}", f"{1e3 * one['cpu'] / one['hours']:.1f}",
                        f"{1e3 * one['seconds'] / one['hours']:.1f}",
                        f"{one['disk'] / 2**20 / one['hours']:.1f}",
                    )
                )  # fmt: skip
    return [
        "## How fast hours are read",
        "",
        "All hours once, in random order, inputs and fluxes of an hour as a network is given them. `xarray` reads the "
        "same files through xarray and Zarr, all else alike. With more cores, up to 8 threads read.",
        "",
        *markdown(
            ("hours", "reader", "files", "MiB an hour", "CPU ms an hour", "ms an hour", "MiB an hour from disk"),
            rows,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
