"""The objective of several tasks: their binary cross entropies, added up."""

import torch
from torch.nn import functional

from models.feed.history.network import DLRM, Batch


def multi_task_loss(network: DLRM, batch: Batch) -> torch.Tensor:
    """Mean nats per candidate, added up over tasks.

        sum_t  ( sum_c w_c BCE(logit_ct, label_ct) ) / sum_c w_c

    Args:
        network: what learns.
        batch: candidates with labels; padding weighs nothing.

    Returns:
        A scalar.

    Source:
        arXiv 2412.06924: a multi-task DLRM; the plain sum is ours.
    """
    losses = functional.binary_cross_entropy_with_logits(network(batch), batch.label, reduction="none").sum(-1)
    return (losses * batch.weight).sum() / batch.weight.sum()
