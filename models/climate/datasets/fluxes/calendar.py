"""Days as the published scripts count and spell them."""

from datetime import date, timedelta

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sept", "Oct", "Nov", "Dec")
"""compute_momentum_flux_from_era5.py line 81: September has four letters."""


def days_in_month(year: int, month: int, *, published: bool = False) -> int:
    """Number of days of a month.

    Args:
        year: of the Gregorian calendar.
        month: 1 to 12.
        published: repeat a published defect: every fourth year is a leap year, so that 1900 and 2100 have a
            29 February. Harmless for ERA5, which begins in 1940.

    Returns:
        28 to 31.

    Source:
        download_era5_modellevel_data.py, get_days_in_month, lines 11-29.
    """
    if month != 2:
        return 30 if month in (4, 6, 9, 11) else 31
    leap = year % 4 == 0 and (published or year % 100 != 0 or year % 400 == 0)
    return 29 if leap else 28


def days_between(first: date, last: date, *, published: bool = False) -> list[str]:
    """All days from the first to the last, both included, as 2015-03-01; published: see `days_in_month`."""
    days = []
    day = first
    while day <= last:
        days.append(day.isoformat())
        after = day + timedelta(days=1)
        if published and (day.month, after.month) == (2, 3) and days_in_month(day.year, 2, published=True) > day.day:
            days.append(f"{day.year}-02-29")
        day = after
    return days
