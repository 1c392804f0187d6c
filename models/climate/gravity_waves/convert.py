"""Weights of the published networks, taken into ours.

A published checkpoint is a `.pt` file of `torch.save`, a dictionary of

    epoch, model_state_dict, optimizer_state_dict, loss (a torch module), loss_train, loss_test (arrays), activation,
    scheduler (words)

Only `model_state_dict` is used. It names weights as below, for levels L, inputs F, hidden width H = 4 F and outputs
O = 2 L:

    column    layer1 (H, F), layer2 to layer5 (H, H), layer6 (2 O, H), output (O, 2 O), each with weight and bias;
              bnorm5 (H) and bnorm6 (2 O), never called
    stencil   the same, and conv1 (F, F, 3, 3); of 5x5 also conv2
    unet      conv1 to conv5, up5 to up2, attn5 to attn2, upconv5 to upconv2, conv1x1; see `names`

Batch norms that are made and never called count among the published parameters, and are passed over here. The numbers
of the logs, 10.125 M and so on, are those of code before the stored one, with four more of them: bnorm1 to bnorm3 (H)
and bnorm4 (2 H). The stored code has these as comments [46-59]; together they give the logged numbers and sizes.

Published networks take standardised features: of latitude x / 90, of longitude x / 360 (ann_cnn_training/
function_training.py at 407cc1d [98-99] turns them back); the others by one mean and one deviation for each variable and
level, which are not with the code, nor is the scale of the ground. Give them to `FluxNetwork.begin`.

Source: files and commits as in `networks`; layout of checkpoints: `Training_ANN_CNN` [79-88] and
`Training_AttentionUNet` [68-77], both function_training.py at 407cc1d.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.climate.gravity_waves.networks import FluxNetwork, NetworkConfig

COLUMN_LAYERS = 5
"""Hidden layers of the published columns."""

UNET_DEPTH = 4
"""Poolings of the published U-Net."""

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

_READABLE = [
    torch.nn.modules.loss.MSELoss,
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray._reconstruct, "numpy._core.multiarray._reconstruct"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.int64)),
]
"""What a checkpoint has beside tensors and plain values: a loss without weights, losses and the epoch as numbers."""

_UNREADABLE = (
    torch.serialization.pickle.UnpicklingError,  # type: ignore[attr-defined]  # beside tensors there is something else
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    struct.error,
)
"""What torch's reader raises, depending on where a file is damaged."""


def names(config: NetworkConfig) -> dict[str, str]:
    """Published name of each tensor in the body, by ours.

    Args:
        config: of a network with the published layers: 5 of columns, or 4 poolings with gates and without a stem.

    Returns:
        Name in `FluxNetwork.body` to name in `model_state_dict`.

    Raises:
        ValueError: there is no published network with these layers.
    """
    if config.kind == "unet":
        if config.depth != UNET_DEPTH or not config.gates or config.stem:
            raise ValueError(
                f"the published U-Net has depth {UNET_DEPTH}, gates and no stem, got depth {config.depth}, "
                f"gates {config.gates} and stem {config.stem}; take networks.published('unet') and change its padding."
            )
        return _of_unet()
    if config.layers != COLUMN_LAYERS:
        raise ValueError(
            f"the published columns have {COLUMN_LAYERS} hidden layers, got {config.layers}; take "
            f"networks.published({config.kind!r})."
        )
    return _of_columns(config)


def _of_columns(config: NetworkConfig) -> dict[str, str]:
    inside = "column." if config.kind == "stencil" else ""
    pairs = {f"{inside}layers.{number}": f"layer{number + 1}" for number in range(COLUMN_LAYERS + 1)}
    pairs[f"{inside}last"] = "output"
    if config.kind == "stencil":
        pairs |= {f"around.{number}": f"conv{number + 1}" for number in range(1 if config.stencil == "3x3" else 2)}
    return {f"{ours}.{what}": f"{theirs}.{what}" for ours, theirs in pairs.items() for what in ("weight", "bias")}


def _of_unet() -> dict[str, str]:
    """`conv` down, from 1 at the top; `up`, `attn`, `upconv` from below, from 2 for what ends at the top."""
    convolutions, norms = {"last": "conv1x1"}, {}

    def twice(ours: str, theirs: str) -> None:
        for place in (0, 3):
            convolutions[f"{ours}.{place}"] = f"{theirs}.conv.{place}"
            norms[f"{ours}.{place + 1}"] = f"{theirs}.conv.{place + 1}"

    for level in range(UNET_DEPTH + 1):
        twice(f"down.{level}", f"conv{level + 1}")
    for level in range(UNET_DEPTH):
        convolutions[f"rise.{level}.1"] = f"up{level + 2}.up.1"
        norms[f"rise.{level}.2"] = f"up{level + 2}.up.2"
        for ours, theirs in (("crossing", "Wx"), ("rising", "Wg"), ("weight", "Psi")):
            convolutions[f"gate.{level}.{ours}.0"] = f"attn{level + 2}.{theirs}.0"
            norms[f"gate.{level}.{ours}.1"] = f"attn{level + 2}.{theirs}.1"
        twice(f"up.{level}", f"upconv{level + 2}")
    found = {f"{one}.{what}": f"{other}.{what}" for one, other in convolutions.items() for what in ("weight", "bias")}
    return found | {f"{one}.{what}": f"{other}.{what}" for one, other in norms.items() for what in _NORM}


def idle(network: FluxNetwork, *, logged: bool = False) -> dict[str, int]:
    """Batch norms that the published network of these sizes makes and never calls.

    Args:
        network: ours.
        logged: those of the code that wrote the logs; otherwise those of the stored code.

    Returns:
        Name to number of channels; of the U-Net none.
    """
    if network.config.kind == "unet":
        return {}
    hidden = network.config.hidden or 4 * len(network.config.channels(network.levels))
    before = {"bnorm1": hidden, "bnorm2": hidden, "bnorm3": hidden, "bnorm4": 2 * hidden} if logged else {}
    return {**before, "bnorm5": hidden, "bnorm6": 4 * network.levels}


def published_parameters(network: FluxNetwork) -> int:
    """Parameters as the published logs count them: ours, and two for each channel of an idle batch norm."""
    return sum(weight.numel() for weight in network.parameters()) + 2 * sum(idle(network, logged=True).values())


def published_megabytes(network: FluxNetwork) -> float:
    """Size as the published logs count it, MiB: parameters, and what batch norms keep."""
    kept = {key: value for key, value in network.body.state_dict().items() if key.endswith(_NORM[2:])}
    size: int = 4 * published_parameters(network) + sum(value.numel() * value.element_size() for value in kept.values())
    size += sum(8 * channels + 8 for channels in idle(network, logged=True).values())
    return float(size / 2**20)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a published checkpoint.

    Nothing in the file is run: it may have tensors, plain values, arrays and a loss without weights.

    Raises:
        ValueError: it is no such file, or has something else in it.
    """
    try:
        with torch.serialization.safe_globals(_READABLE):  # type: ignore[arg-type]
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        why = next(iter(str(error).splitlines()), "it ends too soon")
        raise ValueError(f"{path.name} is no checkpoint that can be read safely: {why}") from error
    weights = checkpoint.get("model_state_dict") if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping):
        held = sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise ValueError(f"{path.name} has no model_state_dict, but {held}; take a checkpoint as the authors save it.")
    if others := [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path.name} has {others[0]} in model_state_dict, which is no tensor.")
    return {str(name): value for name, value in weights.items()}


def take(network: FluxNetwork, weights: Mapping[str, Tensor]) -> None:
    """Give a network the weights of a published one; its statistics stay.

    Args:
        network: as published, but for its padding, dropout and precision.
        weights: by their published names, as `read_checkpoint` gives them.

    Raises:
        ValueError: a weight is missing, has another shape, is not finite, or is of no layer; nothing is changed then.
    """
    known, ours = names(network.config), network.body.state_dict()
    passed = {f"{norm}.{what}" for norm in idle(network, logged=True) for what in _NORM}
    if missing := [theirs for theirs in known.values() if theirs not in weights]:
        raise ValueError(f"the checkpoint lacks {missing[0]}{_more(missing)}, which a {_said(network)} has.")
    if strange := sorted(set(weights) - set(known.values()) - passed):
        raise ValueError(f"the checkpoint has {strange[0]}{_more(strange)}, which a {_said(network)} lacks.")
    taken = {}
    for name, theirs in known.items():
        value, wanted = weights[theirs], ours[name]
        # theirs are matrices over a list of columns, ours 1x1 convolutions
        given = value[..., None, None] if value.ndim == 2 else value
        if given.shape != wanted.shape:
            raise ValueError(
                f"{theirs} of the checkpoint has shape {tuple(value.shape)}, a {_said(network)} wants "
                f"{tuple(wanted.shape[: value.ndim])}; take the levels and features that it was trained on."
            )
        if not torch.isfinite(given).all():
            raise ValueError(f"{theirs} of the checkpoint is not finite; take one of another epoch.")
        taken[name] = given.to(wanted.dtype)
    network.body.load_state_dict(taken)


def given(network: FluxNetwork) -> dict[str, Tensor]:
    """A network's weights by their published names; idle batch norms as they are made."""
    ours = network.body.state_dict()
    weights = {}
    for name, theirs in names(network.config).items():
        matrix = network.config.kind != "unet" and not theirs.startswith("conv")
        weights[theirs] = ours[name].flatten(1) if matrix and ours[name].ndim == 4 else ours[name]
    for norm, channels in idle(network).items():
        fresh = torch.nn.BatchNorm1d(channels).state_dict()
        weights |= {f"{norm}.{what}": fresh[what] for what in _NORM}
    return weights


def _said(network: FluxNetwork) -> str:
    kind = network.config.stencil + " stencil" if network.config.kind == "stencil" else network.config.kind
    inputs = len(network.config.channels(network.levels))
    return f"{kind} of {network.levels} levels and {inputs} inputs"


def _more(missing: list[str]) -> str:
    return f" and {len(missing) - 1} more" if len(missing) > 1 else ""
