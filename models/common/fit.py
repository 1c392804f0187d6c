"""The one training loop of the house: Lightning around any `Trainable`.

On a CPU a run that was killed and resumed ends with the same bits as one that was not: the batches of an epoch follow
from seed and epoch alone, and a checkpoint, at the end of an epoch or within it, holds the network, the mean of its
weights, the optimizer, its schedule and the state of the random stream.
"""

import copy
import json
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import numpy as np
import safetensors.torch
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from models.common.contracts import Batches, Payload, Started, Trainable, TrainingConfig
from models.common.muon import MuonAndAdamW

log = logging.getLogger("headrace.fit")
VALIDATION = "validation_"
"""Before the names of what is measured while training, so that nobody takes it for the held-out result."""

WARM_UP = 0.05
"""Share of all steps over which a constant learning rate rises to its peak."""


class Fit(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
    """A network that learns as its system says.

    Args:
        system: says what the loss and the validation metrics are.
        network: what learns.
        data: the curated data, for validation.
        steps: optimizer steps in the whole run, for the warm-up.
    """

    def __init__(self, system: Trainable, network: torch.nn.Module, data: Payload, steps: int) -> None:
        super().__init__()
        self.network = network
        # a part of the module, so that checkpoints hold it like the network itself
        self.mean = copy.deepcopy(network).requires_grad_(False) if system.training.average else None
        self._system = system
        self._data = data
        self._steps = steps
        self._losses = torch.zeros((), dtype=torch.float64)
        self._resumed: torch.Tensor | None = None

    def on_train_batch_start(self, _batch: Any, _index: int) -> None:
        """Let the random stream of an epoch follow from seed, epoch and process, or go on where it was in mid-epoch."""
        if self._resumed is not None:
            torch.set_rng_state(self._resumed[self.global_rank])
            self._resumed = None
        elif self.global_step % (self._steps // self._system.training.epochs) == 0:
            stream = np.random.SeedSequence((self._system.training.seed, self.current_epoch, self.global_rank))
            torch.manual_seed(int(stream.generate_state(1)[0]))
            self._losses.zero_()

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """One batch's loss."""
        loss = self._system.loss(self.network, batch)
        self._losses += loss.detach().cpu()
        return loss

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        """A step, and the mean of the weights after it; both before any callback may write a checkpoint."""
        super().optimizer_step(*arguments, **named)
        if self.mean is not None:
            # Lightning counts the step when this returns
            kept = mean_keeps(self._system.training.average, self.trainer.global_step + 1)
            with torch.no_grad():
                torch._foreach_lerp_(list(self.mean.parameters()), list(self.network.parameters()), 1 - kept)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed epoch draws from and what it has learned so far."""
        checkpoint["headrace"] = {
            "random": _of_all_processes(torch.get_rng_state()),
            "losses": self._losses,
            "within": self.global_step % (self._steps // self._system.training.epochs) != 0,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up again."""
        kept = checkpoint["headrace"]
        self._resumed = kept["random"] if kept["within"] else None
        self._losses = kept["losses"]

    def on_train_epoch_end(self) -> None:
        """Judge the epoch on validation data; every process computes the same numbers."""
        self.log("train_loss", float(self._losses) * self._system.training.epochs / self._steps)
        judged = self.network if self.mean is None else self.mean
        for kept, now in zip(judged.buffers(), self.network.buffers(), strict=True):
            kept.copy_(now)
        judged.eval()
        with torch.no_grad():
            metrics = self._system.validate(judged, self._data)
        judged.train()
        self.log_dict({f"{VALIDATION}{key}": float(value) for key, value in metrics.items()})
        if self.trainer.is_global_zero:
            shown = ", ".join(f"{key} {value:.4f}" for key, value in metrics.items())
            log.info("epoch %d of %d: %s", self.current_epoch + 1, self._system.training.epochs, shown)

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule of its rate."""
        training = self._system.training
        settings: dict[str, Any] = {
            "lr": training.learning_rate,
            "betas": (training.first_beta, training.second_beta),
            "weight_decay": training.weight_decay,
        }
        optimizer = (
            MuonAndAdamW(self.network, **settings)
            if training.optimizer == "muon"
            else torch.optim.AdamW(self.network.parameters(), **settings)
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_of(training, self._steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_of(training: TrainingConfig, steps: int) -> Callable[[int], float]:
    """The learning rate of each step, from 0, as a share of its peak.

    Args:
        training: the schedule.
        steps: in the whole run.

    Returns:
        A function of the step: with `constant` a linear rise over the first twentieth, then 1; with `cosine`
        (1 + cos(pi step / steps)) / 2.

    Source:
        Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, one period.
    """
    warm = max(1, int(WARM_UP * steps))
    if training.schedule == "cosine":
        return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    return lambda step: min(1.0, (step + 1) / warm)


def mean_keeps(average: float, step: int) -> float:
    """How much of the mean of the weights stays when those after a step are taken in: min(average, (1 + t) / (10 + t)).

    Args:
        average: the most that stays.
        step: t, from 1.

    Returns:
        0 to below 1. In the beginning the mean forgets faster, so that it does not stay where the weights began.

    Source:
        The schedule of `tf.train.ExponentialMovingAverage` with `num_updates`; why a mean: Polyak & Juditsky 1992,
        "Acceleration of Stochastic Approximation by Averaging".
    """
    return min(average, (1 + step) / (10 + step))


class EpochLoader:
    """Presents `Batches` to Lightning: a fresh pass whose order follows from how many steps were made.

    Not from the trainer's epoch: when a run resumes, Lightning asks for the pass before it counts the epoch up.
    """

    def __init__(self, batches: Batches, module: Fit) -> None:
        self._batches = batches
        self._module = module

    def __iter__(self) -> Iterator[Any]:
        epoch, done = divmod(self._module.global_step, len(self._batches))
        return islice(self._batches.epoch(epoch), done, None)

    def __len__(self) -> int:
        return len(self._batches)


class BestCheckpoint(ModelCheckpoint):  # type: ignore[misc, unused-ignore]
    """Remembers the best epoch also when the folder was moved since; Lightning would start to compare anew."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was known, with the paths of where it lies now."""
        here = {key: self._here(value) for key, value in state_dict.items() if key.endswith("_path")}
        scores = {self._here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **here, "best_k_models": scores, "dirpath": self.dirpath})

    def _here(self, path: str) -> str:
        return str(Path(self.dirpath) / Path(path).name) if path else path


class Intermission(lightning.Callback):  # type: ignore[misc, unused-ignore]
    """Writes a checkpoint every few minutes within an epoch, and one more when the process is asked to end.

    A SIGTERM waits until the step is done: an optimizer stopped within a step would leave nothing to resume from. Then
    whoever listened before hears it.

    Args:
        file: the checkpoint to resume from.
        seconds: between two checkpoints; 0 for none but the last.
    """

    def __init__(self, file: Path, seconds: float) -> None:
        self._file = file
        self._seconds = seconds
        self._written = time.monotonic()
        self._asked = False
        self._before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, *_: Any) -> None:
        """Listen in place of Lightning, whose own handler would speak to the other processes from within a step.

        Python lets only the main thread do that; elsewhere the checkpoints of the clock must do.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write, and end, if it is time to."""
        due = self._seconds > 0 and time.monotonic() - self._written >= self._seconds
        decide = trainer.strategy.reduce_boolean_decision
        asked = decide(self._asked, all=False)  # the processes get their signals at different moments, and stop at one
        if not asked and not decide(due, all=False):
            return
        trainer.save_checkpoint(self._file)
        self._written = time.monotonic()
        if asked:
            log.warning("asked to end: a checkpoint of step %d is written, the next run goes on", trainer.global_step)
            self._end()

    def on_train_epoch_end(self, *_: Any) -> None:
        """The epoch writes its own."""
        self._written = time.monotonic()

    def over(self) -> None:
        """Hand the signal back; one that came after the last step is passed on."""
        if signal.getsignal(signal.SIGTERM) == self._ask:
            signal.signal(signal.SIGTERM, self._before)
        if self._asked:
            self._end()

    def _ask(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True

    def _end(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._before)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # the signal arrives within this; whoever listened raises or ends the process
        raise SystemExit(128 + signal.SIGTERM)


def _of_all_processes(state: torch.Tensor) -> torch.Tensor:
    """The random states of all data-parallel processes, one to a row; checkpoints are written by the first alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return state[None]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return torch.stack(states)


class AtomicCheckpoints(TorchCheckpointIO):  # type: ignore[misc, unused-ignore]
    """Checkpoints that are whole or absent: written beside, flushed, renamed; read as plain tensors only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint durably."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        with partial.open("wb") as handle:
            torch.save(checkpoint, handle)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(target)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; anything but tensors and plain values is refused."""
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return checkpoint


def fit(
    system: Trainable,
    data: Payload,
    folder: Path,
    *,
    lightning_arguments: Mapping[str, Any],
    logger: Any = False,
    rank: int = 0,
) -> None:
    """Train a system's network, resuming from the folder's checkpoint if there is one.

    Args:
        system: what to train and how.
        data: the curated data.
        folder: takes checkpoints while running; at the end holds `weights.safetensors` of the best epoch by the
            system's monitor, and `training.json`.
        lightning_arguments: accelerator, devices and strategy.
        logger: a Lightning logger.
        rank: this process among the data-parallel ones.

    Raises:
        ValueError: the batch size cannot be split among the processes, or the loss became not-a-number.
    """
    training = system.training
    if training.batch_size % training.processes:
        raise ValueError(
            f"batch_size {training.batch_size} does not split among {training.processes} processes; make it a multiple."
        )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists")  # resuming is what the folder is for
    warnings.filterwarnings("ignore", message=r"You're resuming from a checkpoint that ended before")  # EpochLoader can
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")  # between Lightning and torch
    lightning.seed_everything(training.seed, verbose=False)
    sizes = dict(system.sizes(data))
    network = system.network(sizes)
    last = folder / "last.ckpt"
    if isinstance(system, Started) and not last.exists():
        system.start(network, data)
    batches = system.batches(data, rank=rank, processes=training.processes)
    module = Fit(system, network, data, steps=training.epochs * len(batches))
    best = BestCheckpoint(
        folder,
        filename="best",
        monitor=VALIDATION + system.monitor,
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    intermission = Intermission(last, 60 * training.checkpoint_minutes)
    trainer = lightning.Trainer(
        **lightning_arguments,
        max_epochs=training.epochs,
        callbacks=[best, intermission],
        plugins=[AtomicCheckpoints()],
        logger=logger,
        log_every_n_steps=1,  # one point an epoch is logged; this only keeps Lightning from warning about short epochs
        gradient_clip_val=1.0,
        deterministic=True,
        detect_anomaly=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(module, EpochLoader(batches, module), ckpt_path=last if last.exists() else None, weights_only=True)
    finally:
        intermission.over()
    if trainer.is_global_zero:
        _keep_best(system, best, sizes, folder)


def _keep_best(system: Trainable, best: BestCheckpoint, sizes: Mapping[str, int], folder: Path) -> None:
    """Write the best epoch's weights, or their mean, and what is known about the training."""
    score = best.best_model_score
    if score is None or not torch.isfinite(score):
        raise ValueError(f"{system.monitor} is {score} after training; lower the learning rate or look at the data.")
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    prefix = "mean." if system.training.average else "network."
    weights = {
        key.removeprefix(prefix): value.contiguous()
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    summary = {
        "sizes": dict(sizes),
        "best_epoch": int(checkpoint["epoch"]) + 1,
        "epochs": system.training.epochs,
        "steps": int(checkpoint["global_step"]),
        "parameters": sum(value.numel() for value in weights.values()),
        f"best_{VALIDATION}{system.monitor}": float(score),
    }
    (folder / "training.json").write_text(json.dumps(summary, sort_keys=True))
