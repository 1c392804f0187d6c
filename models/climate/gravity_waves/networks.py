"""Networks that say the waves' fluxes of momentum from the resolved atmosphere: column, stencil, Attention U-Net.

A network takes features in physical units, all 3 + 4 L of them, picks its own, standardises them, and says standardised
fluxes:

    z = (x - mean) / deviation,     flux = mean + deviation * body(z)

Features, in the published order: latitude and longitude (degrees), height of the ground (m), then u, v (m/s), potential
temperature (K) and vertical motion (Pa/s), each on L levels, top first. Fluxes: uw, then vw (Pa), each on L levels.

What a body sees beyond the edge of the lattice is its `padding`. On `sphere` the lattice goes on: around in longitude,
and across a pole, where the row beyond is the row before, half a circle away. East and north are reversed there, so the
body's input has u and v with the other sign in such rows. Further in, channels have no direction that we know, and
cross the pole as they are.

Shapes: N hours, F = 3 + 4 L features, L levels, O = 2 L fluxes, C channels, I x J latitudes (south first) and
longitudes.

Source: github.com/amangupta2/nonlocal_gwfluxes (MIT): ann_cnn_training/model_definition.py at 436d4df, "columns", and
attention_unet/model_attention_unet.py at 4b68e09, "unet", with lines in brackets. "Oktay": Oktay et al. 2018, arXiv
1804.03999. What is said to be ours is not theirs.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.common.configuration import check, setting

Kind = Literal["column", "stencil", "unet"]
Padding = Literal["zeros", "circular", "sphere"]

SLOPE = 0.01
"""Of LeakyReLU below zero; torch's default, which the published networks use."""

STENCILS = {"3x3": 1, "5x5": 2}
"""How many cells to each side a stencil sees: so many 3x3 convolutions it is made of."""


class Scales(Protocol):
    """Statistics of the hours of training, float64; what is constant has a deviation of 0."""

    @property
    def feature_mean(self) -> NDArray[np.float64]:
        """(F) in the features' units."""

    @property
    def feature_deviation(self) -> NDArray[np.float64]:
        """(F)."""

    @property
    def flux_mean(self) -> NDArray[np.float64]:
        """(O) Pa."""

    @property
    def flux_deviation(self) -> NDArray[np.float64]:
        """(O) Pa."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Which network, what it is told, and its sizes."""

    kind: Kind = setting(
        "unet",
        "Kind",
        "column: each column of the atmosphere alone; stencil: it and its neighbours; unet: Attention U-Net over the "
        "whole lattice.",
    )
    padding: Padding = setting(
        "sphere",
        "Padding",
        "What is beyond the edge of the lattice. sphere: the lattice itself, around in longitude and across the poles; "
        "circular: around in longitude, zeros beyond the poles; zeros: zeros everywhere, as published.",
    )
    latitude: bool = setting(True, "Latitude", "Whether the network is told the latitude.")
    longitude: bool = setting(
        False, "Longitude", "Whether it is told the longitude, as published for columns; then nothing can be rolled."
    )
    ground: bool = setting(True, "Ground", "Whether it is told the height of the ground.")
    theta: bool = setting(True, "Potential temperature", "Whether it is told the potential temperature of all levels.")
    omega: bool = setting(False, "Vertical motion", "Whether it is told the vertical motion on all levels.")
    hidden: int = setting(
        0,
        "Hidden width",
        "Numbers in a hidden layer of column and stencil, 0 to 16384; 0: four times the inputs, as published.",
        ge=0,
        le=16384,
    )
    layers: int = setting(
        5, "Hidden layers", "Of column and stencil, before the one of two numbers for a flux, 1 to 16.", ge=1, le=16
    )
    stencil: Literal["3x3", "5x5"] = setting("3x3", "Stencil", "Cells that a stencil sees around and with its own.")
    width: int = setting(
        16, "Width", "Channels of the U-Net's first block, twice as many after each pooling, 2 to 1024.", ge=2, le=1024
    )
    depth: int = setting(
        3, "Depth", "Poolings of the U-Net, each by two, 1 to 8; rolls by 2 to this power roll its fluxes.", ge=1, le=8
    )
    gates: bool = setting(
        True, "Gates", "Whether what crosses the U-Net is weighed by attention; without it the U-Net is plain."
    )
    stem: int = setting(
        0,
        "Stem",
        "Width of two 1x1 layers before the U-Net, in which it sees a column as a column network does; what they find "
        "also goes around the U-Net to its end; 0 to 16384; 0: none, as published.",
        ge=0,
        le=16384,
    )
    dropout: float = setting(0.0, "Dropout", "Share of numbers dropped in training, 0 to below 1.", ge=0, lt=1)
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", "Precision", "Of products in the body; weights, statistics and fluxes are float32 in any case."
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def multiple(self) -> int:
        """Rolling the features by a multiple of so many columns rolls the fluxes, if the padding goes around."""
        return 2**self.depth if self.kind == "unet" else 1

    def channels(self, levels: int) -> list[int]:
        """Which of the 3 + 4 L features the network is told."""
        place = [number for number, told in enumerate((self.latitude, self.longitude, self.ground)) if told]
        above = [number for number, told in enumerate((True, True, self.theta, self.omega)) if told]
        return place + [3 + field * levels + level for field in above for level in range(levels)]


def published(kind: Kind, *, stencil: Literal["3x3", "5x5"] = "3x3") -> NetworkConfig:
    """The published networks: u, v and potential temperature; 122 levels, or the 60 of the stratosphere.

    Args:
        kind: which.
        stencil: of the stencil network.

    Returns:
        With 122 levels 369 inputs of column and stencil, 366 of the U-Net, which is not told the place.

    Source:
        ann_cnn_training/training.py at 407cc1d [62, 120: dropout and hidden width]; attention_unet/
        training_attention_unet.py at 436d4df [57: no dropout]. Features: "uvtheta" of both data loaders.
    """
    if kind == "unet":
        return NetworkConfig(
            kind="unet", padding="zeros", latitude=False, ground=False, width=64, depth=4, dropout=0.0
        )  # fmt: skip
    return NetworkConfig(kind=kind, padding="zeros", longitude=True, stencil=stencil, dropout=0.1)


class _Surround(torch.autograd.Function):
    """A copy of a lattice with rows and columns around it that are copies of others; see `surround`."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor, cells: int, across: bool) -> Tensor:
        ctx.cells, ctx.across = cells, across
        *most, rows, columns = inner.shape
        last = not inner.is_contiguous() and inner.is_contiguous(memory_format=torch.channels_last)
        outer = torch.empty(
            (*most, rows + 2 * cells, columns + 2 * cells),
            dtype=inner.dtype,
            device=inner.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )
        middle = slice(cells, -cells)
        outer[..., middle, middle] = inner
        for edge in (slice(None, cells), slice(-cells, None)):
            outer[..., edge, middle] = inner[..., edge, :].flip(-2).roll(columns // 2, -1) if across else 0
        outer[..., :cells] = outer[..., columns : columns + cells]
        outer[..., -cells:] = outer[..., cells : 2 * cells]
        return outer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        cells, (gradient,) = ctx.cells, gradients
        middle = slice(cells, -cells)
        around = gradient[..., middle].clone()
        around[..., -cells:] += gradient[..., :cells]
        around[..., :cells] += gradient[..., -cells:]
        inner = around[..., middle, :]
        if ctx.across:
            for edge in (slice(None, cells), slice(-cells, None)):
                inner[..., edge, :] += around[..., edge, :].roll(-(around.shape[-1] // 2), -1).flip(-2)
        return inner, None, None


def surround(field: Tensor, cells: int, padding: Padding) -> Tensor:
    """A field with what lies beyond its edges.

    Args:
        field: (N, C, I, J); J even for `sphere`.
        cells: how many to each side, at most I and J.
        padding: see `NetworkConfig.padding`.

    Returns:
        (N, C, I + 2 cells, J + 2 cells). On the sphere, rows beyond a pole are those before it in reverse order, half a
        circle away: with latitudes that lie evenly about the pole, as Gaussian ones, they are where they should be.

    Source:
        Ours; published are zeros.
    """
    if padding == "zeros":
        return functional.pad(field, (cells,) * 4)
    out: Tensor = _Surround.apply(field, cells, padding == "sphere")  # type: ignore[no-untyped-call]
    return out


class Around(nn.Conv2d):
    """A 3x3 convolution whose result has the lattice of its input."""

    def __init__(self, inputs: int, outputs: int, padding: Padding) -> None:
        super().__init__(inputs, outputs, 3, padding=1 if padding == "zeros" else 0)
        self._beyond: Padding = padding

    def forward(self, field: Tensor) -> Tensor:
        """(N, C, I, J)."""
        out: Tensor = super().forward(field if self._beyond == "zeros" else surround(field, 1, self._beyond))
        return out


class Column(nn.Module):
    """Layers over the channels of each column alone.

    Hidden layers, then one of two numbers for a flux, each with LeakyReLU and dropout, of half the share after the
    first; then the fluxes.

    Args:
        inputs, outputs: numbers of channels.
        hidden: width.
        layers: how many of it.
        dropout: share.

    Source:
        columns [44-70, 85-91], layer1 to output. Batch norms that are made there and never called are not here. Ours:
        1x1 convolutions over the lattice in place of matrices over a list of columns: the same sums, without turning
        fields around.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * layers, 2 * outputs]
        self.layers = nn.ModuleList(nn.Conv2d(one, other, 1) for one, other in pairwise(widths))
        self.last = nn.Conv2d(2 * outputs, outputs, 1)
        self.dropouts = nn.ModuleList(nn.Dropout(dropout if number else dropout / 2) for number in range(layers + 1))

    def forward(self, field: Tensor) -> Tensor:
        """Standardised fluxes (N, O, I, J) of (N, C, I, J)."""
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            field = dropout(functional.leaky_relu(layer(field), SLOPE, inplace=True))
        out: Tensor = self.last(field)
        return out


class Stencil(nn.Module):
    """One or two 3x3 convolutions without padding, each with ReLU and dropout of half the share, then a `Column`.

    Args:
        inputs, outputs: numbers of channels.
        reach: how many convolutions.
        hidden, layers, dropout: as in `Column`.

    Source:
        columns [24-36, 74-78], conv1 and conv2. Theirs is given the stencil of each cell by itself; over a surrounded
        lattice the same sums give all cells at once. What their stencils hold at the edges was not found.
    """

    def __init__(self, inputs: int, outputs: int, reach: int, *, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.around = nn.ModuleList(nn.Conv2d(inputs, inputs, 3) for _ in range(reach))
        self.dropout = nn.Dropout(dropout / 2)
        self.column = Column(inputs, outputs, hidden=hidden, layers=layers, dropout=dropout)

    def forward(self, field: Tensor) -> Tensor:
        """Standardised fluxes (N, O, I, J) of (N, C, I + 2 reach, J + 2 reach)."""
        for convolution in self.around:
            field = self.dropout(functional.relu_(convolution(field)))
        out: Tensor = self.column(field)
        return out


class Twice(nn.Sequential):
    """Twice: a 3x3 convolution, batch norm and ReLU.

    Args:
        inputs, outputs: channels.
        padding: beyond the edges.
        given: whether the input has one cell around it already, which the first convolution takes up.

    Source:
        unet [10-25], `Conv_block`.
    """

    def __init__(self, inputs: int, outputs: int, padding: Padding, *, given: bool = False) -> None:
        first = nn.Conv2d(inputs, outputs, 3) if given else Around(inputs, outputs, padding)
        second = Around(outputs, outputs, padding)
        super().__init__(
            first, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
            second, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


class Rise(nn.Sequential):
    """Each cell becomes four, then a 3x3 convolution to half the channels, batch norm and ReLU.

    Source:
        unet [28-41], `Upsample`, nearest neighbours.
    """

    def __init__(self, inputs: int, padding: Padding) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2),
            Around(inputs, inputs // 2, padding),
            nn.BatchNorm2d(inputs // 2),
            nn.ReLU(inplace=True),
        )


class Gate(nn.Module):
    """What crosses the U-Net, weighed by a number between 0 and 1 for each cell.

        alpha = sigmoid(norm(psi * relu(norm(W_x * x) + norm(W_g * g)))),     x alpha

    with 3x3 convolutions, from C to C / 2 channels and to one.

    Args:
        channels: C, of what crosses (x) and of what comes from below (g).
        padding: beyond the edges.

    Source:
        unet [44-71], `Attention_block`; Oktay, equations 1 and 2, with 3x3 convolutions for 1x1, batch norms, and g
        already on the lattice of x.
    """

    def __init__(self, channels: int, padding: Padding) -> None:
        super().__init__()
        inner = channels // 2
        self.crossing = nn.Sequential(Around(channels, inner, padding), nn.BatchNorm2d(inner))
        self.rising = nn.Sequential(Around(channels, inner, padding), nn.BatchNorm2d(inner))
        self.weight = nn.Sequential(Around(inner, 1, padding), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, crossing: Tensor, rising: Tensor) -> Tensor:
        """(N, C, I, J)."""
        out: Tensor = crossing * self.weight(functional.relu_(self.crossing(crossing) + self.rising(rising)))
        return out


class UNet(nn.Module):
    """Attention U-Net: blocks and poolings down, blocks up again, each with what its level had on the way down.

    What crosses is taken before dropout, which falls on the way down alone. With a stem, what its two 1x1 layers find
    in each column is given to the first block, and once more beside what has come up, to a 1x1 layer before the fluxes:
    a column network is then a part of it.

    Args:
        inputs, outputs: numbers of channels.
        config: width, depth, gates, stem, dropout, padding.

    Source:
        unet [74-153], `Attention_UNet`, width 64 and depth 4; the copy in columns drops out what crosses too. Ours: the
        stem, and padding other than zeros.
    """

    def __init__(self, inputs: int, outputs: int, config: NetworkConfig) -> None:
        super().__init__()
        padding, stem = config.padding, config.stem
        widths = [config.width << level for level in range(config.depth + 1)]
        self.stem = nn.ModuleList([nn.Conv2d(inputs, stem, 1), nn.Conv2d(stem, stem, 1)] if stem else [])
        self.down = nn.ModuleList([
            Twice(stem or inputs, widths[0], padding, given=True),
            *(Twice(above, below, padding) for above, below in pairwise(widths)),
        ])  # fmt: skip
        self.rise = nn.ModuleList(Rise(2 * width, padding) for width in widths[:-1])
        self.gate = nn.ModuleList(Gate(width, padding) for width in widths[:-1] if config.gates)
        self.up = nn.ModuleList(Twice(2 * width, width, padding) for width in widths[:-1])
        self.together = nn.ModuleList([nn.Conv2d(widths[0] + stem, stem, 1)] if stem else [])
        self.last = nn.Conv2d(stem or widths[0], outputs, 1)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, field: Tensor) -> Tensor:
        """Standardised fluxes (N, O, I, J) of (N, C, I + 2, J + 2)."""
        for layer in self.stem:
            field = functional.leaky_relu(layer(field), SLOPE, inplace=True)
        column = field[..., 1:-1, 1:-1]
        crossing = []
        for level, block in enumerate(self.down):
            field = block(functional.max_pool2d(field, 2) if level else field)
            crossing.append(field)
            field = self.dropout(field)
        for level in reversed(range(len(self.up))):
            field = self.rise[level](field)
            beside = self.gate[level](crossing[level], field) if self.gate else crossing[level]
            field = self.up[level](torch.cat((field, beside), 1))
        for layer in self.together:
            field = functional.leaky_relu(layer(torch.cat((field, column), 1)), SLOPE, inplace=True)
        out: Tensor = self.last(field)
        return out


class FluxNetwork(nn.Module):
    """A network with the statistics of the data that it was trained on.

    Args:
        levels: L.
        config: which network.

    Attributes:
        lattice: (I, J) of the hours that it learned from; None: not known.

    A fresh network has means of 0 and deviations of 1; `begin` tells it those of its data. They are kept with the
    weights.
    """

    feature_mean: Tensor
    feature_deviation: Tensor
    flux_mean: Tensor
    flux_deviation: Tensor
    _told: Tensor

    def __init__(self, levels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.levels, self.config = levels, config
        self.lattice: tuple[int, int] | None = None
        told = config.channels(levels)
        inputs, outputs = len(told), 2 * levels
        self.register_buffer("_told", torch.tensor(told), persistent=False)
        for name, size in (("feature", 3 + 4 * levels), ("flux", outputs)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_deviation", torch.ones(size))
        self.reach = {"column": 0, "stencil": STENCILS[config.stencil], "unet": 1}[config.kind]
        hidden = config.hidden or 4 * inputs
        self.body: nn.Module
        if config.kind == "unet":
            self.body = UNet(inputs, outputs, config)
        elif config.kind == "stencil":
            self.body = Stencil(
                inputs, outputs, self.reach, hidden=hidden, layers=config.layers, dropout=config.dropout
            )  # fmt: skip
        else:
            self.body = Column(inputs, outputs, hidden=hidden, layers=config.layers, dropout=config.dropout)

    def begin(self, statistics: Scales) -> None:
        """Take up the statistics of the training hours.

        Raises:
            ValueError: they are of other numbers of levels, or not finite.
        """
        for name in ("feature_mean", "feature_deviation", "flux_mean", "flux_deviation"):
            buffer, given = getattr(self, name), np.asarray(getattr(statistics, name), np.float64)
            if given.shape != tuple(buffer.shape):
                raise ValueError(
                    f"{name} has shape {given.shape}, a network of {self.levels} levels wants {tuple(buffer.shape)}; "
                    "take statistics and network of the same levels."
                )
            if not np.isfinite(given).all():
                raise ValueError(f"{name} is not finite at {np.flatnonzero(~np.isfinite(given))[:3].tolist()}.")
            if name.endswith("deviation"):
                if (given < 0).any():
                    raise ValueError(f"{name} is below 0, at {np.flatnonzero(given < 0)[:3].tolist()}.")
                # what is constant stays 0 after its mean is taken off
                given = np.where(given > 0, given, 1.0)
            buffer.copy_(torch.from_numpy(given))

    def forward(self, features: Tensor) -> Tensor:
        """Standardised fluxes.

        Args:
            features: (N, F, I, J) in physical units. I must be a multiple of the U-Net's 2^depth and J of twice that;
                J even on a sphere.

        Returns:
            (N, O, I, J), float32, or float64 of a network in float64.

        Raises:
            ValueError: features are of another number of channels, or their lattice does not fit.
        """
        self._check(features)
        field = (features[:, self._told] - _along(self.feature_mean[self._told])) / _along(
            self.feature_deviation[self._told]
        )
        if self.reach:
            field = surround(field, self.reach, self.config.padding)
            if self.config.padding == "sphere":
                field = self._reversed_beyond_poles(field)
        with self._precision(field):
            fluxes: Tensor = self.body(field)
        return fluxes.to(self.flux_mean.dtype)

    def fluxes(self, features: Tensor) -> Tensor:
        """Fluxes (N, O, I, J), Pa, of features as in `forward`."""
        out: Tensor = _along(self.flux_mean) + _along(self.flux_deviation) * self(features)
        return out

    def knows(self, lattice: tuple[int, int]) -> bool:
        """Whether cells of a lattice lie as far apart as those that it learned from; a column does not ask."""
        return self.reach == 0 or self.lattice in (None, lattice)

    def standardised(self, fluxes: Tensor) -> Tensor:
        """What `forward` should say where fluxes (N, O, I, J), Pa, are the truth."""
        return (fluxes - _along(self.flux_mean)) / _along(self.flux_deviation)

    def _reversed_beyond_poles(self, field: Tensor) -> Tensor:
        """Let the winds of rows beyond the poles point as they do from here: what was u is -u, and v likewise.

        Of a standardised wind z, -z - 2 mean / deviation.
        """
        told = self._told
        wind = (told >= 3) & (told < 3 + 2 * self.levels)
        factor = field.new_ones(len(told), field.shape[2], 1)
        shift = torch.zeros_like(factor)
        beyond = -2 * self.feature_mean[told] / self.feature_deviation[told] * wind
        for edge in (slice(None, self.reach), slice(-self.reach, None)):
            factor[:, edge] = torch.where(wind, -1.0, 1.0).to(field.dtype)[:, None, None]
            shift[:, edge] = beyond[:, None, None]
        return torch.addcmul(shift, field, factor)

    def _precision(self, field: Tensor) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(field.device.type, dtype=torch.bfloat16)

    def _check(self, features: Tensor) -> None:
        """Refuse what does not fit, by name."""
        wanted = 3 + 4 * self.levels
        if features.ndim != 4 or features.shape[1] != wanted:
            raise ValueError(
                f"features have shape {tuple(features.shape)}, a network of {self.levels} levels wants (hours, "
                f"{wanted}, latitudes, longitudes): latitude, longitude, ground, and u, v, theta, omega on its levels; "
                "take data and network of the same levels."
            )
        rows, columns = features.shape[2:]
        down = self.config.multiple
        across = 2 * down if self.config.kind == "unet" or (self.reach and self.config.padding == "sphere") else 1
        if rows % down or columns % across or min(rows, columns) < self.reach:
            raise ValueError(
                f"the lattice has {rows} latitudes and {columns} longitudes, this {self.config.kind} wants multiples "
                f"of {down} and {across}; lower NetworkConfig.depth, or take another lattice."
            )


def of_fluxes(network: nn.Module | None) -> FluxNetwork:
    """The same network, known to be one of fluxes.

    Raises:
        TypeError: it is another one.
    """
    if not isinstance(network, FluxNetwork):
        raise TypeError(
            f"expected a network of fluxes, got {type(network).__name__}; train the configuration first, or name the "
            "product of one."
        )
    return network


def _along(channel: Tensor) -> Tensor:
    return channel[:, None, None]
