"""What a computed step leaves for the next: the model's output and its slope over sigma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class History:
    """The last computed step of a run.

    Attributes:
        call: its ForecastCall.
        value: what forecasts follow along a line, as :func:`followed`.
        slope: divided difference of the values over sigma at that step, None at the first.
        returned: the sample that step() gave back, as :func:`kept`; version: its count of in-place changes.
        unchanged: where the sample that came in is the one that went out; None means everywhere.
    """

    call: Any
    value: torch.Tensor
    slope: torch.Tensor | None
    returned: torch.Tensor
    version: int | None
    unchanged: torch.Tensor | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, version=version_of(state["returned"]))  # a copied tensor counts anew

    def slope_to(self, value: torch.Tensor, sigma: float) -> torch.Tensor | None:
        """Divided difference between the last value and a new one; None where both are at one noise level."""
        distance = sigma - self.call.sigma
        if distance == 0.0:
            return None
        return self.where_unchanged((value - self.value) / distance)

    def compare(self, sample: torch.Tensor) -> bool:
        """Note where a callback changed the sample; False where nothing of the history can be used."""
        if sample is self.returned and self.version == version_of(sample):
            self.unchanged = None
            return True
        if self.version != version_of(self.returned) or sample.device != self.returned.device:
            return False  # changed in place: what was returned is not known any more
        same = sample == self.returned.to(sample.dtype)
        if self.version is None:  # a mask, also where nothing changed: to ask would wait for a GPU
            self.unchanged = same
            return True
        self.unchanged = None if bool(same.all()) else same
        return self.unchanged is None or bool(same.any())

    def where_unchanged(self, values: torch.Tensor) -> torch.Tensor:
        """`values`, with 0 where a callback changed the sample: there the history begins anew."""
        return values if self.unchanged is None else torch.where(self.unchanged, values, 0.0)


def followed(output: torch.Tensor, sample: torch.Tensor, call: Any) -> torch.Tensor:
    """The model's output, or the end of the run that it points to (`ddit::ForecastLine`), float32.

    Always a copy: a compiled model may write its next output over this one.
    """
    value = call.of_output * output.float()
    return value + call.of_sample * sample.float() if call.of_sample else value


def kept(sample: torch.Tensor) -> torch.Tensor:
    """A sample, to be compared with at the next step: a copy of an inference tensor, which counts no in-place changes."""
    return sample.clone() if sample.is_inference() else sample


def version_of(tensor: torch.Tensor) -> int | None:
    """The count of in-place changes of a tensor; None for an inference tensor, which keeps none."""
    return None if tensor.is_inference() else tensor._version
