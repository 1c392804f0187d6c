"""Attention over a history and the candidates that are ranked against it: who sees whom, and with which rotation.

A sequence is a history, oldest event first, and after it the candidates. An event sees itself and the events before it,
never a candidate. A candidate sees the events before its session; itself, if it is a key; and, set-wise, the other
candidates of its session. So nothing about the history depends on the candidates: it can be computed once for all of
them (`models.common.amortised`).

Histories of a batch are flush left: events first, padding after. Causality alone then keeps padding out of sight, and
the history needs no mask.

Shapes: B sequences, L events (padded), N candidates (padded), T = L + N tokens, H heads, E width of a head, D = H E.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Rotation(NamedTuple):
    """Cosines and sines of the angles of some positions (..., T, E / 2)."""

    cos: Tensor
    sin: Tensor


def rotation(position_T: Tensor, width: int, *, base: float = 10_000.0, dtype: torch.dtype = torch.float32) -> Rotation:
    """Angles by which the pairs of numbers of a query or key are turned.

    Pair i of a vector at position t turns by t base^(-2 i / E), so that the product of a query and a key depends on the
    distance of their positions alone.

    Args:
        position_T: positions (..., T), whole numbers.
        width: width of a head, E; even.
        base: slowest wavelength, in events, over two pi.
        dtype: of the result; the angles themselves are computed in float64, for they grow with the position.

    Returns:
        Cosines and sines (..., T, E / 2).

    Source:
        Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", section 3.2.2.
    """
    pair = torch.arange(0, width, 2, dtype=torch.float64, device=position_T.device)
    angle = position_T.double().unsqueeze(-1) * base ** (-pair / width)
    return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))


def rotate(vector_TE: Tensor, by: Rotation) -> Tensor:
    """Turn vectors (..., T, E) by the angles of their positions; number i makes a pair with number i + E / 2."""
    first, second = vector_TE.chunk(2, dim=-1)
    return torch.cat((first * by.cos - second * by.sin, first * by.sin + second * by.cos), dim=-1)


def events_see(length: int, window: int = 0, *, device: torch.device | None = None) -> Tensor:
    """Which events (rows) see which events (columns): those up to themselves.

    Args:
        length: events, L.
        window: how many events an event sees at most, itself included; 0: all.
        device: of the result.

    Returns:
        Truth values (L, L).

    Source:
        The causal mask of Vaswani et al. 2017, section 3.1; with a window, Beltagy et al. 2020, "Longformer", 3.1.
    """
    place = torch.arange(length, device=device)
    distance = place[:, None] - place
    return (distance >= 0) & (distance < window) if window else distance >= 0


def candidates_see(
    length: int, seen_BN: Tensor, session_BN: Tensor | None = None, *, self_key: bool = True, window: int = 0
) -> Tensor:
    """Which tokens (columns: first the events, then the candidates) the candidates (rows) see.

    Args:
        length: events, L.
        seen_BN: how many events come before the candidate's session; it sees these and no later one.
        session_BN: sessions of the candidates; candidates of one session see one another. None: they do not.
        self_key: whether a candidate sees itself.
        window: how many events a candidate sees at most, the last ones; 0: all.

    Returns:
        Truth values (B, N, L + N).

    Source:
        LiGR, section 3.2, "in-session set-wise attention"; without sessions and with `self_key`, M-FALCON of Zhai et
        al. 2024 (section 3.4); without `self_key`, "append with cross-attention" of "Efficient user history modeling
        with amortized inference for deep learning recommendation models", 2024.
    """
    batch, candidates = seen_BN.shape
    event = torch.arange(length, device=seen_BN.device)
    events_BNL = event < seen_BN.unsqueeze(-1)
    if window:
        events_BNL &= event >= seen_BN.unsqueeze(-1) - window
    itself = torch.eye(candidates, dtype=torch.bool, device=seen_BN.device)
    others_BNN = itself if session_BN is None else session_BN.unsqueeze(-1) == session_BN.unsqueeze(-2)
    others_BNN = others_BNN | itself if self_key else others_BNN & ~itself
    return torch.cat((events_BNL, others_BNN.expand(batch, candidates, candidates)), dim=-1)


class Sight(NamedTuple):
    """What the tokens of a batch see and where they stand; the same for all layers."""

    length: int
    """Events of the padded history, L."""

    rotation: Rotation | None
    """Of all tokens, (B, 1, T, E / 2) or (1, 1, T, E / 2); None: positions do not matter."""

    events: Tensor | None
    """What events see, (L, L); None: all up to themselves."""

    candidates: Tensor
    """What candidates see, (B, N, T)."""


class Attention(nn.Module):
    """Softmax attention of several heads, of events and candidates, after `Sight`.

    A token that sees nothing gets zeros.

    Args:
        width: D.
        heads: H.

    Source:
        Vaswani et al. 2017, section 3.2, without biases.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.outward = nn.Linear(width, width, bias=False)

    def forward(self, token_BTD: Tensor, sight: Sight) -> Tensor:
        """What the tokens gather (B, T, D)."""
        batch, tokens, width = token_BTD.shape
        split_BTXHE = self.inward(token_BTD).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = split_BTXHE.permute(2, 0, 3, 1, 4)
        if sight.rotation is not None:
            query, key = rotate(query, sight.rotation), rotate(key, sight.rotation)
        gathered_BTD = attend(query, key, value, sight).transpose(1, 2).reshape(batch, tokens, width)
        out: Tensor = self.outward(gathered_BTD)
        return out


def attend(query_BHTE: Tensor, key_BHTE: Tensor, value_BHTE: Tensor, sight: Sight) -> Tensor:
    """Attention of events among themselves, and of candidates to events and candidates.

    The candidates have a call of their own, so that no mask is square in the history's length.

    Args:
        query_BHTE: queries, rotated.
        key_BHTE: keys, rotated.
        value_BHTE: values.
        sight: what is seen.

    Returns:
        (B, H, T, E); zero where nothing is seen.

    Source:
        Ours; the layout is that of M-FALCON.
    """
    length, tokens = sight.length, query_BHTE.shape[2]
    parts = []
    if length:
        query, key, value = (part[:, :, :length] for part in (query_BHTE, key_BHTE, value_BHTE))
        # is_causal counts from the top left, which is right only here, where there are as many queries as keys
        causal = sight.events is None
        parts.append(
            functional.scaled_dot_product_attention(query, key, value, attn_mask=sight.events, is_causal=causal)
        )
    if tokens > length:
        visible_BNT = sight.candidates
        any_BN1 = visible_BNT.any(-1, keepdim=True)
        # a softmax over nothing is not a number, nor is its gradient: who sees nothing looks anywhere, and forgets it
        mask_B1NT = (visible_BNT | ~any_BN1).unsqueeze(1)
        seen = functional.scaled_dot_product_attention(query_BHTE[:, :, length:], key_BHTE, value_BHTE, mask_B1NT)
        parts.append(seen * any_BN1.unsqueeze(1))
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]
