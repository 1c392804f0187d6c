"""The networks of fluxes written out in float64, straight from their weights, one hour at a time.

Nothing here is shared with the networks: sums are matrices times shifted copies of the lattice. A product's answers are
held against these.

Shapes: F = 3 + 4 L features, O = 2 L fluxes, C and D channels, I x J latitudes (south first) x longitudes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAK = 0.01
"""Slope of LeakyReLU below zero, torch's default."""

EPSILON = 1e-5
"""Added to a variance by batch norm, torch's default."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the weights alone do not say of a network.

    Attributes:
        kind: column, stencil or unet.
        padding: what lies beyond the edges of the lattice: zeros; circular, zeros beyond the poles alone; or sphere.
        told: which of the features it is told, in order.
        levels: L.
    """

    kind: Literal["column", "stencil", "unet"]
    padding: Literal["zeros", "circular", "sphere"]
    told: tuple[int, ...]
    levels: int


class Reference:
    """Fluxes from weights and features.

    Args:
        weights: by name.
        shape: what they do not say.

    Source:
        The published networks (model_definition.py and model_attention_unet.py of amangupta2/nonlocal_gwfluxes) and the
        formulae in `networks.py`, read again.
    """

    def __init__(self, weights: Mapping[str, Any], shape: Shape) -> None:
        self._w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        self._shape = shape

    def __call__(self, features_FIJ: NDArray[np.float32]) -> Floats:
        """Fluxes (O, I, J), Pa."""
        w, told = self._w, list(self._shape.told)
        x = np.asarray(features_FIJ[told], np.float64)
        mean, deviation = w["feature_mean"][told], w["feature_deviation"][told]

        def scaled(values: Floats) -> Floats:
            return np.asarray((values - mean[:, None, None]) / deviation[:, None, None])

        reach = {"column": 0, "stencil": self._count("body.around.{}.weight"), "unet": 1}[self._shape.kind]
        z = scaled(x)
        if reach:
            turned = x.copy()
            winds = [place for place, channel in enumerate(told) if 3 <= channel < 3 + 2 * self._shape.levels]
            turned[winds] *= -1  # across a pole, east is west and north is south
            z = self._beyond(z, scaled(turned), reach)
        out = self._unet(z) if self._shape.kind == "unet" else self._columns(z)
        return np.asarray(w["flux_mean"][:, None, None] + w["flux_deviation"][:, None, None] * out)

    # --- bodies

    def _columns(self, x: Floats) -> Floats:
        inner = "body.column" if self._shape.kind == "stencil" else "body"
        for number in range(self._count("body.around.{}.weight")):
            x = np.maximum(self._shifted(f"body.around.{number}", x), 0.0)
        for number in range(self._count(inner + ".layers.{}.weight")):
            x = self._leaky(self._each(f"{inner}.layers.{number}", x))
        return self._each(f"{inner}.last", x)

    def _unet(self, x: Floats) -> Floats:
        for number in range(self._count("body.stem.{}.weight")):
            x = self._leaky(self._each(f"body.stem.{number}", x))
        column = x[:, 1:-1, 1:-1]
        crossing = []
        for level in range(self._count("body.down.{}.0.weight")):
            if level:
                channels, rows, columns = x.shape
                x = x.reshape(channels, rows // 2, 2, columns // 2, 2).max((2, 4))
            x = self._twice(f"body.down.{level}", x, given=not level)
            crossing.append(x)
        for level in reversed(range(len(crossing) - 1)):
            x = x.repeat(2, 1).repeat(2, 2)
            x = np.maximum(self._normal(f"body.rise.{level}.2", self._around(f"body.rise.{level}.1", x)), 0.0)
            beside = crossing[level]
            if f"body.gate.{level}.weight.0.weight" in self._w:
                beside = beside * self._gate(f"body.gate.{level}", beside, x)
            x = self._twice(f"body.up.{level}", np.concatenate([x, beside]))
        for number in range(self._count("body.together.{}.weight")):
            x = self._leaky(self._each(f"body.together.{number}", np.concatenate([x, column])))
        return self._each("body.last", x)

    def _twice(self, name: str, x: Floats, *, given: bool = False) -> Floats:
        x = self._shifted(f"{name}.0", x) if given else self._around(f"{name}.0", x)
        x = np.maximum(self._normal(f"{name}.1", x), 0.0)
        return np.maximum(self._normal(f"{name}.4", self._around(f"{name}.3", x)), 0.0)

    def _gate(self, name: str, crossing: Floats, rising: Floats) -> Floats:
        """(1, I, J) between 0 and 1."""
        across, up = (
            self._normal(f"{name}.{side}.1", self._around(f"{name}.{side}.0", x))
            for side, x in (("crossing", crossing), ("rising", rising))
        )
        weight = self._normal(f"{name}.weight.1", self._around(f"{name}.weight.0", np.maximum(across + up, 0.0)))
        return np.asarray(1 / (1 + np.exp(-weight)))

    # --- layers

    def _count(self, pattern: str) -> int:
        """How many weights there are by a numbered name."""
        number = 0
        while pattern.format(number) in self._w:
            number += 1
        return number

    def _leaky(self, x: Floats) -> Floats:
        return np.where(x > 0, x, LEAK * x)

    def _each(self, name: str, x: Floats) -> Floats:
        """A matrix times the channels of every cell."""
        matrix = self._w[f"{name}.weight"][:, :, 0, 0]
        return np.asarray(np.tensordot(matrix, x, 1) + self._w[f"{name}.bias"][:, None, None])

    def _shifted(self, name: str, x: Floats) -> Floats:
        """(D, I, J) of (C, I + 2, J + 2): nine matrices, each for a neighbour."""
        weight = self._w[f"{name}.weight"]
        rows, columns = x.shape[1] - 2, x.shape[2] - 2
        out = np.zeros((len(weight), rows, columns))
        for i in range(3):
            for j in range(3):
                out += np.tensordot(weight[:, :, i, j], x[:, i : i + rows, j : j + columns], 1)
        return out + self._w[f"{name}.bias"][:, None, None]

    def _around(self, name: str, x: Floats) -> Floats:
        return self._shifted(name, self._beyond(x, x, 1))

    def _beyond(self, x: Floats, across: Floats, cells: int) -> Floats:
        """The lattice with what lies beyond its edges; `across` is what a row is when it is seen from over the pole."""
        if self._shape.padding == "zeros":
            return np.pad(x, ((0, 0), (cells, cells), (cells, cells)))
        half = x.shape[2] // 2
        if self._shape.padding == "sphere":
            south, north = across[:, :cells][:, ::-1], across[:, -cells:][:, ::-1]
            x = np.concatenate([np.roll(south, half, 2), x, np.roll(north, half, 2)], 1)
        else:
            x = np.pad(x, ((0, 0), (cells, cells), (0, 0)))
        return np.concatenate([x[:, :, -cells:], x, x[:, :, :cells]], 2)

    def _normal(self, name: str, x: Floats) -> Floats:
        """Batch norm with what was learned."""
        w = self._w
        factor = w[f"{name}.weight"] / np.sqrt(w[f"{name}.running_var"] + EPSILON)
        return np.asarray((x - w[f"{name}.running_mean"][:, None, None]) * factor[:, None, None]
                          + w[f"{name}.bias"][:, None, None])  # fmt: skip
