"""Thirty-one defects as data, and the settings that repeat them."""

from collections import Counter
from dataclasses import dataclass

import pytest

from models.climate.datasets.recipe import BY_NAME, DATASETS, DEFECTS, Recipe, known, reproduced


@dataclass(frozen=True, kw_only=True)
class Outlooks(Recipe):
    """A recipe of its own, as the packages have them."""

    dataset = "outlooks"


def test_every_defect_has_a_number_a_name_a_dataset_and_a_place() -> None:
    assert [defect.number for defect in DEFECTS] == list(range(1, 32))
    assert len(BY_NAME) == len(DEFECTS)
    assert {defect.dataset for defect in DEFECTS} == set(DATASETS)
    assert all(defect.what.endswith(".") and defect.where for defect in DEFECTS)


def test_only_what_no_run_can_show_or_what_depends_on_a_commit_is_not_confirmed() -> None:
    others = {defect.number: defect.verdict for defect in DEFECTS if defect.verdict != "confirmed"}
    assert others == {13: "read", 19: "read", 14: "disputed", 30: "disputed"}


def test_published_rules_repeat_every_defect_of_the_dataset_and_mended_ones_none() -> None:
    assert reproduced("published", (), "outlooks") == {
        "first_outlook", "three_dots", "last_day_of_request", "end_exclusive",
    }  # fmt: skip
    assert reproduced("mended", ()) == frozenset()
    assert Counter(BY_NAME[name].dataset for name in reproduced("published", ()))["turbulence"] == len(
        known("turbulence")
    )


def test_single_defects_are_repeated_beside_mended_rules() -> None:
    recipe = Outlooks(reproduce=("three_dots",))
    assert recipe.repeats("three_dots")
    assert not recipe.repeats("first_outlook")


def test_a_misspelt_defect_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        ValueError, match=r"Outlooks\.reproduce must name defects of outlooks, got 'three_dot'; known are "
    ):
        Outlooks(reproduce=("three_dot",))
    with pytest.raises(KeyError):
        Outlooks().repeats("three_dot")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reproduce": ("no_wrap",)}, r"defects of outlooks, got 'no_wrap'"),
        ({"reproduce": ("three_dots", "three_dots")}, r"names 'three_dots' twice"),
        ({"compat": "pulished"}, r"compat must be 'mended' or 'published', got 'pulished'"),
        ({"start": "2021-02-30"}, r"Outlooks\.start must be a day such as 2019-01-31"),
        ({"start": "2021-02-03", "end": "2021-02-01"}, r"end must not lie before start, got 2021-02-03 to 2021-02-01"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Outlooks(**settings)  # type: ignore[arg-type]


def test_there_is_no_seventh_dataset() -> None:
    with pytest.raises(ValueError, match="dataset must be one of fluxes"):
        known("tides")
