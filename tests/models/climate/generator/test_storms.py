"""Best tracks: text that a strict reader of HURDAT2 takes, and storms that behave."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from models.climate.generator.storms import Storm, StormsConfig, hurdat2, storms_of, write_hurdat2

MANY = [storm for year in range(1995, 2023) for storm in storms_of(StormsConfig(), year)]


def read(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """Headings and records by columns of characters, as the format's description counts them."""
    storms: list[tuple[list[str], list[list[str]]]] = []
    for line in text.splitlines():
        if line[0].isalpha():
            assert (line[8], line[28], line[36]) == (",", ",", ","), line
            storms.append(([line[:8], line[8:28].strip(", "), line[28:36].strip(", ")], []))
        else:
            record = [line[:8], line[10:14], line[16], line[19:21], line[23:27], line[27], line[30:35], line[35]]
            storms[-1][1].append([*record, *line[37:].replace(" ", "").split(",")])
            assert [line[k] for k in (8, 14, 17, 21, 28, 36)] == [","] * 6, line
    return storms


@pytest.mark.parametrize("basin", ["AL", "EP", "CP"])
@pytest.mark.parametrize("year", [1949, 1990, 2022])
def test_the_text_says_what_the_storms_are(basin: str, year: int) -> None:
    storms = storms_of(StormsConfig(basin=basin, seed=2), year)
    found = read(hurdat2(storms))
    assert len(found) == len(storms) > 0
    for storm, (heading, records) in zip(storms, found, strict=True):
        assert heading == [storm.identity, storm.name, str(len(records))]
        assert len(records) == len(storm.minutes)
        for n, row in enumerate(records):
            moment = datetime.fromtimestamp(int(storm.minutes[n]) * 60, UTC)
            assert row[:2] == [f"{moment:%Y%m%d}", f"{moment:%H%M}"]
            assert row[2].strip() == storm.record[n]
            assert row[3] == storm.status[n]
            assert float(row[4]) == pytest.approx(storm.latitude[n])
            east = float(row[6]) * (1 if row[7] == "E" else -1)
            assert abs(east) <= 180
            assert (east - storm.longitude[n] + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
            numbers = [storm.wind[n], storm.pressure[n], *storm.radii[n], storm.radius[n]]
            assert [int(value) for value in row[8:]] == [int(value) for value in numbers]


def test_storms_have_numbers_in_order_and_records_in_time() -> None:
    for year in (1950, 2005):
        storms = storms_of(StormsConfig(), year)
        assert [storm.identity for storm in storms] == [f"AL{n:02d}{year}" for n in range(1, len(storms) + 1)]
        for storm in storms:
            assert (np.diff(storm.minutes) > 0).all()
            off = storm.minutes % 360 != 0
            assert [mark == "L" for mark in storm.record] == off.tolist()


def test_old_seasons_know_less() -> None:
    def missing(year: int, name: str) -> float:
        values = [getattr(storm, name).ravel() for storm in storms_of(StormsConfig(), year)]
        return float(np.mean(np.concatenate(values) == -999))

    assert missing(1960, "pressure") > 0.6
    assert missing(1990, "pressure") == 0
    assert (missing(2003, "radii"), missing(2004, "radii")) == (1, 0)
    assert (missing(2020, "radius"), missing(2021, "radius")) == (1, 0)
    assert {storm.name for storm in storms_of(StormsConfig(), 1949)} == {"UNNAMED"}


def test_wind_status_pressure_and_radii_agree() -> None:
    wind, pressure = (np.concatenate([getattr(storm, name) for storm in MANY]) for name in ("wind", "pressure"))
    status = np.concatenate([storm.status for storm in MANY])
    assert (wind % 5 == 0).all()
    assert (wind[status == "HU"] >= 64).all()
    assert ((wind[status == "TS"] >= 34) & (wind[status == "TS"] < 64)).all()
    assert (wind[status == "TD"] < 34).all()
    assert np.corrcoef(wind, pressure)[0, 1] < -0.9
    strongest = np.array([storm.wind.max() for storm in MANY])
    assert 0.1 < (strongest >= 96).mean() < 0.5
    assert strongest.max() < 190
    for storm in MANY:
        if (storm.radii >= 0).all():
            assert (storm.radii[:, :4] >= storm.radii[:, 4:8]).all()
            assert (storm.radii[storm.wind < 34] == 0).all()


def test_tracks_move_like_storms_and_landfalls_weaken_them() -> None:
    def speeds(storm: Storm) -> np.ndarray:
        hours = np.diff(storm.minutes) / 60
        north = np.diff(storm.latitude) * 60
        east = np.diff(storm.longitude) * 60 * np.cos(np.radians(storm.latitude[1:]))
        return np.hypot(north, east)[hours == 6] / 6

    knots = np.concatenate([speeds(storm) for storm in MANY if len(storm.minutes) > 3])
    assert 6 < np.median(knots) < 20
    assert knots.max() < 80
    after = [
        storm.wind[min(n + 5, len(storm.wind) - 1)] - storm.wind[n]
        for storm in MANY for n, mark in enumerate(storm.record) if mark == "L" and storm.wind[n] >= 50
    ]  # fmt: skip
    assert len(after) > 5
    assert np.mean(after) < -5


def test_some_central_pacific_storms_cross_the_date_line_and_get_the_letter_e() -> None:
    config = StormsConfig(basin="CP")
    crossing = [s for year in range(1995, 2010) for s in storms_of(config, year) if (s.longitude < -180).any()]
    assert crossing
    text = hurdat2(tuple(crossing[:1]))
    assert "E, " in text
    assert "W, " in text


def test_a_season_is_the_same_alone_and_a_file_holds_them_all(tmp_path: Path) -> None:
    config = StormsConfig(basin="EP", yearly=4.0)
    path = write_hurdat2(config, tmp_path / "raw", 2001, 2003)[0]
    assert path.name == "hurdat2_ep_2001_2003.txt"
    assert path.read_text() == "".join(hurdat2(storms_of(config, year)) for year in (2001, 2002, 2003))
    assert hurdat2(storms_of(config, 2002)) != hurdat2(storms_of(replace(config, seed=1), 2002))


def test_an_unknown_basin_is_refused() -> None:
    with pytest.raises(ValueError, match="basin must be one of AL, EP, CP, got 'WP'"):
        StormsConfig(basin="WP")  # type: ignore[arg-type]
