"""The training loop: killed and resumed, it ends with the same bits."""

import json
import math
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch

from models.common.configuration import setting
from models.common.contracts import Payload, TrainingConfig
from models.common.fit import fit, mean_keeps, rate_of
from tests import children

STEPS: list[int] = []
"""Steps that this process made."""

AVERAGED = TrainingConfig(
    epochs=6, batch_size=8, schedule="cosine", first_beta=0.8, second_beta=0.95, average=0.9, checkpoint_minutes=1e-9
)
"""Everything about the training that has a state of its own."""

CPU = {"accelerator": "cpu", "devices": 1}


class Noisy:
    """47 examples in batches whose order follows from the epoch."""

    def __init__(self, size: int) -> None:
        draw = torch.Generator().manual_seed(1)
        self.x, self.size = torch.randn(47, 3, generator=draw), size

    def epoch(self, number: int) -> Iterator[Any]:
        yield from self.x[torch.randperm(47, generator=torch.Generator().manual_seed(number))].split(self.size)

    def __len__(self) -> int:
        return -(-47 // self.size)


@dataclass(frozen=True, kw_only=True)
class Dropping:
    """A network with dropout, so that the random state matters."""

    training: TrainingConfig = setting(lambda: TrainingConfig(epochs=6, batch_size=8), "Training", "How.")
    die_at: int = setting(-1, "Die at", "Epoch in which the process kills itself.")
    diverge: bool = setting(False, "Diverge", "Lose the way.")
    die_in_step: int = setting(-1, "Die in step", "Step in which the process sends itself a signal.")
    by: int = setting(9, "Signal", "Which one.")

    monitor = "score"

    def sizes(self, data: Payload) -> Mapping[str, int]:
        return {"width": 3}

    def network(self, sizes: Mapping[str, int]) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(sizes["width"], 16), torch.nn.Dropout(0.5), torch.nn.Linear(16, 1))

    def batches(self, data: Payload, *, rank: int, processes: int) -> Noisy:
        return Noisy(self.training.batch_size)

    def loss(self, network: torch.nn.Module, batch: Any) -> torch.Tensor:
        STEPS.append(len(STEPS))
        if len(STEPS) - 1 == self.die_in_step:
            os.kill(os.getpid(), self.by)
        return (network(batch)[:, 0] - batch.sum(dim=1)).square().mean() * (torch.nan if self.diverge else 1)

    def validate(self, network: torch.nn.Module, data: Payload) -> Mapping[str, float]:
        epochs = data["epochs"]
        epochs.append(len(epochs))
        if len(epochs) - 1 == self.die_at:
            os.kill(os.getpid(), 9)
        x = Noisy(8).x
        return {"score": -float((network(x)[:, 0] - x.sum(dim=1)).square().mean())}


def run(folder: Path, system: Dropping | None = None) -> list[int]:
    epochs: list[int] = []
    fit(system or Dropping(), {"epochs": epochs}, folder, lightning_arguments=CPU)
    return epochs


@pytest.mark.parametrize("die_at", [0, 2, 5])
def test_a_killed_training_goes_on_from_its_last_epoch_and_ends_with_the_same_bits(tmp_path: Path, die_at: int) -> None:
    assert len(run(tmp_path / "whole")) == 6
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from test_fit import *\nrun(Path({str(tmp_path / 'killed')!r}), Dropping(die_at={die_at}))"
    )
    done = children.run(script, timeout=200)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "killed" / "weights.safetensors").exists()

    epochs = run(tmp_path / "killed")

    assert len(epochs) == 6 - die_at, "more than one epoch was lost, or a finished one repeated"
    for name in ("weights.safetensors", "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("step", "by", "again"),
    [
        (3, signal.SIGKILL, 34),  # in the first epoch of six steps: its checkpoint of every step is one step old
        (14, signal.SIGKILL, 23),
        (8, signal.SIGTERM, 28),  # the step is finished, and nothing is lost
        (17, signal.SIGTERM, 19),  # the last step of an epoch
    ],
)
def test_a_training_ended_within_an_epoch_loses_no_more_than_a_checkpoint_interval(
    tmp_path: Path, step: int, by: int, again: int
) -> None:
    run(tmp_path / "whole")
    often = TrainingConfig(epochs=6, batch_size=8, checkpoint_minutes=1e-9 if by == signal.SIGKILL else 10)
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from test_fit import *\nrun(Path({str(tmp_path / 'killed')!r}), "
        f"Dropping(die_in_step={step}, by={int(by)}, training={often!r}))"
    )
    done = children.run(script, timeout=200)
    assert done.returncode == -by, done.stderr
    STEPS.clear()

    run(tmp_path / "killed", Dropping(training=often))

    assert len(STEPS) == again - 1, "steps that a checkpoint held were made again, or some were left out"
    for name in ("weights.safetensors", "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(("step", "optimizer"), [(9, "adamw"), (17, "muon"), (31, "adamw"), (32, "muon")])
def test_a_killed_training_with_a_mean_of_weights_and_a_cosine_ends_with_the_same_bits(
    tmp_path: Path, step: int, optimizer: Literal["adamw", "muon"]
) -> None:
    training = replace(AVERAGED, optimizer=optimizer)
    run(tmp_path / "whole", Dropping(training=training))
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from test_fit import *\nrun(Path({str(tmp_path / 'killed')!r}), "
        f"Dropping(die_in_step={step}, training={training!r}))"
    )
    done = children.run(script, timeout=200)
    assert done.returncode == -9, done.stderr
    STEPS.clear()

    run(tmp_path / "killed", Dropping(training=training))

    assert len(STEPS) == 36 - step
    for name in ("weights.safetensors", "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Plain(Dropping):
    """The same without dropout, so that a loop of a few lines can follow it."""

    def network(self, sizes: Mapping[str, int]) -> torch.nn.Module:
        network = torch.nn.Sequential(torch.nn.Linear(sizes["width"], 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=draw))
        return network


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_schedule_betas_and_mean_of_weights_are_those_of_a_plain_loop(tmp_path: Path, average: float) -> None:
    training = TrainingConfig(
        epochs=3, batch_size=8, schedule="cosine", first_beta=0.8, second_beta=0.95, average=average
    )
    system = Plain(training=training)
    run(tmp_path, system)

    network = system.network({"width": 3})
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, betas=(0.8, 0.95), weight_decay=1e-4)
    mean = [weight.detach().clone() for weight in network.parameters()]
    step = 0
    for epoch in range(3):
        for batch in Noisy(8).epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (1 + math.cos(math.pi * step / 18)) / 2
            optimizer.zero_grad()
            (network(batch)[:, 0] - batch.sum(dim=1)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            kept = min(average, (1 + step) / (10 + step))
            mean = [kept * old + (1 - kept) * new.detach() for old, new in zip(mean, network.parameters(), strict=True)]
    found = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    for (name, _), right in zip(network.named_parameters(), mean, strict=True):
        torch.testing.assert_close(found[name], right, atol=1e-6, rtol=1e-5)
    assert json.loads((tmp_path / "training.json").read_text())["parameters"] == 3 * 5 + 5 + 5 + 1


def test_a_constant_rate_rises_first_and_a_cosine_falls_to_nothing() -> None:
    constant = rate_of(TrainingConfig(), 100)
    assert [constant(step) for step in (0, 3, 4, 99)] == [0.2, 0.8, 1.0, 1.0]
    cosine = rate_of(TrainingConfig(schedule="cosine"), 100)
    assert cosine(0) == 1.0
    assert cosine(50) == pytest.approx(0.5)
    assert 0 < cosine(99) < 0.001


def test_the_mean_of_weights_forgets_faster_in_the_beginning() -> None:
    assert mean_keeps(0.99, 1) == 2 / 11
    assert mean_keeps(0.99, 10_000) == 0.99
    assert mean_keeps(0.1, 1) == 0.1


def test_a_network_may_begin_at_what_the_data_say_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    begun: list[float] = []

    class Beginning(Plain):
        def start(self, network: torch.nn.Module, data: Payload) -> None:
            begun.append(data["level"])
            with torch.no_grad():
                network[2].bias.fill_(data["level"])  # type: ignore[union-attr, operator, index]

    system = Beginning(training=TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-9, average=0.5))
    fit(system, {"epochs": [], "level": 47.0}, tmp_path, lightning_arguments=CPU)
    assert float(safetensors.torch.load_file(tmp_path / "weights.safetensors")["2.bias"]) == pytest.approx(47)
    fit(system, {"epochs": [], "level": 11.0}, tmp_path, lightning_arguments=CPU)
    assert begun == [47.0]


def test_who_listened_to_the_signal_before_hears_it_after_the_checkpoint(tmp_path: Path) -> None:
    heard: list[int] = []

    class Asked(BaseException):
        pass

    def listen(number: int, _frame: Any) -> None:
        heard.append(number)
        raise Asked

    before = signal.signal(signal.SIGTERM, listen)
    try:
        STEPS.clear()
        with pytest.raises(Asked):
            run(tmp_path, Dropping(die_in_step=8, by=signal.SIGTERM))
        assert signal.getsignal(signal.SIGTERM) is listen
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 9


def test_a_training_whose_folder_was_moved_still_knows_its_best_epoch(tmp_path: Path) -> None:
    run(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    before = (tmp_path / "after" / "weights.safetensors").read_bytes()
    (tmp_path / "after" / "weights.safetensors").unlink()
    assert run(tmp_path / "after") == []
    assert (tmp_path / "after" / "weights.safetensors").read_bytes() == before


def test_the_best_epoch_is_kept_not_the_last(tmp_path: Path) -> None:
    run(tmp_path)
    summary = json.loads((tmp_path / "training.json").read_text())
    weights = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    network = Dropping().network({"width": 3})
    network.load_state_dict(weights)
    x = Noisy(8).x
    score = -float((network.eval()(x).detach()[:, 0] - x.sum(dim=1)).square().mean())
    assert score == pytest.approx(summary["best_validation_score"], rel=1e-6)
    assert summary["parameters"] == 3 * 16 + 16 + 16 + 1


def test_checkpoints_hold_plain_tensors_alone(tmp_path: Path) -> None:
    run(tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 5


def test_a_training_that_diverged_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score is .*inf.* lower the learning rate"):
        run(tmp_path, Dropping(diverge=True))


def test_a_batch_that_does_not_split_among_the_processes_is_refused(tmp_path: Path) -> None:
    system = Dropping(training=TrainingConfig(batch_size=9, processes=2))
    with pytest.raises(ValueError, match="batch_size 9 does not split among 2 processes"):
        run(tmp_path, system)
