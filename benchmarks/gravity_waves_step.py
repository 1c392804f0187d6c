"""One step of the published networks of gravity-wave fluxes, at their true size: time and memory; rolls of the U-Net.

python -m benchmarks gravity_waves_step [--batches 1 2 4] [--most CPU_SECONDS] [--write]
python -m benchmarks gravity_waves_step --gpu [--batches 8 40] [--peak 989] [--write]

122 levels on 64 x 128, which is 491 features, of which the U-Net is told 366, and 244 fluxes. A step is forward, loss,
backward and AdamW, in a process of its own that keeps to one thread: the median of three after a first one, or the
first alone where it takes more than 8 seconds. On a GPU features lie in memory in both ways.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._pieces import markdown, measured
from models.climate.geometry import gaussian_grid
from models.climate.gravity_waves import loss, networks
from models.climate.gravity_waves.loss import flux_loss
from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig, Padding, published

RESULTS = Path(__file__).parent.parent / "docs" / "results"
CODE = [Path(str(module.__file__)) for module in (networks, loss)]
LEVELS, GRID = 122, gaussian_grid(64, 128)
STEPS, LONG = 3, 8.0
"""Steps that are counted, and CPU seconds of a first one that is counted alone: what only it does is little then."""
BATCH = {"column": 20, "stencil 3x3": 10, "stencil 5x5": 10}
"""Hours of a published batch (ann_cnn_training/training.py at 407cc1d [56-61]); 40 of the U-Net."""

UNET = published("unet")
NETWORKS: Mapping[str, NetworkConfig] = {
    "U-Net": UNET,
    "U-Net, sphere": replace(UNET, padding="sphere"),
    "U-Net, sphere, bfloat16": replace(UNET, padding="sphere", precision="bfloat16"),
    "column": published("column"),
    "stencil 3x3": published("stencil"),
    "stencil 5x5": published("stencil", stencil="5x5"),
}
ROLLS = (1, 2, 4, 8, 16, 48)
PADDINGS: tuple[Padding, ...] = ("sphere", "circular", "zeros")


def main(options: Sequence[str] = ()) -> None:
    """Measure what is missing, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gravity_waves_step")
    parser.add_argument("--batches", nargs="+", type=int, help="hours of a step; 1 2 4, on a GPU 8 40")
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU instead")
    parser.add_argument("--peak", type=float, default=989.0, help="the GPU's most TFLOP/s in bfloat16, for the share")
    parser.add_argument("--runs", default="", help="folder of the pieces; empty: one for passing files")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help="write docs/results/gravity_waves_step[_gpu].md")
    chosen = parser.parse_args(options)
    batches = tuple(chosen.batches or ((8, 40) if chosen.gpu else (1, 2, 4)))
    if min(batches) < 1 or chosen.peak <= 0:
        parser.error("--batches must be at least 1, --peak above 0.")
    if chosen.gpu and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use; leave --gpu out.")
    if len(batches) < 2 and not chosen.gpu:
        parser.error("--batches must be two or more, for the line through them.")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    pieces = _gpu_pieces(batches) if chosen.gpu else _pieces(batches)
    found: dict[str, Any] = {}
    begun = _spent()
    for key, make in pieces.items():
        one = measured("gravity_waves_step", {key: make}, [*CODE, Path(__file__)], folder=chosen.runs)
        found |= one or {}
        if chosen.most and _spent() - begun > chosen.most and len(found) < len(pieces):
            console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
            return
    lines = _gpu_page(batches, found, chosen.peak) if chosen.gpu else _page(batches, found)
    console.print("\n".join(lines))
    if chosen.write:
        page = RESULTS / f"gravity_waves_step{'_gpu' if chosen.gpu else ''}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {page.relative_to(RESULTS.parent.parent)}")


def _spent() -> float:
    """CPU seconds of this process and of those that it waited for."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


def _pieces(batches: Sequence[int]) -> dict[str, Callable[[], Any]]:
    pieces: dict[str, Callable[[], Any]] = {
        f"step {name} {batch}": partial(_apart, name, batch) for batch in batches for name in NETWORKS
    }
    pieces |= {f"work {name}": partial(_work, config) for name, config in NETWORKS.items()}
    return pieces | {f"rolls {padding}": partial(_rolls, padding) for padding in PADDINGS}


def _gpu_pieces(batches: Sequence[int]) -> dict[str, Callable[[], Any]]:
    card = torch.cuda.get_device_name()
    pieces: dict[str, Callable[[], Any]] = {
        f"{card} {name} {batch} {last}": partial(_on_gpu, name, batch, last=last)
        for name in NETWORKS
        for batch in batches
        for last in (False, True)
    }
    return pieces | {f"work {name}": partial(_work, config) for name, config in NETWORKS.items()}


def _apart(name: str, batch: int) -> dict[str, float]:
    """A few steps in a process of their own."""
    code = f"from benchmarks.gravity_waves_step import in_own_process; in_own_process({name!r}, {batch})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(said.stdout)
    return found


def in_own_process(name: str, batch: int) -> None:
    """Make steps; print CPU seconds of one, and MiB before there was a network and at most."""
    torch.set_num_threads(1)
    before = _largest()
    step = _step(NETWORKS[name], batch, torch.device("cpu"), last=False)
    taken: list[float] = []
    for _ in range(1 + STEPS):
        begun = time.process_time()
        step()
        taken.append(time.process_time() - begun)
        if taken[0] > LONG:
            break
    taken = taken[1:] or taken
    found = {"seconds": statistics.median(taken), "least": min(taken), "before": before, "most": _largest()}
    sys.stdout.write(json.dumps(found))


def _largest() -> float:
    """Largest resident MiB of this process since it began; `getrusage` would count what its parent held."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _step(config: NetworkConfig, batch: int, device: torch.device, *, last: bool) -> Callable[[], None]:
    """What makes one step of learning from hours of noise, whose values do not change what a step costs."""
    torch.manual_seed(0)
    network = FluxNetwork(LEVELS, config).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    form = torch.channels_last if last else torch.contiguous_format
    features = torch.randn(batch, 3 + 4 * LEVELS, *GRID.shape, device=device).contiguous(memory_format=form)
    fluxes = torch.randn(batch, 2 * LEVELS, *GRID.shape, device=device)
    area = torch.from_numpy(np.asarray(GRID.area_weights, np.float32)).to(device)

    def step() -> None:
        optimizer.zero_grad()
        flux_loss(network, features, fluxes, area).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _on_gpu(name: str, batch: int, *, last: bool) -> dict[str, float]:
    """Seconds of a step by the clock, and the most MiB that tensors took."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = _step(NETWORKS[name], batch, torch.device("cuda"), last=last)
    for _ in range(5):
        step()
    taken = []
    for _ in range(5):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(4):
            step()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - begun) / 4)
    return {"seconds": statistics.median(taken), "most": torch.cuda.max_memory_allocated() / 2**20}


def _work(config: NetworkConfig) -> dict[str, float]:
    """Parameters, and floating-point operations of a step for one hour: products and sums counted apart."""
    with torch.device("meta"):
        network = FluxNetwork(LEVELS, replace(config, precision="float32"))
        features = torch.empty(1, 3 + 4 * LEVELS, *GRID.shape)
    with FlopCounterMode(display=False) as counter:
        network(features).sum().backward()
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "operations": float(counter.get_total_flops()),
    }


def _rolls(padding: Padding) -> dict[str, Any]:
    """Largest change of the fluxes over their deviation when features of noise are rolled, and fluxes rolled back.

    Weights are at random, and the same for every padding; batch norms know the noise, as those of a trained network
    know their data.
    """
    torch.set_num_threads(1)
    network = _lively(padding)
    features = torch.randn(1, 3 + 4 * LEVELS, *GRID.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = network(features)
        found: dict[str, Any] = {}
        for by in ROLLS:
            error = (network(features.roll(by, -1)).roll(-by, -1) - plain).abs() / plain.std()
            found[str(by)] = float(error.max())
            found[f"root mean square {by}"] = float(error.square().mean().sqrt())
    return found


def _lively(padding: Padding) -> FluxNetwork:
    torch.manual_seed(0)
    network = FluxNetwork(LEVELS, replace(UNET, padding=padding))
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    noise = torch.randn(1, 3 + 4 * LEVELS, *GRID.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        network.train()(noise)
    return network.eval()


def _hours(name: str) -> int:
    return BATCH.get(name, 40)


def _page(batches: Sequence[int], found: Mapping[str, Any]) -> list[str]:
    steps = []
    for name in NETWORKS:
        work = found[f"work {name}"]
        for batch in batches:
            one = found[f"step {name} {batch}"]
            rate = work["operations"] * batch / one["seconds"] / 1e9
            steps.append((name, batch, f"{one['seconds']:.2f}", f"{one['seconds'] / batch:.2f}", f"{rate:.0f}",
                          f"{one['most'] - one['before']:.0f}"))  # fmt: skip
    sizes = [
        (name, f"{found[f'work {name}']['parameters']:,}", f"{found[f'work {name}']['operations'] / 1e9:.1f}")
        for name in NETWORKS
    ]
    rolls = [
        (padding, *(f"{found[f'rolls {padding}'][str(by)]:.1e}" for by in ROLLS),
         f"{found[f'rolls {padding}']['root mean square 16']:.1e}")
        for padding in PADDINGS
    ]  # fmt: skip
    return [
        "# One step of the networks of gravity-wave fluxes",
        "",
        "Written by `python -m benchmarks gravity_waves_step --write`. Times are CPU time of one thread on a machine "
        "that others used too.",
        "",
        f"The published networks at their size: {LEVELS} levels on 64 x 128, {3 + 4 * LEVELS} features read, 369 told "
        "to columns and stencils and 366 to the U-Net, 244 fluxes. A step is forward, loss, backward and AdamW, in "
        f"float32 unless said; the median of {STEPS} after a first one, or the first alone where it takes more than "
        f"{LONG:g} s. Operations are products and sums of forward and backward for one hour. Parameters are those that "
        "are used; the published counts have idle batch norms besides (`models.climate.gravity_waves.convert`).",
        "",
        *markdown(("network", "parameters", "GFLOP an hour of data"), sizes),
        "",
        "## Time and memory",
        "",
        "Memory is what the process holds at most, less what it held before there was a network: weights, gradients, "
        "both moments of AdamW, features, fluxes and what backward needs.",
        "",
        *markdown(("network", "batch", "CPU s a step", "CPU s an hour of data", "GFLOP/s", "MiB"), steps),
        "",
        f"The published batches would take long here. Lines through {_listed(batches)}, by least squares, say of them:",
        "",
        *markdown(
            ("network", "published batch", "CPU s a step", "GiB", "largest misfit of the lines"),
            [_extrapolated(name, batches, found) for name in NETWORKS],
        ),
        "",
        "## Rolls",
        "",
        "The U-Net of float32 in eval mode, weights at random, features of noise rolled by so many columns and the "
        "fluxes rolled back: largest change over the deviation of the fluxes. With 4 poolings, rolls by 16 and its "
        "multiples should change nothing. `zeros` is published, and sees where the date line is; weights at random do "
        "not say how much a trained network errs by it. The last column is the root mean square at 16.",
        "",
        *markdown(("padding", *map(str, ROLLS), "rms at 16"), rolls),
    ]


def _listed(batches: Sequence[int]) -> str:
    return " and ".join([", ".join(map(str, batches[:-1])), str(batches[-1])])


def _extrapolated(name: str, batches: Sequence[int], found: Mapping[str, Any]) -> tuple[str, ...]:
    """What a line through the measured batches says of the published one."""
    hours, said, misfits = _hours(name), [], []
    for what in ("seconds", "memory"):
        ones = [found[f"step {name} {batch}"] for batch in batches]
        values = [one["seconds"] if what == "seconds" else one["most"] - one["before"] for one in ones]
        slope, start = np.polyfit(batches, values, 1)
        said.append(float(start + slope * hours))
        misfits.append(
            max(abs(start + slope * batch - value) / value for batch, value in zip(batches, values, strict=True))
        )
    return name, str(hours), f"{said[0]:.0f}", f"{said[1] / 1024:.1f}", f"{100 * max(misfits):.0f} %"


def _gpu_page(batches: Sequence[int], found: Mapping[str, Any], peak: float) -> list[str]:
    card = torch.cuda.get_device_name()
    rows = []
    for name in NETWORKS:
        for batch in batches:
            for last in (False, True):
                one = found[f"{card} {name} {batch} {last}"]
                rate = found[f"work {name}"]["operations"] * batch / one["seconds"] / 1e12
                rows.append((name, batch, "last" if last else "first", f"{1e3 * one['seconds']:.1f}",
                             f"{batch / one['seconds']:.0f}", f"{rate:.0f}", f"{100 * rate / peak:.0f} %",
                             f"{math.ceil(one['most'])}"))  # fmt: skip
    return [
        "# One step of the networks of gravity-wave fluxes on a GPU",
        "",
        f"Written by `python -m benchmarks gravity_waves_step --gpu --batches {' '.join(map(str, batches))} --peak "
        f"{peak:g} --write` on {card}. The share is of {peak:g} TFLOP/s, in bfloat16.",
        "",
        "Networks and steps as in `gravity_waves_step.md`; the median of five times four steps after five that are not "
        "counted. Channels of the features come first or last in memory.",
        "",
        *markdown(("network", "batch", "channels", "ms a step", "hours a second", "TFLOP/s", "share", "MiB"), rows),
    ]
