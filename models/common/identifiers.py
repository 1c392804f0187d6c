"""Items by their identifiers: where each stands, whether it was written as a number or as text."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.errors import InputError

_SHOWN = 5
"""Unknown identifiers that an error names."""


def places_of(wanted: pa.Array, items: pa.Array, *, where: str) -> NDArray[np.int64]:
    """Where identifiers stand among items.

    Args:
        wanted: integers or text, in whatever way they were written: 7 and "7" are the same item.
        items: (N) identifiers, each once; null for an item without one.
        where: what has the items, for the message.

    Returns:
        One place for each that is wanted, in their order.

    Raises:
        InputError: some are unknown; the message names the first of them.

    Source:
        Ours.
    """
    known = pc.cast(items, pa.string())
    found = pc.index_in(pc.cast(wanted, pa.string()), value_set=known, skip_nulls=True)
    if found.null_count:
        unknown = wanted.filter(pc.is_null(found))
        shown = ", ".join(repr(value) for value in unknown[:_SHOWN].to_pylist())
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        examples = ", ".join(repr(value) for value in pc.drop_null(items)[:3].to_pylist())
        raise InputError(
            f"{where} has no item {shown}{more}; its {len(items)} items are called like {examples}. Take out what it "
            "lacks, or name the index that has it."
        )
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
