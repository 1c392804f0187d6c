"""Who sees whom, rotations, and attention over both."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.common.attention import Sight, attend, candidates_see, events_see, rotate, rotation

X, O = True, False  # noqa: E741


def test_the_mask_of_two_events_and_two_sessions_is_the_one_written_by_hand() -> None:
    # tokens: two events, then two candidates of each of two sessions
    events = [
        [X, O],
        [X, X],
    ]
    set_wise = [
        [X, X, X, X, O, O],
        [X, X, X, X, O, O],
        [X, X, O, O, X, X],
        [X, X, O, O, X, X],
    ]
    alone = [
        [X, X, X, O, O, O],
        [X, X, O, X, O, O],
        [X, X, O, O, X, O],
        [X, X, O, O, O, X],
    ]
    without_themselves = [
        [X, X, O, X, O, O],
        [X, X, X, O, O, O],
        [X, X, O, O, O, X],
        [X, X, O, O, X, O],
    ]
    cross = [[X, X, O, O, O, O]] * 4
    seen, session = torch.full((1, 4), 2), torch.tensor([[7, 7, 3, 3]])
    assert events_see(2).tolist() == events
    assert candidates_see(2, seen, session)[0].tolist() == set_wise
    assert candidates_see(2, seen)[0].tolist() == alone
    assert candidates_see(2, seen, session, self_key=False)[0].tolist() == without_themselves
    assert candidates_see(2, seen, self_key=False)[0].tolist() == cross


def test_a_candidate_sees_only_the_events_before_its_session() -> None:
    assert candidates_see(3, torch.tensor([[0, 1, 3]]))[0].tolist() == [
        [O, O, O, X, O, O],
        [X, O, O, O, X, O],
        [X, X, X, O, O, X],
    ]


def test_a_window_hides_all_but_the_latest_events() -> None:
    assert events_see(4, 2).tolist() == [[X, O, O, O], [X, X, O, O], [O, X, X, O], [O, O, X, X]]
    assert candidates_see(4, torch.tensor([[4, 2]]), window=2)[0, :, :4].tolist() == [[O, O, X, X], [X, X, O, O]]


@given(shift=st.integers(0, 5000), first=st.integers(0, 300), second=st.integers(0, 300))
def test_products_of_rotated_vectors_depend_on_the_distance_alone(shift: int, first: int, second: int) -> None:
    generator = torch.Generator().manual_seed(first * 307 + second)
    query, key = torch.randn(2, 1, 10, generator=generator, dtype=torch.float64)

    def product(moved: int) -> float:
        turned = [
            rotate(vector, rotation(torch.tensor([place + moved]), 10, dtype=torch.float64))
            for vector, place in ((query, first), (key, second))
        ]
        return float((turned[0] * turned[1]).sum())

    assert product(shift) == pytest.approx(product(0), abs=1e-10)


def test_a_rotation_is_the_one_of_the_paper() -> None:
    # pair i of a head of 4 turns by t 10000^(-i / 2): here t = 3, so by 3 and by 0.03
    turned = rotate(torch.tensor([[1.0, 0.0, 0.0, 2.0]]), rotation(torch.tensor([3]), 4))
    angle = torch.tensor([3.0, 0.03])
    # the pairs are (1, 0) and (0, 2)
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    wanted = torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()])
    assert torch.allclose(turned[0], wanted, atol=1e-7)


@pytest.mark.parametrize("length", [0, 1, 7])
@pytest.mark.parametrize("self_key", [True, False])
@pytest.mark.parametrize("sessions", [True, False])
def test_attention_is_the_softmax_over_what_is_seen(length: int, self_key: bool, sessions: bool) -> None:
    torch.manual_seed(length)
    tokens = length + 5
    query, key, value = torch.randn(3, 2, 3, tokens, 4, dtype=torch.float64)
    seen = torch.randint(0, length + 1, (2, 5))
    session = torch.tensor([[0, 0, 1, 1, -1], [4, 2, 4, 2, 4]]) if sessions else None
    sight = Sight(length, None, None, candidates_see(length, seen, session, self_key=self_key))
    found = attend(query, key, value, sight)
    for b in range(2):
        for q in range(tokens):
            if q < length:
                visible = list(range(q + 1))
            else:
                visible = list(range(int(seen[b, q - length])))
                for k in range(length, tokens):
                    together = session is not None and session[b, q - length] == session[b, k - length]
                    if self_key if k == q else together:
                        visible.append(k)
            for head in range(3):
                wanted = torch.zeros(4, dtype=torch.float64)
                if visible:
                    score = key[b, head, visible] @ query[b, head, q] / 4**0.5
                    wanted = torch.softmax(score, 0) @ value[b, head, visible]
                assert torch.allclose(found[b, head, q], wanted, atol=1e-12)
