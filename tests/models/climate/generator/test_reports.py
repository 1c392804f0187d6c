"""Pilots' reports: text that says what the truth says, and columns laid out as MERRA-2's."""

import csv
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from models.climate.generator import reports
from models.climate.generator.reports import ReportsConfig, columns_of, reports_of, severity_of

SMALL = ReportsConfig(rows=37, columns=72, levels=12, daily=400, ranges=0.15)
DAY = date(2020, 2, 29)
ONES = ("NEG SMTH SMOOTH NONE", "LGT LIGHT LT", "MOD MDT MODERATE", "SEV SVR", "EXTRM EXTREME EXTM")


def largest_named(text: str) -> int:
    """The largest intensity among the whole words of a text; -1 without any."""
    words = set(re.split(r"[ \-/&]+", text))
    return max((grade for grade, names in enumerate(ONES) if words & set(names.split())), default=-1)


def level_named(field: str) -> int:
    numbers = [int(number) for number in re.findall(r"\d+", field)]
    return sum(numbers) // len(numbers) if numbers else -1


def test_every_report_says_the_level_and_intensity_that_the_truth_holds() -> None:
    found = reports_of(SMALL, DAY)
    assert 300 < len(found.level) < 500
    for n, text in enumerate(found.table["REPORT"]):
        fields = [field.strip() for field in text.split("/")]
        assert level_named(fields[3]) == found.level[n], text
        assert largest_named(found.table["TURBULENCE"][n]) == found.intensity[n], text
        if found.table["TURBULENCE"][n] != "None":
            assert f"TB {found.table['TURBULENCE'][n]}" in text
        assert fields[2] == f"TM {found.minute[n] // 60:02d}{found.minute[n] % 60:02d}"
        assert ("UUA" in text) == (found.intensity[n] >= 3)
    fields = [text.split("/")[3].strip() for text in found.table["REPORT"]]
    assert {"FLUNKN", "FLDURD", "FLDURC"} <= set(fields)
    assert any(re.fullmatch(r"FL\d{3}-\d{3}", field) for field in fields)
    assert any(re.fullmatch(r"FL\d{3}-FL\d{3}", field) for field in fields)


def test_settings_switch_habits_off() -> None:
    plain = reports_of(replace(SMALL, ranges=0.0, unknown=0.0, silent=0.0, error=0.0), DAY)
    assert (plain.level > 0).all()
    assert not any("-" in text.split("/")[3] for text in plain.table["REPORT"])
    np.testing.assert_array_equal(plain.intensity, np.clip(np.rint(plain.severity), 0, 4))


def test_what_pilots_feel_follows_the_severity_of_their_air() -> None:
    known = [reports_of(SMALL, date(2021, 3, day)) for day in range(1, 6)]
    intensity, severity = (np.concatenate([getattr(one, name) for one in known]) for name in ("intensity", "severity"))
    told = intensity >= 0
    assert np.corrcoef(intensity[told], severity[told])[0, 1] > 0.75
    share = np.bincount(intensity[told], minlength=5) / told.sum()
    assert share[1] > share[2] > share[3] > 0
    assert 0.05 < share[2:].sum() < 0.45


def test_severity_is_a_function_of_the_column() -> None:
    columns, severity = columns_of(SMALL, DAY, 6), severity_of(SMALL, DAY, 6)
    assert severity.shape == columns.U.shape
    below = np.float32(1e15) == columns.U
    assert np.isfinite(severity[:, ~below.any(0)]).all()
    assert np.isnan(severity[below]).all()
    # more shear at the same stability means more turbulence
    i, j = np.argwhere(~below.any(0))[7]
    u, v = columns.U[:, i, j].astype(float), columns.V[:, i, j].astype(float)
    shear = np.hypot(np.gradient(u), np.gradient(v)) / np.abs(np.gradient(columns.H[:, i, j].astype(float)))
    log = np.log(reports.pressures(12))
    n2 = 9.81**2 / (287.053 * columns.T[:, i, j]) * (0.286 - np.gradient(np.log(columns.T[:, i, j]), log))
    usual = np.interp(np.exp(log), *reports.USUAL)
    z = (np.log(shear**2 / np.maximum(n2, 2e-5)) - usual) / 1.45
    wanted = np.clip(0.65 * (1 + 2 * np.abs(columns.OMEGA[:, i, j])) * np.exp(0.8 * z), 0, 4)
    np.testing.assert_allclose(severity[:, i, j], wanted, rtol=1e-2, atol=1e-2)


def test_columns_are_hydrostatic_and_empty_below_ground_alone() -> None:
    columns = columns_of(SMALL, DAY)
    assert (columns.latitude[0], columns.longitude[0], columns.longitude[-1]) == (-90, -180, 175)
    below = np.float32(1e15) == columns.H
    assert 0 < below.mean() < 0.3
    for name in ("U", "V", "T", "OMEGA", "RH", "PL"):
        np.testing.assert_array_equal(getattr(columns, name) == np.float32(1e15), below)
    assert (np.diff(below.astype(int), axis=0) >= 0).all()
    ground = columns.PHIS / 9.81
    height = columns.H.astype(float)
    assert (height[~below] >= np.broadcast_to(ground, height.shape)[~below] - 1).all()
    thickness = -np.diff(height, axis=0)
    clear = ~below[1:]
    mean_t = (columns.T[1:].astype(float) + columns.T[:-1]) / 2
    wanted = 287.053 * mean_t / 9.81 * np.diff(np.log(reports.pressures(12)))[:, None, None]
    np.testing.assert_allclose(thickness[clear], wanted[clear], rtol=1e-3)
    known = columns.RH[~below]
    assert 0 < known.min() < known.max() <= 1


def test_flight_levels_are_those_of_the_standard_atmosphere() -> None:
    # ICAO: 10,000 ft 696.8 hPa, FL180 505.99 hPa, FL340 250.0 hPa, FL450 147.48 hPa
    found = reports.flight_pressure(np.array([100, 180, 340, 450])) / 100
    assert found == pytest.approx([696.8, 506.0, 250.0, 147.5], rel=2e-3)


def test_a_day_is_the_same_alone_and_in_company() -> None:
    first = reports_of(SMALL, DAY)
    reports_of(SMALL, date(2020, 3, 1))
    assert reports_of(SMALL, DAY).table == first.table
    assert reports_of(replace(SMALL, seed=1), DAY).table != first.table


def test_months_of_reports_hold_every_day_of_a_leap_february(tmp_path: Path) -> None:
    config = replace(SMALL, daily=40)
    paths = reports.write_reports(config, tmp_path, date(2020, 2, 28), date(2020, 3, 1))
    assert [path.name for path in paths] == ["2020_02.csv", "2020_03.csv"]
    rows = [row for path in paths for row in csv.DictReader(path.open())]
    headings = "VALID,URGENT,AIRCRAFT,REPORT,ICING,TURBULENCE,ATRCC,LAT,LON,PRODUCT_ID"
    assert ",".join(rows[0]) == headings
    days = [reports_of(config, date(2020, *day)) for day in ((2, 28), (2, 29), (3, 1))]
    assert [row["REPORT"] for row in rows] == [text for day in days for text in day.table["REPORT"]]
    assert {row["VALID"][:8] for row in rows} == {"20200228", "20200229", "20200301"}
    np.testing.assert_allclose([float(row["LON"]) for row in rows], np.concatenate([day.longitude for day in days]))
    assert any(float(row["LON"]) > 170 for row in rows)
    assert all(row["LAT"] not in ("", "None") for row in rows)


def test_columns_are_written_as_merra_subsets(tmp_path: Path) -> None:
    paths = reports.write_columns(SMALL, tmp_path, date(2021, 7, 1), date(2021, 7, 1), (0, 18))
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "U_V_T_RH_OMEGA/MERRA2_401.inst3_3d_asm_Nv.20210701.SUB.nc",
        "H_PL_PHIS/MERRA2_401.inst3_3d_asm_Nv.20210701.SUB.nc",
    ]
    wanted = columns_of(SMALL, date(2021, 7, 1), 18)
    with netCDF4.Dataset(paths[0]) as file:
        file.set_auto_mask(False)
        assert file["OMEGA"].dimensions == ("time", "lev", "lat", "lon")
        assert file["OMEGA"].units == "Pa s-1"
        assert file["OMEGA"]._FillValue == np.float32(1e15)
        np.testing.assert_array_equal(file["OMEGA"][1], wanted.OMEGA)
        np.testing.assert_array_equal(file["time"][:], [0, 1080])
        np.testing.assert_array_equal(file["lev"][:], np.arange(61, 73))
    with netCDF4.Dataset(paths[1]) as file:
        file.set_auto_mask(False)
        assert file["PHIS"].dimensions == ("time", "lat", "lon")
        np.testing.assert_array_equal(file["PHIS"][0], wanted.PHIS)
        np.testing.assert_array_equal(file["H"][1], wanted.H)


def test_the_full_grid_is_merras() -> None:
    latitude, longitude = reports._grid(ReportsConfig())
    assert (len(latitude), len(longitude)) == (361, 576)
    np.testing.assert_array_equal(np.diff(latitude), 0.5)
    assert (longitude[0], longitude[-1]) == (-180.0, 179.375)
