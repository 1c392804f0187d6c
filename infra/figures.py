"""One style for all figures: a sentence as title, labelled lines, uncertainty drawn, colours safe for all eyes."""

import io
from collections.abc import Sequence
from typing import Any, Protocol

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
    lines = figure.kind == "line"
    for number, series in enumerate(figure.series):
        colour = COLOURS[number % len(COLOURS)]
        if lines:
            _line(axes, series, colour)
        else:
            _bars(axes, series, number, len(figure.series), colour)
    axes.set_title(figure.title, loc="left", fontsize=12, fontweight="bold", wrap=True)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
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
    if figure.caption:
        canvas.supxlabel(figure.caption, fontsize=8, color="#555555", ha="left", x=0.02)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


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
    axes.annotate(f"  {series.label}", last, color=colour, va="center", annotation_clip=False)


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
