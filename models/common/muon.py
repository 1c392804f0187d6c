"""Muon for the matrices of a network, AdamW for all else, as one optimizer.

Muon steps along the nearest matrix whose singular values are alike, so that what a layer seldom does is learned as fast
as what it does all the time:

    M <- mu M + (1 - mu) G,     W <- W - rate 0.2 sqrt(max(rows, columns)) polar((1 - mu) G + mu M) - rate decay W

With that factor a step is as long as one of AdamW in the root mean square, and one rate serves both.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", at kellerjordan.github.io under
posts/muon; the factor: Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv 2502.16982, section 2.2. Steps are
those of torch.optim.Muon, whose polar is five iterations of Newton-Schulz in bfloat16: alike to within a half. Ours: a
convolution's weights are a matrix with a row for each output; layers at the ends of a network count as others do.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are matrices; tables of embeddings, norms and offsets are none."""


def matrices_of(network: nn.Module) -> list[Tensor]:
    """Weights that learn and are matrices: those of linear layers and convolutions with two outputs or more."""
    weights = (module.weight for module in network.modules() if isinstance(module, MATRICES))
    return list(dict.fromkeys(weight for weight in weights if weight.requires_grad and len(weight) > 1))


class MuonAndAdamW(torch.optim.AdamW):
    """See the module.

    Args:
        network: what learns.
        lr: the rate of both.
        betas: of AdamW.
        weight_decay: per step size, of both.
        momentum: mu.

    Its state is that of AdamW, and for a matrix the momentum M in the matrix's own shape.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        self._matrices = matrices_of(network)
        known = {id(weight) for weight in self._matrices}
        others = [weight for weight in network.parameters() if id(weight) not in known]
        groups = [{"params": group} for group in (others, self._matrices) if group]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay)
        # the same memory, seen as matrices
        self._seen = [weight.detach().view(len(weight), -1) for weight in self._matrices]
        self._muon: torch.optim.Muon | None = None
        if self._seen:
            self._muon = torch.optim.Muon(
                self._seen, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override, unused-ignore]
        """One step; a weight without a gradient stays."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._muon is not None:
            self._muon.param_groups[0]["lr"] = self.param_groups[-1]["lr"]
            for weight, seen in zip(self._matrices, self._seen, strict=True):
                seen.grad = None if weight.grad is None else weight.grad.reshape(seen.shape)
                if kept := self.state.get(weight):
                    self._muon.state[seen]["momentum_buffer"] = kept["momentum"].view(seen.shape)
            self._muon.step()  # type: ignore[no-untyped-call]
            for weight, seen in zip(self._matrices, self._seen, strict=True):
                if weight.grad is None:
                    continue
                momentum = self._muon.state[seen]["momentum_buffer"].view(weight.shape)
                count = self.state[weight].get("step", torch.zeros(()))  # which AdamW wants in every state
                self.state[weight] = {"step": count + 1, "momentum": momentum}
                weight.grad = None  # AdamW passes it over
        super().step()
        return loss
