"""What the strategies share that leave out model calls: another one sizes the computed steps."""

from __future__ import annotations

from typing import Any

from . import checks
from .base import Strategy
from .convert import as_strategy
from .fixed import Fixed


class Sized(Strategy):
    """A strategy with a field `sizes`: a strategy, int or list for the computed steps; None: all at scale 1."""

    sizes: Any

    def _inner(self) -> Strategy | None:
        """`sizes` as a strategy; ValueError for one that skips steps itself."""
        if self.sizes is None:
            return None
        listed = checks.is_whole(self.sizes) or checks.is_sequence(self.sizes)
        checked = Fixed(self.sizes) if listed else as_strategy(self.sizes)
        if checked.skips or checked.source == "input" or isinstance(checked, Sized):
            raise ValueError(
                f"sizes of {type(self).__name__} must not skip steps themselves, got {checked!r}"
            )
        return checked

    @property
    def computed(self) -> Strategy:
        """What sizes the computed steps."""
        return Fixed(1) if self.sizes is None else self.sizes

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales of the computed steps."""
        return self.computed.scales

    @property
    def coarse(self) -> tuple[int, ...]:
        """The scales above 1 that a computed step can take."""
        return self.computed.coarse

    @property
    def source(self) -> str | None:
        """What the scores of `sizes` are of."""
        return self.computed.source

    @property
    def holds(self) -> bool:
        """That of `sizes`; a skipped step counts as a scale of its own."""
        return self.computed.holds

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those of `sizes`."""
        return self.computed.thresholds

    @property
    def quantile(self) -> float:
        """That of `sizes`."""
        return self.computed.quantile
