"""Which days of raw input a run looks at, and how many a product is made from."""

import dataclasses
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from models.common.configuration import check, setting

MOST_DAYS = 3660
"""Ten years: more in one run is a slip of the pen in a date."""


def _day(default: date, title: str, description: str) -> Any:
    """A field with a date picker. Prefect's API looks at the pattern alone, not at the format."""
    pattern = r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"
    metadata = {"title": title, "description": description, "json_schema_extra": {"pattern": pattern}}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class DaysConfig:
    """Which days to look at; a day is from midnight to midnight in UTC."""

    span: Literal["dates", "recent"] = setting(
        "dates",
        "Which days",
        "dates: from the first day to the last day below; recent: the days before the one for which the run was due.",
    )
    first: date = _day(  # the generated world's first and last day, so that the form works as it is shown
        date(2020, 9, 13), "First day", "For dates: the first day to look at, as in 2024-05-17; 1970 or later."
    )
    last: date = _day(
        date(2021, 12, 7), "Last day", "For dates: the last day to look at; not in the future, at most ten years later."
    )
    lookback: int = setting(
        7,
        "Days to look back",
        "For recent: how many days up to yesterday are looked at, 1 to 366; late and revised files among them are "
        "taken in.",
        ge=1,
        le=366,
    )
    window: int = setting(
        0,
        "Window",
        "How many days, up to the newest that is known, the product is made from, 0 to 36500; 0 takes all that are "
        "known.",
        ge=0,
        le=36500,
    )

    def __post_init__(self) -> None:
        check(self)
        today = datetime.now(UTC).date()
        if self.first > self.last:
            raise ValueError(f"DaysConfig.first must not be after last, got {self.first} and {self.last}; swap them.")
        if self.last > today:
            raise ValueError(f"DaysConfig.last must not be in the future, got {self.last}; today is {today} in UTC.")
        if self.first < date(1970, 1, 1):
            raise ValueError(f"DaysConfig.first must be in 1970 or later, got {self.first}.")
        if (self.last - self.first).days >= MOST_DAYS:
            raise ValueError(
                f"DaysConfig.last must be less than {MOST_DAYS} days after first, got {self.first} and {self.last}; "
                f"take them in several runs."
            )

    def dates(self, today: date) -> list[date]:
        """The days to look at, in order.

        Args:
            today: the day for which the run was due; not looked at when only recent days are, for it is not over.

        Source:
            Ours.
        """
        first, last = self.first, self.last
        if self.span == "recent":
            first, last = today - timedelta(days=self.lookback), today - timedelta(days=1)
        return [first + timedelta(days=number) for number in range((last - first).days + 1)]

    def within(self, days: list[date]) -> list[date]:
        """Those of the known days that the window holds, in order.

        Args:
            days: all known days.

        Source:
            Ours.
        """
        known = sorted(days)
        return [day for day in known if not self.window or (known[-1] - day).days < self.window]
