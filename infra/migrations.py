"""Formats of the manifest: what an older headrace wrote is read as if it were new, and rewritten on request.

    headrace migrate              what would be rewritten
    headrace migrate --write      rewrite it, one manifest after the other

A step turns a manifest of format N, as JSON, into one of format N + 1. It changes how something is said, never what is
said: payload, digest and version stay what they are, or the store refuses the manifest. Whoever raises FORMAT adds a
step here, and a store of the format that was under `tests/data`.
"""

import copy
from collections.abc import Callable
from typing import Annotated, Any

import typer

from infra import terminal
from infra.manifest import FORMAT
from infra.settings import settings

Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: dict[int, Step] = {}
"""The step from each older format to the next one. Format 1 is the first, so there is none yet."""


class FormatError(ValueError):
    """A manifest of a format that this headrace does not know; the message says what to do."""


def upgraded(values: Any) -> Any:
    """A manifest in the present format.

    Args:
        values: a manifest as JSON, of any format.

    Returns:
        The same in the format of now. What is no manifest at all is returned as it is, for the schema to refuse.

    Raises:
        FormatError: it is newer than this headrace, older than the oldest step, does not say what it is, or is not
            what it says.
    """
    if not isinstance(values, dict):
        return values
    if type(values.get("format")) is not int:  # True is an int, and no format
        raise FormatError(f"expected the number of a format, found {values.get('format')!r}; it was changed by hand.")
    while (found := values["format"]) != FORMAT:
        if found > FORMAT:
            raise FormatError(
                f"expected format {FORMAT} or older, found {found}; upgrade headrace, or go back with a backup that "
                "was made before the upgrade."
            )
        if found not in STEPS:
            raise FormatError(
                f"expected a format from {min(STEPS, default=FORMAT)} to {FORMAT}, found {found}; migrate with an "
                "older headrace first."
            )
        try:
            values = {**STEPS[found](copy.deepcopy(values)), "format": found + 1}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"expected a manifest of format {found}, found one that lacks what such a manifest has "
                f"({type(error).__name__}: {error}); restore it from a backup."
            ) from error
    return values


def migrate(
    write: Annotated[bool, typer.Option("--write", help="Rewrite; without, only say what would be.")] = False,
) -> None:
    """Rewrite manifests of older formats in the present one; without --write it only says what it would do.

    Exits 0 when all is, or could be, in the present format, 1 when a manifest cannot be read or written.
    """
    from infra.store import Store, StoreError

    console = terminal.console()
    store, count, done, failed = Store(settings().store_location, touch=write), 0, 0, list[str]()
    for kind in store.kinds():
        for name in store.products(kind):
            unfinished = store.headless(kind, name)
            for version in store.known(kind, name):
                try:
                    current = store.current_or_none(kind, name)
                    live = current if current and current.version == version else None
                    if version in unfinished and not live:
                        continue  # without a manifest it is no version, and of no format
                    count += 1
                    found = store.format_of(kind, name, version)
                    if store.rewrite(kind, name, version) if write else found != FORMAT or (live and live.also):
                        done += 1
                        what = f"format {found} -> {FORMAT}" if found != FORMAT else "CURRENT still names both formats"
                        console.print(f"{kind}/{name}@{version}: {what}", soft_wrap=True)
                except StoreError as error:
                    failed.append(str(error))
    for sentence in failed:
        terminal.say(console, sentence)
    if not done:
        console.print(f"{count} versions, nothing to rewrite in format {FORMAT}.")
    else:
        console.print(f"{count} versions, {done} {'rewritten' if write else 'to be rewritten; repeat with --write'}.")
    if failed:
        console.print(f"[red]{len(failed)} failed[/]: each sentence above names the file.")
        raise typer.Exit(1)
