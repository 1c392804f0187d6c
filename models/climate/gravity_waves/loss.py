"""The mean square of standardised fluxes over the sphere.

    L = sum_ij a_ij mean_no (predicted - truth)^2 / sum_ij a_ij

with the area a of each cell, so that the many small cells near the poles count no more than the ground they cover. One
is what the mean of all training hours scores where its variance is that of the sphere.

Shapes: as in `networks`.

Source: ours; published is `torch.nn.MSELoss`, every cell alike (ann_cnn_training/training.py [127] of
amangupta2/nonlocal_gwfluxes at 407cc1d).
"""

from torch import Tensor

from models.climate.gravity_waves.networks import FluxNetwork


def mean_square(error: Tensor, area: Tensor) -> Tensor:
    """Area-weighted mean square.

    Args:
        error: (N, O, I, J).
        area: (I, J), or (I, 1) where it is the same in a row; any unit.

    Returns:
        A scalar.

    Raises:
        ValueError: the area is of another lattice.
    """
    rows, columns = error.shape[-2:]
    if area.ndim != 2 or area.shape[0] != rows or area.shape[1] not in (1, columns):
        raise ValueError(
            f"area has shape {tuple(area.shape)}, errors are on {rows} latitudes and {columns} longitudes; take the "
            "areas of their lattice."
        )
    weight = area.to(error.dtype).expand(rows, columns)
    return (error.square().mean((0, 1)) * weight).sum() / weight.sum()


def flux_loss(network: FluxNetwork, features: Tensor, fluxes: Tensor, area: Tensor) -> Tensor:
    """The loss of a batch.

    Args:
        network: says standardised fluxes.
        features: (N, F, I, J), in physical units.
        fluxes: (N, O, I, J) the truth, Pa.
        area: as in `mean_square`.

    Returns:
        A scalar with gradient.
    """
    return mean_square(network(features) - network.standardised(fluxes), area)
