"""Candidates are told how many others of their session are like them: a sum, of others alone."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.feed.ranking.company import Company


def company(width: int, ways: int, seed: int = 0) -> Company:
    torch.manual_seed(seed)
    return Company(width, ways).eval()


def test_what_is_alike_counts_one_and_what_is_opposite_almost_nothing() -> None:
    told = company(3, 1)
    with torch.no_grad():
        told.look.weight.copy_(torch.eye(3))
        told.sharpness.fill_(math.log(5.0))
    vector = torch.tensor([[[1.0, 0, 0], [7.0, 0, 0], [0, 2.0, 0], [-1.0, 0, 0], [0.5, 0, 0]]])
    counts = told.counts(vector, torch.zeros(1, 5, dtype=torch.long))[0, :, 0]
    right, opposite = math.exp(-5), math.exp(-10)  # at a right angle, and turned round
    expected = [2 + right + opposite, 2 + right + opposite, 4 * right, 3 * opposite + right, 2 + right + opposite]
    np.testing.assert_allclose(counts.detach().numpy(), expected, rtol=1e-5)


def test_two_more_of_a_kind_count_twice_as_much_as_one_more() -> None:
    """The mean that attention takes would hardly tell them apart."""
    told = company(4, 2)
    kind, other = torch.randn(4), torch.randn(4)
    found = []
    for more in range(4):
        vector = torch.stack([kind] * (1 + more) + [other] * 3)[None]
        found.append(told.counts(vector, torch.zeros(1, 4 + more, dtype=torch.long))[0, 0].detach().numpy())
    np.testing.assert_allclose(np.diff(found, axis=0), 1, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 9))
def test_candidates_of_other_sessions_and_padding_are_no_company(seed: int, size: int) -> None:
    told, draw = company(6, 3, seed), torch.Generator().manual_seed(seed)
    hidden, vector = (torch.randn(2, size, 6, generator=draw) for _ in range(2))
    session = torch.randint(0, 3, (2, size), generator=draw)
    whole = told(hidden, vector, session)
    for row in range(2):
        for number in session[row].unique():
            own = session[row] == number
            alone = told(hidden[row, own][None], vector[row, own][None], torch.zeros(1, int(own.sum())))[0]
            torch.testing.assert_close(whole[row, own], alone)
    order = torch.randperm(size, generator=draw)
    torch.testing.assert_close(told(hidden[:, order], vector[:, order], session[:, order]), whole[:, order])


def test_a_candidate_alone_and_one_without_a_vector_are_left_finite() -> None:
    told = company(5, 2)
    hidden = torch.randn(1, 1, 5)
    assert torch.equal(told(hidden, torch.randn(1, 1, 5), torch.zeros(1, 1)), hidden), "to the bit"
    vector = torch.zeros(1, 3, 5, requires_grad=True)
    out = told(torch.randn(1, 3, 5), vector, torch.zeros(1, 3))
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(vector.grad).all()
