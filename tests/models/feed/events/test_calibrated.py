import numpy as np
import pytest
import torch

from models.common.calibration import KNOTS, Isotonic, fit_tasks
from models.feed.events.calibrated import Calibrated
from models.feed.events.simulator import SimulatorConfig, simulate

STEPS = [
    Isotonic(score=np.array([-1.0, 0.5, 2.0]), chance=np.array([0.1, 0.3, 0.9])),
    Isotonic(score=np.array([0.0]), chance=np.array([0.4])),
]


def test_the_calibration_travels_with_the_weights_bit_for_bit() -> None:
    network, other = Calibrated(2), Calibrated(2)
    network.calibrate(STEPS)
    assert set(network.state_dict()) == {"calibration", "knots"}
    other.load_state_dict(network.state_dict())
    logit = np.array([[-5, 0], [-0.25, 1], [0.5, 2], [1.25, 3], [9, 4]], np.float32)
    assert other.chances(logit)[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.6, 0.9])
    assert other.chances(logit)[:, 1].tolist() == [0.4] * 5
    for kept, step in zip(other.steps(), STEPS, strict=True):
        assert kept.score.tolist() == step.score.tolist() and kept.chance.tolist() == step.chance.tolist()


def test_a_shorter_calibration_leaves_nothing_of_the_one_before() -> None:
    network = Calibrated(2)
    network.calibrate(STEPS)
    network.calibrate(STEPS[::-1])
    assert [len(step.score) for step in network.steps()] == [1, 3]
    assert not network.calibration[0, :, 1:].any()


def test_too_many_knots_and_no_calibration_are_refused() -> None:
    long = Isotonic(score=np.arange(KNOTS + 1.0), chance=np.linspace(0, 1, KNOTS + 1))
    with pytest.raises(ValueError, match=f"at most {KNOTS} knots, got {KNOTS + 1}"):
        Calibrated(1).calibrate([long])
    with pytest.raises(ValueError, match="at least one"):
        Calibrated(1).chances(np.zeros((3, 1)))


def test_it_is_fitted_to_the_responses_of_the_rows_and_of_no_other() -> None:
    events = simulate(SimulatorConfig(users=47, sessions=7.0)).events
    rows = np.arange(0, len(events), 2)
    logit = np.random.default_rng(0).normal(size=(len(rows), len(events.tasks))).astype(np.float32)
    network = Calibrated(len(events.tasks))
    network.calibrate_on(events, rows, logit)
    assert torch.is_tensor(network.calibration)
    for kept, step in zip(network.steps(), fit_tasks(logit, events.actions[rows], KNOTS), strict=True):
        assert kept.chance.tolist() == step.chance.tolist()
