"""Columns in standard units, those left out that do not vary."""

# Shapes: N rows, F columns, V columns that vary.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONSTANT = 1e-12
"""A column that varies by less than this part of its size varies by rounding alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Standard:
    """What puts columns into standard units.

    Attributes:
        varies: (F) whether a column varies.
        centre: (V) means.
        scale: (V) standard deviations.
    """

    varies: NDArray[np.bool_]
    centre: Floats
    scale: Floats

    def __call__(self, table: Floats) -> Floats:
        """(N, V) a table (N, F) in standard units."""
        return (table[:, self.varies] - self.centre) / self.scale

    def back(self, slope: Floats) -> tuple[float, Floats]:
        """Offset and slopes (F) by columns as they come, of a line with slopes (V) by standard units and offset 0."""
        plain = np.zeros(len(self.varies))
        plain[self.varies] = slope / self.scale
        return -float((slope * (self.centre / self.scale)).sum()), plain


def standard_units(table: NDArray[Any]) -> Standard:
    """How to put columns like these into standard units.

    Args:
        table: (N, F) finite, at least one row.

    Returns:
        Means and standard deviations. Neither huge nor tiny columns leave the range of numbers on the way.

    Source:
        Ours.
    """
    numbers = np.asarray(table, np.float64)
    size = np.abs(numbers).max(axis=0)
    size[size == 0] = 1.0
    parts = numbers / size
    centre, spread = parts.mean(axis=0), parts.std(axis=0)
    varies = spread > CONSTANT
    return Standard(varies=varies, centre=(centre * size)[varies], scale=(spread * size)[varies])
