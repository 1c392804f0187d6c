import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest

from models.common.errors import InputError
from models.marketing.allocation import arranged
from models.marketing.allocation.partitioned import Partitioned
from models.marketing.allocation.program import Family, Infeasible, Program
from models.marketing.allocation.solver import Answer, solve
from tests.models.marketing.allocation.worlds import bounded, world

BLOCK = arranged.BLOCK
CUTS = ((0, BLOCK), (BLOCK, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 40_000))
"""Whole blocks of members; the second part has nobody."""


def stored(program: Program, folder: Path) -> list[Path]:
    """One file for each part, as a worker elsewhere would find it."""
    paths = []
    for number, cut in enumerate(CUTS):
        paths.append(folder / f"part-{number}.pickle")
        paths[-1].write_bytes(cloudpickle.dumps(program.take(np.arange(*cut))))
    return paths


READ: list[Path] = []
"""Parts that were read by this process."""


def read(path: Path) -> Program:
    READ.append(path)
    part: Program = cloudpickle.loads(path.read_bytes())
    return part


def same_bits(one: Answer, other: Answer) -> bool:
    arrays = [(answer.prices, answer.choice, answer.pairs, answer.shares, answer.loads) for answer in (one, other)]
    numbers = [(answer.value, answer.bound, answer.passes) for answer in (one, other)]
    return numbers[0] == numbers[1] and all(
        mine.tobytes() == theirs.tobytes() for mine, theirs in zip(*arrays, strict=True)
    )


def test_the_workers_of_a_dask_cluster_give_the_bits_of_one_process(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    program = world(3, members=40_000, offers=5, lower=0.4, tight=0.2, most=1.0)
    here = solve(program, threads=1)
    loaders = [partial(read, path) for path in stored(program, tmp_path)]
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True) as cluster,
            Client(cluster) as client,
        ):
            calls: list[str] = []

            def run(call: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
                assert len(jobs) == len(CUTS)
                calls.append(call.__name__)
                done: list[Any] = client.gather(client.map(call, jobs, pure=False))
                return done

            apart = solve(Partitioned(loaders, run), threads=1)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert len(calls) > apart.passes
    assert not READ  # not by this process
    assert same_bits(here, apart)


@pytest.mark.parametrize("kind", [{"lower": 0.3}, {"lower": 0.6, "most": 2.0}, {"lower": 0.0, "tight": 0.05}])
@pytest.mark.parametrize("vertex", [False, True])
def test_parts_that_are_run_elsewhere_give_the_bits_of_parts_that_are_run_here(
    kind: dict[str, Any], vertex: bool
) -> None:
    program = world(12, members=6000, offers=6, **kind)
    loaders = [partial(program.take, np.arange(*cut)) for cut in ((0, 2500), (2500, 6000))]

    def run(call: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        """Everything that goes to a part and comes back is pickled, and what arrives may not be written to."""
        sent = [cloudpickle.dumps((call, job)) for job in jobs]

        def there(work: bytes) -> bytes:
            arrived, job = cloudpickle.loads(work)
            for own in job[2]:
                if isinstance(own, np.ndarray):
                    own.flags.writeable = False
            return bytes(cloudpickle.dumps(arrived(job)))

        with ThreadPoolExecutor(2) as pool:
            return [cloudpickle.loads(result) for result in pool.map(there, sent)]

    here, apart = (solve(Partitioned(loaders, way), vertex=vertex, threads=1) for way in (None, run))
    assert same_bits(here, apart)


def test_parts_without_pairs_or_members_are_no_trouble() -> None:
    program = world(13, members=6000, offers=6, lower=0.3)
    nobody, whole = partial(program.take, np.arange(0)), partial(program.take, np.arange(6000))
    assert solve(Partitioned([nobody, whole, nobody]), threads=1).value == solve(program, threads=1).value
    free = np.full(program.K, np.inf)
    empty = bounded(nobody(), -free, free)
    assert solve(Partitioned([lambda: empty, lambda: empty])).value == 0
    wanted = bounded(nobody(), np.where(np.arange(program.K) == 2, 1.0, -free), free)
    with pytest.raises(Infeasible, match="'volume/a' needs 1, available are 0"):
        solve(Partitioned([lambda: wanted]))


def test_a_part_that_groups_or_weighs_otherwise_is_refused() -> None:
    program = world(14, members=200, offers=4)
    left, right = program.take(np.arange(100)), program.take(np.arange(100, 200))
    volume = next(place for place, family in enumerate(program.families) if family.name == "volume")

    def changed(**parts: Any) -> Program:
        families: list[Family] = list(right.families)
        families[volume] = replace(families[volume], **parts)
        return replace(right, families=tuple(families))

    turned = np.roll(np.asarray(program.families[volume].offers), 1)
    assert (turned != program.families[volume].offers).any()
    for broken in (changed(offers=turned), changed(weight=np.ones(right.E))):
        with pytest.raises(InputError, match="part 1 groups its offers or weighs its pairs otherwise than part 0"):
            Partitioned([lambda: left, lambda broken=broken: broken])  # type: ignore[misc]


def test_numbers_of_pairs_and_members_are_those_of_the_whole() -> None:
    program = world(15, members=500, offers=4, most="mixed")
    parts = Partitioned([partial(program.take, np.arange(*cut)) for cut in ((0, 200), (200, 200), (200, 500))])
    assert (parts.N, parts.E, parts.K, parts.count) == (program.N, program.E, program.K, 3)
    random = np.random.default_rng(0)
    members = np.sort(random.permutation(500)[:77])
    pairs = random.permutation(program.E)[:99]
    np.testing.assert_array_equal(parts.pairs_of(members), program.pairs_of(members))
    np.testing.assert_array_equal(parts.most_of(members), program.most_of(members))
    np.testing.assert_array_equal(parts.member_of(pairs), program.member_of(pairs))
    np.testing.assert_array_equal(parts.take(members).value, program.take(members).value)
    assert parts.least_of_rows.tolist() == program.least_of_rows.tolist()
    assert parts.packing == program.packing
