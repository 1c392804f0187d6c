from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.climate.gravity_waves.splits import PARTS, SplitConfig
from models.common.errors import InputError


def _hours(first: str, last: str, step: int = 1) -> Any:
    return np.arange(np.datetime64(first, "h"), np.datetime64(last, "h"), step).astype("datetime64[s]")


def test_published_years_are_trained_on_and_tested_and_two_months_are_ours() -> None:
    time = _hours("2010-01-01", "2016-01-01", 5)
    split = SplitConfig()
    years = {part: sorted({str(month)[:4] for month in time[split.rows_of(part, time)]}) for part in PARTS}
    assert years == {"train": ["2010", "2012", "2014"], "validation": ["2014"], "test": ["2015"]}
    validation = np.unique(time[split.rows_of("validation", time)].astype("datetime64[M]"))
    assert validation.astype(str).tolist() == ["2014-04", "2014-10"]
    trained = np.unique(time[split.rows_of("train", time)].astype("datetime64[M]"))
    assert len(trained) == 34


def test_an_hour_belongs_to_the_year_and_month_that_it_begins_in() -> None:
    time = np.array(
        ["2014-12-31T23:59:59", "2015-01-01T00:00:00", "2014-03-31T23:00:00", "2014-04-01T00:00:00"], "M8[s]"
    )
    split = SplitConfig()
    assert split.rows_of("train", time).tolist() == [0, 2]
    assert split.rows_of("validation", time).tolist() == [3]
    assert split.rows_of("test", time).tolist() == [1]


def test_an_hour_that_is_there_twice_is_in_one_part() -> None:
    time = np.array(["2014-05-01T00", "2015-05-01T00", "2014-05-01T00", "2014-04-09T00"], "M8[s]")
    rows = {part: SplitConfig().rows_of(part, time).tolist() for part in PARTS}
    assert rows == {"train": [0, 2], "validation": [3], "test": [1]}


_MONTHS = st.sampled_from([f"{year}-{month:02d}" for year in (2010, 2011) for month in range(1, 13)])


@given(
    months=st.lists(_MONTHS, min_size=3, max_size=9, unique=True),
    cuts=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    year=st.sampled_from([None, *PARTS]),
    margin=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_months_are_never_shared(
    months: list[str], cuts: tuple[int, int], year: str | None, margin: int, seed: int
) -> None:
    one = 1 + cuts[0] % (len(months) - 2)
    two = one + 1 + cuts[1] % (len(months) - one - 1)
    named = {"train": months[:one], "validation": months[one:two], "test": months[two:]}
    if year:
        named[year] = [*named[year], "2010"]
    split = SplitConfig(margin_days=margin, **{part: tuple(names) for part, names in named.items()})
    time = np.random.default_rng(seed).permutation(_hours("2009-12-01", "2012-02-01", 7))
    rows = {part: split.rows_of(part, time) for part in PARTS}
    found = {part: set(time[one].astype("datetime64[M]").astype(str)) for part, one in rows.items()}
    for at, part in enumerate(PARTS):
        assert (np.diff(rows[part]) > 0).all()
        asked = {month for month in named[part] if len(month) > 4}
        assert found[part] - asked <= ({f"2010-{month:02d}" for month in range(1, 13)} if part == year else set())
        for other in PARTS[at + 1 :]:
            assert not found[part] & found[other]
            # hours are 7 apart, and a judged month begins on the hour
            gap = min(abs(time[rows[part]][:, None] - time[rows[other]]).min(axis=1)) / np.timedelta64(1, "D")
            assert gap >= margin
    if not margin:
        assert {month for names in named.values() for month in names if len(month) > 4} == {
            month for part in PARTS for month in found[part] if month in months
        }


def test_days_beside_judged_months_are_left_out_whether_these_are_there_or_not() -> None:
    split = SplitConfig(train=("2014",), validation=("2014-06",), test=("2015",), margin_days=3)
    for last in ("2015-01-01", "2016-01-01"):
        time = _hours("2014-01-01", last)
        trained = time[split.rows_of("train", time)]
        assert trained.max() == np.datetime64("2014-12-28T23")
        around = trained[(trained > np.datetime64("2014-05-20")) & (trained < np.datetime64("2014-07-20"))]
        gap = np.argmax(np.diff(around))
        assert (str(around[gap]), str(around[gap + 1])) == ("2014-05-28T23:00:00", "2014-07-04T00:00:00")


def test_months_that_are_named_and_not_there_are_known() -> None:
    split = SplitConfig(train=("2013", "2014"), validation=("2014-04", "2015-02"), test=("2016-01",))
    time = _hours("2013-03-01", "2014-12-01")
    assert split.absent(time) == {
        "train": ("2013-01", "2013-02", "2014-12"),  # not April: it is named for validation
        "validation": ("2015-02",),
        "test": ("2016-01",),
    }
    assert split.absent(_hours("2013-01-01", "2016-02-01")) == {}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_without_hours_is_refused_by_name(part: str) -> None:
    split = SplitConfig(train=("2010",), validation=("2011-05",), test=("2012", "2013-01"))
    time = {
        "train": _hours("2011-05-01", "2014-01-01", 24),
        "validation": _hours("2010-01-01", "2011-05-01", 24),
        "test": _hours("2010-01-01", "2012-01-01", 24),
    }[part]
    named = {"train": "2010", "validation": "2011-05", "test": "2012, 2013-01"}[part]
    there = f"{time[0].astype('datetime64[M]')} to {time[-1].astype('datetime64[M]')}"
    with pytest.raises(InputError, match=f"no hour is left for {part}: it names {named}; the data have {there}"):
        split.rows_of(part, time)  # type: ignore[arg-type]


def test_a_margin_that_leaves_nothing_says_so() -> None:
    split = SplitConfig(train=("2014-02",), validation=("2014-01",), test=("2014-03",), margin_days=14)
    with pytest.raises(InputError, match="no hour is left for train: it names 2014-02 less 14 days beside other parts"):
        split.rows_of("train", _hours("2014-01-01", "2014-04-01"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"test": ("2010",)}, "SplitConfig.test names 2010, which is in train already"),
        (
            {"validation": ("2014-04", "2014-04")},
            "validation names 2014-04, which is in validation already",
        ),
        (
            {"train": ("2014-13",)},
            "train must name years such as 2014 or months such as 2014-04, got '2014-13'",
        ),
        ({"train": ("14",)}, "got '14'"),
        ({"train": ()}, "SplitConfig.train must be at least this long: 1"),
        ({"margin_days": 29}, "SplitConfig.margin_days must be at most 28"),
    ],
)
def test_settings_that_share_months_or_name_none_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SplitConfig(**settings)


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="part must be one of train, validation, test, got 'training'"):
        SplitConfig().rows_of("training", _hours("2010-01-01", "2010-02-01"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the data have no month at all"):
        SplitConfig(margin_days=3).rows_of("train", np.array([], "M8[s]"))
