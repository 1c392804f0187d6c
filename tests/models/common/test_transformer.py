"""The gated transformer: causality, padding, sessions, and what it becomes without its gates."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.common.transformer import Block, Transformer, TransformerConfig, flush_left

D = 12


def network(*, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A stack whose every parameter matters: norms that shift, gates that open unevenly."""
    torch.manual_seed(seed)
    chosen: dict[str, Any] = {"width": D, "heads": 2, "layers": 3, "multiplier": 2} | settings
    stack = Transformer(TransformerConfig(**chosen))
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return stack.eval().to(dtype)


def batch(*, length: int = 7, candidates: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(11)
    history = torch.randn(3, length, D, dtype=dtype)
    return history, torch.tensor([length, 0, length // 2]), torch.randn(3, candidates, D, dtype=dtype)


SESSIONS = torch.tensor([[0, 0, 1, 1, 1], [5, 5, 5, 5, -1], [2, 3, 2, 3, 2]])


@pytest.mark.parametrize("self_key", [True, False])
@pytest.mark.parametrize("set_wise", [True, False])
@pytest.mark.parametrize("rotary", [True, False])
def test_the_network_is_the_equation_of_the_paper(self_key: bool, set_wise: bool, rotary: bool) -> None:
    """One row at a time, without padding, with an explicit mask over all tokens, in float64."""
    stack = network(self_key=self_key, rotary=rotary, dtype=torch.float64)
    history, length, candidate = batch(dtype=torch.float64)
    found = stack(history, length, candidate, SESSIONS if set_wise else None)
    for b, count in enumerate(length.tolist()):
        h = torch.cat([history[b, :count], candidate[b]])
        mask = torch.zeros(len(h), len(h), dtype=torch.bool)
        for q in range(len(h)):
            for k in range(len(h)):
                mate = set_wise and min(q, k) >= count and bool(SESSIONS[b, q - count] == SESSIONS[b, k - count])
                mask[q, k] = k <= q < count or k < count <= q or (self_key if q == k else mate)
        place = torch.arange(len(h)).clamp_max(count).double()
        for block in stack.blocks:
            for half, gate in ((block.attention, block.attention.gate), (block.feed_forward, block.feed_forward.gate)):
                x = nn.functional.layer_norm(h, (D,), half.norm.weight, half.norm.bias)
                if half is block.attention:
                    q, k, v = (half.branch.inward.weight @ x.T).T.split(D, 1)
                    parts = []
                    for head in range(2):
                        columns = slice(6 * head, 6 * head + 6)
                        qh, kh = q[:, columns], k[:, columns]
                        if rotary:
                            turn = torch.exp(1j * place[:, None] * 10000.0 ** (-torch.arange(3).double() / 3))
                            qh, kh = (torch.complex(a[:, :3], a[:, 3:]) * turn for a in (qh, kh))
                            score = (qh @ kh.conj().T).real / 6**0.5
                        else:
                            score = qh @ kh.T / 6**0.5
                        weight = torch.softmax(score.masked_fill(~mask, -torch.inf), 1).nan_to_num()
                        parts.append(weight @ v[:, columns])
                    branch = torch.cat(parts, 1) @ half.branch.outward.weight.T
                else:
                    a, c = (x @ half.branch.inward.weight.T).split(2 * D, 1)
                    branch = (a * torch.sigmoid(a) * c) @ half.branch.outward.weight.T
                h = h + branch * torch.sigmoid(h @ gate.weight.T + gate.bias)
        h = nn.functional.layer_norm(h, (D,), stack.norm.weight, stack.norm.bias)
        assert torch.allclose(found.history[b, :count], h[:count], atol=1e-12)
        assert torch.allclose(found.candidates[b], h[count:], atol=1e-12)


@pytest.mark.parametrize("changed", [0, 3, 6])
def test_an_event_changes_nothing_before_it_bit_for_bit(changed: int) -> None:
    stack = network()
    history, _, _ = batch()
    length = torch.full((3,), 7)
    before = stack(history, length).history
    history[:, changed] += 1
    after = stack(history, length).history
    assert torch.equal(after[:, :changed], before[:, :changed])
    assert not torch.allclose(after[:, changed:], before[:, changed:])


@pytest.mark.parametrize("sessions", [None, SESSIONS])
def test_gradients_flow_only_along_what_is_seen(sessions: Tensor | None) -> None:
    stack = network()
    history, _, candidate = batch()
    length = torch.full((3,), 7)
    history.requires_grad_()
    candidate.requires_grad_()
    hidden = stack(history, length, candidate, sessions)
    for place in range(7):
        to_history, to_candidates = torch.autograd.grad(
            hidden.history[:, place].sum(), [history, candidate], retain_graph=True
        )
        assert not to_history[:, place + 1 :].any()
        assert to_history[:, : place + 1].abs().amax(2).min() > 0
        assert not to_candidates.any()
    for place in range(5):
        to_history, to_candidates = torch.autograd.grad(
            # a sum over the numbers of a normalized vector is constant: weigh them
            (hidden.candidates[:, place] * torch.arange(D)).sum(),
            [history, candidate],
            retain_graph=True,
        )
        assert to_history.abs().amax(2).min() > 0
        for other in range(5):
            seen = (
                torch.eye(5, dtype=torch.bool)[place, other]
                if sessions is None
                else (sessions[:, place] == sessions[:, other])
            )
            assert torch.equal(to_candidates[:, other].abs().amax(1) > 0, seen.expand(3))


def test_padding_and_company_do_not_matter() -> None:
    stack = network()
    history, length, candidate = batch()
    together = stack(history, length, candidate)
    right = torch.nn.functional.pad(history, (0, 0, 0, 9), value=1e3)
    present = torch.arange(16) < length[:, None]
    left = torch.stack([row.roll(16 - int(count), 0) for row, count in zip(right, length, strict=True)])
    for padded, there in (
        (right, present),
        (left, present.flip(1)),
        # every event is followed by a hole
        (right.repeat_interleave(2, 1), torch.stack([present, torch.zeros_like(present)], 2).flatten(1)),
    ):
        found = stack(*flush_left(padded, there), candidate)
        assert torch.allclose(found.candidates, together.candidates, atol=1e-6)
    for b, count in enumerate(length.tolist()):
        alone = stack(history[b : b + 1, :count], length[b : b + 1], candidate[b : b + 1])
        assert torch.allclose(alone.candidates[0], together.candidates[b], atol=1e-6)
        assert torch.allclose(alone.history[0], together.history[b, :count], atol=1e-6)


@pytest.mark.parametrize("self_key", [True, False])
def test_an_empty_history_gives_finite_scores_and_gradients(self_key: bool) -> None:
    stack = network(self_key=self_key)
    history, length, candidate = batch()
    hidden = stack(history.requires_grad_(), length, candidate.requires_grad_())
    (hidden.candidates * torch.arange(D)).sum().backward()
    assert hidden.candidates.isfinite().all()
    assert history.grad is not None
    assert candidate.grad is not None
    assert history.grad.isfinite().all()
    assert candidate.grad.isfinite().all()
    assert not history.grad[1].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stack.parameters())


def test_candidates_that_do_not_see_one_another_keep_their_scores_in_any_company() -> None:
    stack = network()
    history, length, candidate = batch()
    full = stack(history, length, candidate).candidates
    order = torch.tensor([3, 0, 4])
    assert torch.allclose(stack(history, length, candidate[:, order]).candidates, full[:, order], atol=1e-6)


def test_permuted_sessions_give_permuted_scores_and_mates_matter() -> None:
    stack = network()
    history, length, candidate = batch()
    full = stack(history, length, candidate, SESSIONS).candidates
    order = torch.tensor([4, 2, 0, 3, 1])
    permuted = stack(history, length, candidate[:, order], SESSIONS[:, order]).candidates
    assert torch.allclose(permuted, full[:, order], atol=1e-5)
    changed = candidate.clone()
    changed[:, 1] += 1
    moved = (stack(history, length, changed, SESSIONS).candidates - full).abs().amax(2) > 1e-4
    assert torch.equal(moved, SESSIONS[:, 1:2] == SESSIONS)


def test_a_session_each_is_no_session() -> None:
    stack = network()
    history, length, candidate = batch()
    apart = torch.arange(5).expand(3, 5)
    alone = stack(history, length, candidate).candidates
    assert torch.equal(stack(history, length, candidate, apart).candidates, alone)
    assert torch.allclose(stack(history, length, candidate[:, :1], SESSIONS[:, :1]).candidates, alone[:, :1], atol=1e-6)


def test_many_sessions_of_a_member_in_one_row_are_as_one_row_each() -> None:
    stack = network()
    history, _, candidate = batch()
    seen = torch.tensor([[0, 0, 4, 4, 7]] * 3)
    session = torch.tensor([[0, 0, 1, 1, 2]] * 3)
    packed = stack(history, torch.full((3,), 7), candidate, session, seen_BN=seen).candidates
    for number, count in enumerate((0, 4, 7)):
        chosen = session[0] == number
        own = stack(history[:, :count], torch.full((3,), count), candidate[:, chosen], session[:, chosen])
        assert torch.allclose(packed[:, chosen], own.candidates, atol=1e-6)


def test_a_candidate_that_is_its_own_key_is_one_more_event() -> None:
    stack = network()
    history, _, candidate = batch(candidates=1)
    appended = stack(torch.cat([history, candidate], 1), torch.full((3,), 8)).history[:, -1:]
    assert torch.allclose(stack(history, torch.full((3,), 7), candidate).candidates, appended, atol=1e-6)


@pytest.mark.parametrize("shift", [1, 1000, 100_000])
def test_shifted_positions_leave_everything_as_it_was(shift: int) -> None:
    stack = network()
    history, length, candidate = batch()
    here, there = (stack(history, length, candidate, start=start) for start in (0, shift))
    assert torch.allclose(here.candidates, there.candidates, atol=1e-5)
    assert torch.allclose(here.history[0], there.history[0], atol=1e-5)
    assert not torch.allclose(here.candidates, network(rotary=False)(history, length, candidate).candidates, atol=1e-3)


def test_a_window_limits_what_a_layer_sees() -> None:
    stack = network(layers=1, window=3)
    history, _, candidate = batch()
    length = torch.full((3,), 7)
    windowed = stack(history, length, candidate)
    recent = stack(history[:, 4:], torch.full((3,), 3), candidate)
    assert torch.allclose(windowed.candidates, recent.candidates, atol=1e-5)
    assert torch.allclose(windowed.history[:, -1], recent.history[:, -1], atol=1e-5)
    assert not torch.allclose(windowed.history[:, 5], recent.history[:, 1], atol=1e-3)


def test_closed_gates_leave_the_stream_alone_and_open_ones_are_not_there() -> None:
    history, length, candidate = batch()
    stack, plain = network(), network(gate=False)
    plain.load_state_dict({name: value for name, value in stack.state_dict().items() if ".gate." not in name})
    for block in stack.blocks:
        for half in (block.attention, block.feed_forward):
            nn.init.zeros_(half.gate.weight)
            nn.init.constant_(half.gate.bias, -torch.inf)
    assert torch.equal(stack(history, length, candidate).candidates, stack.norm(candidate))
    for block in stack.blocks:
        for half in (block.attention, block.feed_forward):
            nn.init.constant_(half.gate.bias, torch.inf)
    assert torch.equal(stack(history, length, candidate).candidates, plain(history, length, candidate).candidates)


def test_without_gates_and_with_a_plain_feed_forward_a_block_is_torch_s_own_layer() -> None:
    stack = network(gate=False, rotary=False, layers=1)
    block = stack.blocks[0]
    assert isinstance(block, Block)
    torch.manual_seed(5)
    theirs = nn.TransformerEncoderLayer(
        D, 2, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float32
    ).eval()
    block.feed_forward.branch = nn.Sequential(theirs.linear1, nn.GELU(), theirs.linear2)
    with torch.no_grad():
        theirs.norm1.load_state_dict(block.attention.norm.state_dict())
        theirs.norm2.load_state_dict(block.feed_forward.norm.state_dict())
        theirs.self_attn.in_proj_weight.copy_(block.attention.branch.inward.weight)
        theirs.self_attn.out_proj.weight.copy_(block.attention.branch.outward.weight)
        nn.init.zeros_(theirs.self_attn.in_proj_bias)
        nn.init.zeros_(theirs.self_attn.out_proj.bias)
    stack.norm = nn.Identity()
    history, _, _ = batch()
    wanted = theirs(history, src_mask=nn.Transformer.generate_square_subsequent_mask(7), is_causal=True)
    assert torch.allclose(stack(history, torch.full((3,), 7)).history, wanted, atol=1e-5)


@pytest.mark.parametrize(("width", "multiplier", "layers"), [(12, 1, 1), (24, 4, 3)])
def test_parameters_are_as_many_as_the_paper_s_equation_has(width: int, multiplier: int, layers: int) -> None:
    stack = Transformer(TransformerConfig(width=width, heads=2, layers=layers, multiplier=multiplier))
    gates_and_norms = 2 * width + 4 * width
    wanted = layers * ((6 + 3 * multiplier) * width**2 + gates_and_norms) + 2 * width
    assert sum(parameter.numel() for parameter in stack.parameters()) == wanted
    plain = Transformer(TransformerConfig(width=width, heads=2, layers=layers, multiplier=multiplier, gate=False))
    assert sum(p.numel() for p in plain.parameters()) == wanted - layers * (2 * width**2 + 2 * width)


def test_dropout_falls_on_branches_in_training_alone() -> None:
    history, length, candidate = batch()
    stack = network(dropout=0.5)
    assert torch.equal(stack(history, length, candidate).candidates, stack(history, length, candidate).candidates)
    stack.train()
    first, second = (stack(history, length, candidate).candidates for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-2)


@pytest.mark.parametrize("layers", [1, 32])
def test_a_fresh_stack_keeps_the_variance_of_its_stream(layers: int) -> None:
    torch.manual_seed(3)
    stack: Any = Transformer(TransformerConfig(layers=layers, dropout=0.0))
    stack.norm = nn.Identity()
    history = torch.randn(8, 20, 64, requires_grad=True)
    out = stack(history, torch.full((8,), 20)).history
    assert 0.9 < float(out.detach().std()) < 1.6
    (out * torch.randn_like(out)).sum().backward()
    assert history.grad is not None
    assert 0.5 < float(history.grad.std()) < 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 10, "heads": 4}, "take 12"),
        ({"width": 9, "heads": 3}, "pairs of numbers"),
        ({"dropout": 1.0}, "below 1"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_remedy(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransformerConfig(**settings)
