"""Torch on one thread, where sums are to have the same order whoever runs them."""

import contextlib
import threading
from collections.abc import Iterator

import torch


class _Within:
    """Who is within: how many threads of this process, how deep each is, and the number that the first one found."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads = 0
        self.found = 1
        self.own = threading.local()


_within = _Within()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch's operations on one thread meanwhile; also a decorator.

    How many threads share a product of matrices decides the order of its sums, and so the last bits of a score: with
    one, a judge and a service say the same however many cores their processes see. The compiled passes of
    `models.common.amortised` have the same bits for any number of threads and need none of this.

    Torch keeps a number for each thread that has computed, and one for those that have not yet. Each thread sets its
    own on the way in; on the way out it takes the number that was there when nobody was within, not the one that it
    found, which may be another's.

    Source:
        Ours.
    """
    depth = getattr(_within.own, "depth", 0)
    if depth == 0:
        with _within.lock:
            now = torch.get_num_threads()  # asking is what gives a thread a number of its own
            if _within.threads == 0:
                _within.found = now
            _within.threads += 1
            torch.set_num_threads(1)
    _within.own.depth = depth + 1
    try:
        yield
    finally:
        _within.own.depth = depth
        if depth == 0:
            with _within.lock:
                _within.threads -= 1
                torch.set_num_threads(_within.found)
