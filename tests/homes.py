"""Folders of state for tests."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def living_in(folder: Path, tracking_uri: str, patch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let a folder be HEADRACE_HOME, with nothing else of headrace set; whoever made the patch takes it back."""
    from infra.settings import settings

    patch.setenv("HEADRACE_HOME", str(folder))
    patch.setenv("HEADRACE_TRACKING_URI", tracking_uri)
    for name in ("STORE", "MIRROR", "DATA_ROOTS"):
        patch.delenv(f"HEADRACE_{name}", raising=False)
    if place := os.environ.get("HEADRACE_TEST_STORE"):
        patch.setenv("HEADRACE_STORE", f"{place}/{uuid.uuid4().hex}")
    settings.cache_clear()
    try:
        yield folder
    finally:
        settings.cache_clear()
