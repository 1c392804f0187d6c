"""Amortized inference: a history once, its candidates in one pass over what was kept of it, new events one by one.

    amortised = Amortised(stack)
    cache = amortised.encode(history_LD)               keys and values of every layer
    hidden_ND = amortised.attend(cache, candidate_ND)  what the stack says of the candidates
    cache = amortised.extend(cache, event_MD)          costs M tokens, not L + M

What comes out is what `Transformer.forward` says, to 1e-6 in float32. On a CPU in float32 the passes are compiled, and
then a candidate gets the same bits whatever else is in the request: any number of other candidates, in any order, cut
into any calls, by any number of threads; and a cache that was extended holds the same bits as one encoded at once. This
holds for one machine, for candidates that do not see one another, and without a window. With sessions, or a window that
has moved, sums run in another order and agree to 1e-6. Elsewhere (a GPU, float64) torch computes, and its products may
differ in the last bit from one shape to another.

Shapes: L events, M new events, N candidates, H heads, E width of a head, D width, C slots of a cache.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.common.attention import events_see, rotate, rotation
from models.common.transformer import Block, Residual, Transformer, TransformerConfig

INFINITE = "events must be finite, and some hold infinity or not-a-number; look at their features."
"""A cache that shares its memory multiplies slots that it does not count by zero, which does not help against these."""


class Store:
    """Slots for keys and values, shared by caches that grew from one another; only the one that ends last may grow.

    Args:
        keys: of all layers, in the layout of whoever computes.
        values: the same.
        slots: how many events there is room for.
    """

    def __init__(self, keys: Tensor, values: Tensor, slots: int) -> None:
        self.keys, self.values, self.slots = keys, values, slots
        self._filled = 0
        self._lock = threading.Lock()

    def claim(self, end: int, count: int) -> bool:
        """Take so many slots from `end` on, if there is room and nobody else has taken them."""
        with self._lock:
            if end != self._filled or end + count > self.slots:
                return False
            self._filled = end + count
            return True

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes."""
        return int(self.keys.nbytes + self.values.nbytes)


@dataclass(frozen=True, eq=False)
class Cache:
    """What is kept of a history. It never changes: to extend it is to get another, which shares its memory."""

    store: Store
    begin: int
    """Slot of the oldest event that still counts."""

    end: int
    """Slot after the latest event."""

    position: int
    """Position of the next event, and of all candidates."""

    outputs: Tensor | None
    """Hidden states of the events that count (L, D), if they were asked for."""

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes, room to grow included."""
        return self.store.nbytes + (0 if self.outputs is None else self.outputs.nbytes)


class Engine(Protocol):
    """Whoever computes."""

    def store(self, slots: int) -> Store:
        """An empty store for at least so many events."""

    def move(self, old: Store, begin: int, end: int, slots: int) -> tuple[Store, int]:
        """Some slots' contents in a new store for at least so many events, and the slot where they begin there."""

    def extend(self, cache: Cache, event_MD: Tensor, *, outputs: bool) -> Tensor | None:
        """Put keys and values of events into the slots from `cache.end` on; their hidden states if asked for."""

    def attend(self, cache: Cache, candidate_ND: Tensor, session_N: Tensor | None) -> Tensor:
        """Hidden states of candidates."""


class Amortised:
    """A transformer for inference.

    The first call on a machine compiles, which takes some ten seconds; later processes find the code in numba's cache.
    A server should make a call of its own before it takes requests.

    Args:
        stack: the network; its weights are read now, and later changes are not seen.
        threads: how many threads share the candidates of a call in the compiled passes; 0: as many as torch uses.
        compiled: whether to use the compiled passes; None: where they work, in float32 on a CPU.

    Raises:
        ValueError: compiled passes were asked for elsewhere.

    Source:
        "Efficient user history modeling with amortized inference for deep learning recommendation models" (arXiv
        2412.06924), section on amortized inference; M-FALCON of Zhai et al. 2024 (arXiv 2402.17152), section 3.4.
    """

    def __init__(self, stack: Transformer, *, threads: int = 0, compiled: bool | None = None) -> None:
        weight = stack.norm.weight
        possible = weight.device.type == "cpu" and weight.dtype == torch.float32
        if compiled and not possible:
            raise ValueError(
                f"compiled passes are for float32 on a CPU, and the stack is {weight.dtype} on {weight.device}; "
                "leave compiled out."
            )
        self.config: TransformerConfig = stack.config
        self._dtype, self._device = weight.dtype, weight.device
        self._engine: Engine
        if possible if compiled is None else compiled:
            from models.common.amortised_compiled import CompiledEngine

            self._engine = CompiledEngine(stack, threads=threads)
        else:
            self._engine = TorchEngine(stack)

    def encode(self, history_LD: Tensor, *, outputs: bool = False, start: int = 0) -> Cache:
        """Pass a history through the layers; of the last one only keys and values are computed.

        Args:
            history_LD: events, oldest first; no padding.
            outputs: whether to compute and keep the events' hidden states too.
            start: position of the first event.

        Returns:
            What is to be kept of it; of the latest `window` events if the stack has a window.

        Source:
            Ours.
        """
        room = len(history_LD) + len(history_LD) // 8 + 16
        empty = torch.zeros(0, self.config.width, dtype=self._dtype, device=self._device) if outputs else None
        cache = Cache(self._engine.store(room), begin=0, end=0, position=start, outputs=empty)
        return self.extend(cache, history_LD)

    @torch.no_grad()
    def extend(self, cache: Cache, event_MD: Tensor) -> Cache:
        """Add events to a history; the cache given stays as it is.

        With a window the oldest events fall out. Each event that stays keeps what it saw when it came, so the result is
        that of one pass in which each event sees, in every layer, itself and the `window` - 1 events before it.

        Args:
            cache: what was kept so far.
            event_MD: the new events, oldest first.

        Returns:
            What is to be kept now.

        Raises:
            ValueError: the events have another width than the stack, or are not finite.

        Source:
            Ours. A window in every layer is that of Longformer (Beltagy et al. 2020, section 3.1).
        """
        event_MD = self._checked(event_MD, "events")
        count, window = len(event_MD), self.config.window
        if not count:
            return cache
        if not cache.store.claim(cache.end, count):
            begin = max(cache.begin, cache.end + 1 - window) if window else cache.begin
            room = (cache.end - begin) + count
            store, moved = self._engine.move(cache.store, begin, cache.end, room + room // 4 + 16)
            end = moved + cache.end - begin
            cache = Cache(store, begin=moved, end=end, position=cache.position, outputs=cache.outputs)
            store.claim(0, end)
            store.claim(end, count)
        hidden_MD = self._engine.extend(cache, event_MD, outputs=cache.outputs is not None)
        outputs = None if cache.outputs is None or hidden_MD is None else torch.cat((cache.outputs, hidden_MD))
        end = cache.end + count
        begin = max(cache.begin, end - window) if window else cache.begin
        store = cache.store
        if begin > 2 * window:  # most of the store is of events that no longer count
            length = end - begin
            store, begin = self._engine.move(store, begin, end, length + length // 4 + 16)
            end = begin + length
            store.claim(0, end)
        return Cache(
            store,
            begin=begin,
            end=end,
            position=cache.position + count,
            outputs=None if outputs is None else outputs[len(outputs) - (end - begin) :],
        )

    @torch.no_grad()
    def attend(self, cache: Cache, candidate_ND: Tensor, session_N: Tensor | None = None) -> Tensor:
        """Hidden states of candidates, in one pass over a cache.

        Args:
            cache: what was kept of the history.
            candidate_ND: the candidates.
            session_N: sessions of the candidates; those of one session see one another. None: they do not.

        Returns:
            (N, D), in the order given.

        Raises:
            ValueError: the candidates have another width than the stack, or there are not as many sessions.

        Source:
            See the class.
        """
        candidate_ND = self._checked(candidate_ND, "candidates")
        if session_N is not None and session_N.shape != candidate_ND.shape[:1]:
            raise ValueError(
                f"there are {len(candidate_ND)} candidates and sessions of shape {tuple(session_N.shape)}; give each "
                "candidate one session."
            )
        return self._engine.attend(cache, candidate_ND, session_N)

    def _checked(self, token_MD: Tensor, name: str) -> Tensor:
        if token_MD.ndim != 2 or token_MD.shape[1] != self.config.width:
            raise ValueError(
                f"{name} must have shape (any, {self.config.width}), got {tuple(token_MD.shape)}; project them to the "
                "transformer's width, and give one history at a time."
            )
        return token_MD.to(self._device, self._dtype).contiguous()


def request_flops(config: TransformerConfig, length: int, candidates: int) -> int:
    """Operations of one amortized request: a history encoded, its candidates compared; multiply and add are two.

    Of the last layer only the history's keys and values are counted. Attention counts as if it were not causal.

    Args:
        config: sizes.
        length: events.
        candidates: candidates, which do not see one another.

    Returns:
        Operations in products of matrices.

    Source:
        Ours; without the last layer's saving it is the cost of arXiv 2412.06924, O(l (n + m) d^2 + l (n + m) n d).
    """
    width, keys = config.width, length + config.self_key
    token = 2 * ((4 + 2 * config.gate) * width**2 + 3 * width * config.inner_width)
    history = (config.layers - 1) * (length * token + 4 * length**2 * width) + 4 * length * width**2
    return history + config.layers * (candidates * token + 4 * candidates * keys * width)


class TorchEngine:
    """The passes in plain torch: for GPUs and other precisions, and what the compiled passes are held against.

    Args:
        stack: the network.
    """

    SCORES = 2**21
    """Scores that are in memory at once, per head; candidates are taken in such portions."""

    def __init__(self, stack: Transformer) -> None:
        self._stack = stack
        self._config: TransformerConfig = stack.config

    def store(self, slots: int) -> Store:
        """An empty store; keys and values (layers, H, C, E)."""
        config = self._config
        shape = (config.layers, config.heads, slots, config.head_width)
        like = self._stack.norm.weight.detach()
        return Store(like.new_zeros(shape), like.new_zeros(shape), slots)

    def move(self, old: Store, begin: int, end: int, slots: int) -> tuple[Store, int]:
        """Some slots' contents in a new store."""
        new = self.store(slots)
        new.keys[:, :, : end - begin] = old.keys[:, :, begin:end]
        new.values[:, :, : end - begin] = old.values[:, :, begin:end]
        return new, 0

    def extend(self, cache: Cache, event_MD: Tensor, *, outputs: bool) -> Tensor | None:
        """Put keys and values of events into the store."""
        if not torch.isfinite(event_MD).all():
            raise ValueError(INFINITE)
        store, begin, end = cache.store, cache.begin, cache.end + len(event_MD)
        mask = None
        if begin < cache.end or self._config.window:
            mask = events_see(end - begin, self._config.window, device=event_MD.device)[-len(event_MD) :]
        place_M = torch.arange(len(event_MD), device=event_MD.device) + cache.position
        for layer, block in enumerate(self._blocks()):
            only_keys = layer + 1 == self._config.layers and not outputs
            query, key, value = self._split(block.attention, event_MD, place_M, only_keys=only_keys)
            store.keys[layer, :, cache.end : end] = key
            store.values[layer, :, cache.end : end] = value
            if only_keys:
                return None
            keys, values = store.keys[layer, :, begin:end], store.values[layer, :, begin:end]
            gathered = functional.scaled_dot_product_attention(
                query[None], keys[None], values[None], attn_mask=mask, is_causal=mask is None
            )
            event_MD = _join(block, event_MD, gathered[0])
        out: Tensor = self._stack.norm(event_MD)
        return out

    def attend(self, cache: Cache, candidate_ND: Tensor, session_N: Tensor | None) -> Tensor:
        """Hidden states of candidates, some at a time unless they see one another."""
        some = len(candidate_ND) if session_N is not None else max(1, self.SCORES // max(1, len(cache)))
        parts = [self._attend(cache, part_ND, session_N) for part_ND in torch.split(candidate_ND, max(1, some))]
        return torch.cat(parts)

    def _attend(self, cache: Cache, candidate_ND: Tensor, session_N: Tensor | None) -> Tensor:
        hidden_N = None
        if session_N is not None:
            same_NN = session_N[:, None] == session_N
            itself_NN = torch.eye(len(same_NN), dtype=torch.bool, device=same_NN.device)
            hidden_N = ~same_NN | itself_NN
        place = torch.full((len(candidate_ND),), cache.position, device=candidate_ND.device)
        for layer, block in enumerate(self._blocks()):
            query, key, value = self._split(block.attention, candidate_ND, place)
            query = query * self._config.head_width**-0.5
            seen = [(query @ cache.store.keys[layer, :, cache.begin : cache.end].mT,
                     cache.store.values[layer, :, cache.begin : cache.end])]  # fmt: skip
            if hidden_N is not None:
                seen.append(((query @ key.mT).masked_fill(hidden_N, -torch.inf), value))
            own = (query * key).sum(-1, keepdim=True) if self._config.self_key else None
            candidate_ND = _join(block, candidate_ND, _parts_softmax(seen, own, value))
        out: Tensor = self._stack.norm(candidate_ND)
        return out

    def _blocks(self) -> Iterator[Block]:
        for block in self._stack.blocks:
            assert isinstance(block, Block)  # noqa: S101 - for the type checker
            yield block

    def _split(
        self, attention: Residual, token_MD: Tensor, place_M: Tensor, *, only_keys: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (H, M, E), the first two turned; queries of no rows where only keys are wanted."""
        heads, width = self._config.heads, self._config.width
        weight: Tensor = attention.branch.inward.weight
        rows = functional.linear(attention.norm(token_MD), weight[width:] if only_keys else weight)
        parts = [
            part.view(len(token_MD), heads, self._config.head_width).transpose(0, 1)
            for part in rows.chunk(2 if only_keys else 3, dim=1)
        ]
        turned = parts[:-1]
        if self._config.rotary:
            by = rotation(place_M, self._config.head_width, dtype=token_MD.dtype)
            turned = [rotate(part, by) for part in turned]
        return turned[0][:, :0] if only_keys else turned[0], turned[-1], parts[-1]


def _parts_softmax(seen: list[tuple[Tensor, Tensor]], own: Tensor | None, value: Tensor) -> Tensor:
    """Softmax over several groups of keys and the candidate itself, without joining them in memory."""
    tops = [score.amax(-1, keepdim=True) for score, _ in seen if score.shape[-1]] + ([] if own is None else [own])
    if not tops:
        return torch.zeros_like(value)
    top = torch.stack(tops).amax(0).clamp_min(torch.finfo(value.dtype).min)
    total, gathered = torch.zeros_like(top), torch.zeros_like(value)
    for score, source in seen:
        weight = (score - top).exp()
        total = total + weight.sum(-1, keepdim=True)
        gathered = gathered + weight @ source
    if own is not None:
        weight = (own - top).exp()
        total, gathered = total + weight, gathered + weight * value
    return gathered / torch.where(total > 0, total, 1)


def _join(block: Block, token_MD: Tensor, gathered_HME: Tensor) -> Tensor:
    """The stream after a block whose attention gathered this; no dropout, whatever the network's mode."""
    rows_MD = gathered_HME.transpose(0, 1).reshape(token_MD.shape)
    token_MD = _gated(block.attention, token_MD, block.attention.branch.outward(rows_MD))
    return _gated(block.feed_forward, token_MD, block.feed_forward.branch(block.feed_forward.norm(token_MD)))


def _gated(half: Residual, token_MD: Tensor, change_MD: Tensor) -> Tensor:
    gate: nn.Linear | None = half.gate
    return token_MD + change_MD if gate is None else token_MD + change_MD * torch.sigmoid(gate(token_MD))
