import subprocess
import sys

import pytest

HEAVY = ("torch", "pandas", "lightning", "cvxpy", "prefect", "mlflow", "dask")


@pytest.mark.parametrize(
    "module",
    [
        "models.marketing.allocation.solver",
        "models.marketing.allocation.program",
        "models.marketing.allocation.rounding",
        "models.marketing.allocation.policy",
        "models.marketing.certificate",
    ],
)
def test_the_solver_and_its_judge_load_nothing_that_they_do_not_need(module: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "[]"
