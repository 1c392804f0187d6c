"""Which months are for training, for validation, and for the test; none is in two parts.

Weather keeps its shape for days, so hours of one month on both sides of a border would let a network remember what it
is asked for. Months are whole, and days beside the border of a part that judges can be left out.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.common.configuration import check, setting
from models.common.errors import InputError

Integers = NDArray[np.int64]
Times = NDArray[np.datetime64]

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Months of training, validation and test, as years ("2014") or single months ("2014-04").

    A month that is named belongs to the part that names it, though its year be another's.

    Source:
        Years of training and test: train_years and test_years of attention_unet/training_attention_unet.py of
        amangupta2/nonlocal_gwfluxes; it has no months of validation, ours are two of a year of training.
    """

    train: tuple[str, ...] = setting(
        ("2010", "2012", "2014"), "Training", "Years (2014) or months (2014-04) that are learned from.", min_length=1
    )
    validation: tuple[str, ...] = setting(
        ("2014-04", "2014-10"),
        "Validation",
        "Years or months that the best epoch is chosen by; a month named here is not learned from.",
        min_length=1,
    )
    test: tuple[str, ...] = setting(
        ("2015",), "Test", "Years or months that the network is judged by; nothing is chosen by them.", min_length=1
    )
    margin_days: int = setting(
        0,
        "Margin",
        "Days of training left out before and after months of validation and test, and days of validation beside those "
        "of the test, 0 to 28; 0 as published.",
        ge=0,
        le=28,
    )

    def __post_init__(self) -> None:
        check(self)
        owner: dict[str, str] = {}
        for part in PARTS:
            for name in getattr(self, part):
                if not re.fullmatch(r"[0-9]{4}(-(0[1-9]|1[0-2]))?", name):
                    raise ValueError(
                        f"SplitConfig.{part} must name years such as 2014 or months such as 2014-04, got {name!r}."
                    )
                if name in owner:
                    raise ValueError(
                        f"SplitConfig.{part} names {name}, which is in {owner[name]} already; a month has one part."
                    )
                owner[name] = part

    def part_of(self, month: str) -> Part | None:
        """The part that a month such as 2014-04 belongs to; None: it is left out."""
        for name in (month, month[:4]):
            for part in PARTS:
                if name in getattr(self, part):
                    return part
        return None

    def absent(self, time: Times) -> dict[Part, tuple[str, ...]]:
        """Months that a part names, alone or by their year, and of which there is no hour.

        Args:
            time: (T) hours, UTC, in any order.

        Returns:
            Months such as 2014-04, rising, by part; parts without such months are left out.

        Source:
            Ours.
        """
        there = set(np.unique(np.asarray(time).astype("datetime64[M]")).astype(str).tolist())
        found: dict[Part, tuple[str, ...]] = {}
        for part in PARTS:
            names = getattr(self, part)
            months = {month for name in names for month in ([name] if "-" in name else _months_of(name))}
            missing = sorted(month for month in months - there if self.part_of(month) == part)
            if missing:
                found[part] = tuple(missing)
        return found

    def rows_of(self, part: Part, time: Times) -> Integers:
        """Hours of a part.

        Args:
            part: train, validation or test.
            time: (T) hours, UTC, in any order; an hour belongs to the month that it begins in.

        Returns:
            Numbers of the hours in `time`, rising; those of different parts are disjoint, and so are their months.

        Raises:
            InputError: there are none.
            ValueError: there is no such part.

        Source:
            Ours.
        """
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}.")
        seconds = np.asarray(time).astype("datetime64[s]")
        month_T = seconds.astype("datetime64[M]")
        months = np.unique(month_T)
        owner = np.array([self.part_of(str(month)) or "" for month in months])
        chosen_T = np.isin(month_T, months[owner == part])
        if self.margin_days:
            # Also months that the data lack: what is judged does not change what is learned when a month arrives.
            later = PARTS[PARTS.index(part) + 1 :]
            for month in self._months(later, months):
                first, last = month.astype("datetime64[s]"), (month + 1).astype("datetime64[s]")
                margin = np.timedelta64(self.margin_days, "D")
                chosen_T &= (seconds < first - margin) | (seconds >= last + margin)
        if not chosen_T.any():
            there = f"{months[0]} to {months[-1]}" if len(months) else "no month at all"
            margin_said = f" less {self.margin_days} days beside other parts" if self.margin_days else ""
            raise InputError(
                f"no hour is left for {part}: it names {', '.join(getattr(self, part))}{margin_said}; the data have "
                f"{there}. Name months that are there, or prepare these."
            )
        return np.flatnonzero(chosen_T).astype(np.int64)

    def _months(self, parts: tuple[Part, ...], near: Times) -> list[np.datetime64]:
        """Months of parts within a year of the data."""
        every = np.arange(near.min() - 2, near.max() + 3) if len(near) else near
        return [month for month in every if self.part_of(str(month)) in parts]


def _months_of(year: str) -> list[str]:
    return [f"{year}-{month:02d}" for month in range(1, 13)]
