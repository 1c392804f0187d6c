"""Compiled checks of a program's numbers and offers, one reading each; and arrays as compiled loops want them."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, error_model="numpy")

LARGEST = 2.0**333
"""Numbers are below (1.7e100): products and sums of a few of them are finite."""


class _Seen:
    """The memory of an array, for numpy; it is kept for as long as somebody looks at it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def seen(array: NDArray[Any]) -> NDArray[Any]:
    """An array for compiled loops that read it: side by side in memory, and of the one kind they were compiled for.

    Args:
        array: any; arrow's memory is read-only, which numba takes for another kind.

    Returns:
        The same memory without that mark, or a copy where numbers do not lie side by side. It must not be written to.

    Source:
        Ours.
    """
    array = np.ascontiguousarray(array)
    return array if array.flags.writeable or not array.size else np.asarray(_Seen(array))


@compiled
def _signs(bits: Any, exponent: Any) -> Any:
    """The largest exponent and the least number of floats read as integers: below zero if a float is."""
    largest, low = exponent & 0, exponent & 0
    for i in range(bits.shape[0]):
        x = bits[i] & exponent
        largest = x if x > largest else largest
        low = bits[i] if bits[i] < low else low
    return largest, low


def least(numbers: Any) -> float:
    """The least of some numbers, or zero if none is below; NaN if one is not finite, or not below `LARGEST`.

    Args:
        numbers: float32 or float64.

    Returns:
        That.

    Source:
        Ours: an exponent of ones is infinite or no number, the greater the exponent the greater the number, and the
        sign is the first bit.
    """
    if not len(numbers):
        return 0.0
    double = numbers.dtype == np.float64
    exponent = np.int64(0x7FF << 52) if double else np.int32(0xFF << 23)
    largest, low = _signs(seen(numbers).view(exponent.dtype), exponent)
    if largest >= (np.float64(LARGEST).view(np.int64) if double else exponent):
        return float("nan")
    return min(float(numbers.min()), 0.0) if low < 0 else 0.0


@compiled
def complete(start: Any, offer: Any, offers: int) -> bool:
    """Whether every member has all offers, in order; stops at the first who has not."""
    for u in range(start.shape[0] - 1):
        first = start[u]
        if start[u + 1] - first != offers:
            return False
        which = offer[first : first + offers]
        wrong = 0
        for j in range(offers):
            wrong |= which[j] ^ j
        if wrong:
            return False
    return True


@compiled
def misplaced(start: Any, offer: Any, offers: int) -> int:
    """The first pair whose offer is unknown or is in its member before; -1 if there is none."""
    last = np.full(offers, -1, np.int64)
    for u in range(start.shape[0] - 1):
        for e in range(start[u], start[u + 1]):
            i = offer[e]
            if i < 0 or i >= offers or last[i] == u:
                return int(e)
            last[i] = u
    return -1
