"""The log in which every decision says what both policies would have done, and what it tells of any policy.

A row is a member at a moment. Both policies decide for every member, whoever acts, so that members for whom they agree
are known to tell nothing of their difference. What was shown was drawn with a known chance, and with

    w = chance that the policy in question shows what was shown / chance with which it was shown

the value of that policy per row is

    IPS    mean of w y                                     right when the chances are, however large w is
    SNIPS  sum of w y / sum of w                           steadier; off by the order of 1 / rows
    DR     mean of q(policy) + w (y - q(shown))            right when chances or q are; steadier the better q is

A chance of 0 that something was shown which was shown is a broken log, and is refused, not clipped.
"""

# Shapes: N rows.

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.common.errors import InputError
from models.marketing.prediction.estimate import Estimate

Floats = NDArray[np.float64]

NOTHING = ""
"""The offer's name where nothing was shown."""
ARMS = ("control", "treatment")

SCHEMA = pa.schema(
    [
        pa.field("member", pa.string(), nullable=False),
        pa.field("moment", pa.timestamp("s", tz="UTC"), nullable=False),
        pa.field("arm", pa.string(), nullable=False),  # whose decision was carried out: control, treatment
        pa.field("control", pa.string(), nullable=False),  # what each policy drew; empty: nothing
        pa.field("treatment", pa.string(), nullable=False),
        pa.field("shown", pa.string(), nullable=False),
        pa.field("propensity", pa.float64(), nullable=False),  # chance with which what was shown was shown
        pa.field("control_chance", pa.float64(), nullable=False),  # chance of each policy to show what was shown
        pa.field("treatment_chance", pa.float64(), nullable=False),
        pa.field("reward", pa.float64(), nullable=True),  # missing until it is ripe
    ]
)


def check_log(table: pa.Table) -> pa.Table:
    """Hold a table to the counterfactual log's schema and sense.

    Args:
        table: any order of columns.

    Returns:
        The table with the columns of `SCHEMA`, in its order.

    Raises:
        InputError: a column is missing, unknown or of another type; a value is missing; an arm is unknown; what was
            shown is not what the arm decided; a member occurs twice at a moment; a chance is not above 0 where it
            must be, or above 1; a reward is not finite. The message names row, column and value.

    Source:
        Ours.
    """
    names = set(table.column_names)
    unknown, missing = sorted(names - set(SCHEMA.names)), [name for name in SCHEMA.names if name not in names]
    if unknown or missing:
        raise InputError(f"the log has unknown columns {unknown} and lacks {missing}; it has {SCHEMA.names}.")
    log = table.select(SCHEMA.names)
    for field in SCHEMA:
        if log.schema.field(field.name).type != field.type:
            raise InputError(f"column {field.name} is {log.schema.field(field.name).type}, it must be {field.type}.")
        if not field.nullable and log[field.name].null_count:
            row = int(np.flatnonzero(log[field.name].is_null().to_numpy())[0])
            raise InputError(f"{field.name} of row {row} is missing.")
    arm, shown = log["arm"].to_numpy(), log["shown"].to_numpy()
    _refuse(~np.isin(arm, ARMS), "arm", arm, f"it must be one of {ARMS}")
    meant = np.where(arm == "control", log["control"].to_numpy(), log["treatment"].to_numpy())
    _refuse(meant != shown, "shown", shown, "it must be what the row's arm decided")
    chance = {name: log[name].to_numpy() for name in ("propensity", "control_chance", "treatment_chance")}
    _refuse(~(chance["propensity"] > 0), "propensity", chance["propensity"], "what was shown had a chance above 0")
    for name, values in chance.items():
        _refuse(~((values >= 0) & (values <= 1)), name, values, "a chance is 0 to 1")
    for name in ARMS:
        own = chance[f"{name}_chance"]
        _refuse((arm == name) & ~(own > 0), f"{name}_chance", own, "an arm shows only what it has a chance to show")
    reward = log["reward"].to_numpy(zero_copy_only=False) if log.num_rows else np.zeros(0)
    ripe = ~log["reward"].is_null().to_numpy()
    _refuse(ripe & ~np.isfinite(reward.astype(np.float64)), "reward", reward, "it must be finite, or missing")
    counted = log.group_by(["member", "moment"]).aggregate([([], "count_all")])
    if counted.num_rows < log.num_rows:
        twice = counted.filter(pc.greater(counted["count_all"], 1)).slice(0, 1).to_pylist()[0]
        raise InputError(f"member {twice['member']} occurs {twice['count_all']} times at {twice['moment']}; a decision "
                         f"is one row.")  # fmt: skip
    return log


def triggered(log: pa.Table) -> NDArray[np.bool_]:
    """(N) whether the two policies decided differently; only these rows tell of their difference."""
    return np.asarray(log["control"].to_numpy() != log["treatment"].to_numpy(), bool)


def _refuse(wrong: NDArray[np.bool_], name: str, values: NDArray[Any], remedy: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise InputError(f"{name} of row {rows[0]} is {values[rows[0]]!r}; {remedy}.")


# --- what a policy is worth -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Value(Estimate):
    """Mean reward a row under a policy; its interval is doubtful when `effective` is below about 100.

    Attributes:
        rows: so many.
        effective: rows drawn from the policy itself that would say as much, (sum w)^2 / sum w^2.
        largest: the largest weight.
        weight: mean weight; near 1 when the chances are true.
    """

    rows: int
    effective: float
    largest: float
    weight: float


def ips(reward: NDArray[Any], propensity: NDArray[Any], chance: NDArray[Any]) -> Value:
    """Inverse propensity scores.

    Args:
        reward: (N) finite.
        propensity: (N) chance with which what was shown was shown, above 0.
        chance: (N) chance of the policy in question to show it.

    Returns:
        The policy's value.

    Raises:
        InputError: a value cannot be, a propensity is 0, or there are fewer than 2 rows.

    Source:
        Horvitz & Thompson 1952, "A generalization of sampling without replacement from a finite universe".
    """
    y, w = _weights(reward, propensity, chance)
    return _value(w * y, w)


def snips(reward: NDArray[Any], propensity: NDArray[Any], chance: NDArray[Any]) -> Value:
    """Self-normalised inverse propensity scores; arguments and errors as `ips`, also when no row has a weight.

    Source:
        Swaminathan & Joachims 2015, "The self-normalized estimator for counterfactual learning"; error by the delta
        method.
    """
    y, w = _weights(reward, propensity, chance)
    if not w.sum() > 0:
        raise InputError("the policy never shows what was shown in any row, so the log says nothing of it.")
    middle = float(w @ y / w.sum())
    found = _value(w * (y - middle) / w.mean(), w)
    return Value(
        value=middle, error=found.error, rows=found.rows, effective=found.effective, largest=found.largest,
        weight=found.weight,
    )  # fmt: skip


def doubly_robust(
    reward: NDArray[Any],
    propensity: NDArray[Any],
    chance: NDArray[Any],
    shown: NDArray[Any],
    policy: NDArray[Any],
) -> Value:
    """Doubly robust.

    Args:
        reward: (N) finite.
        propensity: (N) chance with which what was shown was shown, above 0.
        chance: (N) chance of the policy in question to show it.
        shown: (N) q, reward that a model expects of what was shown; learned from other rows.
        policy: (N) reward that it expects of the policy, the sum over offers of chance times q.

    Returns:
        The policy's value.

    Raises:
        InputError: as `ips`.

    Source:
        Dudik, Langford & Li 2011, "Doubly robust policy evaluation and learning".
    """
    y, w = _weights(reward, propensity, chance)
    said, meant = np.asarray(shown, np.float64), np.asarray(policy, np.float64)
    for name, values in (("shown", said), ("policy", meant)):
        if values.shape != y.shape:
            raise InputError(f"{name} must have {len(y)} entries, got {values.shape}.")
        _refuse(~np.isfinite(values), name, values, "what is expected must be finite")
    return _value(meant + w * (y - said), w)


def _weights(reward: NDArray[Any], propensity: NDArray[Any], chance: NDArray[Any]) -> tuple[Floats, Floats]:
    y, logged, asked = (np.asarray(part, np.float64) for part in (reward, propensity, chance))
    if not y.shape == logged.shape == asked.shape or y.ndim != 1 or len(y) < 2:
        raise InputError(f"rewards, propensities and chances must be rows of one length, 2 or more, got {y.shape}, "
                         f"{logged.shape}, {asked.shape}.")  # fmt: skip
    _refuse(~np.isfinite(y), "reward", y, "leave out rows that are not ripe")
    _refuse(~((logged > 0) & (logged <= 1)), "propensity", logged, "what was shown had a chance above 0, at most 1")
    _refuse(~((asked >= 0) & (asked <= 1)), "chance", asked, "a chance is 0 to 1")
    return y, asked / logged


def _value(parts: Floats, w: Floats) -> Value:
    squares = float(w @ w)
    return Value(
        value=float(parts.mean()),
        error=float(parts.std(ddof=1) / np.sqrt(len(parts))),
        rows=len(parts),
        effective=float(w.sum() ** 2 / squares) if squares > 0 else 0.0,
        largest=float(w.max()),
        weight=float(w.mean()),
    )
