"""What the strategies share that leave out model calls: another one sizes the computed steps."""

from __future__ import annotations

from typing import Any

from . import checks
from .base import Strategy
from .convert import as_strategy
from .fixed import Fixed


def _of_sizes(name: str) -> property:
    return property(
        lambda self: getattr(self.computed, name), doc=f"`{name}` of what sizes the computed steps."
    )


class Sized(Strategy):
    """A strategy with a field `sizes`: a strategy, int or list for the computed steps; None: all at scale 1."""

    sizes: Any

    def _inner(self) -> Strategy | None:
        """`sizes` as a strategy; TypeError or ValueError for what is none, or skips steps itself."""
        if self.sizes is None:
            return None
        listed = checks.is_whole(self.sizes) or checks.is_sequence(self.sizes)
        try:
            checked = Fixed(self.sizes) if listed else as_strategy(self.sizes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"sizes of {type(self).__name__}: {error}") from error
        if checked.skips or checked.source == "input" or isinstance(checked, Sized):
            raise ValueError(
                f"sizes of {type(self).__name__} must not skip steps themselves, got {checked!r}"
            )
        return checked

    @property
    def computed(self) -> Strategy:
        """What sizes the computed steps."""
        return Fixed(1) if self.sizes is None else self.sizes

    def check_length(self, total: int) -> None:
        """As `Strategy.check_length`, for what sizes the computed steps too."""
        super().check_length(total)
        self.computed.check_length(total)

    # With `holds`, a skipped step counts as a scale of its own.
    scales, coarse, thresholds = (_of_sizes(name) for name in ("scales", "coarse", "thresholds"))
    source, holds, quantile = (_of_sizes(name) for name in ("source", "holds", "quantile"))
