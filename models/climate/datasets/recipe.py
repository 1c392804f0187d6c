"""What the published preparation does wrong, as data, and the settings which say whether a recipe repeats it.

Every defect was found by reading or running the scripts of NASA-IMPACT/WxC-Bench at ee00516 and of simonpf/chimp at the
two commits that WxC-Bench names. A recipe asks `Recipe.repeats(NAME)` at the one place where the defect acts: false,
and the mended rule holds; true, and the published rows come out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import ClassVar, Literal

from models.common.configuration import check, setting

Compat = Literal["mended", "published"]
Verdict = Literal["confirmed", "read", "disputed"]

DATASETS = ("fluxes", "turbulence", "storms", "analogs", "precipitation", "outlooks")
"""The six, by the name of their package."""


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One thing that the published preparation does wrong.

    Attributes:
        number: its place in the list of the documentation, from 1.
        name: short, snake case, unique; what `reproduce` takes.
        dataset: whose recipe it is in.
        what: what happens, and to which rows.
        where: file and line upstream, or what is known of it.
        verdict: "confirmed" by running the published script; "read" in it only, because no run can show it or it stops
            the run; "disputed": the two pinned commits differ.
        changes: whether the stored values differ when it is repeated; false for what loses, stops or mislabels a run.
    """

    number: int
    name: str
    dataset: str
    what: str
    where: str
    verdict: Verdict = "confirmed"
    changes: bool = True


_TURBULENCE = "aviation_turbulence/code"
_NONLOCAL = "nonlocal_parameterization"
_OUTLOOKS = "forecast-report-generation"

DEFECTS: tuple[Defect, ...] = (
    Defect(
        number=1,
        name="flight_level_order",
        dataset="turbulence",
        what="Single flight levels and ranges are listed apart and joined end to end, so every row after the first "
        "range gets the level of another row.",
        where=f"{_TURBULENCE}/turb_eda_preprocessing.ipynb cell 15",
    ),
    Defect(
        number=2,
        name="intensity_words",
        dataset="turbulence",
        what="Words are found inside other words: LGT-MOD counts as light, NEG or SMTH anywhere as none, LT in MULT "
        "and FLT as light; any S or X beside MOD, and any X beside SEV, gives unknown.",
        where=f"{_TURBULENCE}/turb_eda_preprocessing.ipynb cells 17, 19, 37",
    ),
    Defect(
        number=3,
        name="unknown_reports",
        dataset="turbulence",
        what="Reports of unknown intensity count in the denominator of the share of turbulent ones, and a cell which "
        "holds no other becomes 0 in place of no data.",
        where=f"{_TURBULENCE}/grid_pireps.py lines 12-178",
    ),
    Defect(
        number=4,
        name="leap_day",
        dataset="turbulence",
        what="February is always asked for up to day 28: reports of 29 February are never seen.",
        where=f"{_TURBULENCE}/PIREP_downloads.ipynb cells 4-5",
    ),
    Defect(
        number=5,
        name="last_day",
        dataset="turbulence",
        what="The grid of a day is written when the next day begins; the last day of every file is lost.",
        where=f"{_TURBULENCE}/grid_pireps.py lines 12-178",
    ),
    Defect(
        number=6,
        name="no_wrap",
        dataset="turbulence",
        what="The nearest point is sought without going round the circle: a report at 179.8 E falls in the last "
        "column, though the first is nearer.",
        where=f"{_TURBULENCE}/grid_pireps.py lines 12-178",
    ),
    Defect(
        number=7,
        name="time_index",
        dataset="turbulence",
        what="The first time of a MERRA-2 file is taken as 18 UTC; the time coordinate is never read.",
        where=f"{_TURBULENCE}/make_training_data.py lines 29-165",
    ),
    Defect(
        number=8,
        name="century_leap",
        dataset="fluxes",
        what="Every fourth year has a 29 February, 1900 and 2100 too.",
        where=f"{_NONLOCAL}/download_era5_modellevel_data.py lines 11-29",
    ),
    Defect(
        number=9,
        name="fill_in_mean",
        dataset="turbulence",
        what="The fill of 1e15 below ground is marked by an attribute that no reader knows, and enters means and "
        "deviations.",
        where="aviation_turbulence/neuralnet/train_TurbulenceNN.py lines 45-46",
    ),
    Defect(
        number=10,
        name="exists_is_done",
        dataset="analogs",
        what="A file that exists counts as done, also when it was cut off half-way.",
        where="weather_analog/preprocess_weather_analog.py line 63",
        changes=False,
    ),
    Defect(
        number=11,
        name="zonal_mean_omega",
        dataset="fluxes",
        what="The winds lose their T21 part, omega only its zonal mean: the factors of the flux do not hold the same "
        "scales.",
        where=f"{_NONLOCAL}/compute_momentum_flux_from_era5.py lines 197-200",
    ),
    Defect(
        number=12,
        name="scalar_truncation",
        dataset="fluxes",
        what="Wind components are truncated as if they were scalars, which leaves artefacts around the poles.",
        where=f"{_NONLOCAL}/compute_momentum_flux_from_era5.py lines 197-200",
    ),
    Defect(
        number=13,
        name="random_split",
        dataset="turbulence",
        what="Rows are split at random, so neighbouring cells of one day lie on both sides.",
        where="aviation_turbulence/neuralnet/train_TurbulenceNN.py line 42",
        verdict="read",
    ),
    Defect(
        number=14,
        name="descending_copy",
        dataset="precipitation",
        what="The descending passes of SSMI are a copy of the ascending ones.",
        where="simonpf/chimp at eacc2d4, chimp/data/ssmi.py line 85; not so at e1701da",
        verdict="disputed",
    ),
    Defect(
        number=15,
        name="first_outlook",
        dataset="outlooks",
        what="Of several outlooks of a day the first row is taken: the earliest, whichever day it is valid for.",
        where=f"{_OUTLOOKS}/create_metadata.py line 55",
    ),
    Defect(
        number=16,
        name="literal_year",
        dataset="turbulence",
        what="The year 2023 is written into the test of the year: other years are passed over, and the first row of "
        "2023 writes a file of the year before with one day without data.",
        where=f"{_TURBULENCE}/grid_pireps.py lines 73-76",
    ),
    Defect(
        number=17,
        name="previous_month",
        dataset="turbulence",
        what="A month whose download fails gets a copy of the month before.",
        where=f"{_TURBULENCE}/PIREP_downloads.ipynb cell 7",
    ),
    Defect(
        number=18,
        name="short_report",
        dataset="turbulence",
        what="The flight level is read from the fourth field, whatever is in it: a report whose location holds a "
        "stroke loses its level, and one with fewer than four fields ends the run.",
        where=f"{_TURBULENCE}/turb_eda_preprocessing.ipynb cell 14",
    ),
    Defect(
        number=19,
        name="empty_band",
        dataset="turbulence",
        what="A band of flight levels without reports ends the gridding.",
        where=f"{_TURBULENCE}/grid_pireps.py lines 12-178",
        verdict="read",
        changes=False,
    ),
    Defect(
        number=20,
        name="empty_clear_air",
        dataset="turbulence",
        what="The column of clear-air turbulence stays empty, because its cell stops at the first missing text.",
        where=f"{_TURBULENCE}/turb_eda_preprocessing.ipynb cell 43",
    ),
    Defect(
        number=21,
        name="none_text",
        dataset="turbulence",
        what="Reports whose turbulence is the text None are kept under pandas 1 and dropped under pandas 2; the "
        "published counts are those of pandas 1.",
        where=f"{_TURBULENCE}/PIREP_downloads.ipynb cell 7",
    ),
    Defect(
        number=22,
        name="unsorted_files",
        dataset="turbulence",
        what="Monthly files are joined in the order of the directory listing, so the order of rows depends on the file "
        "system; the recorded outputs are those of the order of names.",
        where=f"{_TURBULENCE}/PIREP_downloads.ipynb cells 10-11",
    ),
    Defect(
        number=23,
        name="three_dots",
        dataset="outlooks",
        what="The text ends at the first three dots, also inside a sentence; of several summaries the last is taken; "
        "without one, the header becomes the discussion; every preformatted block gives a row.",
        where=f"{_OUTLOOKS}/weather_report_data_scraping.py lines 72-80",
    ),
    Defect(
        number=24,
        name="last_day_of_request",
        dataset="outlooks",
        what="All outlooks of a request are stored under the day of the last one; a request without links stops.",
        where=f"{_OUTLOOKS}/weather_report_data_scraping.py line 90",
    ),
    Defect(
        number=25,
        name="end_exclusive",
        dataset="outlooks",
        what="The last day of the range of HRRR files is left out.",
        where=f"{_OUTLOOKS}/download_hrrr.py lines 51-54",
    ),
    Defect(
        number=26,
        name="last_ten_records",
        dataset="storms",
        what="The intensity series leave out the last ten records of a storm; a storm of at most twelve gives none.",
        where="hurricane/codes/hurricane_intensity.py lines 27 and 35",
    ),
    Defect(
        number=27,
        name="beyond_the_pole",
        dataset="fluxes",
        what="The edge cells of the regridder reach to 90.15 degrees of latitude; the second day of the training file "
        "stops, and its values are never filled.",
        where=f"{_NONLOCAL}/coarsegrain_computed_momentum_fluxes.py lines 37-55 and 124-204",
    ),
    Defect(
        number=28,
        name="features_left_out",
        dataset="turbulence",
        what="The loader of all bands together leaves out height and pressure: 170 features in place of 238.",
        where="aviation_turbulence/neuralnet/data_loader.py lines 34-56",
    ),
    Defect(
        number=29,
        name="overlapping_years",
        dataset="precipitation",
        what="SSMI has the year 2019 in both splits; the test list of GridSat is 2019 and 1998-2001, which are years "
        "of training, and lacks 2020-2023.",
        where="long_term_precipitation_forecast/extract_data_*.sh",
    ),
    Defect(
        number=30,
        name="shifted_area",
        dataset="precipitation",
        what="The first cell of the area merra is centred at 180 W at one pinned commit and at 179.6875 W at the "
        "other.",
        where="simonpf/chimp chimp/areas/merra.yml at eacc2d4 and e1701da",
        verdict="disputed",
    ),
    Defect(
        number=31,
        name="longitude_residue",
        dataset="analogs",
        what="The cut compares longitudes exactly: a coordinate of 5e-13 in place of 0 gives 24 columns in place of "
        "25.",
        where="weather_analog/preprocess_weather_analog.py line 33",
    ),
)
"""All of them, by number; the first thirty are those of the documentation, the last is a trap of the files."""

BY_NAME = {defect.name: defect for defect in DEFECTS}


def known(dataset: str = "") -> tuple[str, ...]:
    """Names of the defects of one dataset, or of all, by number.

    Raises:
        ValueError: there is no such dataset.
    """
    if dataset and dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {dataset!r}.")
    return tuple(defect.name for defect in DEFECTS if dataset in ("", defect.dataset))


def reproduced(compat: Compat, reproduce: Iterable[str], dataset: str = "") -> frozenset[str]:
    """Names of the defects which a recipe repeats.

    Args:
        compat: "published" repeats all of them, "mended" none.
        reproduce: names of single defects to repeat beside.
        dataset: whose recipe asks, so that a defect of another is refused; "": any.

    Returns:
        The names.

    Raises:
        ValueError: `compat` is neither, or a name is unknown, of another dataset, or given twice.

    Source:
        Ours.
    """
    if compat not in ("mended", "published"):
        raise ValueError(f"compat must be 'mended' or 'published', got {compat!r}.")
    names, wanted = known(dataset), list(reproduce)
    whose = f"defects of {dataset}" if dataset else "defects"
    for name in wanted:
        if name not in names:
            raise ValueError(f"reproduce must name {whose}, got {name!r}; known are {', '.join(names) or 'none'}.")
        if wanted.count(name) > 1:
            raise ValueError(f"reproduce names {name!r} twice; name it once.")
    return frozenset(names) if compat == "published" else frozenset(wanted)


def day(text: str, field: str) -> date | None:
    """A day in ISO form, or None for "".

    Raises:
        ValueError: it is no day; the message names the field.
    """
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{field} must be a day such as 2019-01-31, or '' for no bound, got {text!r}.") from None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that all six recipes share; each inherits them and names itself in `dataset`."""

    dataset: ClassVar[str] = ""
    elsewhere: ClassVar[tuple[str, ...]] = ("name",)
    """Settings that say which parts there are or where files lie, and not what is in a part; see `Partitioned`."""

    source: Literal["generated", "files"] = setting(
        "generated", "Source", "A generated world whose truth is known, or raw files of your own."
    )
    start: str = setting("", "First day", "First day to prepare, such as 2019-01-31; empty: all that there are.")
    end: str = setting("", "Last day", "Last day to prepare, itself included; empty: all that there are.")
    compat: Compat = setting(
        "mended",
        "Rules",
        "'mended': the defects of the published preparation are mended. 'published': they are repeated, so that the "
        "published values come out.",
    )
    reproduce: tuple[str, ...] = setting(
        (), "Defects to repeat", "Names of single published defects to repeat although the rules are mended."
    )

    def __post_init__(self) -> None:
        check(self)
        kind = type(self).__name__
        try:
            reproduced(self.compat, self.reproduce, self.dataset)
            first, last = day(self.start, "start"), day(self.end, "end")
        except ValueError as error:
            raise ValueError(f"{kind}.{error}") from None
        if first and last and first > last:
            raise ValueError(f"{kind}.end must not lie before start, got {self.start} to {self.end}; swap them.")

    @property
    def first(self) -> date | None:
        """First day to prepare; None: no bound."""
        return day(self.start, "start")

    @property
    def last(self) -> date | None:
        """Last day to prepare, itself included; None: no bound."""
        return day(self.end, "end")

    @property
    def defects(self) -> frozenset[str]:
        """Names of the published defects that this recipe repeats."""
        return reproduced(self.compat, self.reproduce, self.dataset)

    def repeats(self, name: str) -> bool:
        """Whether one defect is repeated.

        Raises:
            KeyError: there is no such defect; a misspelt name must not read as mended.
        """
        return BY_NAME[name].name in self.defects
