"""What benchmarks of trained models share: runs that are kept and found again, and differences with their spread."""

# Shapes: E test events, U users, R resamples.

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from models.common.contracts import Payload
from models.common.fit import fit
from models.feed.events.metrics import (
    auc,
    calibration_error,
    calibration_ratio,
    grouped_auc,
    normalized_entropy,
)
from models.feed.events.splits import Split
from models.feed.ranking.inputs import Inputs
from models.feed.ranking.score import served_logits

Floats = NDArray[np.float64]
Asked = ParamSpec("Asked")
Scored = tuple[Any, NDArray[Any], NDArray[Any]]
"""Events, row numbers (E) of the test part and their logits (E, T)."""

RESAMPLES = 2000
DECILES = 10
BINS = 15


class SpentError(Exception):
    """The CPU time of a call is spent; another call goes on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tested:
    """What one trained model says of the test part.

    Attributes:
        user: (E) users.
        label: (E) responses to the main task.
        score: (E) logits.
        chance: (E) calibrated chances.
        epoch: the best one on the validation part.
        cpu_s: CPU time of training.
    """

    user: NDArray[np.int32]
    label: NDArray[np.float32]
    score: Floats
    chance: Floats
    epoch: int
    cpu_s: float

    @property
    def metrics(self) -> dict[str, float]:
        """AUC, gAUC, normalized entropy, ECE over 15 bins, its value for chances that were true, and their sum."""
        return {
            "AUC": auc(self.label, self.score),
            "gAUC": grouped_auc(self.user, self.label, self.score),
            "NE": normalized_entropy(self.label, self.chance),
            "ECE": calibration_error(self.label, self.chance),
            "ECE of luck": luck(self.chance),
            "ratio": calibration_ratio(self.label, self.chance),
        }

    @property
    def deciles(self) -> list[tuple[float, float]]:
        """Mean chance and rate of each tenth of the events by chance."""
        parts = np.array_split(np.argsort(self.chance, kind="stable"), DECILES)
        return [(float(self.chance[part].mean()), float(self.label[part].mean(dtype=np.float64))) for part in parts]


def luck(chance: Floats, draws: int = 100) -> float:
    """The ECE that true chances would have: its mean over labels drawn with these very chances."""
    draw = np.random.default_rng(0)
    drawn = [calibration_error((draw.random(len(chance)) < chance).astype(np.float32), chance) for _ in range(draws)]
    return float(np.mean(drawn))


def served(network: Any, data: Payload) -> Scored:
    """Logits of a ranker for the test part, one request after another."""
    inputs = Inputs.of(data)
    return inputs.events, *served_logits(network, inputs, inputs.sessions_of(Split.from_payload(data).test))


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """A folder of trainings, each under the digest of what it was made from.

    A training that is found is not done again; one that was cut off goes on from its last checkpoint.

    Attributes:
        folder: where they lie.
        name: what stands before the digests; says which data.
        score: gives the logits of a network for the test part of a data set.
    """

    folder: Path
    name: str
    score: Callable[[Any, Payload], Scored] = served

    def trained(self, ranker: Any, prepare: Callable[[], Payload], seed_of_data: int = 0) -> dict[str, Any]:
        """What is known of a training: the file `run.json` of its folder.

        Args:
            ranker: the configuration that is trained.
            prepare: makes the data, when they are needed.
            seed_of_data: of a simulated feed.
        """
        folder = self._folder(ranker, seed_of_data)
        if not (folder / "run.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            data = prepare()
            begun = time.process_time()
            fit(ranker, data, folder, lightning_arguments={"accelerator": "cpu", "devices": 1})
            known = json.loads((folder / "training.json").read_text())
            known |= {"cpu_s": time.process_time() - begun, "configuration": dataclasses.asdict(ranker)}
            for checkpoint in folder.glob("*.ckpt"):
                checkpoint.unlink()
            (folder / "run.json").write_text(json.dumps(known, sort_keys=True, indent=1))
        found: dict[str, Any] = json.loads((folder / "run.json").read_text())
        return found

    def network(self, ranker: Any, known: Mapping[str, Any], seed_of_data: int = 0) -> Any:
        """The network of a training, in evaluation mode."""
        network = ranker.network(known["sizes"]).eval()
        weights = safetensors.torch.load_file(self._folder(ranker, seed_of_data) / "weights.safetensors")
        network.load_state_dict(weights)
        return network

    def tested(self, ranker: Any, prepare: Callable[[], Payload], seed_of_data: int = 0) -> Tested:
        """What a training says of the test part."""
        known = self.trained(ranker, prepare, seed_of_data)
        file = self._folder(ranker, seed_of_data) / "test.npz"
        if not file.exists():
            data = prepare()
            network = self.network(ranker, known, seed_of_data)
            events, rows, logit = self.score(network, data)
            np.savez(
                file,
                user=events.user[rows],
                label=events.label[rows],
                score=logit[:, 0].astype(np.float64),
                chance=network.chances(logit)[:, 0],
            )
        with np.load(file) as parts:
            return Tested(
                **{name: parts[name] for name in parts.files}, epoch=known["best_epoch"], cpu_s=known["cpu_s"]
            )

    def _folder(self, ranker: Any, seed_of_data: int) -> Path:
        told = json.dumps([dataclasses.asdict(ranker), self.name, seed_of_data], sort_keys=True)
        model = getattr(ranker, "model", "scorer")
        return self.folder / f"{self.name}-{model}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def limited(prepare: Callable[Asked, Payload], most: float) -> Callable[Asked, Payload]:
    """The same data sets, each made once; refused when the time is spent, so that no training begins any more.

    Args:
        prepare: makes a data set.
        most: CPU seconds from now on; 0: no limit.
    """
    begun, made = time.process_time(), cache(prepare)

    def within(*args: Asked.args, **kwargs: Asked.kwargs) -> Payload:
        if most and time.process_time() - begun > most:
            raise SpentError
        return made(*args, **kwargs)  # type: ignore[arg-type]

    return within


def movielens_files(name: str, parser: argparse.ArgumentParser) -> dict[str, Path]:
    """Ratings and films of a folder with one `*.inter` and one `*.item`, packed or not; what else ends the command."""
    inter, item = (sorted(Path(name).glob(f"*.{kind}*")) for kind in ("inter", "item"))
    if len(inter) != 1 or len(item) != 1:
        parser.error(f"--data {name}: there must be one *.inter and one *.item, got {len(inter)} and {len(item)}.")
    return {"ratings": inter[0], "movies": item[0]}


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean and standard deviation over seeds."""
    found = np.array(values)
    return f"{found.mean():.{digits}f}" + (f" +- {found.std(ddof=1):.{digits}f}" if len(found) > 1 else "")


def paired(ours: Sequence[Tested], theirs: Sequence[Tested]) -> tuple[float, float, float]:
    """Mean difference of AUC over seeds, and its 95 % interval; seeds and, within each, users are drawn anew.

    Args:
        ours: one for each seed.
        theirs: of the same seeds, over the same events.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 8; both levels as in a nested design.
    """
    exact = float(np.mean([auc(a.label, a.score) - auc(b.label, b.score) for a, b in zip(ours, theirs, strict=True)]))
    drawn = np.stack([_resampled(a, b, seed) for seed, (a, b) in enumerate(zip(ours, theirs, strict=True))])
    pick = np.random.default_rng(99).integers(0, len(drawn), (RESAMPLES, len(drawn)))
    low, high = np.quantile(drawn[pick, np.arange(RESAMPLES)[:, None]].mean(1), [0.025, 0.975])
    return exact, float(low), float(high)


def _resampled(ours: Tested, theirs: Tested, seed: int) -> Floats:
    """(R) differences of AUC over users drawn with replacement, the same users for both."""
    codes, place = np.unique(ours.user, return_inverse=True)
    weight_RU = np.random.default_rng(seed).multinomial(len(codes), np.full(len(codes), 1 / len(codes)), RESAMPLES)
    return _areas(ours, place, weight_RU) - _areas(theirs, place, weight_RU)


def _areas(one: Tested, place: NDArray[Any], weight_RU: NDArray[Any]) -> Floats:
    """(R) AUC with each user's events counted so often; ties count half."""
    order = np.argsort(one.score, kind="stable")
    score, positive = one.score[order], one.label[order] == 1
    opens = np.flatnonzero(np.append(True, score[1:] != score[:-1]))
    out = np.empty(len(weight_RU))
    for resample, weight_U in enumerate(weight_RU):
        weight_E = weight_U[place[order]].astype(np.float64)
        up = np.add.reduceat(weight_E * positive, opens)
        down = np.add.reduceat(weight_E * ~positive, opens)
        out[resample] = (up * (np.cumsum(down) - down / 2)).sum() / (up.sum() * down.sum())
    return out


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]


def one_thread() -> None:
    """Train on one core, and let Lightning be silent about it."""
    torch.set_num_threads(1)
