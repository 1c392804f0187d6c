"""Whether a judged candidate goes live: the numbers are configuration, the decision is here, the act is in tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.common.certificate import Certificate
from models.common.configuration import check, setting


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """When a candidate goes live."""

    product: Literal["currency", "comparison"] = setting(
        "currency",
        "Kind of product",
        "currency: goes live when its certificate holds, fresher is better; "
        "comparison: must also be no worse than the champion on the same held-out data.",
    )
    margin: float = setting(
        0.0,
        "Margin",
        "How far below the champion the lower end of the paired interval may lie, in units of the headline metric; "
        "0 to 1, used by comparison products.",
        ge=0,
        le=1,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to publish, and why, as a sentence."""

    publish: bool
    reason: str


def decide(gate: GateConfig, certificate: Certificate, metrics: Mapping[str, float], *, has_champion: bool) -> Decision:
    """Decide on a candidate.

    Args:
        gate: the policy.
        certificate: the candidate's certificate.
        metrics: its metrics; a comparison product with a champion has `gain_over_champion_low`, the lower end of the
            paired interval of candidate minus champion on the candidate's held-out data.
        has_champion: whether something is live.

    Returns:
        The decision.

    Source:
        Ours: `docs/decisions/0003-gate.md`.
    """
    if not certificate.claims:
        return Decision(publish=False, reason="the certificate has no claims; nothing vouches for the product.")
    failures = certificate.failures()
    if failures:
        return Decision(publish=False, reason="; ".join(claim.sentence() for claim in failures))
    if gate.product == "comparison" and has_champion:
        low = metrics.get("gain_over_champion_low")
        if low is None:
            return Decision(publish=False, reason="not compared with the champion; evaluate against it first.")
        if not low >= -gate.margin:
            return Decision(
                publish=False,
                reason=f"interval against the champion begins at {low:.4g}, must be at least {-gate.margin:.4g}.",
            )
    return Decision(publish=True, reason=f"all {len(certificate.claims)} claims hold.")
