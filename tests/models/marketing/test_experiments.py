"""Experiments: read by name, split as it was meant, analysed where the two ways differ."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.common.contracts import InputError, Payload
from models.marketing.experiments import (
    AnalysisConfig,
    ExperimentConfig,
    HillstromConfig,
    OutcomesTableConfig,
    analyse,
    read_experiment,
)

TABLE = OutcomesTableConfig(file="x", control_decision="old", treatment_decision="new")


def written(folder: Path, rows: list[str], head: str = "arm,spend,old,new") -> Path:
    path = folder / "outcome.csv"
    path.write_text("\n".join([head, *rows]))
    return path


def units(count: int, effect: float, seed: int = 0) -> list[str]:
    """Members of whom a third is decided otherwise; a treated one of those spends so much more."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        treated, differs = rng.random() < 0.5, number % 3 == 0
        spend = rng.lognormal() * (rng.random() < 0.4) + effect * (treated and differs)
        rows.append(f"{'treatment' if treated else 'control'},{spend:.6f},mail,{'push' if differs else 'mail'}")
    return rows


def test_the_effect_is_told_per_unit_of_all_and_found_where_the_ways_differ(tmp_path: Path) -> None:
    data = read_experiment(written(tmp_path, units(6000, 3.0)), TABLE, 0.5)
    judgement = analyse(data, AnalysisConfig(permutations=199))
    assert judgement.certificate.holds
    assert judgement.metrics["triggered_share"] == pytest.approx(1 / 3)
    assert judgement.metrics["lift"] == pytest.approx(1.0, abs=0.1)
    assert judgement.metrics["lift_low"] < 1.0 < judgement.metrics["lift_high"]
    wide = judgement.metrics["lift_untriggered_high"] - judgement.metrics["lift_untriggered_low"]
    assert judgement.metrics["lift_high"] - judgement.metrics["lift_low"] < 0.75 * wide
    assert judgement.metrics["p_combination"] <= 0.01


def test_an_effect_where_both_ways_decide_the_same_is_a_broken_log(tmp_path: Path) -> None:
    rows = [row.replace(",push", ",pull") if row.endswith("push") else row for row in units(6000, 0.0)]
    leaking = [
        f"{arm},{float(spend) + 2.0 * (arm == 'treatment' and new == 'mail')},{old},{new}"
        for arm, spend, old, new in (row.split(",") for row in rows)
    ]
    judgement = analyse(read_experiment(written(tmp_path, leaking), TABLE, 0.5), AnalysisConfig(permutations=99))
    failed = {claim.name for claim in judgement.certificate.failures()}
    assert failed == {"complement_p", "complement_ranks_p"}


def test_without_logged_decisions_everybody_is_compared(tmp_path: Path) -> None:
    plain = OutcomesTableConfig(file="x")
    data = read_experiment(written(tmp_path, units(900, 1.0)), plain, 0.5)
    judgement = analyse(data, AnalysisConfig(permutations=99))
    assert judgement.metrics["triggered_share"] == 1.0
    assert "complement_p" not in judgement.metrics


def test_a_third_arm_is_left_out_where_it_may_be_and_refused_where_not(tmp_path: Path) -> None:
    head = "segment,spend"
    rows = [*["Mens E-Mail,3"] * 40, *["Womens E-Mail,2"] * 40, *["No E-Mail,0"] * 39, "No E-Mail,5"]
    path = written(tmp_path, rows, head)
    config = ExperimentConfig(source="hillstrom", hillstrom=HillstromConfig(mailing="Womens E-Mail"))
    data: Payload = config.prepare({"experiment": path})
    assert data["outcomes"].num_rows == 80
    assert int(np.asarray(data["outcomes"]["treated"]).sum()) == 40
    own = OutcomesTableConfig(file="x", arm_column="segment", treatment="Mens E-Mail", control="No E-Mail")
    with pytest.raises(InputError, match=r"column 'segment', row 41: 'Womens E-Mail' \(and 39 more\): arms are"):
        read_experiment(path, own, 0.5)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["treatment,1,a,b", "control,nan,a,b"], r"column 'spend', row 2: nan"),
        (["treatment,1,a,b", "treatment,2,a,b"], r"has no arm 'control'; it has treatment"),
        (["treatment,1,a,b", ",2,a,b"], r"column 'arm', row 2: None"),
        (["treatment,much,a,b", "control,2,a,b"], r"row 1: 'much': write a number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, rows: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_experiment(written(tmp_path, rows), TABLE, 0.5)


def test_a_column_of_decisions_with_gaps_is_compared_as_numbers_too(tmp_path: Path) -> None:
    """Whole numbers beside a missing one are read as floats by most tools: 2 there is 2.0 here."""
    number = np.arange(30)
    table = {
        "arm": np.where(number % 2, "treatment", "control"),
        "spend": number.astype(float),
        "old": pa.array(number % 3, pa.int64()),
        "new": pa.array(np.where(number == 7, np.nan, number % 3), from_pandas=True),
    }
    pq.write_table(pa.table(table), tmp_path / "outcome.parquet")
    outcomes = read_experiment(tmp_path / "outcome.parquet", TABLE, 0.5)["outcomes"]
    differ = np.array(outcomes["control"].to_pylist()) != np.array(outcomes["treatment"].to_pylist())
    assert np.flatnonzero(differ).tolist() == [7]


def test_an_experiment_in_which_nothing_varies_says_that_its_interval_is_none(tmp_path: Path) -> None:
    rows = [f"{'treatment' if number % 2 else 'control'},0,mail,push" for number in range(60)]
    judgement = analyse(read_experiment(written(tmp_path, rows), TABLE, 0.5), AnalysisConfig(permutations=99))
    assert "variance_ratio" not in judgement.metrics
    assert np.isfinite(list(judgement.metrics.values())).all()
    assert all("in doubt: all outcomes are equal" in row["95 % interval"] for row in judgement.table)
    lift = next(figure for figure in judgement.figures if figure.name == "lift")
    assert lift.caption.endswith("In doubt: all outcomes are equal, so there is no spread to measure by.")
    buyers = next(figure for figure in judgement.figures if figure.name == "buyers").series[0]
    assert buyers.y == (0, 0)
    assert buyers.low == (0, 0)
    assert min(buyers.high) > 0.05  # of thirty who did not buy


def test_an_arm_cannot_be_compared_with_itself() -> None:
    with pytest.raises(ValueError, match="both 'all'; name two arms"):
        OutcomesTableConfig(file="x", treatment="all", control="all")
