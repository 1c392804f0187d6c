"""The live network held against the fluxes that became known last, and its inputs against those that it learned from.

Shapes: N hours, F = 3 + 4 L features, O = 2 L fluxes, I x J latitudes x longitudes.
"""

from typing import TYPE_CHECKING

import numpy as np

from models.climate.gravity_waves.certificate import HALF, SERVED
from models.climate.gravity_waves.judge import JudgementConfig, answers, yardstick
from models.climate.gravity_waves.metrics import blocks_of, ratio_interval
from models.climate.gravity_waves.networks import FluxNetwork
from models.common.certificate import Certificate, Claim
from models.common.contracts import InputError, Payload
from models.common.judgement import Figure, Judgement, Series

if TYPE_CHECKING:
    from models.climate.gravity_waves.config import ReadingConfig

LATEST = 96
"""Hours that are predicted again at most: the last ones."""

DRIFT = 4.0
"""Deviations by which the mean of a feature may lie off that of the hours of training."""


def watch(data: Payload, network: FluxNetwork, reading: "ReadingConfig", settings: JudgementConfig) -> Judgement:
    """Predict the latest hours that were not learned from, and compare with what is known of them.

    Args:
        data: the dataset behind the live network, and as `latest` the newest of that name, if it is another.
        network: the live one.
        reading: what of the data is read.
        settings: the limits of the certificate.

    Returns:
        The judgement; the headline is 1 - error / error of saying the mean of training.

    Raises:
        InputError: the data have no fluxes, no hour that was not learned from, or another lattice.
    """
    fields = reading.fields(data.get("latest", data))
    if not network.knows(fields.shape):
        raise InputError(
            f"{fields.place} is on a lattice of {fields.shape}, the network learned from one of {network.lattice}; "
            "train on the new one."
        )
    months = fields.time.astype("datetime64[M]")
    known = {month: reading.split.part_of(str(month)) in ("train", "validation") for month in np.unique(months)}
    rows = np.flatnonzero([not known[month] for month in months])[-LATEST:]
    if not len(rows):
        raise InputError(f"{fields.place} has no hour outside the months of training and validation; prepare some.")
    ask, measure = answers(network), yardstick(network, fields)
    usual_F, deviation_F = (one.double().cpu().numpy() for one in (network.feature_mean, network.feature_deviation))
    error, plain, moved = np.empty(len(rows)), np.empty(len(rows)), np.zeros(fields.features)
    odd, alone = 0, 0.0
    for first in range(0, len(rows), 4):
        chosen = rows[first : first + 4]
        features, truth = fields.read(chosen)
        if truth is None:
            raise InputError(f"{fields.place} has no uw and vw to compare with; watch a network on data with fluxes.")
        told = ask(features)
        odd += int((~np.isfinite(told)).sum())
        away = np.abs(ask(features[:1]) - told[:1]) / measure.deviation[:, None, None]
        alone = max(alone, float(away.max()))
        error[first : first + 4] = measure.squared_errors(truth, told)
        plain[first : first + 4] = measure.squared_errors(
            truth, np.broadcast_to(measure.mean[:, None, None], truth.shape)
        )
        moved += np.einsum("nfij,ij->f", features.astype(np.float64), fields.area)
    moved = np.abs(moved / len(rows) - usual_F) / deviation_F
    moved[:3] = 0.0  # where the lattice lies does not drift
    block, blocks = blocks_of(fields.time[rows])
    ratio = ratio_interval(error, plain, block, confidence=settings.confidence)
    worst = int(np.argmax(moved))
    claims = (
        Claim(
            name="values_not_finite",
            kind="exact",
            value=odd,
            limit=0,
            detail=f"fluxes of {len(rows)} hours; look for overflow in the network.",
        ),
        Claim(
            name="difference_alone",
            kind="bounded",
            value=alone,
            limit=SERVED if network.config.precision == "float32" else HALF,
            detail="deviations between the answer to an hour alone and in company.",
        ),
        Claim(
            name="mse_over_mean",
            kind="statistical",
            value=float(ratio.value),
            limit=settings.mean,
            detail=f"squared error over that of saying the mean of training, {ratio.low:.3f} to {ratio.high:.3f} over "
            f"{ratio.blocks} {blocks}, {len(rows)} hours to {fields.time[rows[-1]]}; train on newer months.",
        ),
        Claim(
            name="drift_of_inputs",
            kind="statistical",
            value=float(moved[worst]),
            limit=DRIFT,
            detail=f"deviations of the mean of feature {worst} of {fields.features} off that of the hours of training; "
            "look at the units and levels of the latest data.",
        ),
    )
    times = tuple(str(one.astype("datetime64[h]")) for one in fields.time[rows])
    return Judgement(
        headline="skill_over_mean",
        metrics={
            "skill_over_mean": 1 - ratio.value,
            "skill_over_mean_low": 1 - ratio.high,
            "skill_over_mean_high": 1 - ratio.low,
            "mse": float(error.mean()),
            "drift_of_inputs": float(moved[worst]),
            "hours": float(len(rows)),
        },
        certificate=Certificate(claims=claims),
        figures=(
            Figure(
                name="latest_hours",
                title=f"Over the latest hours the error is {ratio.value:.2f} of that of the mean",
                x_label="hour, UTC",
                y_label="squared error, standardised",
                series=(
                    Series(label="live network", x=times, y=tuple(error.tolist())),
                    Series(label="mean of training", x=times, y=tuple(plain.tolist())),
                ),
                caption=f"{len(rows)} hours, weighted by area",
            ),
        ),
        protocol=f"The last {len(rows)} hours outside the months of training and validation, asked anew.",
    )
