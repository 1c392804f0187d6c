"""Chance that depends on where and when, not on what was drawn before: any moment can be made alone.

Every draw comes from Philox, a cipher of a counter. The key is the seed, the counter says what is drawn and for when,
so draws for different things never overlap, and nothing has to be drawn to reach what is wanted.
"""

# Shapes: N numbers drawn together.

from math import exp

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_WORD = 1 << 64


def stream(seed: int, *place: int) -> np.random.Generator:
    """A generator for one thing at one moment.

    Args:
        seed: of the whole world.
        place: at most three whole numbers, negative ones too: what is drawn, and for when.

    Returns:
        A generator whose draws depend on these numbers alone; it may draw 2^64 blocks before it meets another's.

    Raises:
        ValueError: there are more than three numbers.

    Source:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox 4x64.
    """
    if len(place) > 3:
        raise ValueError(f"a stream has at most three numbers that say which, got {place}; fold some into one.")
    counter = np.array([0, *(number % _WORD for number in place), *(0,) * (3 - len(place))], np.uint64)
    return np.random.Generator(np.random.Philox(key=seed % _WORD, counter=counter))


def autoregression(seed: int, kind: int, size: int, time: int, memory: float) -> Floats:
    """N independent stationary first-order autoregressions of unit variance at one time.

    x at time t + 1 is exp(-1 / memory) times x at t plus white noise. The series is Markov, so its middle between two
    known times is drawn from its exact conditional law; halving from distant, independent times reaches any time in
    about ten draws, without the times before it.

    Args:
        seed: of the world.
        kind: which autoregressions; other numbers give independent ones.
        size: N.
        time: a whole number of steps, negative too.
        memory: steps until the correlation has fallen to 1/e; above zero.

    Returns:
        (N); the same bits whatever was asked before.

    Source:
        Levy's construction of Brownian motion by midpoints, for the Ornstein-Uhlenbeck process; ours.
    """
    # at this distance the correlation is exp(-37) < 2^-53: independent
    depth = max(1, int(np.ceil(np.log2(37 * memory))))
    span = 1 << depth
    left, right = time // span * span, time // span * span + span
    x_left = stream(seed, kind, left, depth).standard_normal(size)
    x_right = stream(seed, kind, right, depth).standard_normal(size)
    while right - left > 1:
        half = (right - left) // 2
        kept = exp(-half / memory)
        middle = left + half
        noise = stream(seed, kind, middle, int(half).bit_length() - 1).standard_normal(size)
        # given both ends: mean k (a + b) / (1 + k^2), variance (1 - k^2) / (1 + k^2), k the correlation over half
        x_middle = (x_left + x_right) * (kept / (1 + kept * kept)) + noise * np.sqrt((1 - kept**2) / (1 + kept**2))
        if time >= middle:
            left, x_left = middle, x_middle
        else:
            right, x_right = middle, x_middle
    return np.asarray(x_left)
