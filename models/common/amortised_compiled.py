"""Amortized inference by compiled loops: weights laid out once, threads that share the candidates.

Shapes: as in `models.common.amortised_kernels`.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.common import amortised_kernels as kernels
from models.common.amortised import INFINITE, Cache, Store
from models.common.attention import rotation
from models.common.transformer import Transformer, TransformerConfig

_KNOWN = 65_536
"""Positions whose angles are kept once they were needed."""

Floats = NDArray[np.float32]


class CompiledEngine:
    """The passes of `amortised_kernels` over weights in their layout.

    A norm's scale and shift, the scale of the scores and the base of the powers are multiplied into the matrices.

    Args:
        stack: the network, float32 on a CPU.
        threads: how many threads share the candidates of a call; 0: as many as torch uses.
    """

    def __init__(self, stack: Transformer, *, threads: int = 0) -> None:
        config: TransformerConfig = stack.config
        self._config, self._threads = config, threads
        head = kernels.padded(config.head_width, 2 * kernels.HALF)
        width, inner = kernels.padded(config.width), kernels.padded(config.inner_width)
        self._places = kernels.places(width, config.heads * head, inner)
        self._sizes = kernels.Sizes(
            layers=config.layers,
            heads=config.heads,
            width=width,
            head=head,
            inner=inner,
            gated=int(config.gate),
            self_key=int(config.self_key),
            layer=self._places.end,
        )
        self._kept = threading.local()
        self._weights = _aligned(config.layers * self._places.end + 2 * width)
        with torch.no_grad():
            for number, block in enumerate(stack.blocks):
                self._lay_out(block, self._weights[number * self._places.end : (number + 1) * self._places.end])
            last = self._weights[config.layers * self._places.end :]
            last[: config.width] = stack.norm.weight.numpy()
            last[width : width + config.width] = stack.norm.bias.numpy()
        self._angles = (
            np.zeros((0, self._sizes.head // 2), np.float32),
            np.zeros((0, self._sizes.head // 2), np.float32),
        )

    def store(self, slots: int) -> Store:
        """An empty store; keys (layers, H, C / panel, E, panel) and values (layers, H, C, E)."""
        sizes, slots = self._sizes, kernels.padded(slots, kernels.PANEL)
        # not numpy's zeros: those come as fresh pages, whose first touch costs more than writing zeros
        keys = torch.zeros(sizes.layers, sizes.heads, slots // kernels.PANEL, sizes.head, kernels.PANEL)
        return Store(keys, torch.zeros(sizes.layers, sizes.heads, slots, sizes.head), slots)

    def move(self, old: Store, begin: int, end: int, slots: int) -> tuple[Store, int]:
        """Some slots' contents in a new store, whole panels of keys at a time."""
        panel = kernels.PANEL
        first, last = begin // panel, kernels.padded(end, panel) // panel
        new = self.store(slots + panel)
        new.keys[:, :, : last - first] = old.keys[:, :, first:last]
        new.values[:, :, : end - first * panel] = old.values[:, :, first * panel : end]
        return new, begin - first * panel

    def extend(self, cache: Cache, event_MD: Tensor, *, outputs: bool) -> Tensor | None:
        """Put keys and values of events into the store."""
        out = torch.empty(len(event_MD) if outputs else 0, self._config.width)
        cos, sin = self._turns(cache.position, len(event_MD))
        finite = kernels.extend(
            self._sizes, self._places, self._weights, event_MD.detach().numpy(), cache.store.keys.numpy(),
            cache.store.values.numpy(), cache.store.slots, cache.end, cache.begin, self._config.window, cos, sin,
            self._config.rotary, out.numpy(), self._room(kernels.TILE),
        )  # fmt: skip
        if not finite:
            raise ValueError(INFINITE)
        return out if outputs else None

    def attend(self, cache: Cache, candidate_ND: Tensor, session_N: Tensor | None) -> Tensor:
        """Hidden states of candidates; threads take whole tiles, or whole sessions."""
        out = torch.empty_like(candidate_ND)
        if not len(candidate_ND):
            return out
        if session_N is None:
            self._share(cache, candidate_ND.detach().numpy(), np.zeros(0, np.int64), out.numpy())
            return out
        order_N = torch.argsort(session_N, stable=True)
        ends = torch.unique_consecutive(session_N[order_N], return_counts=True)[1].cumsum(0)
        sorted_ND = torch.empty_like(candidate_ND)
        self._share(cache, candidate_ND.detach()[order_N].numpy(), ends.numpy(), sorted_ND.numpy())
        out[order_N] = sorted_ND
        return out

    def _share(self, cache: Cache, x: Floats, ends: NDArray[np.int64], out: Floats) -> None:
        cos, sin = self._turns(cache.position, 1)
        keys, values, slots = cache.store.keys.numpy(), cache.store.values.numpy(), cache.store.slots

        def work(first: int, last: int) -> None:
            own = ends[(ends > first) & (ends <= last)] - first if len(ends) else ends
            largest = int(np.diff(own, prepend=0).max()) if len(own) else 1
            group = kernels.padded(largest, kernels.TILE)
            kernels.compare(
                self._sizes, self._places, self._weights, x[first:last], own, keys, values, slots, cache.begin,
                cache.end, cos, sin, self._config.rotary, out[first:last], group, self._room(group),
            )  # fmt: skip

        threads = self._threads or torch.get_num_threads()
        if threads == 1 or len(x) <= kernels.TILE:
            work(0, len(x))
            return
        borders = np.append(0, ends) if len(ends) else np.append(np.arange(0, len(x), kernels.TILE), len(x))
        wanted = np.linspace(0, len(x), min(threads, len(borders) - 1) + 1)
        cuts = np.unique(borders[np.searchsorted(borders, wanted)])
        list(self._pool.map(work, cuts[:-1], cuts[1:]))

    def _room(self, group: int) -> Floats:
        """This thread's room for a group of so many rows; that of a tile is kept."""
        if group > kernels.TILE:
            room: Floats = kernels.room(self._sizes, group, self._config.width)
            return room
        if not hasattr(self._kept, "room"):
            self._kept.room = kernels.room(self._sizes, group, self._config.width)
        kept: Floats = self._kept.room
        return kept

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads or torch.get_num_threads())

    def _turns(self, position: int, count: int) -> tuple[Floats, Floats]:
        """Cosines and sines (count, E / 2) of the positions from one on."""
        end = position + count
        if position < 0 or end > _KNOWN:
            return self._compute_turns(position, count)
        if end > len(self._angles[0]):
            self._angles = self._compute_turns(0, min(_KNOWN, max(2 * end, 256)))
        cos, sin = self._angles
        return cos[position:end], sin[position:end]

    def _compute_turns(self, position: int, count: int) -> tuple[Floats, Floats]:
        padded = np.zeros((2, count, self._sizes.head // 2), np.float32)
        if self._config.rotary:
            turned = rotation(torch.arange(position, end=position + count), self._config.head_width)
            padded[0, :, : self._config.head_width // 2] = turned.cos.numpy()
            padded[1, :, : self._config.head_width // 2] = turned.sin.numpy()
        return padded[0], padded[1]

    def _lay_out(self, block: Any, room: Floats) -> None:
        """Write a block's weights into a layer's part of them."""
        config, sizes, places = self._config, self._sizes, self._places
        across, whole = config.head_width, np.arange(config.width)
        place = np.arange(across)
        if config.rotary:
            place = np.where(place < across // 2, place, place - across // 2 + self._sizes.head // 2)
        heads = np.arange(config.heads)[:, None]
        key, value = (heads * sizes.head + place).ravel(), (heads * sizes.head + np.arange(across)).ravel()
        query = key + config.heads * (sizes.head + sizes.head)
        columns = np.concatenate([query, key, value + config.heads * sizes.head])

        def write(at: int, weight: Tensor, rows: NDArray[Any], columns: NDArray[Any], depth: int, width: int) -> None:
            full = np.zeros((depth, width), np.float32)
            full[np.ix_(rows, columns)] = weight.T.float().numpy()
            room[at : at + full.size] = _panels(full)

        def write_bias(at: int, bias: Tensor, columns: NDArray[Any]) -> None:
            room[at + columns] = bias.float().numpy()

        first, second = block.attention, block.feed_forward
        inward = first.branch.inward.weight.double()
        # scores are powers of two, so that a weight needs no change of base
        scale = torch.ones(3 * config.width, 1, dtype=torch.float64)
        scale[: config.width] = across**-0.5 * np.log2(np.e)
        inward = inward * scale
        total = 2 * config.heads * sizes.head + config.heads * sizes.head
        write(places.inward, inward * first.norm.weight, whole, columns, sizes.width, total)
        write_bias(places.inward_bias, inward @ first.norm.bias.double(), columns)
        write(places.outward, first.branch.outward.weight, value, whole, config.heads * sizes.head, sizes.width)
        opening = second.branch.inward.weight.double()
        inner = np.arange(config.inner_width)
        both = np.concatenate([inner, inner + sizes.inner])
        write(places.open, opening * second.norm.weight, whole, both, sizes.width, 2 * sizes.inner)
        write_bias(places.open_bias, opening @ second.norm.bias.double(), both)
        write(places.close, second.branch.outward.weight, inner, whole, sizes.inner, sizes.width)
        if config.gate:
            write(places.gate, first.gate.weight, whole, whole, sizes.width, sizes.width)
            write_bias(places.gate_bias, first.gate.bias, whole)
            write(places.second_gate, second.gate.weight, whole, whole, sizes.width, sizes.width)
            write_bias(places.second_gate_bias, second.gate.bias, whole)


def _panels(matrix: Floats) -> Floats:
    """A matrix in panels of columns, each row by row, the last one a vector wide if they do not come out even."""
    even = matrix.shape[1] // kernels.PANEL * kernels.PANEL
    wide = matrix[:, :even].reshape(len(matrix), -1, kernels.PANEL).transpose(1, 0, 2)
    return np.concatenate([wide.ravel(), matrix[:, even:].ravel()])


def _aligned(size: int) -> Floats:
    """Zeros that begin on a line of the cache: a vector across two lines is read twice."""
    memory = np.zeros(size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + size]
