"""A number that was estimated, how far off it may be, and a 95 % interval by the normal distribution."""

from dataclasses import dataclass

NORMAL = 1.959963984540054
"""Standard deviations in half a 95 % interval."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its standard error.

    Attributes:
        value: the estimate.
        error: its standard error.
    """

    value: float
    error: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - NORMAL * self.error

    @property
    def high(self) -> float:
        """Upper end."""
        return self.value + NORMAL * self.error
