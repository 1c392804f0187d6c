"""The blocks of `models.common.transformer` written out in float64, straight from weights: for certificates.

Nothing is shared with what they judge. Attention is a loop over heads, and who sees whom is a table that the caller
fills in token by token.
"""

# Shapes: M tokens, D width, E width of a head.

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Blocks:
    """A stack of blocks by the numbers in it.

    Args:
        weights: of the whole network, by name, float64.
        stack: the name under which the stack lies in the network.
        heads: heads of attention.
        rotary: whether positions turn queries and keys.

    Source:
        The formulae at the top of `models.common.transformer`, read again.
    """

    def __init__(self, weights: Mapping[str, Floats], stack: str, *, heads: int, rotary: bool) -> None:
        self._w, self._stack, self._heads, self._rotary = weights, stack, heads, rotary
        prefix = f"{stack}.blocks."
        self._layers = len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})

    def __call__(self, token_MD: Floats, sees_MM: NDArray[np.bool_], position_M: Integers) -> Floats:
        """Outputs (M, D) of tokens.

        Args:
            token_MD: inputs.
            sees_MM: which token (row) sees which (column); one that sees none takes nothing from attention.
            position_M: where each stands.
        """
        for layer in range(self._layers):
            name = f"{self._stack}.blocks.{layer}."
            change = self._attention(self._norm(token_MD, f"{name}attention.norm"), name, sees_MM, position_M)
            token_MD = token_MD + change * self._gate(token_MD, f"{name}attention.gate")
            inner = (
                self._norm(token_MD, f"{name}feed_forward.norm") @ self._w[f"{name}feed_forward.branch.inward.weight"].T
            )
            opening, passing = inner[:, : inner.shape[1] // 2], inner[:, inner.shape[1] // 2 :]
            change = (opening * sigmoid(opening) * passing) @ self._w[f"{name}feed_forward.branch.outward.weight"].T
            token_MD = token_MD + change * self._gate(token_MD, f"{name}feed_forward.gate")
        return self._norm(token_MD, f"{self._stack}.norm")

    def _attention(self, token_MD: Floats, name: str, sees_MM: NDArray[np.bool_], position_M: Integers) -> Floats:
        width = token_MD.shape[1]
        each = width // self._heads
        split = token_MD @ self._w[f"{name}attention.branch.inward.weight"].T
        gathered = np.zeros_like(token_MD)
        for head in range(self._heads):
            query, key, value = (split[:, at + head * each : at + (head + 1) * each] for at in (0, width, 2 * width))
            if self._rotary:
                query, key = _turned(query, position_M), _turned(key, position_M)
            score = np.where(sees_MM, query @ key.T / math.sqrt(each), -np.inf)
            top = score.max(1, keepdims=True, initial=-np.inf)
            weight = np.exp(score - np.where(np.isfinite(top), top, 0))
            total = weight.sum(1, keepdims=True)
            gathered[:, head * each : (head + 1) * each] = weight @ value / np.where(total > 0, total, 1)
        return np.asarray(gathered @ self._w[f"{name}attention.branch.outward.weight"].T)

    def _gate(self, token_MD: Floats, name: str) -> Floats | float:
        if f"{name}.weight" not in self._w:
            return 1.0
        return sigmoid(token_MD @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"])

    def _norm(self, token_MD: Floats, name: str) -> Floats:
        centred = token_MD - token_MD.mean(1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        return np.asarray(scaled * self._w[f"{name}.weight"] + self._w[f"{name}.bias"])


def _turned(vector_ME: Floats, position_M: Integers) -> Floats:
    """Number i and number i + E / 2 of the vector at position t, turned by t / 10000^(2 i / E)."""
    half = vector_ME.shape[1] // 2
    angle = position_M[:, None] * 10_000.0 ** (-np.arange(half) / half)
    first, second = vector_ME[:, :half], vector_ME[:, half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)], 1
    )


def sigmoid(value: NDArray[Any]) -> Floats:
    """1 / (1 + exp(-value)), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(value, np.float64))))
