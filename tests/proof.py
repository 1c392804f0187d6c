"""The engine of `make prove`: what is measured once is kept, and a page says what was found.

Each piece of a section (a moment of the kills, a seed of the quality) is kept under HEADRACE_HOME/prove as soon as it
is there, by the digest of the code, so that a proof that was interrupted goes on where it was. Other code begins anew;
what only an older code was measured with is shown as that.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from infra.manifest import code_digest
from infra.settings import PROJECT, settings

Found = dict[str, Any]
"""What one piece found, as JSON."""

Work = Callable[[Mapping[str, "Found"]], "Found"]
Pieces = Mapping[str, Callable[[Mapping[str, Found]], Found]]
"""Names of pieces in order, and what each of them does, given what those before it found."""


@dataclass(frozen=True)
class Subject:
    """What is proved.

    Attributes:
        name: as the command line knows it, and its page.
        title: of the page.
        code: modules that the figures speak of.
        sections: the parts of the proof.
        seeds: in words.
    """

    name: str
    title: str
    code: Sequence[str]
    sections: Sequence["Section"]
    seeds: str

    @property
    def page(self) -> Path:
        """Where it is written down."""
        return PROJECT / "docs" / "results" / f"{self.name}.md"


@dataclass
class Proof:
    """One run of the program: the code it speaks of, what is known already, and a server for who needs one."""

    subject: Subject
    digest: str
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def server(self) -> str:
        """The address of a temporary Prefect server, started when first asked for."""
        from benchmarks.retrieval_orchestration import temporary_server

        return self.stack.enter_context(temporary_server())

    @property
    def folder(self) -> Path:
        """Where the pieces of this code are kept."""
        return settings().home.resolve() / "prove" / self.subject.name / self.digest[:12]

    def known(self, section: "Section", piece: str) -> Found | None:
        """What was found before with the same code and the same tests."""
        file = self._file(section, piece)
        kept: Found | None = json.loads(file.read_text()) if file.exists() else None
        return kept if kept and kept["by"] == section.tests_digest else None

    def older(self, section: "Section", pieces: Sequence[str]) -> tuple[str, dict[str, Found]] | None:
        """The last other code with which the same tests measured all of a section, and what was found."""
        folders = [folder for folder in self.folder.parent.glob("*") if folder.name != self.digest[:12]]
        for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True):
            then = Proof(self.subject, folder.name)
            found = {piece: known for piece in pieces if (known := then.known(section, piece)) is not None}
            if len(found) == len(pieces):
                return folder.name, found
        return None

    def keep(self, section: "Section", piece: str, found: Found, seconds: float) -> Found:
        """Keep what was found.

        Raises:
            SystemExit: the code is no longer the one that the proof began with.
        """
        if code_digest(*self.subject.code) != self.digest:
            raise SystemExit(f"the code was changed while {section.name} {piece} ran; start the proof again.")
        date = f"{datetime.now(UTC):%Y-%m-%d}"
        kept = {**found, "by": section.tests_digest, "seconds": round(seconds, 1), "date": date}
        file = self._file(section, piece)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_suffix(".part")
        partial_file.write_text(json.dumps(kept, indent=1))
        partial_file.replace(file)
        return kept

    def _file(self, section: "Section", piece: str) -> Path:
        return self.folder / f"{section.name}-{re.sub('[^a-z0-9]+', '-', piece)}.json"


@dataclass(frozen=True)
class Report:
    """A section as text: lines of Markdown, and the bars that were missed."""

    lines: Sequence[str]
    missed: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A part of the proof.

    Attributes:
        name: as `--only` knows it.
        title: its heading.
        tests: files outside the code that decide what is found.
        pieces: names of its pieces in order, and what each of them does, given what those before it found.
        report: writes down what the pieces found; at least one of them is there.
        lanes: how many pieces run at once; those called `undisturbed` come first and alone.
    """

    name: str
    title: str
    tests: Sequence[Path]
    pieces: Callable[[Proof], Pieces]
    report: Callable[[Mapping[str, Found]], Report]
    lanes: int = 1

    @property
    def tests_digest(self) -> str:
        """Digest of the tests."""
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in self.tests)).hexdigest()


def prove(proof: Proof, wanted: Sequence[str], limit: int | None, console: Console) -> dict[str, dict[str, Found]]:
    """Do what is wanted and not yet known; what is not wanted counts if it is known.

    Args:
        proof: this run.
        wanted: names of sections.
        limit: the first so many pieces of each section; None for all.
        console: shows the progress.

    Returns:
        What was found, by section and piece.
    """
    found: dict[str, dict[str, Found]] = {section.name: {} for section in proof.subject.sections}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with proof.stack, Progress(*columns, console=console) as progress:
        for section in proof.subject.sections:
            pieces = list(section.pieces(proof).items())[:limit]
            bar = progress.add_task(section.name, total=len(pieces)) if section.name in wanted else None

            def measure(name: str, work: Work, section: Section = section, bar: TaskID | None = bar) -> None:
                known = proof.known(section, name)
                if known is None and bar is not None:
                    progress.update(bar, description=f"{section.name} {name}")
                    begun = time.perf_counter()
                    known = proof.keep(section, name, work(found[section.name]), time.perf_counter() - begun)
                    progress.console.print(f"{section.name} {name}: {known['seconds']:.0f} s")
                if known is not None:
                    found[section.name][name] = known
                if bar is not None:
                    progress.advance(bar)

            alone = [piece for piece in pieces if section.lanes == 1 or piece[0].startswith("undisturbed")]
            for piece in alone:
                measure(*piece)
            with ThreadPoolExecutor(section.lanes) as pool:
                for done in [pool.submit(measure, *piece) for piece in pieces if piece not in alone]:
                    done.result()
            order = [name for name, _ in pieces]
            found[section.name] = dict(sorted(found[section.name].items(), key=lambda item: order.index(item[0])))
            if bar is not None:
                progress.update(bar, description=section.name)
    return found


def write(proof: Proof, found: Mapping[str, Mapping[str, Found]], command: str) -> tuple[str, list[str]]:
    """The page as text, and the bars that were missed."""
    pieces = [piece for section in found.values() for piece in section.values()]
    dates = sorted({piece["date"] for piece in pieces}) or ["nothing measured"]
    sections, missed = [], []
    for section in proof.subject.sections:
        sections += [f"## {section.title}", ""]
        expected, have = section.pieces(proof), found[section.name]
        if not have:
            older = proof.older(section, list(expected))
            if older is None:
                sections += ["Not run with this code.", ""]
                continue
            then, have = older
            sections += [f"**Measured with older code, `{then}`, and not yet with this.**", ""]
        report = section.report(have)
        missed += report.missed
        sections += [*report.lines, ""]
        if len(have) < len(expected):
            sections += [f"Incomplete: {len(have)} of {len(expected)} pieces were run.", ""]
        sections += [f"Took {sum(piece['seconds'] for piece in have.values()):.0f} s.", ""]
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"# {proof.subject.title}: what was measured",
        "",
        f"Written by `{command}`; do not edit. Another code makes another page.",
        "",
        *table(
            ("what", "value"),
            [
                ("measured", " to ".join(dict.fromkeys((dates[0], dates[-1])))),
                ("seeds", proof.subject.seeds),
                ("code digest", f"`{proof.digest}`"),
                ("of", ", ".join(f"`{name}`" for name in proof.subject.code)),
                ("machine", f"{cores} cores ({platform.machine()}), {torch.get_num_threads()} threads"),
                ("Python", platform.python_version()),
                ("torch", torch.__version__),
            ],
        ),
        "",
        *([f"**Bars missed: {len(missed)}.**", "", *(f"- {ascii_of(one)}" for one in missed), ""] if missed else []),
        *sections,
    ]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n", missed


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    cells = [[ascii_of(str(cell)).replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in cells)]


def ascii_of(text: str) -> str:
    """The text with what is not ASCII spelled out, and without the paths of this machine."""
    return text.replace(str(PROJECT), ".").encode("ascii", "backslashreplace").decode()


def yes(value: bool) -> str:
    return "yes" if value else "NO"


def mean_sd(values: Sequence[float]) -> str:
    """Mean and sample standard deviation."""
    spread = f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else "unknown"
    return f"{np.mean(values):.4f} +- {spread}"


def conclude(proof: Proof, found: Mapping[str, Mapping[str, Found]], command: str, console: Console, show: bool) -> int:
    """Write the page, or only show it, and say which bars were missed; returns the exit code."""
    page, missed = write(proof, found, command)
    if show:
        console.print(page, markup=False, soft_wrap=True)
    else:
        proof.subject.page.parent.mkdir(parents=True, exist_ok=True)
        proof.subject.page.write_text(page, encoding="ascii")
        console.print(f"wrote {proof.subject.page.relative_to(PROJECT)}")
    for one in missed:
        console.print(f"missed: {one}", markup=False)
    return 1 if missed else 0


def pytest(words: Sequence[str], environment: Mapping[str, str]) -> Found:
    """Run tests in a process of their own.

    Args:
        words: what and how, as pytest's command line has it.
        environment: of the process.

    Returns:
        Exit code, counts, failures by name, seconds, and what was printed.

    Raises:
        SystemExit: pytest did not get as far as a result.
    """
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "results.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words, f"--junitxml={xml}", "--no-header"],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not xml.exists():
            raise SystemExit(f"pytest {words[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-4000:]}")
        suite = ET.parse(xml).getroot()[0]  # noqa: S314 - written by our own pytest
    return {
        "code": done.returncode,
        "tests": int(suite.get("tests", 0)),
        "skipped": int(suite.get("skipped", 0)),
        "failures": [
            f"{case.get('name')}: {(part.get('message') or part.tag).splitlines()[0]}"
            for case in suite
            for part in case
            if part.tag in ("failure", "error")
        ],
        "test_seconds": float(suite.get("time", 0)),
        "output": done.stdout,
    }
