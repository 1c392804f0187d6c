"""Amortized inference says what the network says, in fewer operations; where it promises bits, it keeps them."""

import itertools
import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.common.amortised import Amortised, Cache, request_flops
from models.common.amortised_kernels import BLOCK, PANEL, TILE
from models.common.transformer import Transformer, TransformerConfig

SIZES: list[dict[str, Any]] = [
    {"width": 64, "heads": 2, "layers": 2, "multiplier": 2},
    {"width": 12, "heads": 2, "layers": 3, "multiplier": 1},
    {"width": 40, "heads": 1, "layers": 1, "multiplier": 3},
    {"width": 36, "heads": 2, "layers": 2, "multiplier": 1, "gate": False},
    {"width": 15, "heads": 3, "layers": 2, "multiplier": 1, "rotary": False},
    {"width": 48, "heads": 1, "layers": 2, "multiplier": 4, "self_key": False},
    {"width": 96, "heads": 4, "layers": 2, "multiplier": 2, "self_key": False, "gate": False},
]
"""Widths of heads that fill vectors, that do not, and that are odd."""


def network(*, dtype: torch.dtype = torch.float32, **settings: Any) -> Transformer:
    """A stack whose every parameter matters: norms that shift, gates that open unevenly."""
    torch.manual_seed(0)
    stack = Transformer(TransformerConfig(**(SIZES[0] | settings)))
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if parameter.ndim == 1 or "gate" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return stack.to(dtype)  # left in training mode: inference must not drop anything


def tokens(count: int, width: int = 64, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(stack: Transformer, history: Tensor, candidates: Tensor, sessions: Tensor | None = None) -> Tensor:
    """What the network itself says, in float64."""
    exact = Transformer(stack.config).double().eval()
    exact.load_state_dict(stack.state_dict())
    length = torch.tensor([len(history)])
    with torch.no_grad():
        hidden = exact(
            history[None].double(), length, candidates[None].double(), None if sessions is None else sessions[None]
        )
    out: Tensor = hidden.candidates[0]
    return out


def apart(found: Tensor, wanted: Tensor) -> float:
    """How far candidates are from where they should be, as a share of their length; the worst of them."""
    distance = (found.double() - wanted.double()).norm(dim=1) / wanted.double().norm(dim=1)
    return float(distance.amax())


def close(found: Tensor, wanted: Tensor) -> bool:
    """Equal to one part in a million."""
    return apart(found, wanted) <= 1e-6


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("length", [0, 1, 7, 50, 301])
def test_a_cached_history_gives_the_scores_of_the_network(sizes: dict[str, Any], length: int, compiled: bool) -> None:
    stack = network(**sizes)
    width = stack.config.width
    amortised = Amortised(stack, compiled=compiled)
    history = tokens(length, width)
    cache = amortised.encode(history)
    for count in (1, 2, 33, 131):
        candidates = tokens(count, width, seed=count)
        assert close(amortised.attend(cache, candidates), plain(stack, history, candidates))
        session = torch.arange(count) * 7 % 5
        assert close(amortised.attend(cache, candidates, session), plain(stack, history, candidates, session))
    assert amortised.attend(cache, tokens(0, width)).shape == (0, width)


def test_the_compiled_passes_err_as_little_as_the_network_itself() -> None:
    stack = network()
    history, candidates = tokens(300), tokens(130, seed=2)
    exact = plain(stack, history, candidates)
    with torch.no_grad():
        trained = stack.eval()(history[None], torch.tensor([300]), candidates[None]).candidates[0]
    amortised = Amortised(stack)
    found = amortised.attend(amortised.encode(history), candidates)
    assert apart(found, exact) < 1.5 * apart(trained, exact) < 1e-6


@pytest.mark.parametrize("compiled", [True, False])
def test_outputs_of_events_are_kept_if_asked_for(compiled: bool) -> None:
    stack = network(window=20)
    amortised, history = Amortised(stack, compiled=compiled), tokens(70)
    with torch.no_grad():
        wanted = stack.eval()(history[None], torch.tensor([70])).history[0]
    assert amortised.encode(history).outputs is None
    cache = amortised.encode(history[:33], outputs=True)
    cache = amortised.extend(amortised.extend(cache, history[33:34]), history[34:])
    assert cache.outputs is not None
    assert len(cache.outputs) == len(cache) == 20
    assert torch.allclose(cache.outputs, wanted[-20:], atol=2e-6)


# --- bits -------------------------------------------------------------------------------------------------------------


@given(
    length=st.integers(0, 2 * BLOCK + 3),
    count=st.integers(1, 3 * TILE),
    cuts=st.lists(st.integers(0, 3 * TILE), max_size=4),
    order_seed=st.integers(0, 99),
)
def test_a_candidate_s_bits_do_not_depend_on_the_others_or_on_how_a_request_is_cut(
    length: int, count: int, cuts: list[int], order_seed: int
) -> None:
    amortised = Amortised(network(), threads=1)
    cache, candidates = amortised.encode(tokens(length)), tokens(count, seed=3)
    whole = amortised.attend(cache, candidates)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(order_seed))
    borders = sorted({0, count, *(min(cut, count) for cut in cuts)})
    found = torch.empty_like(whole)
    for begin, end in itertools.pairwise(borders):
        found[order[begin:end]] = amortised.attend(cache, candidates[order[begin:end]])
    assert torch.equal(found, whole)


@pytest.mark.parametrize("sizes", SIZES)
def test_one_candidate_alone_has_the_bits_it_has_among_many_on_several_threads(sizes: dict[str, Any]) -> None:
    stack = network(**sizes)
    history, candidates = tokens(77, stack.config.width), tokens(200, stack.config.width, seed=4)
    alone, shared = Amortised(stack, threads=1), Amortised(stack, threads=3)
    cache = alone.encode(history)
    many = shared.attend(shared.encode(history), candidates)
    for number in (0, 1, 47, 48, 151, 199):
        assert torch.equal(alone.attend(cache, candidates[number : number + 1])[0], many[number])


@given(length=st.integers(1, 2 * BLOCK + 3), cuts=st.lists(st.integers(0, 2 * BLOCK), max_size=5))
def test_a_history_that_came_in_parts_has_the_bits_of_one_that_came_at_once(length: int, cuts: list[int]) -> None:
    amortised = Amortised(network(), threads=1)
    history, candidates = tokens(length), tokens(9, seed=5)
    whole = amortised.encode(history, outputs=True)
    borders = sorted({0, length, *(min(cut, length) for cut in cuts)})
    cache = amortised.encode(history[:0], outputs=True)
    for begin, end in itertools.pairwise(borders):
        cache = amortised.extend(cache, history[begin:end])
    assert len(cache) == length
    assert cache.outputs is not None
    assert whole.outputs is not None
    assert torch.equal(cache.outputs, whole.outputs)
    assert torch.equal(amortised.attend(cache, candidates), amortised.attend(whole, candidates))


def test_sessions_of_one_have_the_bits_of_no_sessions() -> None:
    amortised = Amortised(network(), threads=1)
    cache, candidates = amortised.encode(tokens(40)), tokens(60, seed=6)
    assert torch.equal(
        amortised.attend(cache, candidates, torch.arange(60).flip(0)), amortised.attend(cache, candidates)
    )


# --- sessions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_sessions_of_any_size_are_permuted_with_their_candidates(compiled: bool, threads: int) -> None:
    stack = network()
    amortised = Amortised(stack, threads=threads, compiled=compiled)
    history, candidates = tokens(30), tokens(400, seed=7)
    session = torch.tensor([5] * 1 + [2] * (TILE + 5) + [9] * (BLOCK + 40) + [1] * 178)
    cache = amortised.encode(history)
    found = amortised.attend(cache, candidates, session)
    assert close(found, plain(stack, history, candidates, session))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(8))
    assert torch.allclose(amortised.attend(cache, candidates[order], session[order]), found[order], atol=1e-5)
    changed = candidates.clone()
    changed[0 + 1] += 1
    moved = (amortised.attend(cache, changed, session) - found).abs().amax(1) > 1e-4
    assert torch.equal(moved, session == 2)


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [True, False])
def test_a_cache_never_changes_and_may_grow_in_two_ways(compiled: bool) -> None:
    stack = network()
    amortised = Amortised(stack, compiled=compiled)
    history, candidates = tokens(45), tokens(5, seed=9)
    left, right = tokens(3, seed=10), tokens(40, seed=11)
    cache = amortised.encode(history)
    before = amortised.attend(cache, candidates)
    first = amortised.extend(cache, left)
    second = amortised.extend(cache, right)
    assert first.store is cache.store
    assert second.store is not cache.store
    assert torch.equal(amortised.attend(cache, candidates), before)
    assert close(amortised.attend(first, candidates), plain(stack, torch.cat([history, left]), candidates))
    assert close(amortised.attend(second, candidates), plain(stack, torch.cat([history, right]), candidates))
    assert amortised.extend(cache, history[:0]) is cache


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_stream_of_events_gives_what_one_pass_with_the_window_gives(compiled: bool, layers: int) -> None:
    stack = network(window=37, layers=layers)
    amortised = Amortised(stack, compiled=compiled)
    events, candidates = tokens(400), tokens(5, seed=12)
    cache = amortised.encode(events[:10])
    done, largest = 10, 0
    for step in (1, 26, 1, 1, 40, 90, *(1,) * 100, 31, 100):
        cache = amortised.extend(cache, events[done : done + step])
        done += step
        assert len(cache) == min(done, 37)
        largest = max(largest, cache.store.slots)
        if step > 1:
            assert close(amortised.attend(cache, candidates), plain(stack, events[:done], candidates))
    assert done == 400
    assert largest <= 400
    assert cache.store.slots <= 6 * 37
    recent = amortised.attend(amortised.encode(events[-37:]), candidates)
    # with one layer nothing reaches back further than the window; with more, what came before still echoes
    assert torch.allclose(amortised.attend(cache, candidates), recent, atol=1e-5) is (layers == 1)


@pytest.mark.parametrize("compiled", [True, False])
def test_positions_may_start_anywhere(compiled: bool) -> None:
    amortised = Amortised(network(), compiled=compiled)
    history, candidates = tokens(45), tokens(5, seed=9)
    here = amortised.attend(amortised.encode(history), candidates)
    for start in (-20, 700, 65_520, 1_000_000):
        there = amortised.encode(history, start=start)
        assert there.position == start + 45
        assert torch.allclose(amortised.attend(there, candidates), here, atol=5e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_events_that_are_not_finite_are_refused_and_spoil_nothing(compiled: bool) -> None:
    amortised = Amortised(network(), compiled=compiled)
    history, candidates = tokens(45), tokens(5, seed=9)
    cache = amortised.encode(history)
    before = amortised.attend(cache, candidates)
    for wrong in (torch.nan, torch.inf):
        broken = tokens(2, seed=13)
        broken[1, 63] = wrong
        with pytest.raises(ValueError, match="must be finite"):
            amortised.extend(cache, broken)
    assert torch.equal(amortised.attend(cache, candidates), before)
    assert len(amortised.extend(cache, candidates)) == 50


def test_a_candidate_that_is_not_a_number_spoils_no_other_session() -> None:
    amortised = Amortised(network(), threads=1)
    cache, candidates = amortised.encode(tokens(20)), tokens(12, seed=14)
    session = torch.tensor([0] * 7 + [1] * 5)
    sound = amortised.attend(cache, candidates, session)
    alone = amortised.attend(cache, candidates)
    candidates[6, 3] = torch.nan
    assert amortised.attend(cache, candidates, session)[:7].isnan().all()
    assert torch.equal(amortised.attend(cache, candidates, session)[7:], sound[7:])
    found = amortised.attend(cache, candidates)
    assert found[6].isnan().all()
    assert torch.equal(found[:6], alone[:6])


def test_threads_may_share_caches_and_only_one_of_them_grows_a_store() -> None:
    amortised = Amortised(network(), threads=1)
    history, candidates = tokens(45), tokens(50, seed=9)
    cache = amortised.encode(history)
    tails = [tokens(1 + number % 3, seed=20 + number) for number in range(16)]
    wanted = [amortised.attend(amortised.encode(torch.cat([history, tail])), candidates) for tail in tails]
    found: dict[int, tuple[Cache, Tensor]] = {}

    def work(number: int) -> None:
        longer = amortised.extend(cache, tails[number])
        found[number] = longer, amortised.attend(longer, candidates)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(longer.store is cache.store for longer, _ in found.values()) == 1
    for number in range(16):
        assert torch.equal(found[number][1], wanted[number])


@pytest.mark.parametrize("compiled", [True, False])
def test_a_cache_says_what_it_holds(compiled: bool) -> None:
    amortised = Amortised(network(), compiled=compiled)
    cache = amortised.encode(tokens(1000), outputs=True)
    least = 1000 * 64 * 4 * (2 * 2 + 1)
    assert least <= cache.nbytes <= 1.25 * least
    assert len(cache) == cache.position == 1000


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES[:1] + SIZES[3:4] + SIZES[5:])
def test_operations_are_those_of_the_closed_form(sizes: dict[str, Any]) -> None:
    stack = network(**sizes)
    config = stack.config
    length, count, width, inner, layers = 41, 19, config.width, config.inner_width, config.layers
    amortised = Amortised(stack, compiled=False)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        amortised.attend(amortised.encode(tokens(length, width)), tokens(count, width, seed=2))
    token = 2 * ((6 if config.gate else 4) * width**2 + 3 * width * inner)
    history = (layers - 1) * (length * token + 4 * length**2 * width) + 4 * length * width**2
    candidates = layers * (count * token + 4 * count * length * width)
    itself = layers * 4 * count * width if config.self_key else 0  # elementwise, which torch does not count
    assert counter.get_total_flops() == history + candidates
    assert request_flops(config, length, count) == history + candidates + itself


# --- borders ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_with_the_remedy() -> None:
    amortised = Amortised(network())
    cache = amortised.encode(tokens(3))
    with pytest.raises(ValueError, match=r"candidates must have shape \(any, 64\), got \(4, 12\)"):
        amortised.attend(cache, tokens(4, 12))
    with pytest.raises(ValueError, match="one history at a time"):
        amortised.encode(tokens(6)[None])
    with pytest.raises(ValueError, match="give each candidate one session"):
        amortised.attend(cache, tokens(4), torch.zeros(3))
    with pytest.raises(ValueError, match="leave compiled out"):
        Amortised(network(dtype=torch.float64), compiled=True)


def test_other_precisions_are_computed_by_torch() -> None:
    stack = network(dtype=torch.float64)
    amortised = Amortised(stack)
    history, candidates = tokens(50, dtype=torch.float64), tokens(7, seed=2, dtype=torch.float64)
    found = amortised.attend(amortised.encode(history), candidates)
    assert found.dtype == torch.float64
    assert (found - plain(stack, history, candidates)).abs().max() < 1e-13


def test_panels_blocks_and_tiles_fit_one_another() -> None:
    assert BLOCK % PANEL == 0
    assert TILE % 24 == 0
