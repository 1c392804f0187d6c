"""The impression objective: a binary cross entropy for each task, candidates weighted, tasks added up."""

import torch
from torch.nn import functional

from models.feed.ranking.network import Batch
from models.feed.ranking.scorer import Scorer


def impression_loss(network: Scorer, batch: Batch, prior: float = 0.0, *, started: bool = False) -> torch.Tensor:
    """Mean nats per candidate, added up over tasks.

        sum_t  ( sum_c w_c BCE(logit_ct, label_ct) ) / sum_c w_c  +  prior / (2 total) * sum_i (|W_i|^2 + |b_i|^2)

    The second term is a normal prior over the embeddings of identities: one event against `prior`, so that what was
    seldom met stays near its categories.

    Args:
        network: what learns.
        batch: candidates with labels and weights.
        prior: inverse variance of an identity's embedding, 0 or more.
        started: whether biases began at counted rates, which are smoothed already; then the prior leaves them alone.

    Returns:
        A scalar; zero for a batch in which nothing counts.

    Source:
        LiGR (arXiv 2502.03417): the sum of the binary cross entropies of all responses. The prior
        is ours.
    """
    losses = functional.binary_cross_entropy_with_logits(network(batch), batch.label, reduction="none").sum(-1)
    total = batch.weight.sum().clamp_min(torch.finfo(losses.dtype).tiny)
    loss = (losses * batch.weight).sum() / total
    tables = network.identities(bias=not started)
    if not prior or not tables:
        return loss
    pull = torch.stack([table.square().sum() for table in tables]).sum()
    return loss + prior / 2 * pull / batch.total.clamp_min(1)
