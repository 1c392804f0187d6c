"""Torch on one thread, where sums are to have the same order whoever runs them."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch's operations on one thread meanwhile; also a decorator.

    How many threads share a product of matrices decides the order of its sums, and so the last bits of a score: with
    one, a judge and a service say the same however many cores their processes see. The compiled passes of
    `models.common.amortised` have the same bits for any number of threads and need none of this.

    The number belongs to the process. Where several threads compute at a time, set it to one for good, and this
    changes nothing.

    Source:
        Ours.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
