"""Mean and deviation of every channel over the hours of training.

Shapes: F feature channels, O flux channels, I x J latitudes x longitudes.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from models.climate.gravity_waves.fields import FluxFields
from models.common.errors import InputError
from models.common.moments import Moments, moments

Floats = NDArray[np.float64]

LATITUDES, LONGITUDES = 90.0, 360.0
"""Degrees that position is divided by, as in the published files; it is not centred."""

THREADS = 8
"""Threads that read and add at most, unless more are asked for."""

TOGETHER = 16
"""Hours that a thread adds before it hands its sums over."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """What channels are standardised by: z = (x - mean) / deviation.

    Attributes:
        hours: how many they were taken over.
        feature_mean: (F) in the features' units.
        feature_deviation: (F); 0 of a channel that never changes.
        flux_mean: (O) Pa.
        flux_deviation: (O) Pa; likewise.
    """

    hours: int
    feature_mean: Floats
    feature_deviation: Floats
    flux_mean: Floats
    flux_deviation: Floats

    @classmethod
    def of(cls, fields: FluxFields, rows: NDArray[np.int64], *, threads: int = 0) -> "Statistics":
        """Statistics over some hours.

        One mean and one deviation for each variable and level, over all cells alike, as in the published files
        ("constant mu sigma scaling"). Sums are exact whole numbers, so neither the order of the hours nor how they are
        stored changes a bit. Latitude has mean 0 and deviation 90, longitude 0 and 360.

        Args:
            fields: with fluxes.
            rows: the hours of training.
            threads: that read and add, each an hour at a time; 0: one for each core, at most 8.

        Returns:
            The statistics.

        Raises:
            InputError: there are no hours or no fluxes, or a value is no finite number.

        Source:
            `models.common.moments`; the scaling is that of the files which dataloader_definition.py of
            amangupta2/nonlocal_gwfluxes reads. How these were made is not published beyond their names.
        """
        if not len(rows):
            raise InputError("statistics need at least one hour of training, got none; name months that are there.")
        rows = np.asarray(rows, np.int64)
        threads = min(threads or min(THREADS, os.cpu_count() or 1), len(rows))
        shares = [
            rows[first : first + TOGETHER * threads][one::threads]
            for first in range(0, len(rows), TOGETHER * threads)
            for one in range(threads)
        ]
        with ThreadPoolExecutor(threads) as pool:
            pieces = pool.map(partial(_sums, fields), [share for share in shares if len(share)])
            seen, said = next(pieces)
            for features, fluxes in pieces:
                seen, said = seen + features, said + fluxes
        return cls(
            hours=len(rows),
            feature_mean=np.concatenate([[0.0, 0.0], seen.mean]),
            feature_deviation=np.concatenate([[LATITUDES, LONGITUDES], seen.deviation]),
            flux_mean=said.mean,
            flux_deviation=said.deviation,
        )


def _sums(fields: FluxFields, rows: NDArray[np.int64]) -> tuple[Moments, Moments]:
    """Of some hours: those of the features but position, and of the fluxes."""
    features_FIJ = np.empty((fields.features, *fields.shape), np.float32)
    fluxes_OIJ = np.empty((fields.outputs, *fields.shape), np.float32)
    seen, said = moments(features_FIJ[2:, :0], keep=(0,)), moments(fluxes_OIJ[:, :0], keep=(0,))  # of nothing
    for row in rows.tolist():
        fields.read_into(row, features_FIJ, fluxes_OIJ)
        seen += moments(features_FIJ[2:], keep=(0,))
        said += moments(fluxes_OIJ, keep=(0,))
    return seen, said
