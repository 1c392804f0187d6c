"""What judging a product yields: metrics, a table, figures and its certificate, all as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from models.common.certificate import Certificate


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, or one group of bars, of a figure; `low` and `high` draw its uncertainty.

    Attributes:
        style: of a line: "line" with its points marked, "curve" without, "marks" alone with bars for the uncertainty.
    """

    label: str
    x: tuple[Any, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    style: Literal["line", "curve", "marks"] = "line"


@dataclass(frozen=True, kw_only=True)
class Field:
    """Values on a grid of latitudes and longitudes, for a map; coarse enough to be looked at.

    Attributes:
        latitude: degrees, in the order of the rows.
        longitude: degrees, in the order of the columns, ascending.
        values: rows of values; None where there is none.
        label: quantity with its unit.
        diverging: zero is the middle of the colours.
        strongest: of a diverging field, the magnitude from which on colours do not change, so that maps can be
            compared; 0: taken from its own values.
    """

    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]
    label: str
    diverging: bool = False
    strongest: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure as data; `infra.figures` draws it.

    Attributes:
        name: file name without ending.
        title: the one message, as a sentence.
        x_label: horizontal quantity with its unit.
        y_label: vertical quantity with its unit.
        series: lines, groups of bars, or on a map paths with longitudes as x and latitudes as y.
        kind: "line", "bars" or "map".
        caption: what the uncertainty is, how many cases.
        log_x: logarithmic horizontal axis.
        log_y: logarithmic vertical axis.
        field: what a map shows; None: coastlines and paths alone.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    kind: Literal["line", "bars", "map"] = "line"
    caption: str = ""
    log_x: bool = False
    log_y: bool = False
    field: Field | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What was found out about a product.

    Attributes:
        headline: the key in `metrics` that stands in tables of all products.
        metrics: name to value; the same names for every run of a system, so that runs compare.
        certificate: how far the product is from the right answer.
        table: rows for a person, all with the same keys.
        figures: to be drawn and logged with the run.
        protocol: one sentence: how the data were split and the metrics computed.
    """

    headline: str
    metrics: Mapping[str, float]
    certificate: Certificate
    table: tuple[Mapping[str, Any], ...] = ()
    figures: tuple[Figure, ...] = ()
    protocol: str = ""
