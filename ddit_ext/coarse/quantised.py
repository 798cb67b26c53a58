"""Quantised weights as the numbers that they stand for: torchao's tensors, bitsandbytes' packed parameters.

bitsandbytes is told by the names of its classes, so that it is only imported where a model has its layers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

FOUR_BITS, EIGHT_BITS = "Params4bit", "Int8Params"


def unpacked(module: nn.Module, weight: Tensor) -> Tensor:
    """``weight`` of ``module`` in floating point where it is quantised in a way that is known here, else as it is.

    Raises:
        ValueError: bytes of bitsandbytes that can't be read, with the reason.
    """
    kind = type(weight).__name__
    if kind == FOUR_BITS:
        state = getattr(weight, "quant_state", None)
        if state is None:
            raise ValueError("it has not been quantised yet: move the model to its device first")
        if is_repacked(module):
            raise ValueError(f"{REPACKED}; load the model anew")
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state)
    if kind == EIGHT_BITS and weight.dtype == torch.int8:
        scales = getattr(weight, "SCB", None)  # they move on to the layer when it is first called
        scales = getattr(getattr(module, "state", None), "SCB", None) if scales is None else scales
        if scales is None:
            raise ValueError("its scales (SCB) are missing")
        from bitsandbytes.functional import int8_vectorwise_dequant

        return int8_vectorwise_dequant(weight.data, scales.to(weight.device))
    if type(weight).dequantize is not Tensor.dequantize:  # torchao's
        return weight.dequantize()
    return weight


REPACKED = "bitsandbytes has repacked it for inference on this CPU, a form without gradients"


def is_repacked(module: nn.Module) -> bool:
    """Whether a 4-bit layer was called in evaluation mode on a CPU whose products bitsandbytes has a format for."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False))


def four_bit_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The 4-bit layers of bitsandbytes in ``model`` with their dotted names."""
    for name, module in model.named_modules():
        if type(module._parameters.get("weight")).__name__ == FOUR_BITS:
            yield name, module
