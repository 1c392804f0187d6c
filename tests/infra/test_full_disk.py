"""A full disk and a read-only store: a clear error, the old version served, nothing left lying about.

The disks are real: a child process mounts a small one in a namespace of its own. A limit on the size of files stands
beside it, which needs no rights at all.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parent.parent.parent
NAMESPACE = ["unshare", "--mount", "--map-root-user"]

CHILD = """
import json, os, resource, signal, subprocess, sys
from pathlib import Path
import numpy as np
from infra.manifest import Manifest
from infra.refs import Index
from infra.store import Store, StoreError

kind, folder = sys.argv[1], Path(sys.argv[2])
if kind != "limit":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)

def manifest(seed):
    return Manifest(
        kind="index", name="toy", configuration_class="models.toy.Config", configuration={"seed": seed}, code="c",
        inputs={}, files=(),
    )

def payload(seed, size):
    return {"vectors": np.random.default_rng(seed).standard_normal(size).astype(np.float32)}

store = Store(str(folder / "store"))
first = store.write(Index, payload(0, 1000), manifest(0))
store.publish(first, {"claims": []})
second = store.write(Index, payload(1, 1000), manifest(1))
before = sorted(str(path) for path in folder.rglob("*"))
errors = []

def attempt(act):
    try:
        act()
        errors.append("no error")
    except StoreError as error:
        errors.append(str(error))

if kind == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
elif kind == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
else:
    ballast = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(ballast, bytes(4096))
    except OSError:
        os.close(ballast)
attempt(lambda: store.write(Index, payload(2, 400_000), manifest(2)))
if kind == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
attempt(lambda: store.publish(second, {"claims": []}))
(folder / "ballast").exists() and kind == "full" and (folder / "ballast").unlink()
live = Store(str(folder / "store")).live(Index, "toy")
store.verify(live)
after = sorted(str(path) for path in folder.rglob("*"))
print(json.dumps({"errors": errors, "live": live.version == first.version, "stray": sorted(set(after) - set(before))}))
"""


def attempt(kind: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", CHILD, kind, str(folder)]
    done = subprocess.run(
        command if kind == "limit" else [*NAMESPACE, *command],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _may_mount() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


mounts = pytest.mark.skipif(not _may_mount(), reason="this machine gives nobody a mount namespace; `limit` stands in")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        pytest.param("full", "No space left on device|(0 bytes left)", marks=mounts),
        pytest.param("read-only", "Read-only file system", marks=mounts),
        ("limit", "File too large|requested and"),
    ],
)
def test_a_disk_that_takes_no_more_leaves_the_old_version_live(kind: str, words: str, tmp_path: Path) -> None:
    found = attempt(kind, tmp_path)
    assert len(found["errors"]) == 2
    for error in found["errors"]:
        assert any(word in error for word in words.split("|")), error
        assert "index/toy" in error, "the error does not name the product"
        assert "Nothing was changed" in error, "the error does not say what became of the old version"
    assert found["live"], "the old version is no longer served"
    assert found["stray"] == []
