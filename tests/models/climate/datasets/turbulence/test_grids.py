"""From reports to maps: the share of turbulent reports, the nearest point, the days that a file lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.climate.datasets.turbulence.grids import (
    Cells,
    count,
    examine_bands,
    grid_of_size,
    listed_years,
    maps,
)
from models.common.errors import InputError

GRID = grid_of_size(361, 576)
DAY = 19_000  # 2022-01-08


def counted(
    rows: list[tuple[int, int, int, float, float]],
    *,
    unknown_counts: bool = False,
    wrap: bool = True,
    share: float = 0.25,
) -> Cells:
    day, band, intensity, lat, lon = (np.array(column) for column in zip(*rows, strict=True))
    return count(
        day,
        band.astype(np.int8),
        intensity.astype(np.int8),
        lat.astype(float),
        lon.astype(float),
        GRID,
        threshold=share,
        unknown_counts=unknown_counts,
        wrap=wrap,
    )


def test_a_quarter_of_turbulent_reports_makes_a_cell_turbulent() -> None:
    quarter = [(DAY, 2, strength, 41.0, -88.125) for strength in (2, 1, 0, 0)]
    fifth = [(DAY, 2, strength, 44.0, -90.0) for strength in (4, 1, 0, 0, 0)]
    drawn = maps(counted(quarter + fifth), np.array([DAY]), GRID)[0]
    assert drawn[2, 262, 147] == 1
    assert drawn[2, 268, 144] == 0
    assert (drawn == 2).sum() == drawn.size - 2


@pytest.mark.parametrize(("unknown_counts", "expected"), [(False, 1), (True, 0)])
def test_unknown_reports_count_by_the_published_rule_only(unknown_counts: bool, expected: int) -> None:
    rows = [(DAY, 0, strength, 46.0, -95.0) for strength in (2, -1, -1, -1, 0)]
    rows += [(DAY, 0, -1, 48.0, -100.0)]
    cells = counted(rows, unknown_counts=unknown_counts)
    drawn = maps(cells, np.array([DAY]), GRID)[0, 0]
    assert drawn[272, 136] == expected
    assert drawn[276, 128] == (0 if unknown_counts else 2)
    assert cells.reports.sum() == (6 if unknown_counts else 2)


@pytest.mark.parametrize(
    ("lat", "lon", "wrap", "cell"),
    [
        (51.9, 179.8, True, (284, 0)),
        (51.9, 179.8, False, (284, 575)),
        (53.6, 180.0, True, (287, 0)),
        (53.6, 180.0, False, (287, 575)),
        (52.1, -179.9, False, (284, 0)),
        (34.25, -99.6875, True, (248, 128)),  # half-way in both: the lower of two
        (-90.0, 0.0, True, (0, 288)),
        (90.0, 359.9, True, (360, 288)),
    ],
)
def test_a_report_belongs_to_the_nearest_point(lat: float, lon: float, wrap: bool, cell: tuple[int, int]) -> None:
    cells = counted([(DAY, 1, 2, lat, lon)], wrap=wrap)
    assert (int(cells.row[0]), int(cells.column[0])) == cell


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=20))
def test_without_going_round_it_is_the_point_of_the_least_sum_of_squares(places: list[tuple[float, float]]) -> None:
    x, y = np.arange(-180, 180, 0.625), np.arange(-90, 90.5, 0.5)
    for lat, lon in places:
        cells = counted([(DAY, 0, 0, lat, lon)], wrap=False)
        distance = (lon - x[None, :]) ** 2 + (lat - y[:, None]) ** 2
        row, column = map(int, np.unravel_index(distance.argmin(), distance.shape))
        found = distance[cells.row[0], cells.column[0]]
        # The same point, or one as near: the sum of squares forgets a distance of 1e-17 beside a larger one.
        assert (int(cells.row[0]), int(cells.column[0])) == (row, column) or found <= distance.min() * (1 + 1e-15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_reports_does_not_matter_and_days_are_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        (
            DAY + int(rng.integers(3)),
            int(rng.integers(-1, 3)),
            int(rng.integers(-1, 5)),
            *rng.uniform(-89, 89, 2).round(0),
        )
        for _ in range(47)
    ]
    one, other = counted(rows), counted([rows[at] for at in rng.permutation(47)])
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    days = np.arange(DAY, DAY + 3)
    whole = maps(one, days, GRID)
    for number, day in enumerate(days.tolist()):
        alone = maps(counted([row for row in rows if row[0] == day] or [(0, 0, 0, 0, 0)]), np.array([day]), GRID)
        np.testing.assert_array_equal(whole[number], alone[0])


def days_of(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[D]").astype(np.int64)


def listed(held: np.ndarray, *, last_day: bool = False, literal_year: bool = False) -> list[int]:
    band = np.zeros(len(held), np.int8)
    asked = np.unique(held)
    years = listed_years(held, band, asked, last_day=last_day, literal_year=literal_year)
    return [int(year) for year in years[:, 0]]


def test_a_day_with_reports_stands_in_the_file_of_its_year() -> None:
    held = days_of("2021-12-31", "2021-12-31", "2022-01-01", "2023-05-05")
    assert listed(held) == [2021, 2022, 2023]
    assert listed(held, last_day=True) == [2021, 2022, 0]


def test_the_literal_year_writes_2023_and_a_day_of_the_year_before() -> None:
    held = days_of("2021-12-30", "2022-12-31", "2023-01-01", "2023-05-05", "2023-05-06")
    assert listed(held, literal_year=True, last_day=True) == [0, 2022, 2023, 2023, 0]
    assert listed(held, literal_year=True) == [0, 2022, 2023, 2023, 2023]
    assert listed(days_of("2021-12-30", "2022-12-31"), literal_year=True) == [0, 0]
    # What comes after 2023 gives its year to the file.
    assert listed(days_of("2023-01-01", "2023-01-02", "2024-01-01"), literal_year=True) == [2024, 2024, 0]


def test_a_band_without_reports_stops_the_published_gridding() -> None:
    examine_bands(np.array([0, 1, 2], np.int8))
    with pytest.raises(InputError, match=r"no report is in the band 'med'.*empty_band"):
        examine_bands(np.array([0, 2, -1], np.int8))
