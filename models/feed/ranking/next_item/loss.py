"""Softmax over the catalogue: over all items, or over the target and a sample of the others."""

# Shapes: M states, N negatives, D width, K items of a batch, X pairs left out.

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.feed.ranking.next_item.network import Batch, NextItem


class SampledSoftmax(torch.autograd.Function):
    """Sum of nats -log( e^p / (e^p + sum_n e^(h . c_n + o_n)) ), without keeping more than one matrix of logits.

    Products of matrices are of the precision that is asked for, all else is of that of the states.

    The gradient is found together with the value, in the memory of the logits: no (M, N) numbers are kept for later.

    Source:
        Jean et al. 2015, "On using very large target vocabulary for neural machine translation", for the sample;
        gradients with the forward pass as in Hsu et al. 2024, "Liger Kernel".
    """

    @staticmethod
    def forward(
        context: Any,
        state_MD: Tensor,
        negative_ND: Tensor,
        positive_M: Tensor,
        offset_N: Tensor,
        hit: Tensor,
        precision: torch.dtype,
    ) -> Tensor:
        """The sum over all states."""
        exact = state_MD.dtype
        state_MD, negative_ND = state_MD.to(precision), negative_ND.to(precision)
        logit_MN = (state_MD @ negative_ND.T).to(exact).add_(offset_N)
        logit_MN[hit[0], hit[1]] = -math.inf
        top_M = torch.maximum(logit_MN.amax(1), positive_M)
        weight_MN = logit_MN.sub_(top_M[:, None]).exp_()
        own_M = (positive_M - top_M).exp()
        total_M = weight_MN.sum(1) + own_M
        weight_MN.mul_(total_M.reciprocal()[:, None])
        weight_MN = weight_MN.to(precision)
        context.save_for_backward(
            (weight_MN @ negative_ND).to(exact), (weight_MN.T @ state_MD).to(exact), own_M / total_M - 1
        )
        nats: Tensor = (total_M.log() + top_M - positive_M).sum()
        return nats

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[misc, untyped-decorator, unused-ignore]
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Each times what comes from above."""
        state, negative, positive = context.saved_tensors
        return gradient * state, gradient * negative, gradient * positive, None, None, None


def next_item_loss(network: NextItem, batch: Batch, precision: torch.dtype = torch.float32) -> Tensor:
    """Mean nats per next item.

    Args:
        network: what learns.
        batch: rows, next items and negatives; with all items as negatives and no offsets this is the full softmax.
        precision: of the products of matrices; float32 or bfloat16.

    Returns:
        A scalar.

    Source:
        Sampled softmax as in "eSASRec" (arXiv 2508.06450); the target among the negatives does not count
        twice. The correction is that of Bengio & Senecal 2008, "Adaptive importance sampling to
        accelerate training of a neural probabilistic language model", and of Yi et al. 2019,
        "Sampling-bias-corrected neural modeling": with it the expected sum is that over all items.
    """
    config = network.config
    vector_KD = functional.embedding(batch.item, network.items.weight)
    vector_KD = functional.dropout(vector_KD, config.item_dropout, network.training)
    with torch.autocast(vector_KD.device.type, precision, enabled=precision != torch.float32):
        state_BLD = network.states(functional.embedding(batch.history, vector_KD), batch.length)
    state_MD = state_BLD.flatten(0, 1).index_select(0, batch.state).to(vector_KD.dtype)
    state_MD = network.compared(state_MD) / config.temperature
    compared_KD = network.compared(vector_KD)
    positive_M = (state_MD * functional.embedding(batch.target, compared_KD)).sum(-1)
    nats: Tensor = SampledSoftmax.apply(  # type: ignore[no-untyped-call]
        state_MD, compared_KD[: batch.negatives], positive_M, batch.offset, batch.hit, precision
    )
    return nats / batch.share
