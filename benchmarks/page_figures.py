"""The figures of the documentation, drawn from the tables of docs/results that other commands wrote.

python -m benchmarks page_figures [--write]

A page that is not there, or whose tables have other columns, has no figure: it is said, and nothing is drawn.
"""

import argparse
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image

from infra.figures import draw
from models.common.judgement import Figure, Series

DOCS = Path(__file__).parent.parent / "docs"
NUMBER = r"-?[\d,]*\.?\d+(?:e-?\d+)?"

Row = Mapping[str, str]


def main(options: Sequence[str] = ()) -> None:
    """Say which figures can be drawn, and draw them if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks page_figures")
    parser.add_argument("--write", action="store_true", help="write docs/figures")
    chosen = parser.parse_args(options)
    for name, (page, make) in FIGURES.items():
        file = DOCS / "results" / f"{page}.md"
        try:
            figure = make(tables(file.read_text(encoding="ascii")))
        except (FileNotFoundError, KeyError) as error:
            print(f"{name}: not drawn, for {error} is missing in docs/results/{page}.md")
            continue
        print(f"{name}: {figure.title}")
        if chosen.write:
            write(figure, name)


def write(figure: Figure, name: str) -> None:
    """Draw a figure into docs/figures, in few colours: a repository keeps every version of a picture."""
    colours = 256 if figure.kind == "map" else 64
    picture = Image.open(io.BytesIO(draw(figure))).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    (DOCS / "figures").mkdir(exist_ok=True)
    picture.save(DOCS / "figures" / f"{name}.png", optimize=True)


def tables(page: str) -> list[list[Row]]:
    """The tables of a page; each row by the names of its columns."""
    found: list[list[Row]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", page + "\n", re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def spread(cell: str) -> tuple[float, float, float]:
    """Middle, least and most of a cell such as `38 (35..42)`; three times the number of one without spread."""
    numbers = [float(number.replace(",", "")) for number in re.findall(NUMBER, cell.replace("..", " .. "))]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) >= 3 else (numbers[0], numbers[0], numbers[0])


def bars(rows: Sequence[Row], column: str, label: str) -> Series:
    """A column over requests of L events and n candidates."""
    cells = [spread(row[column]) for row in rows]
    middle, low, high = zip(*cells, strict=True)
    spans = any(a != b for a, b in zip(low, high, strict=True))
    places = tuple(f"{row['L']}, {row['n']}" for row in rows)
    return Series(label=label, x=places, y=middle, low=low if spans else (), high=high if spans else ())


def amortized_ranking(found: list[list[Row]]) -> Figure:
    """Time that appending every candidate takes over that of one pass over a kept history."""
    rows = found[0]
    measured, counted = (
        bars(rows, "append / ours", "time, measured"),
        bars(rows, "of operations", "operations, counted"),
    )
    more = all(one >= other for one, other in zip(measured.y, counted.y, strict=True))
    return Figure(
        name="ranking_amortisation",
        title=f"One pass saves {'more than' if more else 'about what'} its count of operations says",
        x_label="events of the history, candidates",
        y_label="appending each candidate / one pass",
        series=(measured, counted),
        kind="bars",
        caption="One thread, medians of the rounds, bars from least to most. docs/results/ranking_amortisation.md",
    )


def amortized_history(found: list[list[Row]]) -> Figure:
    """The same of whole requests of the click model, features and head included."""
    rows = found[0]
    least = min(min(bars(rows, name, "").low) for name in ("append / ours", "concat / ours"))
    return Figure(
        name="history_request",
        title=f"A whole request is at least {math.floor(least)} times as fast amortized",
        x_label="events of the history, candidates",
        y_label="ratio of times",
        series=(
            bars(rows, "append / ours", "append / amortized"),
            bars(rows, "concat / ours", "concat / amortized"),
            bars(rows, "append / kept", "append / amortized, history kept"),
        ),
        kind="bars",
        caption="Medians of the rounds, bars from least to most. docs/results/history_request.md",
    )


def nonlocality(found: list[list[Row]]) -> Figure:
    """Squared error of the U-Net over that of a single column, by how far waves go."""
    rows = found[1]
    far = tuple(float(row["non-locality"]) for row in rows)
    ratio = tuple(float(row["ratio"]) for row in rows)
    low, high = zip(*(tuple(map(float, row["95 %"].split(" to "))) for row in rows), strict=True)
    near = f"{1 - ratio[0]:.0%}" if high[0] < 1 else "nothing"
    falls = "It falls" if all(a > b for a, b in pairwise(ratio)) else "It does not fall"
    return Figure(
        name="gravity_waves_nonlocality",
        title=f"The neighbourhood gains {near} where waves stay in their column, {1 - ratio[-1]:.0%} where they travel",
        x_label="factor of the waves' sideways way",
        y_label="squared error, U-Net / single column",
        series=(Series(label="U-Net / column", x=far, y=ratio, low=low, high=high),),
        caption=f"{falls} from each to the next. Mean over the seeds of training, 95 % intervals over months. "
        "docs/results/gravity_waves_nonlocality.md",
    )


FIGURES: dict[str, tuple[str, Callable[[list[list[Row]]], Figure]]] = {
    "ranking_amortisation": ("ranking_amortisation", amortized_ranking),
    "history_request": ("history_request", amortized_history),
    "gravity_waves_nonlocality": ("gravity_waves_nonlocality", nonlocality),
}
"""Name of each figure, the page that it is drawn from, and what makes it of the page's tables."""
