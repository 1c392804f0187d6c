"""The house: who may import whom, and that it is this house that is imported."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGES = ("flows", "tasks", "models", "infra")


def test_every_import_contract_is_kept() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("name", PACKAGES)
def test_the_package_that_is_imported_is_the_one_of_this_repository(name: str) -> None:
    assert Path(str(importlib.import_module(name).__file__)).parent == PROJECT / name


@pytest.mark.parametrize("file", sorted((PROJECT / "flows").glob("*.py")), ids=lambda file: file.stem)
def test_a_flow_is_at_most_a_dozen_statements(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            statements = [inner for inner in ast.walk(node) if isinstance(inner, ast.stmt)]
            assert len(statements) - 1 <= 12 + 1, f"{node.name} has {len(statements) - 1} statements"


def test_every_package_of_models_is_listed_for_installation() -> None:
    import tomllib

    listed = set(tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {
        ".".join(file.parent.relative_to(PROJECT).parts)
        for package in PACKAGES
        for file in (PROJECT / package).rglob("__init__.py")
    }
    assert present == listed


def test_nothing_reads_or_writes_pickle() -> None:
    for package in PACKAGES:
        for file in (PROJECT / package).rglob("*.py"):
            source = file.read_text()
            assert "import pickle" not in source, file
            assert "weights_only=False" not in source, file
            assert "allow_pickle=True" not in source, file
            assert "shell=True" not in source, file
