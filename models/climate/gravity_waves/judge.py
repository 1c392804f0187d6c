"""What a network of fluxes is worth on months that it never saw, beside a single column that learned as long.

Shapes: N hours of a batch, H hours that are judged, F features, O = 2 L fluxes, I x J latitudes x longitudes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.climate.gravity_waves import figures
from models.climate.gravity_waves.certificate import Candidate, Limits, Parts, Stored, Witness, certify
from models.climate.gravity_waves.fields import FluxFields
from models.climate.gravity_waves.metrics import (
    REGIONS,
    Agreement,
    Interval,
    RegionalSeries,
    Scores,
    Yardstick,
    blocks_of,
    ratio_interval,
)  # fmt: skip
from models.climate.gravity_waves.networks import FluxNetwork
from models.climate.gravity_waves.reference import Reference, Shape
from models.climate.gravity_waves.splits import PARTS, SplitConfig
from models.common.certificate import Certificate
from models.common.configuration import check, setting
from models.common.contracts import Payload
from models.common.errors import InputError
from models.common.judgement import Figure, Judgement

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

NAMES: Mapping[str, str] = {"column": "column", "stencil": "stencil", "unet": "U-Net"}
"""What a person calls a network, by its kind."""

AT_ONCE = 4
"""Hours of a batch: of 64 x 128 cells and 122 levels they take 64 MB in double precision, several times over."""


@dataclass(frozen=True, kw_only=True)
class JudgementConfig:
    """How a network of fluxes is judged, and what it must reach."""

    hours: int = setting(
        1000,
        "Hours",
        "How many hours of the test months are judged at most, 2 to 100000; of more, one in each of so many equal "
        "stretches, drawn at random.",
        ge=2,
        le=100_000,
    )
    confidence: float = setting(0.95, "Confidence", "Of intervals over months, 0.5 to 0.999.", ge=0.5, le=0.999)
    asked_again: int = setting(
        3, "Hours asked again", "How many hours the certificate reads and asks again, 1 to 1000.", ge=1, le=1000
    )
    statistics_hours: int = setting(
        256,
        "Hours of statistics",
        "Over how many hours of training, at most, the certificate counts the statistics again, 1 to 100000.",
        ge=1,
        le=100_000,
    )
    level: float = setting(
        100.0, "Level", "Pressure of the level that figures show, hPa, 0.01 to 1100; the nearest one.", ge=0.01, le=1100
    )
    seed: int = setting(0, "Seed", "Which hours are judged and asked again, 0 to 2147483647.", ge=0, le=2147483647)
    column: float = setting(
        0.99,
        "Most of the column's error",
        "Upper end of the interval of the squared error over that of the single column, above 0 to 10; 0.99: the "
        "network must be a hundredth better, beyond chance, so that a second column does not pass for more.",
        gt=0,
        le=10,
    )
    mean: float = setting(
        0.98,
        "Most of the mean's error",
        "Upper end of the interval of the squared error over that of saying the mean, above 0 to 10.",
        gt=0,
        le=10,
    )
    sign: float = setting(
        0.6,
        "Least share of signs",
        "Share of strong fluxes with the right sign, 0 to 1; chance has a half.",
        ge=0,
        le=1,
    )
    magnitude: float = setting(3.0, "Magnitude", "Factor within which mean magnitudes agree, 1 to 100.", ge=1, le=100)
    slope: float = setting(
        1.35, "Slope", "Factor within which the slope of the truth on the answers is 1; 1 to 100.", ge=1, le=100
    )
    change: float = setting(
        0.1, "Least correlation of change", "Of departures from each cell's own mean, -1 to 1.", ge=-1, le=1
    )
    drag: float = setting(
        0.1, "Least correlation of drag", "Of the force on whole columns of the atmosphere, -1 to 1.", ge=-1, le=1
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def limits(self) -> Limits:
        """What the certificate demands."""
        return Limits(
            column=self.column,
            mean=self.mean,
            sign=self.sign,
            magnitude=self.magnitude,
            slope=self.slope,
            change=self.change,
            drag=self.drag,
        )


def answers(network: FluxNetwork) -> Callable[[Singles], Singles]:
    """A network as a function of arrays: fluxes (N, O, I, J) in Pa of features (N, F, I, J), in evaluation mode."""
    device = next(network.parameters()).device

    def ask(features_NFIJ: Singles) -> Singles:
        was = network.training
        network.eval()
        with torch.inference_mode():
            found = network.fluxes(torch.from_numpy(features_NFIJ).to(device)).float().cpu().numpy()
        network.train(was)
        return np.asarray(found, np.float32)

    return ask


def yardstick(network: FluxNetwork, fields: FluxFields) -> Yardstick:
    """What a network is measured by: the lattice, and the statistics of its own training."""
    mean, deviation = (one.double().cpu().numpy() for one in (network.flux_mean, network.flux_deviation))
    return Yardstick(grid=fields.grid, pressure=fields.pressure, mean=mean, deviation=deviation)


def scores(network: FluxNetwork, fields: FluxFields, rows: Integers) -> dict[str, float]:
    """What a network is worth on some hours: how epochs are compared.

    Args:
        network: with the statistics of its training.
        fields: with fluxes.
        rows: which hours, at least one.

    Returns:
        `r2`, `mse`, `correlation` over all standardised fluxes, weighted by area.

    Source:
        Ours.
    """
    ask, measure, total = answers(network), yardstick(network, fields), None
    for chosen in _batches(rows):
        features, truth = _read(fields, chosen)
        now = measure.errors(truth, ask(features))
        total = now if total is None else total + now
    if total is None:
        raise ValueError("validation needs at least one hour, got none; name months that are there in SplitConfig.")
    return {"r2": total.pooled_r2, "mse": float(total.mse.mean()), "correlation": total.pooled_correlation}


def judge(
    product: Payload,
    data: Payload,
    network: FluxNetwork,
    column: FluxNetwork,
    *,
    fields: FluxFields,
    split: SplitConfig,
    settings: JudgementConfig,
    column_share: float,
) -> Judgement:
    """Judge a network on the test months, which are read here alone.

    Args:
        product: the model's parts.
        data: the dataset: its part `data` has the group that `fields` reads; `champion`, if there is one, what is live.
        network: with the product's weights.
        column: the single column of the same flow.
        fields: the data.
        split: which months are for what.
        settings: how, and what must be reached.
        column_share: steps that the column learned for, over those of the network.

    Returns:
        The judgement; the headline is 1 - error / error of the column.

    Raises:
        InputError: the data have no fluxes.
        ValueError: column or champion are of other levels or another lattice than the network.

    Source:
        Ours.
    """
    rows = chosen_hours(split.rows_of("test", fields.time), settings.hours, settings.seed)
    champion = data["champion"]["network"] if "champion" in data else None
    for name, other in (("column", column), ("champion", champion)):
        if other is not None and other.levels != network.levels:
            raise ValueError(
                f"the {name} has {other.levels} levels, the network {network.levels}; train both on the same dataset, "
                "or publish under another name."
            )
        if other is not None and not other.knows(fields.shape):
            raise ValueError(
                f"the {name} learned from a lattice of {other.lattice}, and is asked about one of {fields.shape}; "
                "train both on the same dataset, or publish under another name."
            )
    seen = _Seen.of(network, column, champion, fields, rows, settings)
    block, blocks = blocks_of(fields.time[rows])
    metrics = seen.metrics(block, settings.confidence)
    candidate = Candidate(
        weights=product["weights"],
        served=network.state_dict(),
        ask=answers(network),
        ask_column=answers(column),
        written_out=Reference(product["weights"], shape_of(network)),
        single=network.config.precision == "float32",
        column_single=column.config.precision == "float32",
        **{name: getattr(network, name).double().cpu().numpy() for name in _STATISTICS},
        multiple=network.config.multiple,
        rolls=network.config.padding != "zeros" or network.config.kind == "column",
        column_share=column_share,
        kept_from_column=len(set(network.config.channels(network.levels)) - set(column.config.channels(column.levels))),
    )
    metrics |= _rolled(candidate, fields, int(rows[0]))
    certificate = certify(
        stored=Stored(data["data"][fields.place], fields.levels),
        parts=_parts(split, fields),
        witness=seen.witness,
        candidate=candidate,
        blocks=block,
        confidence=settings.confidence,
        metrics=metrics,
        statistics_hours=settings.statistics_hours,
        limits=settings.limits,
    )
    return _judgement(network, fields, rows, blocks, seen, metrics, certificate, settings)


def shape_of(network: FluxNetwork) -> Shape:
    """What the reference must be told of a network beside its weights."""
    config = network.config
    return Shape(
        kind=config.kind,
        padding=config.padding,
        told=tuple(config.channels(network.levels)),
        levels=network.levels,
    )


_STATISTICS = ("feature_mean", "feature_deviation", "flux_mean", "flux_deviation")


def chosen_hours(rows: Integers, most: int, seed: int) -> Integers:
    """At most so many of some hours, one from each of equal stretches of them, so that none is always the same hour.

    Source:
        Ours: stratified sampling.
    """
    if len(rows) <= most:
        return rows
    edges = np.linspace(0, len(rows), most + 1)
    places = edges[:-1] + np.random.default_rng(seed).random(most) * np.diff(edges)
    return rows[np.unique(places.astype(np.int64))]


def _batches(rows: Integers) -> list[Integers]:
    return [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]


def _read(fields: FluxFields, rows: Integers) -> tuple[Singles, Singles]:
    features, fluxes = fields.read(rows)
    if fluxes is None:
        raise InputError(f"{fields.place} has no uw and vw to judge by; use a dataset with fluxes.")
    return features, fluxes


def _parts(split: SplitConfig, fields: FluxFields) -> Parts:
    training, validation, test = (fields.time[split.rows_of(part, fields.time)] for part in PARTS)
    return Parts(training=training, validation=validation, test=test)


@dataclass(kw_only=True, eq=False)
class _Seen:
    """One pass over the hours that are judged.

    Attributes:
        measure: what was measured by.
        network, column: their scores.
        error, error_column, error_mean: (H) squared errors, hour by hour.
        error_champion: (H), empty without a champion.
        witness: what the certificate saw.
    """

    measure: Yardstick
    network: Scores
    column: Scores
    error: Floats
    error_column: Floats
    error_mean: Floats
    error_champion: Floats
    witness: Witness

    @classmethod
    def of(
        cls,
        network: FluxNetwork,
        column: FluxNetwork,
        champion: FluxNetwork | None,
        fields: FluxFields,
        rows: Integers,
        settings: JudgementConfig,
    ) -> "_Seen":
        measure = yardstick(network, fields)
        again = np.random.default_rng(settings.seed + 1).choice(rows, min(settings.asked_again, len(rows)), False)
        witness = Witness(
            latitude=fields.latitude, mean=measure.mean, deviation=measure.deviation, keep=list(fields.time[again])
        )
        ask, ask_column = answers(network), answers(column)
        ask_champion = None if champion is None else answers(champion)
        totals: list[Scores] = []
        series: tuple[list[RegionalSeries], ...] = ([], [])
        errors: list[list[Floats]] = [[], [], [], []]
        for chosen in _batches(rows):
            features, truth = _read(fields, chosen)
            time, told, beside = fields.time[chosen], ask(features), ask_column(features)
            witness.see(time, truth, told, beside)
            now = [measure(time, truth, one) for one in (told, beside)]
            for piece, scored in zip(series, now, strict=True):
                piece.append(scored.regions)
            now = [replace(scored, regions=scored.regions.none) for scored in now]
            totals = [a + b for a, b in zip(totals, now, strict=True)] if totals else now
            others: list[Singles | Floats] = [told, beside, np.broadcast_to(measure.mean[:, None, None], truth.shape)]
            others += [ask_champion(features)] if ask_champion else []
            for kept, one in zip(errors, others, strict=False):
                kept.append(measure.squared_errors(truth, one))
        totals = [
            replace(one, regions=RegionalSeries.joined(pieces)) for one, pieces in zip(totals, series, strict=True)
        ]
        error, error_column, error_mean, error_champion = (np.concatenate([np.zeros(0), *one]) for one in errors)
        return cls(
            measure=measure,
            network=totals[0],
            column=totals[1],
            error=error,
            error_column=error_column,
            error_mean=error_mean,
            error_champion=error_champion,
            witness=witness,
        )

    def metrics(self, block: Integers, confidence: float) -> dict[str, float]:
        """Metrics, named alike in every run."""
        ours, theirs, levels = self.network, self.column, len(self.measure.pressure)
        ratio = ratio_interval(self.error, self.error_column, block, confidence=confidence)
        found = {
            "hours": float(ours.hours),
            "blocks": float(ratio.blocks),
            "skill_over_column": 1 - ratio.value,
            "skill_over_column_low": 1 - ratio.high,
            "skill_over_column_high": 1 - ratio.low,
            "mse_over_column": ratio.value,
            "mse_over_column_low": ratio.low,
            "mse_over_column_high": ratio.high,
            "mse_mean": float(self.error_mean.mean()),
            "skill_over_mean": 1 - float(self.error.sum() / self.error_mean.sum()),
            "slope": ours.agreement.slope,
            "sign_right": ours.size.sign_right,
            "magnitude_ratio": ours.size.magnitude_ratio(self.measure.scale),
        }
        for end, one in (("", ours), ("_column", theirs)):
            found |= _named(end, one, self.measure, levels)
        for name, half in (("uw", slice(0, levels)), ("vw", slice(levels, None))):
            found[f"mse_over_column_{name}"] = _over(ours.agreement.of(half), theirs.agreement.of(half))
        if len(self.error_champion):
            gain = ratio_interval(self.error_champion - self.error, self.error_column, block, confidence=confidence)
            found |= _gain(gain)
        return found


def _named(end: str, scores: Scores, measure: Yardstick, levels: int) -> dict[str, float]:
    """Metrics that network and column both have; the column's end in `_column`."""
    agreement = scores.agreement
    regions = {one.name: _known_mean(r_O) for one, r_O in zip(REGIONS, scores.regions.correlation.T, strict=True)}
    return {
        f"mse{end}": float(agreement.mse.mean()),
        f"mse_published{end}": float(agreement.published.mean()),
        f"mse_uw{end}": float(agreement.mse[:levels].mean()),
        f"mse_vw{end}": float(agreement.mse[levels:].mean()),
        f"correlation{end}": agreement.pooled_correlation,
        f"r2{end}": agreement.pooled_r2,
        f"hellinger{end}": float(scores.histogram.hellinger.mean()),
        f"short_wave_power{end}": scores.spectra.short_power_ratio(),
        f"change_correlation{end}": scores.change.correlation(measure.area),
        f"column_drag_correlation{end}": scores.drag.pooled_correlation,
        f"column_drag_bias_mpa{end}": float(scores.drag.bias[0] * 1e3),
        f"acceleration_correlation{end}": _known_mean(scores.speedup.correlation),
        **{f"correlation_{name}{end}": value for name, value in regions.items()},
    }


def _known_mean(values: Floats) -> float:
    """Mean of what is a number; NaN where nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _over(ours: Agreement, theirs: Agreement) -> float:
    return float(ours.mse.mean() / theirs.mse.mean())


def _gain(gain: Interval) -> dict[str, float]:
    return {
        "gain_over_champion": gain.value,
        "gain_over_champion_low": gain.low,
        "gain_over_champion_high": gain.high,
    }


def _rolled(candidate: Candidate, fields: FluxFields, row: int) -> dict[str, float]:
    """How far answers to a rolled hour are from the rolled answers, in deviations of a flux."""
    features = _read(fields, np.array([row]))[0]
    plain = candidate.ask(features)

    def gap(turn: int) -> float:
        turned = candidate.ask(np.roll(features, turn, -1))
        away = np.abs(np.roll(plain, turn, -1).astype(np.float64) - turned)
        return float((away / candidate.flux_deviation[:, None, None]).max())

    return {"roll_difference": gap(candidate.multiple), "roll_difference_by_one": gap(1)}


def _judgement(
    network: FluxNetwork,
    fields: FluxFields,
    rows: Integers,
    blocks: str,
    seen: _Seen,
    metrics: Mapping[str, float],
    certificate: Certificate,
    settings: JudgementConfig,
) -> Judgement:
    level = int(np.abs(np.log(fields.pressure / (100 * settings.level))).argmin())
    view = figures.View(
        name=NAMES[network.config.kind],
        measure=seen.measure,
        level=level,
        network=seen.network,
        column=seen.column,
    )
    months = len(np.unique(fields.time[rows].astype("datetime64[M]")))
    return Judgement(
        headline="skill_over_column",
        metrics={**metrics, "months": float(months)},
        certificate=certificate,
        table=_table(seen, fields.level),
        figures=(*figures.of_scores(view, metrics), *_maps(seen, fields, rows, view)),
        protocol=f"{len(rows)} hours of {months} months that neither training nor validation saw, read once. Errors "
        "are of fluxes standardised by the hours of training, weighted by area (`published`: all cells alike). "
        f"Intervals of {settings.confidence:.0%} leave out {blocks} one at a time (jackknife, Student's t). Hellinger "
        "distances are of histograms with fixed symmetric bins, logarithmic in units of each flux's root mean square "
        "in training.",
    )


def _maps(seen: _Seen, fields: FluxFields, rows: Integers, view: figures.View) -> tuple[Figure, ...]:
    """One hour, as typical as any: that whose error over the column's is the middle one; of those that were kept."""
    kept = sorted(seen.witness.kept)
    place = {time.astype("datetime64[s]").item(): at for at, time in enumerate(fields.time[rows])}
    ratio = {one: seen.error[place[one]] / seen.error_column[place[one]] for one in kept}
    middle = sorted(kept, key=lambda one: ratio[one])[len(kept) // 2]
    return figures.maps(view, np.datetime64(middle, "m"), *seen.witness.kept[middle])


def _table(seen: _Seen, level_L: Floats) -> tuple[Mapping[str, Any], ...]:
    """A row for every flux and level."""
    ours, theirs = seen.network, seen.column
    columns = {
        "mse": ours.agreement.mse,
        "mse_column": theirs.agreement.mse,
        "ratio": ours.agreement.mse / theirs.agreement.mse,
        "correlation": ours.agreement.correlation,
        "correlation_column": theirs.agreement.correlation,
        "r2": ours.agreement.r2,
        "hellinger": ours.histogram.hellinger,
        "hellinger_column": theirs.histogram.hellinger,
        "mse_published": ours.agreement.published,
    }
    return tuple(
        {
            "flux": ("uw", "vw")[channel // len(level_L)],
            "hPa": float(level_L[channel % len(level_L)]),
            **{name: float(values[channel]) for name, values in columns.items()},
        }
        for channel in range(2 * len(level_L))
    )
