"""The log says what both policies would have done, a broken one is refused, and its estimates are right."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from models.common.contracts import InputError
from models.marketing.prediction.counterfactual import SCHEMA, check_log, doubly_robust, ips, snips, triggered

Floats = NDArray[np.float64]


def _rows() -> dict[str, list[Any]]:
    return {
        "member": ["a", "b", "c"],
        "moment": [0, 0, 60],
        "arm": ["control", "treatment", "treatment"],
        "control": ["mail", "", "mail"],
        "treatment": ["push", "", "push"],
        "shown": ["mail", "", "push"],
        "propensity": [0.4, 0.9, 0.1],
        "control_chance": [0.7, 0.9, 0.2],
        "treatment_chance": [0.1, 0.9, 0.1],
        "reward": [1.0, 0.0, None],
    }


def _log(**changes: list[Any]) -> pa.Table:
    return pa.table({**_rows(), **changes}, schema=SCHEMA)


def test_a_sound_log_comes_back_in_the_order_of_its_columns() -> None:
    mixed = _log().select(SCHEMA.names[::-1])
    assert check_log(mixed).schema.names == SCHEMA.names
    assert list(triggered(check_log(mixed))) == [True, False, True]
    assert check_log(SCHEMA.empty_table()).num_rows == 0


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"propensity": [0.4, 0.0, 0.1]}, "propensity of row 1 is .*0.0"),
        ({"propensity": [0.4, 1.5, 0.1]}, "propensity of row 1 is .*1.5"),
        ({"propensity": [0.4, float("nan"), 0.1]}, "propensity of row 1"),
        ({"treatment_chance": [0.1, 0.0, 0.1]}, "treatment_chance of row 1"),
        ({"shown": ["push", "", "push"]}, "shown of row 0 is 'push'"),
        ({"arm": ["holdout", "treatment", "treatment"]}, "arm of row 0 is 'holdout'"),
        ({"reward": [float("inf"), 0.0, None]}, "reward of row 0"),
        ({"member": ["a", "a", "c"]}, "member a occurs 2 times"),
    ],
)
def test_a_broken_log_is_refused_by_name(changes: dict[str, list[Any]], word: str) -> None:
    with pytest.raises(InputError, match=word):
        check_log(_log(**changes))


def test_columns_are_known_by_name_and_none_may_be_missing_unknown_or_of_another_type() -> None:
    with pytest.raises(InputError, match=r"unknown columns \['bid'\]"):
        check_log(_log().append_column("bid", pa.array([1, 2, 3])))
    with pytest.raises(InputError, match=r"lacks \['arm'\]"):
        check_log(_log().drop_columns(["arm"]))
    with pytest.raises(InputError, match="propensity is float"):
        check_log(_log().set_column(6, "propensity", pa.array([0.4, 0.9, 0.1], pa.float32())))
    with pytest.raises(InputError, match="member of row 1 is missing"):
        check_log(_log().set_column(0, "member", pa.array(["a", None, "c"])))


def _logged(size: int, seed: int) -> tuple[Floats, Floats, Floats, Floats, Floats, float]:
    """Reward, propensity, chance of a policy, a rough model of what was shown and of the policy, the policy's value."""
    random = np.random.default_rng(seed)
    x = random.random(size)
    logging = np.stack([0.2 + 0.5 * x, 0.3 - 0.2 * x, 0.5 - 0.3 * x], axis=1)
    policy = np.stack([0.1 * np.ones(size), 0.2 + 0.3 * x, 0.7 - 0.3 * x], axis=1)
    mean = np.stack([x, 1 - x, 0.5 * np.ones(size)], axis=1)
    shown = (random.random(size)[:, None] > np.cumsum(logging, axis=1)).sum(1)
    row = np.arange(size)
    reward = (random.random(size) < mean[row, shown]).astype(float)
    model = np.clip(mean + 0.1, 0, 1)
    true = 0.1 * 0.5 + (0.2 * 0.5 + 0.3 * (1 / 2 - 1 / 3)) + 0.5 * (0.7 - 0.15)
    return (reward, logging[row, shown], policy[row, shown], model[row, shown], (policy * model).sum(1), true)


def test_all_three_estimates_are_right_and_their_intervals_cover() -> None:
    inside, values = np.zeros(3), np.zeros((400, 3))
    for seed in range(400):
        reward, propensity, chance, shown, policy, true = _logged(500, seed)
        found = (ips(reward, propensity, chance), snips(reward, propensity, chance),
                 doubly_robust(reward, propensity, chance, shown, policy))  # fmt: skip
        inside += [one.low < true < one.high for one in found]
        values[seed] = [one.value for one in found]
        assert found[0].weight == pytest.approx(1, abs=0.4)
        assert 10 < found[0].effective < 500
    # 95 % of 400 is 380; 362 to 395 has 99.9 %
    assert np.all((inside >= 362) & (inside <= 395)), inside
    true = _logged(10, 0)[5]
    assert np.all(np.abs(values.mean(0) - true) < 4 * values.std(0) / 20)
    assert values[:, 2].std() < values[:, 0].std()  # a rough model already steadies


def test_the_logging_policy_itself_is_worth_the_mean_reward() -> None:
    reward, propensity, *_ = _logged(300, 1)
    for one in (ips(reward, propensity, propensity), snips(reward, propensity, propensity)):
        assert one.value == pytest.approx(reward.mean())
        assert one.error == pytest.approx(reward.std(ddof=1) / np.sqrt(300))
        assert one.effective == pytest.approx(300) and one.largest == 1


def test_zero_propensities_and_empty_overlap_are_refused() -> None:
    with pytest.raises(InputError, match="propensity of row 1"):
        ips(np.ones(3), np.array([0.5, 0.0, 0.5]), np.ones(3))
    with pytest.raises(InputError, match="never shows"):
        snips(np.ones(3), np.full(3, 0.5), np.zeros(3))
    with pytest.raises(InputError, match="reward of row 2"):
        ips(np.array([0.0, 0.0, np.nan]), np.ones(3), np.ones(3))
    with pytest.raises(InputError, match="shown must have 3 entries"):
        doubly_robust(np.ones(3), np.ones(3), np.ones(3), np.ones(2), np.ones(3))
    with pytest.raises(InputError, match="2 or more"):
        ips(np.ones(1), np.ones(1), np.ones(1))
