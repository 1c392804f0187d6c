"""What is kept in memory: within its bytes, the least recent given up first, whatever the order of the calls."""

import threading

from hypothesis import given
from hypothesis import strategies as some

from models.feed.events.kept import ByteLru, Kept, Outcomes
from models.feed.events.known import Item, Told


@given(
    some.integers(0, 40),
    some.lists(some.tuples(some.booleans(), some.integers(0, 5), some.integers(0, 20)), max_size=60),
)
def test_values_take_at_most_their_bytes_and_the_least_recent_goes_first(
    size: int, calls: list[tuple[bool, int, int]]
) -> None:
    kept: ByteLru[int] = ByteLru(size)
    right: list[tuple[int, int]] = []  # key and bytes, the least recent first
    evicted = 0
    for putting, key, nbytes in calls:
        there = [one for one in right if one[0] == key]
        if putting:
            kept.put(key, nbytes, nbytes)
            right = [one for one in right if one[0] != key]
            if nbytes > size:
                evicted += 1
            else:
                right.append((key, nbytes))
            while sum(number for _, number in right) > size:
                right, evicted = right[1:], evicted + 1
        else:
            assert kept.get(key) == (there[0][1] if there else None)
            right = [one for one in right if one[0] != key] + there
        assert (kept.nbytes, len(kept), kept.evicted) == (sum(number for _, number in right), len(right), evicted)


def test_an_oversized_value_leaves_the_others() -> None:
    kept: ByteLru[str] = ByteLru(10)
    for key in range(3):
        kept.put(key, "small", 3)
    kept.put("large", "large", 11)
    assert [kept.get(key) for key in (0, 1, 2, "large")] == ["small", "small", "small", None]
    kept.put(1, "grown", 11)
    assert [kept.get(key) for key in (0, 1, 2)] == ["small", None, "small"]
    assert (kept.nbytes, len(kept), kept.evicted) == (6, 2, 2)
    told = Kept(20_000)
    for user in range(10):
        assert told.add(user, [Told(Item(user), user, {})]) == 1
    assert told.add("much", [Told(Item(number), number, {}) for number in range(100)]) == 0
    assert [len(told.of(user)) for user in range(10)] == [1] * 10


def test_an_event_of_one_item_and_moment_is_replaced() -> None:
    kept = Kept(2**20)
    assert kept.add("ann", [Told(Item("a"), 1, {"click": 0.0}), Told(Item("b"), 1, {})]) == 2
    assert kept.add("ann", [Told(Item("a"), 1, {"click": 1.0}), Told(Item("a"), 2, {})]) == 3
    assert [(one.item.id, one.time, dict(one.actions)) for one in kept.of("ann")] == [
        ("a", 1, {"click": 1.0}),
        ("b", 1, {}),
        ("a", 2, {}),
    ]
    assert kept.of("bob") == kept.of(None) == ()


def test_every_change_is_told_by_the_number_of_the_moment() -> None:
    kept = Kept(2000)
    seen = {kept.everything()[0]}
    for number in range(20):
        kept.add(number, [Told(Item(number), number, {})])
        moment, everything = kept.everything()
        assert moment not in seen
        assert number in everything
        seen.add(moment)
    assert kept.evicted > 0
    assert kept.nbytes <= kept.size
    assert kept.add("much", [Told(Item(number), number, {}) for number in range(100)]) == 0


def test_what_many_threads_tell_is_all_there() -> None:
    kept, outcomes = Kept(2**24), Outcomes()

    def tell(first: int) -> None:
        for number in range(first, first + 200):
            kept.add(number % 3, [Told(Item(number), number, {})])
            outcomes.count("hits" if number % 2 else "misses")

    threads = [threading.Thread(target=tell, args=(1000 * place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(kept.of(user)) for user in range(3)) == 800
    assert outcomes.summary() == {"hits": 400, "extended": 0, "misses": 400, "cache_hit_rate": 0.5}
