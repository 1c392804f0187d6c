"""What a person looks at: how many outlooks a month has, how many runs have a text, and how long texts are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.common.judgement import Figure, Series

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]


def figures(groups: Mapping[str, "xr.Dataset"]) -> tuple[Figure, ...]:
    """Figures of a prepared dataset.

    Args:
        groups: `outlooks`, `images` and `pairs`, opened lazily, undecoded.

    Returns:
        Runs with and without a text by month, and the lengths of texts by hour of issue.

    Source:
        Ours.
    """
    found = []
    if groups["images"].sizes["image"]:
        found.append(_coverage(groups["images"]))
    if groups["outlooks"].sizes["outlook"]:
        found.append(_lengths(groups["outlooks"]))
    return tuple(found)


def _coverage(images: "xr.Dataset") -> Figure:
    """Runs that have a text, by month."""
    minutes = np.asarray(images["moment"].values).astype("datetime64[m]")
    month = minutes.astype("datetime64[M]")
    paired = np.asarray(images["paired"].values).astype(bool)
    months, index = np.unique(month, return_inverse=True)
    both = [np.bincount(index, chosen, minlength=len(months)) for chosen in (paired, ~paired)]
    labels = tuple(str(one) for one in months)
    return Figure(
        name="runs_with_text",
        title=f"{int(paired.sum())} of {len(paired)} runs have a text",
        x_label="month",
        y_label="runs",
        series=tuple(
            Series(label=name, x=labels, y=tuple(map(float, one)))
            for name, one in zip(("with a text", "without"), both, strict=True)
        ),
        kind="bars",
        caption="A run goes with the outlook of its day that was issued nearest to it.",
    )


def _lengths(outlooks: "xr.Dataset") -> Figure:
    """Words of a text by the hour of its issue, the middle half of texts as the interval."""
    minutes = np.asarray(outlooks["issued"].values).astype(np.int64) % 1440
    words = np.array([len(str(one).split()) for one in outlooks["discussion"].values])
    known = words > 0
    hours = np.unique(minutes[known] // 60)
    split = [words[known & (minutes // 60 == hour)] for hour in hours]
    quartiles = [np.quantile(one, (0.25, 0.5, 0.75)) for one in split]
    low, middle, high = (tuple(float(one[at]) for one in quartiles) for at in range(3))
    return Figure(
        name="words_by_hour",
        title=f"{int((~known).sum())} of {len(words)} outlooks have no summary",
        x_label="hour of issue (UTC)",
        y_label="words of a text",
        series=(Series(label="", x=tuple(int(one) for one in hours), y=middle, low=low, high=high, style="marks"),),
        caption="Medians; bars are the middle half of texts.",
    )
