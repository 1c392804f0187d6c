"""Figures are drawn from plain data, the same bytes each time."""

from itertools import pairwise

import pytest

from infra.figures import draw, set_apart
from models.common.judgement import Field, Figure, Series


@pytest.mark.parametrize("kind", ["line", "bars"])
def test_a_figure_is_a_png_that_depends_on_its_data_alone(kind: str) -> None:
    series = Series(label="ours", x=(1, 10, 50), y=(0.1, 0.2, 0.4), low=(0.05, 0.1, 0.3), high=(0.15, 0.3, 0.5))
    figure = Figure(
        name="f", title="Ours wins", x_label="k", y_label="hit rate", series=(series,), kind=kind, log_x=True
    )
    first = draw(figure)
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert draw(figure) == first


def test_an_interval_that_rounding_moved_across_its_mean_is_still_drawn() -> None:
    series = Series(label="a", x=("few",), y=(0.1,), low=(0.1 + 1e-17 + 1e-16,), high=(0.1 - 1e-16,))
    assert draw(Figure(name="f", title="t", x_label="x", y_label="y", series=(series,), kind="bars"))


def test_a_curve_in_a_band_and_marks_with_bars_stand_on_logarithmic_axes() -> None:
    curve = Series(
        label="law", style="curve", x=(1e9, 1e10, 1e11), y=(0.2, 0.1, 0.05), low=(0.1, 0.04, 0.01), high=(0.3, 0.2, 0.1)
    )
    marks = Series(label="sizes", style="marks", x=(2e9, 5e10), y=(0.15, 0.06), low=(0.14, 0.05), high=(0.17, 0.08))
    figure = Figure(name="f", title="t", x_label="x", y_label="y", series=(curve, marks), log_x=True, log_y=True)
    drawn = draw(figure)
    assert draw(figure) == drawn
    assert draw(Figure(name="f", title="t", x_label="x", y_label="y", series=(curve,), log_x=True, log_y=True)) != drawn
    assert draw(Figure(name="f", title="t", x_label="x", y_label="y", series=(curve, marks), log_x=True)) != drawn


def test_maps_with_one_strongest_value_can_be_compared_by_colour() -> None:
    def drawn(factor: float, strongest: float) -> bytes:
        field = Field(
            latitude=(-45.0, 45.0), longitude=(0.0, 120.0, 240.0), label="flux", diverging=True, strongest=strongest,
            values=((-factor, 0.0, factor), (factor, 0.0, -factor)),
        )  # fmt: skip
        return draw(Figure(name="f", title="t", x_label="x", y_label="y", series=(), kind="map", field=field))

    assert drawn(2.0, 4.0) == drawn(2.0, 4.0)
    assert drawn(2.0, 4.0) != drawn(2.0, 0.0), "half of the strongest is paler than the strongest"
    assert drawn(2.0, 2.0) == drawn(2.0, 0.0), "by itself the strongest is its own"


def test_names_of_lines_that_end_at_one_point_do_not_lie_upon_one_another() -> None:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 4.8), dpi=150, layout="constrained")
    axes = canvas.add_subplot()
    axes.plot((0, 1), (0, 1))
    names = [axes.annotate(name, (1, y), (6, 0), textcoords="offset points", va="center") for name, y in
             (("truth", 0.5), ("network", 0.5), ("column", 0.51), ("mean", 1.0))]  # fmt: skip
    set_apart(canvas, names)
    canvas.draw_without_rendering()
    boxes = sorted((name.get_window_extent() for name in names), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 0.5 for lower, upper in pairwise(boxes))
    assert names[3].xyann == (6, 0), "one that is alone stays"
