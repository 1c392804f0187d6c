"""Whether a network that sees the neighbourhood beats the single column where waves travel, and only there.

python -m benchmarks gravity_waves_nonlocality [--seeds 3] [--nonlocality 0 .25 .5 1] [--runs FOLDER] [--write]

The generator has one knob, the factor of the waves' sideways way. For each of its values a lattice is made with the
same winds, ground and chance; Attention U-Net and single column are trained from each seed, the stencil at the last
value too; the best epoch is chosen on the months of validation; the test months are read once. Learning rates are
chosen before, for all three alike: the same rates, a quarter of the epochs at most, one seed, on the months of
validation at the last value.

Networks are those of `small()`. The lattice is coarser, 16 x 32 columns, with three times the hours: what comes from
the side comes from two cells away, not from eight, and all trainings together take some 75 minutes of one core.
`--small` takes the lattice and the epochs of `small()` itself.

Every training is kept in a folder and found again, so a run that was cut off goes on, and `--most` ends one after so
many CPU seconds.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take the cores from one another

import numpy as np
import safetensors.torch
import xarray as xr
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats

from benchmarks._trained import SpentError, markdown, one_thread
from models.climate.gravity_waves.config import FluxNetworkConfig, GravityWavesConfig, LearningConfig, small
from models.climate.gravity_waves.fields import GROUP
from models.climate.gravity_waves.judge import answers, yardstick
from models.climate.gravity_waves.lattice import LatticeConfig
from models.climate.gravity_waves.metrics import Agreement
from models.common.fit import fit

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results" / "gravity_waves_nonlocality.md"
NONLOCALITIES = (0.0, 0.25, 0.5, 1.0)
RATES = (5e-3, 1e-2, 2e-2)
KINDS = ("unet", "column", "stencil")
NAMES = {"unet": "U-Net", "column": "column", "stencil": "3x3 stencil"}
COLUMN_BAR, STENCIL_BAR = 0.60, 0.85
AT_ONCE = 4
IN_MEMORY = 1 << 30
"""Bytes of a lattice that is held in memory, at most."""

GENERATOR = ("gwsphere", "rays", "atmosphere", "background", "chance")
"""Modules of the generator whose digest stands on the page."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tested:
    """What a trained network scored on the test months.

    Attributes:
        months: (M) their names.
        mse: (M) standardised, weighted by area, mean of all fluxes, of every month.
        level: (O) of all months, by flux and level.
        validation: the best epoch's mean square.
        cpu_s: CPU time of the training.
        epoch: the best one.
        parameters: how many.
    """

    months: tuple[str, ...]
    mse: Floats
    level: Floats
    validation: float
    cpu_s: float
    epoch: int
    parameters: int


class Study:
    """Trainings of the study, each in a folder named by what it was made from."""

    def __init__(self, folder: Path, base: GravityWavesConfig, most: float) -> None:
        self._folder, self._base, self._most = folder, base, most
        self._began = time.process_time()
        self._data: dict[float, dict[str, Any]] = {}

    @property
    def epochs(self) -> int:
        """Of every training but those that choose rates."""
        return self._base.network.training.epochs

    def lattice(self, nonlocality: float) -> LatticeConfig:
        """The lattice of `small()` with the waves' way scaled."""
        lattice = self._base.data.lattice
        return replace(lattice, world=replace(lattice.world, nonlocality=nonlocality))

    def learner(self, kind: str, rate: float, epochs: int, seed: int) -> FluxNetworkConfig:
        """A network of a kind and how it learns; only the rate is its own."""
        network = self._base.network
        chosen: LearningConfig = {
            "unet": network,
            "column": self._base.column,
            "stencil": replace(
                self._base.column,
                architecture=replace(self._base.column.architecture, kind="stencil", padding="sphere"),
            ),
        }[kind]
        training = replace(chosen.training, learning_rate=rate, epochs=epochs, seed=seed)
        return FluxNetworkConfig(architecture=chosen.architecture, training=training, reading=self._base.data.reading)

    def data(self, nonlocality: float) -> dict[str, Any]:
        """The prepared lattice as the store would hand it over; made once and kept."""
        if self._most and time.process_time() - self._began > self._most:
            raise SpentError
        if nonlocality not in self._data:
            lattice = self.lattice(nonlocality)
            folder = self._folder / f"lattice-{_digest(asdict(lattice))}.zarr"
            if not (folder / ".whole").exists():
                _write(lattice, folder)
                (folder / ".whole").touch()
            opened = xr.open_zarr(folder, consolidated=False, chunks=None)
            # hours are read some ten times in a training, and reading is not what is studied
            self._data[nonlocality] = {"data": {GROUP: opened.load() if opened.nbytes < IN_MEMORY else opened}}
        return self._data[nonlocality]

    def trained(self, learner: FluxNetworkConfig, nonlocality: float) -> tuple[Path, dict[str, Any]]:
        """Folder of a training, and what is known of it; one that was cut off goes on."""
        told = {"learner": asdict(learner), "lattice": asdict(self.lattice(nonlocality))}
        folder = self._folder / f"{learner.architecture.kind}-{nonlocality:g}-{learner.training.seed}-{_digest(told)}"
        if not (folder / "run.json").exists():
            data = self.data(nonlocality)
            folder.mkdir(parents=True, exist_ok=True)
            began = time.process_time()
            fit(learner, data, folder, lightning_arguments={"accelerator": "cpu", "devices": 1})
            known = json.loads((folder / "training.json").read_text())
            known |= {"cpu_s": time.process_time() - began, "told": told}
            for checkpoint in folder.glob("*.ckpt"):
                checkpoint.unlink()
            (folder / "run.json").write_text(json.dumps(known, sort_keys=True, indent=1))
        return folder, json.loads((folder / "run.json").read_text())

    def tested(self, learner: FluxNetworkConfig, nonlocality: float) -> Tested:
        """What a trained network scores on the test months, which are read here alone."""
        folder, known = self.trained(learner, nonlocality)
        file = folder / "test.json"
        if not file.exists():
            network = learner.network(known["sizes"])
            network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
            fields = learner.reading.fields(self.data(nonlocality))
            rows = learner.reading.split.rows_of("test", fields.time)
            months = fields.time[rows].astype("datetime64[M]")
            ask, measure = answers(network.eval()), yardstick(network, fields)
            found: dict[str, Agreement] = {}
            for month in np.unique(months):
                own = rows[months == month]
                for first in range(0, len(own), AT_ONCE):
                    features, truth = fields.read(own[first : first + AT_ONCE])
                    now = measure.errors(np.asarray(truth), ask(features))
                    found[str(month)] = found[str(month)] + now if str(month) in found else now
            whole = sum(list(found.values())[1:], start=next(iter(found.values())))
            file.write_text(json.dumps({
                "months": list(found),
                "mse": [float(one.mse.mean()) for one in found.values()],
                "level": whole.mse.tolist(),
            }))  # fmt: skip
        kept = json.loads(file.read_text())
        return Tested(
            months=tuple(kept["months"]),
            mse=np.array(kept["mse"]),
            level=np.array(kept["level"]),
            validation=1 - known["best_validation_r2"],
            cpu_s=known["cpu_s"],
            epoch=known["best_epoch"],
            parameters=known["parameters"],
        )


def studied(*, whole: bool) -> GravityWavesConfig:
    """What is trained: networks and rules of learning of `small()`, on a coarser lattice unless `whole`."""
    base = small()
    if whole:
        return base
    world = replace(base.data.lattice.world, rows=16, columns=32)
    lattice = replace(base.data.lattice, name="lattice-coarse", hours_apart=13, world=world)

    def longer(learning: LearningConfig) -> LearningConfig:
        return replace(learning, training=replace(learning.training, batch_size=4, epochs=6))

    return replace(
        base,
        data=replace(base.data, lattice=lattice),
        network=longer(base.network),
        column=longer(base.column),
    )


def main(options: Sequence[str] = ()) -> None:
    """Train what is missing, compare, print the tables, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gravity_waves_nonlocality")
    parser.add_argument("--seeds", type=int, default=3, help="how many, 2 or more")
    parser.add_argument("--runs", default="", help="folder of lattices and trainings; empty: one for passing files")
    parser.add_argument(
        "--nonlocality", type=float, nargs="+", default=NONLOCALITIES, help="rising, from 0 to 1, these two among them"
    )
    parser.add_argument("--small", action="store_true", help="the lattice and the epochs of small() as they are")
    parser.add_argument("--most", type=float, default=0.0, help="CPU seconds of this call; 0: no limit")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}, or its like for small")
    chosen = parser.parse_args(options)
    if chosen.seeds < 2:
        parser.error("--seeds must be at least 2.")
    if sorted(set(chosen.nonlocality)) != list(chosen.nonlocality) or not {0.0, 1.0} <= set(chosen.nonlocality):
        parser.error(f"--nonlocality must rise from 0 to 1, got {chosen.nonlocality}.")
    one_thread()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    folder = Path(chosen.runs or Path(tempfile.gettempdir()) / "headrace" / "gravity_waves_nonlocality")
    base = studied(whole=chosen.small)
    study = Study(folder, base, chosen.most)
    try:
        rates = _rates(study, console)
        tests = _tests(study, rates, chosen.seeds, chosen.nonlocality, console)
    except SpentError:
        console.print(f"{chosen.most:g} CPU seconds are spent; call again to go on.")
        return
    lines = _page(base, rates, tests, chosen)
    console.print("\n".join(lines))
    if chosen.write:
        page = PAGE.with_stem(f"{PAGE.stem}_small") if chosen.small else PAGE
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("\n".join(lines) + "\n", encoding="ascii")
        console.print(f"wrote {page.relative_to(ROOT)}")


def _rates(study: Study, console: Console) -> dict[str, dict[float, float]]:
    """Mean square on the months of validation by kind and learning rate."""
    found: dict[str, dict[float, float]] = {}
    for kind in KINDS:
        found[kind] = {}
        for rate in RATES:
            learner = study.learner(kind, rate, _few(study.epochs), 0)
            _, known = study.trained(learner, NONLOCALITIES[-1])
            found[kind][rate] = 1 - known["best_validation_r2"]
            console.print(f"{NAMES[kind]}, rate {rate:g}: {found[kind][rate]:.4f} on validation")
    return found


def _few(epochs: int) -> int:
    """Epochs of the trainings that choose a rate."""
    return max(1, epochs // 4)


def _best(rates: Mapping[str, Mapping[float, float]], kind: str) -> float:
    return min(rates[kind], key=rates[kind].__getitem__)


def _tests(
    study: Study,
    rates: Mapping[str, Mapping[float, float]],
    seeds: int,
    nonlocalities: Sequence[float],
    console: Console,
) -> dict[tuple[str, float], list[Tested]]:
    """Test scores by kind and non-locality, one for each seed."""
    found: dict[tuple[str, float], list[Tested]] = {}
    for seed in range(seeds):
        for nonlocality in nonlocalities:
            for kind in KINDS if nonlocality == NONLOCALITIES[-1] else KINDS[:2]:
                learner = study.learner(kind, _best(rates, kind), study.epochs, seed)
                one = study.tested(learner, nonlocality)
                found.setdefault((kind, nonlocality), []).append(one)
                console.print(
                    f"seed {seed}, non-locality {nonlocality:g}, {NAMES[kind]}: {one.mse.mean():.4f}, "
                    f"{one.cpu_s:.0f} CPU s"
                )
    return found


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of mean squares.

    Attributes:
        value: mean over seeds of the ratio over all months.
        low, high: its 95 % interval over months: Student's t of the months' ratios, each the mean over seeds.
        seeds: of each seed.
    """

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]


def ratio(ours: Sequence[Tested], theirs: Sequence[Tested]) -> Ratio:
    """The mean square of one kind over that of another, on the same months and seeds."""
    each = np.array([a.mse / b.mse for a, b in zip(ours, theirs, strict=True)])
    whole = tuple(float(a.mse.mean() / b.mse.mean()) for a, b in zip(ours, theirs, strict=True))
    by_month = each.mean(0)
    reach = float(stats.t.ppf(0.975, len(by_month) - 1) * by_month.std(ddof=1) / np.sqrt(len(by_month)))
    value = float(np.mean(whole))
    return Ratio(value=value, low=value - reach, high=value + reach, seeds=whole)


def generator_digest() -> str:
    """SHA-256 of the generator's code."""
    folder = ROOT / "models" / "climate" / "generator"
    return hashlib.sha256(b"".join((folder / f"{name}.py").read_bytes() for name in GENERATOR)).hexdigest()


def _page(
    base: GravityWavesConfig,
    rates: Mapping[str, Mapping[float, float]],
    tests: Mapping[tuple[str, float], Sequence[Tested]],
    chosen: argparse.Namespace,
) -> list[str]:
    lattice, world, split = base.data.lattice, base.data.lattice.world, base.data.reading.split
    pressure = np.geomspace(1.0, 1000.0, world.levels)
    every = tuple(chosen.nonlocality)
    ratios = {at: ratio(tests["unet", at], tests["column", at]) for at in every}
    last = NONLOCALITIES[-1]
    options = f"--seeds {chosen.seeds}"
    options += f" --nonlocality {' '.join(f'{at:g}' for at in every)}" if every != NONLOCALITIES else ""
    options += " --small" if chosen.small else ""
    beside = ratio(tests["unet", last], tests["stencil", last])
    falling = all(ratios[a].value > ratios[b].value for a, b in pairwise(every))
    verdicts = [
        ("falls from each non-locality to the next", "yes" if falling else "NO", "yes"),
        (f"U-Net / column at {last:g}", f"{ratios[last].value:.3f}", f"<= {COLUMN_BAR:.2f}"),
        ("U-Net / column at 0", f"{ratios[0.0].value:.3f} ({ratios[0.0].low:.3f} to {ratios[0.0].high:.3f})",
         "no gain beyond noise"),
        (f"U-Net / 3x3 stencil at {last:g}", f"{beside.value:.3f}", f"<= {STENCIL_BAR:.2f}"),
    ]  # fmt: skip

    def row(at: float) -> tuple[str, ...]:
        ours, theirs, both = tests["unet", at], tests["column", at], ratios[at]
        return (
            f"{at:g}",
            f"{np.mean([one.mse.mean() for one in ours]):.4f}",
            f"{np.mean([one.mse.mean() for one in theirs]):.4f}",
            f"{both.value:.3f}",
            f"{both.low:.3f} to {both.high:.3f}",
            " ".join(f"{one:.3f}" for one in both.seeds),
        )

    def levels(at: float) -> list[tuple[str, ...]]:
        mean = {kind: np.mean([one.level for one in tests[kind, at]], 0) for kind in ("unet", "column")}
        half = len(pressure)
        return [
            (
                f"{pressure[level]:.3g}",
                *(f"{mean[kind][level + part]:.3f}" for part in (0, half) for kind in ("unet", "column")),
            )
            for level in range(half)
        ]

    spent = {
        kind: np.median([one.cpu_s for (own, _), those in tests.items() if own == kind for one in those])
        for kind in KINDS
    }
    size = {kind: tests[kind, last][0].parameters for kind in KINDS}
    network, training = base.network.architecture, base.network.training
    return [
        "# Non-locality: Attention U-Net, single column, stencil",
        "",
        f"Written by `python -m benchmarks gravity_waves_nonlocality {options} --write` on "
        f"{datetime.now(UTC):%Y-%m-%d}, on a CPU. Generator `models/climate/generator`, SHA-256 of "
        f"{', '.join(GENERATOR)}: `{generator_digest()[:16]}`.",
        "",
        f"World: {world.rows} x {world.columns} columns, {world.levels} levels, intermittency "
        f"{world.intermittency:g}, seed {world.seed}; only the non-locality differs. Hours {lattice.hours_apart} apart "
        f"of {', '.join(map(str, lattice.years))}; trained on {', '.join(split.train)}, epochs chosen on "
        f"{', '.join(split.validation)}, tested once on {', '.join(split.test)}. Mean squares are of standardised "
        "fluxes, weighted by area, over both fluxes and all levels. Intervals: 95 %, over months; seeds are of "
        "training.",
        "",
        *markdown(("claim", "found", "bar"), verdicts),
        "",
        *markdown(("non-locality", "U-Net", "column", "ratio", "95 %", "seeds"), [row(at) for at in every]),
        "",
        f"At {last:g} beside the 3x3 stencil: U-Net / stencil {beside.value:.3f} ({beside.low:.3f} to "
        f"{beside.high:.3f}; seeds {' '.join(f'{one:.3f}' for one in beside.seeds)}), stencil's mean square "
        f"{np.mean([one.mse.mean() for one in tests['stencil', last]]):.4f}.",
        "",
        "Chance at the sources, which nothing tells, is in all of these; no network can say it.",
        "",
        "## Training",
        "",
        f"Each kind: {training.epochs} epochs, batches of {training.batch_size} hours, the same hours in the same "
        f"order, optimizer {training.optimizer}, cosine. Rates were tried alike, over {_few(training.epochs)} of the "
        f"epochs with seed 0, on validation at {last:g}; the least mean square was taken. U-Net: width "
        f"{network.width}, depth {network.depth}, stem {network.stem}.",
        "",
        *markdown(
            ("kind", "parameters", *(f"rate {rate:g}" for rate in RATES), "taken", "CPU s, median"),
            [
                (
                    NAMES[kind],
                    f"{size[kind]:,}",
                    *(f"{rates[kind][rate]:.4f}" for rate in RATES),
                    f"{_best(rates, kind):g}",
                    f"{spent[kind]:.0f}",
                )
                for kind in KINDS
            ],
        ),
        "",
        *(
            line
            for at in (last, 0.0)
            for line in (
                f"## By level, non-locality {at:g}",
                "",
                *markdown(("hPa", "uw U-Net", "uw column", "vw U-Net", "vw column"), levels(at)),
                "",
            )
        ),
    ][:-1]


def _write(lattice: LatticeConfig, folder: Path) -> None:
    """Write the hours of a lattice as a Zarr store, an hour of a variable to a chunk."""
    survey = lattice.survey({})
    layout = survey.groups[GROUP]
    minutes = layout.coordinates["time"][1]
    for number, part in enumerate(survey.parts):
        made = lattice.part(part)[GROUP]
        first = part.at[GROUP]["time"]
        axes = {name: (dims, values, attrs) for name, (dims, values, attrs) in layout.coordinates.items()}
        axes["time"] = (("time",), minutes[first : first + made.sizes["time"]], axes["time"][2])
        made = made.assign_coords(axes)
        for name in made.data_vars:
            made[name].attrs = dict(layout.variables[str(name)].attrs)
        if number:
            made.to_zarr(folder, mode="a", append_dim="time", consolidated=False)
            continue
        chunks = {name: {"chunks": (1, *made[name].shape[1:])} for name in made.data_vars}
        made.to_zarr(folder, mode="w", encoding=chunks, consolidated=False)


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]
