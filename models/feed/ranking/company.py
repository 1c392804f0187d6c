"""How many others of its session are like a candidate: a sum, where attention takes a mean.

    u_i  = W x_i / |W x_i|                                 an item's vector, seen in one of several ways
    m_ij = exp(a (u_i . u_j - 1))                          1 for what is alike, least for what is opposite
    h_i  <-  h_i + O [ sum over others j of m_ij ] * sigmoid(h_i G + g)

The weights of attention add up to one, so the more candidates are alike the less each of them weighs, and what a
second, third and fourth of a kind do to a click must be won back from a mean. Here they add up. Nobody is among its own
others: a candidate alone is left as it is.
"""

# Shapes: B rows, N candidates, D width, K ways of seeing.

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS = 4.0
"""a at the start: what is at right angles counts exp(-4), a fiftieth."""
OUTWARD_STD = 0.3
"""How much the sums are of a candidate at the start."""


class Company(nn.Module):
    """Tells candidates how many others of their session are like them.

    Args:
        width: D.
        ways: K.

    Source:
        Ours. A sum over a Gaussian kernel of unit vectors, exp(-a |u - v|^2 / 2), is a density estimate (Parzen 1962);
        likeness to what stands beside it is what maximal marginal relevance takes off (Carbonell & Goldstein 1998). The
        gate is that of `models.common.transformer.Residual`.
    """

    def __init__(self, width: int, ways: int) -> None:
        super().__init__()
        self.ways = ways
        self.look = nn.Linear(width, ways * width, bias=False)
        self.sharpness = nn.Parameter(torch.full((ways,), math.log(SHARPNESS)))
        self.outward = nn.Linear(ways, width, bias=False)
        self.gate = nn.Linear(width, width)
        nn.init.normal_(self.outward.weight, std=OUTWARD_STD * ways**-0.5)

    def forward(self, hidden_BND: Tensor, vector_BND: Tensor, session_BN: Tensor) -> Tensor:
        """Candidates (B, N, D) that know their company.

        Args:
            hidden_BND: candidates.
            vector_BND: vectors of their items.
            session_BN: their sessions; others are those of the same one.
        """
        out: Tensor = hidden_BND + self.outward(self.counts(vector_BND, session_BN)) * torch.sigmoid(
            self.gate(hidden_BND)
        )
        return out

    def counts(self, vector_BND: Tensor, session_BN: Tensor) -> Tensor:
        """How many others are alike, in each way (B, N, K)."""
        size = vector_BND.shape[1]
        seen_BKND = self.look(vector_BND).unflatten(-1, (self.ways, -1)).transpose(1, 2)
        unit_BKND = functional.normalize(seen_BKND, dim=-1)
        likeness_BKNN = unit_BKND @ unit_BKND.transpose(-1, -2)
        match_BKNN = torch.exp(self.sharpness.exp().view(-1, 1, 1) * (likeness_BKNN - 1))
        others_BNN = (session_BN.unsqueeze(2) == session_BN.unsqueeze(1)) & ~torch.eye(
            size, dtype=torch.bool, device=session_BN.device
        )
        out: Tensor = (match_BKNN * others_BNN.unsqueeze(1)).sum(-1).transpose(1, 2)
        return out
