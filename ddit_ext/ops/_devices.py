"""A call that holds any meta tensor goes to the fake kernel, so that one must see to the devices of the others."""

from torch import Tensor


def check_one_device(op: str, **tensors: Tensor | None) -> None:
    """RuntimeError, naming the argument, where a tensor is on another device than the first."""
    first, *others = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    for name, tensor in others:
        if tensor.device != first[1].device:
            raise RuntimeError(
                f"{op}: {name} must be on the device of {first[0]}, {first[1].device}, got {tensor.device}"
            )
