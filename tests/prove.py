"""Run the full counts behind a claim, and write them down.

    python -m tests.prove retrieval [--only SECTION ...]
    python -m tests.prove marketing [--only SECTION ...]
    python -m tests.prove datasets [--only SECTION ...]
    python -m tests.prove operations [--only SECTION ...]

At the end `docs/results/SUBJECT.md` says what was found, and the exit code is 1 if a bar was missed.
"""

import argparse
import os
import sys
import warnings

# Set before Prefect, MLflow or headrace read them; the pieces have homes of their own.
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.pop("HEADRACE_STORE", None)

from rich.console import Console

from infra.manifest import code_digest
from tests.proof import Proof, conclude, prove
from tests.proofs import datasets, marketing, operations, retrieval

SUBJECTS = {one.SUBJECT.name: one.SUBJECT for one in (retrieval, marketing, datasets, operations)}


def main() -> None:
    """Prove, write the page, and end with 1 if a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.prove")
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="names of sections; all when left out")
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)  # to try the program; the page is only shown
    chosen = parser.parse_args()
    subject = SUBJECTS[chosen.subject]
    names = [section.name for section in subject.sections]
    wanted = chosen.only or names
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"{subject.name} has no section {', '.join(unknown)}; it has {', '.join(names)}.")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own; nothing to be done here
    console = Console(highlight=False)
    proof = Proof(subject, code_digest(*subject.code))
    found = prove(proof, wanted, chosen.limit, console)
    only = "" if wanted == names else f" --only {' '.join(wanted)}"
    command = f"python -m tests.prove {subject.name}{only}"
    sys.exit(conclude(proof, found, command, console, show=chosen.limit is not None))


if __name__ == "__main__":
    main()
