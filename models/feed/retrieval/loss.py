"""Softmax over all items, estimated from those at hand."""

# Shapes: B examples, C candidates (positives of the batch, then uniform negatives).

import torch
from torch import Tensor

from models.feed.retrieval.batches import Batch
from models.feed.retrieval.network import TwoTower, history_weights


def corrected_softmax(own_B: Tensor, logits_BC: Tensor, expected_C: Tensor, allowed_BC: Tensor) -> Tensor:
    """Mean negative log-likelihood of each example's own item under an estimated full softmax.

        loss_b = -s_b + log( exp(s_b) + sum_c allowed_bc exp(s_bc - log q_c) )

    with s_b the logit of the own item, s_bc that of candidate c, and q_c the expected number of times that the item
    of candidate c stands among the candidates. A sum of exp(s) / q over what was sampled is unbiased for the sum of
    exp(s) over all items, so the denominator is, in expectation, that of the softmax over all items.

    Args:
        own_B: logits of the own items.
        logits_BC: logits of the candidates.
        expected_C: expected occurrences of the candidates' items; above zero.
        allowed_BC: False masks a candidate: an accidental hit (the own item again), or an item met already.

    Returns:
        A scalar.

    Source:
        Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", equations
        (5) to (7); the mixture of in-batch and uniform candidates is Yang et al. 2020, "Mixed Negative Sampling for
        Learning Two-tower Neural Networks in Recommendations". Differs from Yi et al. in two ways. They correct the
        logit of the positive too; it is present with certainty, so here it is not corrected (Khrylchenko et al. 2025,
        "Correcting the LogQ Correction"). They estimate q from a stream; the training rows are at hand, so q is exact.
    """
    corrected_BC = (logits_BC - expected_C.log()).masked_fill(~allowed_BC, -torch.inf)
    return (torch.logsumexp(torch.cat([own_B[:, None], corrected_BC], 1), 1) - own_B).mean()


def retrieval_loss(network: TwoTower, batch: Batch) -> Tensor:
    """The loss of one batch: its own positives and uniform negatives are everyone's candidates.

    Args:
        network: the towers, which say how members and items are compared.
        batch: examples and the expected occurrences of items.

    Returns:
        A scalar with gradient.

    Source:
        `corrected_softmax`, and the penalty of the comparison if it has one. Candidates that the member met already
        are masked, because the choice was made among the others.
    """
    examples = len(batch.positive)
    candidate_C = torch.cat([batch.positive, batch.negative])
    needed, place = torch.unique(torch.cat([candidate_C, batch.history.clamp_min(0).flatten()]), return_inverse=True)
    place_C, place_BH = place[: len(candidate_C)], place[len(candidate_C) :].view_as(batch.history)
    input_MD = network.inputs(needed, batch.catalogue)
    user_BX = network.user_rows(batch.user, place_BH, history_weights(batch.history), input_MD)
    item_MX = network.item_rows(needed, input_MD, batch.catalogue)
    logits_BC, penalty = network.compare(user_BX, item_MX[place_C])
    own_B = logits_BC.diagonal()[:examples]

    expected_C = batch.expected_positive[candidate_C] + batch.expected_negative
    met_BM = torch.zeros(examples, len(needed) + 1, dtype=torch.bool, device=place.device)
    met_BM.scatter_(1, torch.where(batch.history >= 0, place_BH, len(needed)), True)
    met_BM.scatter_(1, place_C[:examples, None], True)
    return corrected_softmax(own_B, logits_BC, expected_C, ~met_BM[:, place_C]) + penalty
