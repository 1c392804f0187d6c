"""Outlooks and forecasts: pages that say what the fields say, blemishes included, and GRIB on the right grid."""

import html.parser
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import eccodes
import numpy as np
import pytest

from models.climate.generator.outlooks import (
    CATEGORIES,
    THRESHOLDS,
    Outlook,
    OutlooksConfig,
    fields_of,
    native_of,
    outlooks_of,
    write_hrrr,
    write_outlooks,
)  # fmt: skip

SMALL = OutlooksConfig(rows=24, columns=40, levels=3, quirks=0.3)
DAY = date(2021, 6, 27)
MANY = [outlook for k in range(0, 360, 12) for outlook in outlooks_of(SMALL, date(2021, 1, 1) + timedelta(days=k))]


class Blocks(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.inside = tag == "pre"
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def summary_in(text: str) -> str:
    """From the last mark to the next line that is a heading or the end sign."""
    if "...SUMMARY..." not in text:
        return ""
    lines = text.split("...SUMMARY...")[-1].split("\n")
    body = []
    for line in lines:
        if re.fullmatch(r"   \.\.\..*\.\.\.", line) or line.strip() == "$$":
            break
        body.append(line)
    return "\n".join(body).strip()


def test_a_page_says_what_the_outlook_holds() -> None:
    for outlook in MANY:
        blocks = Blocks(outlook.page).texts
        assert len(blocks) == outlook.blocks
        assert summary_in(blocks[0]) == outlook.summary
        headline = re.search(r"\.\.\.(THERE IS AN? (\w+) RISK|NO SEVERE)", blocks[0])
        assert headline
        words = {"MARGINAL": "MRGL", "SLIGHT": "SLGT", "ENHANCED": "ENH", "MODERATE": "MDT", "HIGH": "HIGH"}
        assert words.get(headline[2] or "", "NONE") == outlook.category
        for hazard in outlook.hazards:
            assert outlook.summary == "" or hazard in " ".join(outlook.summary.lower().split())
        for region in outlook.regions:
            assert f"...{region[0].upper()}{region[1:]}..." in blocks[0]


def test_every_blemish_and_every_category_occurs_and_blemishes_can_be_switched_off() -> None:
    assert any(outlook.summary == "" for outlook in MANY)
    assert any(outlook.blocks == 2 for outlook in MANY)
    assert any(outlook.page.count("...SUMMARY...") == 2 for outlook in MANY)
    assert any("..." in outlook.summary for outlook in MANY)
    assert len({outlook.category for outlook in MANY}) >= 4
    for outlook in outlooks_of(replace(SMALL, quirks=0.0), DAY):
        assert (outlook.blocks, outlook.page.count("...SUMMARY...")) == (1, 1)
        assert "..." not in outlook.summary


def test_the_last_outlook_of_a_day_knows_the_category_that_the_fields_have() -> None:
    right = 0
    for k in range(20):
        day = DAY + timedelta(days=7 * k)
        following = outlooks_of(SMALL, day + timedelta(days=1))[0]
        assert following.time == "0100"
        risk = np.quantile(fields_of(SMALL, day)["risk"], 0.99)
        found = CATEGORIES.index(following.category)
        right += abs(found - int(np.searchsorted(THRESHOLDS, risk))) <= 1
    assert right >= 18


def test_risk_is_instability_times_shear_and_summer_has_more() -> None:
    fields = fields_of(SMALL, DAY)
    np.testing.assert_allclose(fields["risk"], fields["cape"] / 1000 * fields["shear"] / 20, rtol=1e-5)
    days = [[date(year, month, 10) for year in range(2000, 2012)] for month in (6, 12)]
    summer, winter = (np.mean([fields_of(SMALL, day)["cape"].mean() for day in season]) for season in days)
    assert summer > 2 * winter


def test_pages_and_index_are_those_of_an_archive(tmp_path: Path) -> None:
    paths = write_outlooks(replace(SMALL, daily=2), tmp_path / "raw", DAY, DAY + timedelta(days=1))
    assert [path.name for path in paths] == [
        "index_2021-06-27_2021-06-28.html", "day1otlk_20210627_0600.html", "day1otlk_20210627_1300.html",
        "day1otlk_20210628_0600.html", "day1otlk_20210628_1300.html",
    ]  # fmt: skip
    links = re.findall(r'href="(/products/outlook/archive/2021/day1otlk_(\d{8})_(\d{4})\.html)"', paths[0].read_text())
    assert [link[1:] for link in links] == [
        ("20210627", "0600"), ("20210627", "1300"), ("20210628", "0600"), ("20210628", "1300"),
    ]  # fmt: skip
    assert paths[2].read_text() == outlooks_of(replace(SMALL, daily=2), DAY)[1].page


def test_a_page_is_the_same_alone() -> None:
    def pages(outlooks: tuple[Outlook, ...]) -> list[str]:
        return [outlook.page for outlook in outlooks]

    assert pages(outlooks_of(SMALL, DAY)) == pages(outlooks_of(SMALL, DAY))
    assert pages(outlooks_of(SMALL, DAY)) != pages(outlooks_of(replace(SMALL, seed=5), DAY))
    assert outlooks_of(replace(SMALL, daily=0), DAY) == ()


def test_grib_holds_the_fields_on_hrrrs_projection(tmp_path: Path) -> None:
    path = write_hrrr(SMALL, tmp_path, DAY, DAY)[0]
    assert path.name == "hrrr.20210627.t01z.wrfnatf00.grib2"
    native, fields = native_of(SMALL, DAY), fields_of(SMALL, DAY)
    seen = []
    with path.open("rb") as file:
        while (handle := eccodes.codes_grib_new_from_file(file)) is not None:
            name, level = eccodes.codes_get(handle, "shortName"), eccodes.codes_get(handle, "level")
            seen.append((name, level))
            assert eccodes.codes_get(handle, "gridType") == "lambert"
            assert eccodes.codes_get(handle, "typeOfLevel") == "hybrid"
            assert eccodes.codes_get(handle, "uvRelativeToGrid") == 1
            assert (eccodes.codes_get(handle, "dataDate"), eccodes.codes_get(handle, "dataTime")) == (20210627, 100)
            for key in ("latitude", "longitude"):
                # eccodes' own arithmetic of the projection
                place = eccodes.codes_get_array(handle, f"{key}s").reshape(24, 40)
                np.testing.assert_allclose(place, fields[key], atol=2e-3)
            values = eccodes.codes_get_values(handle).reshape(24, 40)
            wanted = native[name][level - 1]
            assert np.abs(values - wanted).max() <= max(np.ptp(wanted) / 2**15, 1e-6 * np.abs(wanted).max())
            eccodes.codes_release(handle)
    assert seen == [(name, level) for name in ("t", "u", "v", "q", "pres") for level in (1, 2, 3)]


def test_the_full_grid_ends_where_hrrrs_ends() -> None:
    fields = fields_of(OutlooksConfig(rows=1059, columns=1799), DAY)
    # the north-east corner of HRRR's grid: 47.84 N, 60.92 W
    assert fields["latitude"][-1, -1] == pytest.approx(47.84, abs=0.02)
    assert fields["longitude"][-1, -1] - 360 == pytest.approx(-60.92, abs=0.02)
