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
            axes.plot(series.x, series.y, color=colour, marker="o", markersize=4)
            if series.low:
                axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)
            axes.annotate(
                f"  {series.label}", (series.x[-1], series.y[-1]), color=colour, va="center", annotation_clip=False
            )
        else:
            _bars(axes, series, number, len(figure.series), colour)
    axes.set_title(figure.title, loc="left", fontsize=12, fontweight="bold", wrap=True)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if figure.log_x and lines:
        axes.set_xscale("log")
        ticks = sorted({x for series in figure.series for x in series.x})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if not lines and len(figure.series) > 1:
        axes.legend(frameon=False)
    if figure.caption:
        canvas.supxlabel(figure.caption, fontsize=8, color="#555555", ha="left", x=0.02)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _bars(axes: Any, series: SeriesLike, number: int, groups: int, colour: str) -> None:
    width = 0.8 / groups
    places = [place + (number - (groups - 1) / 2) * width for place in range(len(series.x))]
    errors = None
    if series.low:
        errors = [
            [max(0.0, y - low) for y, low in zip(series.y, series.low, strict=True)],  # rounding may cross the mean
            [max(0.0, high - y) for y, high in zip(series.y, series.high, strict=True)],
        ]
    axes.bar(places, series.y, width, color=colour, label=series.label, yerr=errors, capsize=3, ecolor="#333333")
    axes.set_xticks(range(len(series.x)), [str(x) for x in series.x])
