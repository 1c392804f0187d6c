"""What a person looks at: one hour as a map, histograms, spectra, regions, and the error by level.

Every title says what was found in these numbers. Fluxes are drawn in mPa.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

from models.climate.gravity_waves.metrics import BANDS, EDGES, REGIONS, RegionalSeries, Scores, Yardstick
from models.common.judgement import Field, Figure, Series

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

MILLI = 1e3
MARKED = 16
"""Up to how many levels points are marked on a line."""

STRONG = 2
"""From how many root mean squares on a flux is called strong."""

STEPS = 400
"""Points of a regional series at most; of more hours, means of neighbours are drawn."""

FINEST, WIDEST = 0.1, 12.0
"""Between which magnitudes, in root mean squares, histograms are drawn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What figures are drawn from.

    Attributes:
        name: what a person calls the network.
        measure: lattice, levels and scales.
        level: number of the level that is shown, 0 at the top.
        network, column: scores of both.
    """

    name: str
    measure: Yardstick
    level: int
    network: Scores
    column: Scores

    @property
    def where(self) -> str:
        """The level in words."""
        return f"{self.measure.pressure[self.level] / 100:.3g} hPa"


def of_scores(view: View, metrics: Mapping[str, float]) -> tuple[Figure, ...]:
    """Figures of all hours together.

    Args:
        view: scores of network and column.
        metrics: as reported.

    Source:
        Ours; what is drawn is what the issue of non-local fluxes turns on: scales, extremes, places, heights.
    """
    return (by_level(view, metrics), histogram(view), spectrum(view), kept_power(view), *regions(view))


def by_level(view: View, metrics: Mapping[str, float]) -> Figure:
    """Squared error of both networks at every level."""
    pressure = view.measure.pressure / 100
    both = {
        "mean": view.network.agreement.truth_square / view.network.hours,
        view.name: view.network.agreement.mse,
        "column": view.column.agreement.mse,
    }
    both = {name: error.reshape(2, -1).mean(0) for name, error in both.items()}
    better = int((both[view.name] < both["column"]).sum())
    skill = metrics["skill_over_column"]
    low, high = (metrics[f"skill_over_column_{end}"] for end in ("low", "high"))
    said = f"{abs(skill):.0%} {'less' if skill >= 0 else 'more'}"
    return Figure(
        name="mse_by_level",
        title=f"The {view.name} errs {said} than a single column, and less at {better} of {len(pressure)} levels",
        x_label="pressure (hPa)",
        y_label="squared error (variances of training)",
        series=tuple(
            Series(
                label=name,
                x=tuple(float(f"{one:.3g}") for one in pressure),
                y=tuple(values.tolist()),
                style="line" if len(pressure) <= MARKED else "curve",
            )
            for name, values in both.items()
        ),
        caption=_lines(
            f"uw and vw, weighted by area, {view.network.hours} hours of test; mean: saying the mean of training. "
            f"1 - error / error of the column: {skill:.3f}, interval {low:.3f} to {high:.3f} over "
            f"{metrics['blocks']:.0f} blocks of time."
        ),
        log_x=True,
    )


def histogram(view: View) -> Figure:
    """How often fluxes of each size occur at the level, eastward ones."""
    scale = float(view.measure.scale[view.level])
    widths = np.diff(EDGES)
    middles = np.sign(EDGES[1:] + EDGES[:-1]) * np.sqrt(np.abs(EDGES[1:] * EDGES[:-1]))
    shown = (np.abs(middles) >= FINEST) & (np.abs(middles) <= WIDEST)
    lines, tail = [], {}
    found = view.network.histogram.truth[view.level]
    # names stand at the last point: in the longer tail, where the curves are apart
    turn = -1 if found[: len(found) // 2].sum() > found[len(found) // 2 + 1 :].sum() else 1
    for name, one, side in _three(view):
        share = getattr(one.histogram, side)[view.level] / one.hours
        tail[name] = float(share[1:-1][np.abs(middles) >= STRONG].sum() + share[0] + share[-1])
        density = share[1:-1] / widths
        kept = shown & (density > 1e-6)
        lines.append(
            Series(
                label=name,
                x=tuple((middles[kept] * scale * MILLI)[::turn].tolist()),
                y=tuple((density[kept] / scale / MILLI)[::turn].tolist()),
                style="curve",
            )
        )
    ours, theirs = (tail[name] / max(tail["truth"], 1e-300) for name in (view.name, "column"))
    distance = {name: float(one.histogram.hellinger[view.level]) for name, one in
                ((view.name, view.network), ("column", view.column))}  # fmt: skip
    return Figure(
        name="histogram",
        title=f"The {view.name} has {_share(ours)} of the strong fluxes of the truth, the column {_share(theirs)}",
        x_label=f"upward flux of eastward momentum at {view.where} (mPa)",
        y_label="share of area (per mPa)",
        series=tuple(line for line in lines if line.x),
        caption=_lines(
            f"{view.network.hours} hours of test, weighted by area; strong: over {STRONG} root mean squares of "
            f"training, {STRONG * scale * MILLI:.2g} mPa. Hellinger distance from the truth: {view.name} "
            f"{distance[view.name]:.3f}, column {distance['column']:.3f}."
        ),
        log_y=True,
    )


def spectrum(view: View) -> Figure:
    """Power of the eastward flux by zonal wavenumber, over the whole sphere."""
    area = np.array([np.sin(np.radians(b)) - np.sin(np.radians(a)) for _, a, b in BANDS]) / 2
    power = {
        name: area @ getattr(one.spectra, side)[:, view.level] / one.hours * MILLI**2
        for name, one, side in _three(view)
    }
    short = len(power["truth"]) // 2
    kept = {name: float(one[short:].sum() / max(power["truth"][short:].sum(), 1e-300)) for name, one in power.items()}
    waves = np.arange(1, len(power["truth"]))
    # a network that is blind to a wave would leave no room for the others
    floor = max(float(power["truth"][1:].min()) * 1e-3, 1e-30)
    return Figure(
        name="spectrum",
        title=f"Of short waves the {view.name} has {_share(kept[view.name])} of the true power, the column "
        f"{_share(kept['column'])}",
        x_label=f"zonal wavenumber of the eastward flux at {view.where}",
        y_label="power (mPa²)",
        series=tuple(
            Series(label=name, x=tuple(waves.tolist()), y=tuple(np.maximum(one[1:], floor).tolist()), style="curve")
            for name, one in power.items()
        ),
        caption=_lines(
            f"Mean over the sphere and {view.network.hours} hours of test; all wavenumbers together are the mean "
            f"square along circles of latitude. Short: from wavenumber {short} on."
        ),
        log_y=True,
    )


def kept_power(view: View) -> Figure:
    """Share of the true power that predictions have, band by band."""
    truth, told = (getattr(view.network.spectra, side)[:, view.level] for side in ("truth", "prediction"))
    groups = _octaves(truth.shape[1])
    share = np.stack([told[:, a:b].sum(1) / np.maximum(truth[:, a:b].sum(1), 1e-300) for a, b in groups], 1)
    whole = told[:, 1:].sum(1) / np.maximum(truth[:, 1:].sum(1), 1e-300)
    best, worst = int(whole.argmax()), int(whole.argmin())
    names = [name for name, _, _ in BANDS]
    waves = tuple(f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in groups)
    return Figure(
        name="power_by_band",
        title=f"The {view.name} has {_share(whole[best])} of the true power at {names[best]}, {_share(whole[worst])} "
        f"at {names[worst]}",
        x_label="zonal wavenumber",
        y_label=f"power of the {view.name} over the true power",
        series=tuple(
            Series(label=name, x=waves, y=tuple(row.tolist())) for name, row in zip(names, share, strict=True)
        ),
        kind="bars",
        caption=f"Eastward flux at {view.where}, {view.network.hours} hours of test; 1: as much as the truth.",
    )


def regions(view: View) -> tuple[Figure, ...]:
    """The eastward flux over each of the published regions, hour by hour."""
    made = []
    ours, theirs = view.network.regions, view.column.regions
    r, r_column = ours.correlation[view.level], theirs.correlation[view.level]
    for number, region in enumerate(REGIONS):
        day, truth = _thinned(ours, ours.truth[:, view.level, number])
        told = _thinned(ours, ours.prediction[:, view.level, number])[1]
        south, north, west, east = region.box
        made.append(
            Figure(
                name=f"region_{region.name}",
                title=f"Over {region.title} the {view.name} follows the flux with a correlation of {r[number]:.2f}, "
                f"the column with {r_column[number]:.2f}",
                x_label=f"days since {str(ours.time[0])[:10]}",
                y_label=f"eastward flux at {view.where} (mPa)",
                series=tuple(
                    Series(label=name, x=day, y=tuple((values * MILLI).tolist()), style="curve")
                    for name, values in (("truth", truth), (view.name, told))
                ),
                caption=f"Mean over {_degrees(south, 'S', 'N')} to {_degrees(north, 'S', 'N')}, "
                f"{_degrees(_east(west), 'W', 'E')} to {_degrees(_east(east), 'W', 'E')}; {view.network.hours} hours "
                "of test.",
            )
        )
    return tuple(made)


def maps(
    view: View, time: np.datetime64, truth_OIJ: Singles, told_OIJ: Singles, column_OIJ: Singles
) -> tuple[Figure, ...]:
    """One hour of the eastward flux: the truth, the network, and the column.

    Args:
        view: which level.
        time: of the hour.
        truth_OIJ: Pa.
        told_OIJ: what the network says.
        column_OIJ: what the column says.

    Source:
        Ours.
    """
    area = view.measure.area

    def strength(field: Floats) -> float:
        return float(np.sqrt((field**2 * area).sum()))

    fields = {
        name: np.asarray(one[view.level], np.float64) * MILLI
        for name, one in (("truth", truth_OIJ), (view.name, told_OIJ), ("column", column_OIJ))
    }
    truth = fields["truth"]
    moment = str(time.astype("datetime64[h]")).replace("T", " ") + " UTC"
    strongest = float(np.quantile(np.abs(truth), 0.995))  # a few extremes would leave the rest pale
    made = []
    for name, field in fields.items():
        away, agrees = field - (field * area).sum(), truth - (truth * area).sum()
        r = (away * agrees * area).sum() / max(strength(away) * strength(agrees), 1e-300)
        if name == "truth":
            title = f"Waves carry {strength(field):.2g} mPa in the root mean square"
            said = "The truth"
        else:
            kept = _share(strength(field) / max(strength(truth), 1e-300))
            title = f"The {name} has the hour's pattern with correlation {r:.2f}"
            said = f"{kept} of the true root mean square"
        made.append(
            Figure(
                name="map_truth" if name == "truth" else "map_column" if name == "column" else "map_network",
                title=title,
                x_label="longitude (degrees east)",
                y_label="latitude (degrees north)",
                series=(),
                kind="map",
                caption=_lines(
                    f"{said}; {view.where}, {moment}, an hour of middling success among those drawn at random. Colours "
                    "are alike on the three maps; coasts are for orientation."
                ),
                field=Field(
                    latitude=tuple(view.measure.grid.latitudes.tolist()),
                    longitude=tuple(view.measure.grid.longitudes.tolist()),
                    values=tuple(tuple(row) for row in field.tolist()),
                    label="flux of eastward momentum (mPa)",
                    diverging=True,
                    strongest=strongest,
                ),
            )
        )
    return tuple(made)


# --- words and small things ------------------------------------------------------------------------------------------


def _three(view: View) -> tuple[tuple[str, Scores, str], ...]:
    """What is drawn together: its name, in whose scores, and which side of them it is."""
    return (
        ("truth", view.network, "truth"),
        (view.name, view.network, "prediction"),
        ("column", view.column, "prediction"),
    )


def _share(value: float) -> str:
    """A share as a person says it."""
    return f"{value:.0%}" if value < 9.995 else f"{value:.0f} times"


def _octaves(count: int) -> list[tuple[int, int]]:
    """1, 2-3, 4-7, ... of `count` wavenumbers from 0."""
    edges = [2**power for power in range(count.bit_length()) if 2**power < count]
    ends = [*edges[1:], count]
    if len(edges) > 1 and ends[-1] - edges[-1] < edges[-1] // 2:  # a last group of a few joins the one before
        edges.pop()
        ends.pop(-2)
    return list(zip(edges, ends, strict=True))


def _lines(caption: str) -> str:
    """A caption in lines that a figure has room for."""
    return "\n".join(wrap(caption, 118))


def _degrees(value: float, below: str, above: str) -> str:
    return f"{abs(value):.0f}° {below if value < 0 else above}"


def _east(longitude: float) -> float:
    """Between -180 and 180."""
    return (longitude + 180.0) % 360.0 - 180.0


def _thinned(series: RegionalSeries, values: Floats) -> tuple[tuple[float, ...], Floats]:
    """Days since the first hour's date, and values; means of neighbours where there are many."""
    start = series.time[0].astype("datetime64[D]")
    day = (series.time - start).astype("timedelta64[m]").astype(np.float64) / 1440
    pieces = min(STEPS, len(day))
    days = [float(one.mean()) for one in np.array_split(day, pieces)]
    return tuple(days), np.array([one.mean() for one in np.array_split(values, pieces)])
