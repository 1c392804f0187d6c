"""How far a product is from the right answer, in claims that an independent reference computed."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["exact", "bounded", "statistical"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One measured statement about a product.

    Attributes:
        name: what was measured, in snake case (`filtered_recall_at_10`).
        kind: exact (equality was checked), bounded (a proven bound), statistical (an interval over a sample).
        value: what the reference found.
        limit: what it had to reach.
        sense: "at least" or "at most": on which side of the limit the value must lie.
        detail: how it was measured, on how many cases; when it fails, the first offender and what to do.
    """

    name: str
    kind: Kind
    value: float
    limit: float
    sense: Literal["at least", "at most"] = "at most"
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Whether the value lies on the right side of its limit; not-a-number never does."""
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit

    def sentence(self) -> str:
        """The claim as a person reads it."""
        verdict = "holds" if self.holds else "FAILS"
        demand = f"{self.name} = {self.value:.6g}, must be {self.sense} {self.limit:.6g}"
        return f"{demand} ({self.kind}, {verdict}). {self.detail}".strip()


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The claims about one product; it holds when it has claims and every one of them holds."""

    claims: tuple[Claim, ...]

    @property
    def holds(self) -> bool:
        """Whether the product may be published."""
        return bool(self.claims) and all(claim.holds for claim in self.claims)

    @property
    def kinds(self) -> str:
        """The kinds of its claims, strongest first, as a word for tables: "exact + statistical"."""
        present = {claim.kind for claim in self.claims}
        return " + ".join(kind for kind in ("exact", "bounded", "statistical") if kind in present)

    def failures(self) -> tuple[Claim, ...]:
        """The claims that do not hold."""
        return tuple(claim for claim in self.claims if not claim.holds)
