"""A network that carries what turns its logits into chances, so that one file of weights is enough to serve chances."""

# Shapes: C rows that were scored, T tasks, K knots of a calibration.

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.common.calibration import KNOTS, Isotonic, fit_tasks
from models.feed.events.table import Events

Floats = NDArray[np.float64]


class Calibrated(nn.Module):
    """Buffers for the calibration of each task; what makes the logits is added by the network that builds on this.

    Attributes:
        calibration: (T, 2, K) scores and chances of the knots, zero behind the last.
        knots: (T) how many there are.

    Args:
        tasks: number of tasks, T.

    Source:
        Ours.
    """

    calibration: Tensor
    knots: Tensor

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.register_buffer("calibration", torch.zeros(tasks, 2, KNOTS, dtype=torch.float64))
        self.register_buffer("knots", torch.zeros(tasks, dtype=torch.int64))

    def calibrate(self, steps: list[Isotonic]) -> None:
        """Keep what turns the logits of each task into chances; raises `ValueError` when there are too many knots."""
        for task, step in enumerate(steps):
            size = len(step.score)
            if size > KNOTS:
                raise ValueError(f"a calibration has at most {KNOTS} knots, got {size}; group the scores first.")
            self.calibration[task] = 0
            self.calibration[task, 0, :size] = torch.from_numpy(step.score)
            self.calibration[task, 1, :size] = torch.from_numpy(step.chance)
            self.knots[task] = size

    def calibrate_on(self, events: Events, rows: NDArray[np.int64], logit: NDArray[Any]) -> None:
        """Fit what turns logits into chances, from responses that the network was not trained on, and keep it.

        Args:
            events: the log.
            rows: (C) row numbers of the events.
            logit: (C, T) their logits.
        """
        self.calibrate(fit_tasks(logit, events.actions[rows], KNOTS))

    def steps(self) -> list[Isotonic]:
        """What turns logits into chances, for each task; raises `ValueError` for a network without calibration."""
        table, count = self.calibration.cpu().numpy(), self.knots.tolist()
        return [
            Isotonic(score=table[task, 0, :size].copy(), chance=table[task, 1, :size].copy())
            for task, size in enumerate(count)
        ]

    def chances(self, logit: NDArray[Any]) -> Floats:
        """Calibrated chances of logits (..., T); raises `ValueError` for a network without calibration."""
        columns = [step(logit[..., task]) for task, step in enumerate(self.steps())]
        return np.stack(columns, -1)
