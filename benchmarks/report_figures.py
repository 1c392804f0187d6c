"""Figures of a report in the store, drawn into the documentation.

python -m benchmarks report_figures REPORT [FIGURE ...] [--write]

REPORT is a product's name, such as gravity_waves-lattice-small; its latest report is taken. Without a FIGURE, those
that it has are listed. A file is called by the system and the figure: docs/figures/gravity_waves_spectrum.png.
"""

import argparse
from collections.abc import Sequence

from benchmarks.page_figures import write
from infra.refs import Report
from infra.settings import settings
from infra.store import Store
from models.common.judgement import Figure
from tasks.evaluate import judgement_of


def refusal() -> str:
    """What keeps this from a run without arguments."""
    return "report_figures draws what a report of yours has; name one"


def main(options: Sequence[str] = ()) -> None:
    """List the figures of a report, and draw some if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report_figures")
    parser.add_argument("report", help="the product's name")
    parser.add_argument("figures", nargs="*", help="which of its figures; none: all are listed")
    parser.add_argument("--write", action="store_true", help="write docs/figures")
    chosen = parser.parse_args(options)
    found = figures_of(chosen.report, parser)
    if unknown := sorted(set(chosen.figures) - set(found)):
        parser.error(f"{chosen.report} has no figure {', '.join(unknown)}; it has {', '.join(found)}.")
    system = chosen.report.partition("-")[0]
    for name in chosen.figures or found:
        print(f"{name}: {found[name].title}")
        if chosen.write:
            write(found[name], f"{system}_{name}")


def figures_of(name: str, parser: argparse.ArgumentParser) -> dict[str, Figure]:
    """Figures of the latest report on a product, by their names."""
    store = Store(settings().store_location, touch=False)
    versions = store.versions(Report.kind, name)
    if not versions:
        parser.error(f"the store has no report on {name!r}; it has {', '.join(store.products(Report.kind)) or 'none'}.")
    digest = versions[-1].digest
    version = digest[:12]
    location = f"{store.root}/{Report.kind}/{name}/{version}"
    report = Report(name=name, version=version, digest=digest, location=location)
    return {figure.name: figure for figure in judgement_of(store.open(report)).figures}
