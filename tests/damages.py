"""Damages of a published version, seeded, and whether the store refuses each by name."""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.refs import Index
from infra.store import IntegrityError, Store
from tests.publishers import publish

KINDS = ("flip a bit", "cut", "append", "lose", "swap two files", "take the file of another version", "empty")


def damage_and_open(root: Path, count: int, seed: int) -> dict[str, Any]:
    """Damage a published version in many ways, one at a time, and open what is live.

    Args:
        root: a fresh folder.
        count: how many damages.
        seed: of their places.

    Returns:
        How many were refused, by kind, and which were not, or without a name.
    """
    store, draw = Store(str(root / "store")), random.Random(seed)
    folders = [Path(publish(store, number).location) for number in (1, 2)]
    live, other = folders[1], folders[0]
    shutil.copytree(live, root / "whole")
    tried, refused = Counter[str](), Counter[str]()
    accepted, unnamed = [], []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        file, act = _damage(kind, live, other, draw)
        act()
        tried[kind] += 1
        try:
            store.verify(store.live(Index, "polled"))
            accepted.append(f"{kind} {file}")
        except IntegrityError as error:
            refused[kind] += 1
            words = str(error)
            if not all(word in words for word in ("expected", "found", "index/polled/")):
                unnamed.append(f"{kind} {file}: {words}")
        except Exception as error:
            accepted.append(f"{kind} {file}: {type(error).__name__} {error}")
        shutil.rmtree(live)
        shutil.copytree(root / "whole", live)
    store.verify(store.live(Index, "polled"))
    return {
        "refused": sum(refused.values()),
        "by_kind": dict(tried),
        "refused_by_kind": dict(refused),
        "accepted": accepted,
        "unnamed": unnamed,
    }


def _damage(kind: str, live: Path, other: Path, draw: random.Random) -> tuple[str, Callable[[], Any]]:
    names = sorted(path.name for path in live.iterdir())
    name = draw.choice(names)
    file, data = live / name, (live / name).read_bytes()
    match kind:
        case "flip a bit":
            place = draw.randrange(len(data))
            changed = bytes([data[place] ^ (1 << draw.randrange(8))])
            return name, lambda: file.write_bytes(data[:place] + changed + data[place + 1 :])
        case "cut":
            length = draw.randrange(len(data))
            return name, lambda: os.truncate(file, length)
        case "append":
            return name, lambda: file.write_bytes(data + draw.randbytes(1 + draw.randrange(100)))
        case "lose":
            return name, file.unlink
        case "swap two files":
            second = live / draw.choice([one for one in names if one != name and (live / one).read_bytes() != data])
            content = second.read_bytes()
            return name, lambda: (file.write_bytes(content), second.write_bytes(data))
        case "take the file of another version":
            return name, lambda: shutil.copy(other / name, file)
        case _:
            return name, lambda: os.truncate(file, 0)
