"""Analogs by a published index: days become a table of vectors, the index of it says which days are nearest.

The index knows its days and their vectors, so whoever asks it names it and nothing else. A stored search is a payload
with these parts.

    answers      `day`, `rank`, `analog` and `distance`, a row for each analog of each day
    days         (N) days since 1970-01-01, ascending
    vectors      (N, D) float32 of the days, as the index holds them
    places       (N, count) positions of the analogs among the days, nearest first
    about        JSON: how many analogs, the window, the seed of what is compared with them
"""

# Shapes: N days, D numbers of a vector, K neighbours that a day asks for.

from collections.abc import Mapping
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.climate.datasets.analogs.baseline import WINDOW_DAYS, Days, asking, held, skill
from models.climate.datasets.analogs.figures import errors_by_lead
from models.common.certificate import Certificate, Claim
from models.common.configuration import check, setting
from models.common.contracts import InputError, Payload, Searcher
from models.common.judgement import Judgement

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DayVectorsConfig:
    """Which days become a table of vectors, and where it goes."""

    name: str = setting("analogs", "Name", "Name in the recipe of the live dataset of days.", min_length=1)
    file: str = setting(
        "data/analogs/days.parquet",
        "File",
        "Path of a Parquet file, under a data root, with one row per day: day, date, year, month, vector, question.",
        min_length=1,
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def product(self) -> str:
        """The dataset's name in the store."""
        return f"datasets-{self.name}"

    def tables(self, data: Payload) -> Mapping[str, pa.Table]:
        """The days by the path of their table; raises `InputError`."""
        try:
            days = Days.of(data["data"])
        except (KeyError, ValueError) as error:
            raise InputError(f"{self.product} gives no vectors of days: {error}") from error
        vectors, questions = days.for_inner_products()
        moment = days.day.astype("datetime64[D]")
        table = {
            "day": pa.array(days.day),
            "date": pa.array(np.datetime_as_string(moment)),
            "year": pa.array(moment.astype("datetime64[Y]").astype(np.int64) + 1970),
            "month": pa.array(moment.astype("datetime64[M]").astype(np.int64) % 12 + 1),
            "vector": _listed(vectors),
            "question": _listed(questions),
        }
        return {self.file: pa.table(table)}

    def check_reader(self, source: str, items: str, columns: tuple[str, str, str]) -> None:
        """Raise `InputError` when an index would be built from another table than the one that is written.

        Args:
            source: what the data of the index say that they are.
            items: path of its table.
            columns: of the item, its vector, and the vector by which it asks.
        """
        if source != "vectors":
            raise InputError(f"the data's source must be 'vectors' to read what is written, got {source!r}.")
        if normpath(items) != normpath(self.file):
            raise InputError(f"DayVectorsConfig.file is {self.file!r}, but the index reads {items!r}; name one file.")
        if columns != ("day", "vector", "question"):
            raise InputError(f"columns must be 'day', 'vector' and 'question' to read what is written, got {columns}.")


@dataclass(frozen=True, kw_only=True)
class AnalogQuestionsConfig:
    """Every day of an index asks it for the days most like it."""

    name: str = setting(
        "analog-search",
        "Name",
        "Name of the search: lower case letters, digits and hyphens, 1 to 63.",
        min_length=1,
        max_length=63,
    )
    analogs: int = setting(10, "Analogs", "How many for each day, 1 to 1000.", ge=1, le=1000)
    window: int = setting(
        WINDOW_DAYS,
        "Window",
        "Days on either side of a day that are no analogs of it, for they are the same weather, 0 to 500.",
        ge=0,
        le=500,
    )
    seed: int = setting(
        0, "Seed", "Of the random days that analogs are compared with, and of resampling, 0 to 2147483647.",
        ge=0, le=2147483647,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if not all(part.isalnum() and part.isascii() and part == part.lower() for part in self.name.split("-")):
            raise ValueError(
                f"AnalogQuestionsConfig.name must be lower case letters, digits and single hyphens, got {self.name!r}."
            )

    @property
    def k(self) -> int:
        """Length of a list: all days of the window may be nearer than the first analog."""
        return self.analogs + 2 * self.window + 1

    def sources(self) -> Mapping[str, str]:
        """No file: the index has the days."""
        return {}

    def questions(self, files: Mapping[str, Path], searcher: Searcher) -> Payload:
        """The days of the index and what they ask; raises `InputError` where it is no index of days."""
        items = searcher.items
        if not pa.types.is_integer(items.type) or items.null_count:
            raise InputError(
                f"the items of the index must be days since 1970-01-01, got {items.type} with "
                f"{items.null_count} missing; name an index of days."
            )
        try:
            vectors = held(searcher.vectors)
        except ValueError as error:
            raise InputError(str(error)) from error
        day = np.asarray(items.to_numpy(zero_copy_only=False), np.int64)
        order = np.argsort(day, kind="stable")
        return {"queries": asking(vectors[order]), "order": order, "days": day[order], "vectors": vectors[order]}

    def answers(self, asked: Payload, places: Integers, scores: Floats) -> tuple[Payload, Mapping[str, float]]:
        """The nearest days outside the window of each day; see `Asking`.

        Raises:
            InputError: some day has too few of them.
        """
        day, vectors = asked["days"], asked["vectors"]
        position = np.empty_like(asked["order"])
        position[asked["order"]] = np.arange(len(position))
        found = position[places]
        wanted = (places >= 0) & (np.abs(day[found] - day[:, None]) > self.window)
        if wanted.sum(1).min() < self.analogs:
            raise InputError(
                f"some day has fewer than {self.analogs} days outside {self.window} days around it; ask for fewer "
                "analogs, or prepare more days."
            )
        first = np.argsort(~wanted, axis=1, kind="stable")[:, : self.analogs]
        nearest = np.take_along_axis(found, first, 1)
        distance = np.stack([_apart(vectors, vectors[nearest[:, rank]]) for rank in range(self.analogs)], axis=1)
        moment = day.astype("datetime64[D]")
        answers = pa.table(
            {
                "day": pa.array(np.repeat(moment, self.analogs)),
                "rank": pa.array(np.tile(np.arange(1, self.analogs + 1), len(day))),
                "analog": pa.array(moment[nearest].ravel()),
                "distance": pa.array(distance.ravel()),
            }
        )
        about = {"analogs": self.analogs, "window": self.window, "seed": self.seed}
        kept = {"answers": answers, "days": day, "vectors": vectors, "places": nearest, "about": about}
        return kept, {"days": float(len(day)), "analogs": float(nearest.size)}


@dataclass(frozen=True, kw_only=True)
class AnalogSearchConfig:
    """Analogs of all days by a published index, and what they are worth."""

    questions: AnalogQuestionsConfig = setting(
        AnalogQuestionsConfig, "Questions", "How many analogs each day asks for, and which days are none."
    )
    export: str = setting("", "Export", "Path of a Parquet file for the analogs, under a data root; empty: none.")

    def __post_init__(self) -> None:
        check(self)
        if self.export and not self.export.endswith(".parquet"):
            raise ValueError(
                f"AnalogSearchConfig.export must end in .parquet, because analogs are a Parquet file, got "
                f"{self.export!r}."
            )

    def parameters(self) -> Mapping[str, str | int | float]:
        """What a person compares runs by."""
        asked = self.questions
        return {"search": asked.name, "analogs": asked.analogs, "window": asked.window, "seed": asked.seed}

    def analyse(self, data: Payload) -> Judgement:
        """What the analogs foretell, and whether they are those of a direct search over the same vectors."""
        return judge(data)


def judge(data: Payload) -> Judgement:
    """Skill of analogs against chance and persistence, and a certificate that no nearer day was missed.

    Args:
        data: a stored search.

    Returns:
        The judgement. The direct search compares every pair of days by differences in float64.

    Raises:
        ValueError: there are too few days to search directly.

    Source:
        Ours.
    """
    about, places = data["about"], np.asarray(data["places"])
    days = Days(day=np.asarray(data["days"]), vectors=np.asarray(data["vectors"]).astype(np.float64))
    count = places.shape[1]
    direct, distance = days.nearest(count, about["window"])
    said = np.asarray(data["answers"]["distance"].to_numpy()).reshape(places.shape)
    both = (places[:, :, None] == direct[:, None, :]).any(2)
    near = np.abs(days.day[places] - days.day[:, None]) <= about["window"]
    metrics = {f"recall_at_{count}": float(both.mean())}
    metrics |= skill(days, places, window=about["window"], seed=about["seed"])
    claims = [
        Claim(
            name=f"recall_at_{count}",
            kind="exact",
            value=metrics[f"recall_at_{count}"],
            limit=1,
            sense="at least",
            detail=f"Share of the nearest {count} of {len(days.day)} days, by a direct search, which the index found.",
        ),
        Claim(
            name="analogs_out_of_order",
            kind="exact",
            value=float((places != direct).sum()),
            limit=0,
            detail="Ranks at which the index has another day than the direct search; build the index again if any.",
        ),
        Claim(
            name="analogs_within_the_window",
            kind="exact",
            value=float(near.sum()),
            limit=0,
            detail=f"Analogs at most {about['window']} days from the day that they are analogs of.",
        ),
        Claim(
            name="difference_of_distances",
            kind="bounded",
            value=float(np.abs(said - distance).max()),
            limit=1e-12,
            detail="Stored distances against those of the direct search, in deviations.",
        ),
    ]
    if "gain_over_random_1d_low" in metrics:
        claims.append(
            Claim(
                name="gain_over_random_1d_low",
                kind="statistical",
                value=metrics["gain_over_random_1d_low"],
                limit=0,
                sense="at least",
                detail="Lower end of the 95 % interval of how much nearer to the next day analogs lead than chance.",
            )
        )
    scored = [name for name in metrics if f"{name}_low" in metrics]
    return Judgement(
        headline="gain_over_random_1d" if "gain_over_random_1d" in metrics else f"recall_at_{count}",
        metrics=metrics,
        certificate=Certificate(claims=tuple(claims)),
        table=tuple(
            {"score": name, "value": metrics[name], "low": metrics[f"{name}_low"], "high": metrics[f"{name}_high"]}
            for name in scored
        ),
        figures=(errors_by_lead(metrics),) if scored else (),
        protocol=f"Every day asks the index; days within {about['window']} days of it are no analogs; what followed "
        "the analogs is compared with what followed the day. Intervals of 95 % over blocks of 15 days.",
    )


def _listed(vectors: NDArray[np.float32]) -> Any:
    """Vectors as a column of lists."""
    width = vectors.shape[1]
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), width).cast(
        pa.list_(pa.float32())
    )


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> Floats:
    """Distances of days, in deviations."""
    return np.asarray(np.sqrt(((one.astype(np.float64) - other.astype(np.float64)) ** 2).sum(1)))
