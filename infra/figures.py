"""One style for all figures: a sentence as title, labelled lines, uncertainty drawn, colours safe for all eyes."""

import io
import math
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

END = "end"
"""Mark of names at the ends of lines."""

ROUNDS = 30
"""In which names that lie upon one another are set apart, two by two."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette: distinct for colour-blind eyes and in grey."""


class SeriesLike(Protocol):
    """One line or group of bars."""

    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def x(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def y(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def low(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def high(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def style(self) -> str: ...  # noqa: D102


class FieldLike(Protocol):
    """What a map shows; see `models.common.judgement.Field`."""

    @property
    def latitude(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def longitude(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def values(self) -> Sequence[Sequence[float | None]]: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def diverging(self) -> bool: ...  # noqa: D102
    @property
    def strongest(self) -> float: ...  # noqa: D102


class FigureLike(Protocol):
    """A figure as plain data, as `models.common.judgement.Figure`."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def x_label(self) -> str: ...  # noqa: D102
    @property
    def y_label(self) -> str: ...  # noqa: D102
    @property
    def series(self) -> Sequence[SeriesLike]: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def caption(self) -> str: ...  # noqa: D102
    @property
    def log_x(self) -> bool: ...  # noqa: D102
    @property
    def log_y(self) -> bool: ...  # noqa: D102
    @property
    def field(self) -> FieldLike | None: ...  # noqa: D102


def draw(figure: FigureLike) -> bytes:
    """Draw a figure.

    Args:
        figure: what to draw.

    Returns:
        A PNG, 1200 pixels wide.
    """
    from matplotlib.figure import Figure as Canvas  # half a second that only drawing pays

    canvas = Canvas(figsize=(8, 4.8), dpi=150, layout="constrained")
    axes = canvas.add_subplot()
    if figure.kind == "map":
        _map(canvas, axes, figure)
        return _png(canvas, axes, figure)
    lines = figure.kind == "line"
    for number, series in enumerate(figure.series):
        colour = COLOURS[number % len(COLOURS)]
        if lines:
            _line(axes, series, colour)
        else:
            _bars(axes, series, number, len(figure.series), colour)
    if figure.log_x and lines:
        axes.set_xscale("log")
        ticks = sorted({x for series in figure.series if series.style == "line" for x in series.x})
        if ticks:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    if figure.log_y and lines:
        _decimals(axes)
        if ends := [min(series.low) for series in figure.series if series.style == "curve" and series.low]:
            axes.set_ylim(bottom=min(ends))  # a band that falls to nothing leaves the figure
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if not lines and len(figure.series) > 1:
        axes.legend(frameon=False)
    return _png(canvas, axes, figure)


def _png(canvas: Any, axes: Any, figure: FigureLike) -> bytes:
    """What every figure has around it, and the file."""
    axes.set_title(figure.title, loc="left", fontsize=12, fontweight="bold", wrap=True)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if figure.caption:
        canvas.supxlabel(figure.caption, fontsize=8, color="#555555", ha="left", x=0.02)
    if names := [text for text in axes.texts if text.get_gid() == END]:
        set_apart(canvas, names)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _map(canvas: Any, axes: Any, figure: FigureLike) -> None:
    """A field as colours, coastlines, and paths over both; the view is that of the field, or of the paths."""
    field = figure.field
    if field is not None:
        values = np.array([[math.nan if one is None else one for one in row] for row in field.values])
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        if field.diverging:  # a few extremes would leave the rest pale
            high = field.strongest or (float(np.quantile(np.abs(known), 0.995)) if known.size else 1.0)
            low = -high
        drawn = axes.pcolormesh(
            field.longitude, field.latitude, values, shading="nearest", cmap="RdBu_r" if field.diverging else "viridis",
            vmin=low, vmax=high, rasterized=True,
        )  # fmt: skip
        canvas.colorbar(drawn, ax=axes, label=field.label, shrink=0.8, extend="both" if field.diverging else "neither")
        view = (*_ends(field.longitude), *_ends(field.latitude))
    else:
        across = [x for series in figure.series for x in series.x]
        along = [y for series in figure.series for y in series.y]
        view = (min(across) - 5, max(across) + 5, max(-90.0, min(along) - 5), min(90.0, max(along) + 5))
    _coast(axes, view)
    for number, series in enumerate(figure.series):
        axes.plot(series.x, series.y, color=COLOURS[number % len(COLOURS)], linewidth=1, alpha=0.8)
    axes.set_xlim(view[0], view[1])
    axes.set_ylim(view[2], view[3])
    axes.set_aspect("equal")


def _ends(places: Sequence[float]) -> tuple[float, float]:
    """The outer edges of cells around their centres."""
    half = abs(places[-1] - places[0]) / max(1, len(places) - 1) / 2
    return min(places) - half, max(places) + half


def _coast(axes: Any, view: tuple[float, float, float, float]) -> None:
    """Coastlines of a mask of land at half a degree, drawn as often as the view goes round the earth.

    The mask is made of the 1 km elevations of GLOBE (NOAA, 1999, public domain), as the package global-land-mask 1.0.0
    has them (MIT): a cell is land where more than half of it is.
    """
    with resources.files("infra").joinpath("land.npz").open("rb") as handle, np.load(handle) as stored:
        land = np.unpackbits(stored["rows"], axis=1, count=int(stored["columns"])).astype(float)
    rows, columns = land.shape
    latitude = 90 - (np.arange(rows) + 0.5) * 180 / rows
    longitude = -180 + (np.arange(columns) + 0.5) * 360 / columns
    for turn in (-360, 0, 360):
        if longitude[0] + turn < view[1] and longitude[-1] + turn > view[0]:
            axes.contour(longitude + turn, latitude, land, levels=[0.5], colors="#444444", linewidths=0.6)


def _line(axes: Any, series: SeriesLike, colour: str) -> None:
    from matplotlib.patheffects import withStroke

    last = (series.x[-1], series.y[-1])
    if series.style == "marks":
        errors = _errors(series) if series.low else None
        axes.errorbar(series.x, series.y, yerr=errors, color=colour, fmt="o", markersize=5, capsize=3, zorder=3)
        # above the last mark and its bar: beside it there is often a curve with a label of its own
        top = (series.x[-1], series.high[-1] if series.high else series.y[-1])
        text = axes.annotate(
            series.label, top, (0, 6), textcoords="offset points", color=colour, ha="center", va="bottom", zorder=5
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        return
    axes.plot(series.x, series.y, color=colour, marker="o" if series.style == "line" else None, markersize=4)
    if series.low:
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)
    label = axes.annotate(
        series.label, last, (6, 0), textcoords="offset points", color=colour, va="center", annotation_clip=False
    )
    label.set_gid(END)


def set_apart(canvas: Any, labels: Sequence[Any]) -> None:
    """Move names at the ends of lines up and down where they lie upon one another, as far as it takes."""
    canvas.draw_without_rendering()
    boxes = [label.get_window_extent() for label in labels]
    moved = [0.0] * len(labels)
    for _ in range(ROUNDS):
        order = sorted(range(len(labels)), key=lambda one: (boxes[one].y0 + moved[one], one))
        for lower, upper in pairwise(order):
            if boxes[lower].x1 < boxes[upper].x0 or boxes[upper].x1 < boxes[lower].x0:
                continue
            over = (boxes[lower].y1 + moved[lower]) - (boxes[upper].y0 + moved[upper])
            if over > 0:
                moved[lower], moved[upper] = moved[lower] - over / 2, moved[upper] + over / 2
    for label, pixels in zip(labels, moved, strict=True):
        x, y = label.xyann
        label.xyann = (x, y + pixels * 72 / canvas.dpi)


def _decimals(axes: Any) -> None:
    """A logarithmic vertical axis whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _errors(series: SeriesLike) -> list[list[float]]:
    """Distances from the mean down and up; rounding may cross the mean."""
    return [
        [max(0.0, y - low) for y, low in zip(series.y, series.low, strict=True)],
        [max(0.0, high - y) for y, high in zip(series.y, series.high, strict=True)],
    ]


def _bars(axes: Any, series: SeriesLike, number: int, groups: int, colour: str) -> None:
    width = 0.8 / groups
    places = [place + (number - (groups - 1) / 2) * width for place in range(len(series.x))]
    errors = _errors(series) if series.low else None
    axes.bar(places, series.y, width, color=colour, label=series.label, yerr=errors, capsize=3, ecolor="#333333")
    axes.set_xticks(range(len(series.x)), [str(x) for x in series.x])
