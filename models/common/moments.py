"""Count, missing values, mean, variance, minimum and maximum of data that come in pieces, exactly.

Sums of values and of their squares are kept as whole numbers: every float64 is a multiple of 2^-1074, and every square
a multiple of 2^-2148. Addition of whole numbers has no rounding, so pieces of any size, merged in any order by any
number of workers, give the same state to the bit; mean and variance are then correctly rounded, once, at the end.
Streams of updates of a mean (Welford 1962; Chan, Golub and LeVeque 1979) lose what the pieces' order makes them lose.

Shapes: K cells that are kept apart, N values in a cell.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from models.common.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Number = int | float

_compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)

_UNIT = 1074
"""Values are counted in units of 2^-1074, the smallest positive float64; squares in units of 2^-2148."""

_DIGITS = 68
"""Digits of 32 bits of a sum of values: 1074 bits below the point, 1024 above it, 64 for the number of terms."""

_SQUARE_DIGITS = 134

_BLOCK = 1 << 20
"""Values that are converted at once, so that a large array needs little memory beside it. A digit takes at most four
addends below 2^32 of a value and holds 63 bits, so 2^27 values could wait for a carry."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of the values of K cells; pieces are added with `+`.

    Attributes:
        shape: the kept dimensions; K is their product. () is a single cell.
        counts: values that were there, for each cell.
        absent: values that were missing: NaN, or equal to the fill.
        sums: exact sums, in units of 2^-1074.
        squares: exact sums of squares, in units of 2^-2148.
        lows: smallest values; NaN where there was none.
        highs: largest values; NaN where there was none.
    """

    shape: tuple[int, ...]
    counts: tuple[int, ...]
    absent: tuple[int, ...]
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    lows: tuple[Number, ...]
    highs: tuple[Number, ...]

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both pieces together.

        Raises:
            ValueError: the pieces keep other dimensions apart.
        """
        if self.shape != other.shape:
            raise ValueError(
                f"pieces must keep the same dimensions apart, got shapes {self.shape} and {other.shape}; "
                "give moments() the same kept axes for every piece."
            )
        pairs = zip(self.lows, other.lows, strict=True), zip(self.highs, other.highs, strict=True)
        return Moments(
            shape=self.shape,
            counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            absent=tuple(a + b for a, b in zip(self.absent, other.absent, strict=True)),
            sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            squares=tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
            lows=tuple(_extreme(a, b, min) for a, b in pairs[0]),
            highs=tuple(_extreme(a, b, max) for a, b in pairs[1]),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moments) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> Integers:
        """Values that were there, of the kept shape."""
        return np.array(self.counts, np.int64).reshape(self.shape)

    @property
    def missing(self) -> Integers:
        """Values that were missing, of the kept shape."""
        return np.array(self.absent, np.int64).reshape(self.shape)

    @property
    def mean(self) -> Floats:
        """Mean, correctly rounded; NaN where there was no value."""
        cells = zip(self.sums, self.counts, strict=True)
        return self._floats(s / (n << _UNIT) if n else math.nan for s, n in cells)

    @property
    def variance(self) -> Floats:
        """Mean square distance from the mean, correctly rounded; infinite beyond float64, NaN without any value."""
        return self._floats(_quotient(*ratio) if ratio else math.nan for ratio in self._variances())

    @property
    def deviation(self) -> Floats:
        """Square root of the exact variance, within one unit of the last place; NaN where there was no value."""
        return self._floats(_root(*ratio) if ratio else math.nan for ratio in self._variances())

    @property
    def minimum(self) -> Floats:
        """Smallest value, of the kept shape; NaN where there was none."""
        return self._floats(self.lows)

    @property
    def maximum(self) -> Floats:
        """Largest value, of the kept shape; NaN where there was none."""
        return self._floats(self.highs)

    def to_json(self) -> dict[str, Any]:
        """The exact state as JSON values."""
        return {
            "shape": list(self.shape),
            "count": list(self.counts),
            "missing": list(self.absent),
            "sum": [_written(value) for value in self.sums],
            "squares": [_written(value) for value in self.squares],
            "minimum": [None if value != value else value for value in self.lows],
            "maximum": [None if value != value else value for value in self.highs],
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> "Moments":
        """The moments that `to_json` wrote."""
        return cls(
            shape=tuple(state["shape"]),
            counts=tuple(state["count"]),
            absent=tuple(state["missing"]),
            sums=tuple(_read(text) for text in state["sum"]),
            squares=tuple(_read(text) for text in state["squares"]),
            lows=tuple(math.nan if value is None else value for value in state["minimum"]),
            highs=tuple(math.nan if value is None else value for value in state["maximum"]),
        )

    def _floats(self, values: Iterable[Number]) -> Floats:
        return np.array([float(value) for value in values], np.float64).reshape(self.shape)

    def _variances(self) -> Iterable[tuple[int, int] | None]:
        """Numerator and denominator of each cell's variance, None without any value."""
        for n, s, q in zip(self.counts, self.sums, self.squares, strict=True):
            yield (n * q - s * s, n * n << 2 * _UNIT) if n else None


def moments(values: NDArray[Any], keep: Sequence[int] = (), fill: Number | None = None) -> Moments:
    """The moments of an array.

    Args:
        values: floating-point numbers up to 64 bits, whole numbers or truth values, of any shape; none at all is
            allowed.
        keep: axes whose entries are kept apart, such as that of levels; negative ones count from the end. One cell
            takes about half a kilobyte, so keep levels or channels, not places.
        fill: a value that means "missing", compared in the array's own type; NaN always does.

    Returns:
        Exact moments, of the shape of the kept axes in their order in `keep`.

    Raises:
        InputError: a value is infinite: neither mean nor variance would exist.
        TypeError: the array holds something else than numbers of these types.

    Source:
        Kulisch and Miranker 1986, "The arithmetic of the digital computer: a new approach", the long accumulator;
        with 32-bit digits in 64-bit words carries wait (Neal 2015, "Fast exact summation using small and large
        superaccumulators"). The accumulator of squares is ours.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "fiub" or (kind == "f" and size > 8):
        raise TypeError(
            f"values must be floating-point numbers of at most 64 bits or whole numbers, got {values.dtype}; "
            "convert times to numbers and text to codes first."
        )
    axes = tuple(axis % values.ndim for axis in keep)
    shape = tuple(values.shape[axis] for axis in axes)
    cells = math.prod(shape)
    others = [axis for axis in range(values.ndim) if axis not in axes]
    value_KN = np.transpose(values, (*axes, *others)).reshape(cells, values.size // cells if cells else 0)
    missing_KN = np.zeros((0, 0), bool)
    if fill is not None and not (isinstance(fill, float) and math.isnan(fill)):
        missing_KN = _equal_to_fill(value_KN, fill)
    wide = kind in "iu" and size == 8
    if kind == "f" and np.isinf(value_KN).any():
        place = np.unravel_index(int(np.flatnonzero(np.isinf(values))[0]), values.shape)
        raise InputError(
            f"values hold {values[place]} at {tuple(int(i) for i in place)}, and then no mean exists; "
            "write missing values as NaN, or name them as the fill."
        )
    return _added(value_KN, missing_KN, shape, value_KN.dtype if wide else np.dtype(np.float64))


def merge(pieces: Iterable[Moments]) -> Moments:
    """The moments of all pieces together, the same to the bit in any order.

    Args:
        pieces: at least one.

    Returns:
        Their sum.

    Raises:
        ValueError: there is no piece, or pieces keep different dimensions apart.

    Source:
        Ours.
    """
    total: Moments | None = None
    for piece in pieces:
        total = piece if total is None else total + piece
    if total is None:
        raise ValueError("merge needs at least one piece, got none; the moments of an empty array are a piece.")
    return total


def side_by_side(blocks: Mapping[tuple[int, ...], Moments]) -> Moments:
    """The moments of cells that different pieces know, as one array of cells.

    Args:
        blocks: corner of a block, one number for each kept dimension, to its moments; together they fill a box.

    Returns:
        Moments of the whole box.

    Raises:
        ValueError: blocks overlap, or leave a cell out.

    Source:
        Ours.
    """
    ends = [
        tuple(start + length for start, length in zip(corner, one.shape, strict=True)) for corner, one in blocks.items()
    ]
    shape = tuple(max(sizes) for sizes in zip(*ends, strict=True))
    number = np.full(shape, -1, np.int64)
    cells: list[tuple[Moments, int]] = []
    for corner, one in blocks.items():
        place = tuple(slice(start, start + length) for start, length in zip(corner, one.shape, strict=True))
        own = math.prod(one.shape)
        if (number[place] >= 0).any():
            raise ValueError(f"two blocks have cells at {corner}; give each cell once.")
        number[place] = np.arange(len(cells), len(cells) + own).reshape(one.shape)
        cells += [(one, k) for k in range(own)]
    if (number < 0).any():
        raise ValueError(f"no block has the cell {tuple(int(i) for i in np.argwhere(number < 0)[0])}; give them all.")
    order = [cells[k] for k in number.ravel().tolist()]
    return Moments(
        shape=shape,
        counts=tuple(one.counts[k] for one, k in order),
        absent=tuple(one.absent[k] for one, k in order),
        sums=tuple(one.sums[k] for one, k in order),
        squares=tuple(one.squares[k] for one, k in order),
        lows=tuple(one.lows[k] for one, k in order),
        highs=tuple(one.highs[k] for one, k in order),
    )


def _equal_to_fill(value_KN: NDArray[Any], fill: Number) -> NDArray[np.bool_]:
    """Where an array holds the fill as its own type spells it: 1e15 of a float32 is 999999986991104."""
    if value_KN.dtype.kind == "f":
        return np.asarray(value_KN == value_KN.dtype.type(fill))
    if fill != int(fill):
        return np.zeros(value_KN.shape, bool)
    limits = np.iinfo(value_KN.dtype) if value_KN.dtype.kind in "iu" else None
    if limits and not limits.min <= fill <= limits.max:
        return np.zeros(value_KN.shape, bool)
    return np.asarray(value_KN == value_KN.dtype.type(int(fill)))


def _added(
    value_KN: NDArray[Any], missing_KN: NDArray[np.bool_], shape: tuple[int, ...], bits_of: np.dtype[Any]
) -> Moments:
    """Add all values of every cell as float64 or 64-bit integers; `missing_KN` is empty if only NaN is missing."""
    whole = value_KN.dtype.kind != "f"
    counts, sums, squares, lows, highs = [], [], [], [], []
    for k in range(len(value_KN)):
        count, total, square = 0, 0, 0
        low: Number = math.nan
        high: Number = math.nan
        for start in range(0, value_KN.shape[1], _BLOCK):
            row = np.ascontiguousarray(value_KN[k, start : start + _BLOCK], bits_of)
            if missing_KN.size:
                row = row[~missing_KN[k, start : start + _BLOCK]]
            digits, square_digits = np.zeros(_DIGITS, np.int64), np.zeros(_SQUARE_DIGITS, np.int64)
            if bits_of.kind == "f":
                present, small, large = _add_floats(row.view(np.uint64), row, digits, square_digits)
            else:
                present = len(row)
                small, large = (int(row.min()), int(row.max())) if present else (math.nan, math.nan)
                # |-2^63| is 2^63 as an unsigned number: the negation wraps to the right bits
                size = np.where(row < 0, np.negative(row), row).astype(np.uint64) if bits_of.kind == "i" else row
                _add_whole(size, row < 0, digits, square_digits)
            count, total, square = count + int(present), total + _joined(digits), square + _joined(square_digits)
            low, high = _extreme(low, small, min), _extreme(high, large, max)
        counts.append(count)
        sums.append(total)
        squares.append(square)
        lows.append(_plain(low, whole))
        highs.append(_plain(high, whole))
    absent = tuple(value_KN.shape[1] - count for count in counts)
    return Moments(shape, tuple(counts), absent, tuple(sums), tuple(squares), tuple(lows), tuple(highs))


@_compiled
def _add_product(product: Any, digits: Any, place: int, shift: int) -> None:
    """Add a number below 2^64, shifted by less than 32 bits, at a digit."""
    mask = np.uint64(0xFFFFFFFF)
    digits[place] += np.int64((product << np.uint64(shift)) & mask)
    digits[place + 1] += np.int64((product >> np.uint64(32 - shift)) & mask)
    if shift:
        digits[place + 2] += np.int64(product >> np.uint64(64 - shift))


@_compiled
def _add_square(mantissa: Any, exponent: int, digits: Any) -> None:
    """Add the square of mantissa * 2^exponent, in units of 1."""
    place, shift = exponent * 2 // 32, exponent * 2 % 32
    low, high = mantissa & np.uint64(0xFFFFFFFF), mantissa >> np.uint64(32)
    _add_product(low * low, digits, place, shift)
    # twice, because 2 * low * high may need 65 bits
    _add_product(low * high, digits, place + 1, shift)
    _add_product(low * high, digits, place + 1, shift)
    _add_product(high * high, digits, place + 2, shift)


@_compiled
def _add_floats(bits_N: Any, value_N: Any, digits: Any, square_digits: Any) -> Any:
    """Add float64s, NaN left out: their number, smallest and largest."""
    count, small, large = 0, np.nan, np.nan
    mantissa_mask, hidden = np.uint64(0xFFFFFFFFFFFFF), np.uint64(1 << 52)
    for n in range(len(bits_N)):
        value = value_N[n]
        if value != value:
            continue
        count += 1
        if not value >= small:
            small = value
        if not value <= large:
            large = value
        bits = bits_N[n]
        exponent = np.int64((bits >> np.uint64(52)) & np.uint64(0x7FF))
        mantissa = bits & mantissa_mask
        if exponent > 0:
            mantissa |= hidden
            exponent -= 1
        place, shift = exponent // 32, exponent % 32
        low = np.int64((mantissa << np.uint64(shift)) & np.uint64(0xFFFFFFFF))
        rest = mantissa >> np.uint64(32 - shift)
        middle, high = np.int64(rest & np.uint64(0xFFFFFFFF)), np.int64(rest >> np.uint64(32))
        if value < 0:
            low, middle, high = -low, -middle, -high
        digits[place] += low
        digits[place + 1] += middle
        digits[place + 2] += high
        _add_square(mantissa, exponent, square_digits)
    return count, small, large


@_compiled
def _add_whole(size_N: Any, negative_N: Any, digits: Any, square_digits: Any) -> None:
    """Add whole numbers given by size and sign."""
    place, shift = 1074 // 32, 1074 % 32
    other = np.zeros_like(digits)
    for n in range(len(size_N)):
        _add_product(size_N[n], other if negative_N[n] else digits, place, shift)
        _add_square(size_N[n], 1074, square_digits)
    digits -= other


def _joined(digits: Integers) -> int:
    """The whole number that digits to the base 2^32 stand for, carries and signs included."""
    total = 0
    for digit in digits[::-1].tolist():
        total = (total << 32) + digit
    return total


def _extreme(a: Number, b: Number, choose: Callable[[Number, Number], Number]) -> Number:
    """The smaller or larger of two numbers, the other one where one is NaN."""
    if a != a:
        return b
    return a if b != b else choose(a, b)


def _plain(value: Number, whole: bool) -> Number:
    """A Python number; whole where the array was, and never -0.0, which equals 0.0 but has other bits."""
    if value != value:
        return math.nan
    return int(value) if whole else float(value) + 0.0


def _quotient(numerator: int, denominator: int) -> float:
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf


def _root(numerator: int, denominator: int) -> float:
    """Square root of a fraction, by a whole root of at least 64 bits."""
    if not numerator:
        return 0.0
    lift = max(0, 128 + denominator.bit_length() - numerator.bit_length())
    lift += lift % 2
    return math.isqrt((numerator << lift) // denominator) / (1 << lift // 2)


def _written(value: int) -> str:
    """A whole number as `hexadecimal p power of two`, short in spite of its many zeros."""
    power = (value & -value).bit_length() - 1 if value else 0
    return f"{value >> power:x}p{power}"


def _read(text: str) -> int:
    number, power = text.split("p")
    return int(number, 16) << int(power)
