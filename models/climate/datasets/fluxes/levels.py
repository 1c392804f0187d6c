"""Levels of the atmosphere: hybrid coefficients, pressures, and what a level is called.

Shapes: N full levels from the top; half levels 0..N lie around them.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

Floats = NDArray[np.float64]

STANDARD_SURFACE = 101325.0
"""Pa; the surface pressure for which levels are labelled, and which stands in where none is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """Full levels, top first: p = a + b * surface pressure.

    Attributes:
        a: (N,) Pa.
        b: (N,) without unit; zeros on levels of constant pressure.
    """

    a: Floats
    b: Floats

    @property
    def labels(self) -> Floats:
        """(N,) hPa over a surface of 1013.25 hPa: what files call the levels."""
        return np.asarray((self.a + self.b * STANDARD_SURFACE) / 100.0)

    def pressure(self, level: int, surface: Floats) -> Floats:
        """Pressure of one level over a surface pressure of any shape, Pa."""
        return np.asarray(self.a[level] + self.b[level] * surface)


def hybrid_levels(numbers: NDArray[np.int64], a: Floats | None = None, b: Floats | None = None) -> Levels:
    """Model levels by their numbers, 1 at the top; a full level lies at the mean of the half levels around it.

    Args:
        numbers: (N,) rising.
        a: half-level coefficients of the model, Pa; None: those of the IFS with 137 levels, as in ERA5.
        b: likewise.

    Returns:
        The levels.

    Raises:
        InputError: a number lies outside the model's levels, or they do not rise.

    Source:
        Simmons and Burridge, Mon. Wea. Rev. 109 (1981) 758; coefficients: `levels.json`.
    """
    if a is None or b is None:
        a, b = _ifs()
    if len(numbers) and (numbers.min() < 1 or numbers.max() >= len(a) or (np.diff(numbers) <= 0).any()):
        raise InputError(
            f"model levels must rise within 1..{len(a) - 1}, got {numbers.tolist()[:12]}; give files of these levels."
        )
    return Levels(a=(a[numbers - 1] + a[numbers]) / 2, b=(b[numbers - 1] + b[numbers]) / 2)


def pressure_levels(hectopascals: Floats) -> Levels:
    """Levels of constant pressure, top first.

    Raises:
        InputError: pressures are not above zero, or do not rise.
    """
    if len(hectopascals) and (hectopascals.min() <= 0 or (np.diff(hectopascals) <= 0).any()):
        raise InputError(f"pressures must rise from above zero, got {hectopascals.tolist()[:12]} hPa; sort the levels.")
    return Levels(a=hectopascals * 100.0, b=np.zeros(len(hectopascals)))


@functools.cache
def _ifs() -> tuple[Floats, Floats]:
    text = (resources.files("models.climate.datasets.fluxes") / "levels.json").read_text(encoding="utf-8")
    table = json.loads(text)
    return np.array(table["a_pascal"]), np.array(table["b"])
