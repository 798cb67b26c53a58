"""What fake kernels refuse: misfits that csrc/ops finds in real tensors. A call that holds any meta tensor goes here.

Under torch.compile sizes may be symbols. Comparing those would fix them, so they pass.
"""

from torch import Tensor


def check(op: str, fits: bool, misfit: str) -> None:
    if not fits:
        raise RuntimeError(f"{op}: {misfit}")


def check_shapes(op: str, sizes: dict[str, int], **tensors: tuple[Tensor | None, str]) -> None:
    """Tensors with layouts like "D C s*p s*p". `sizes`: what these names stand for; new ones are added."""
    for name, (tensor, layout) in tensors.items():
        if tensor is None:
            continue
        axes, shape = layout.split(), list(tensor.shape)
        rank = f"{name} must have {len(axes)} dimensions [{', '.join(axes)}], got shape {shape}"
        check(op, len(shape) == len(axes), rank)
        expected = [sizes.setdefault(axis, size) for axis, size in zip(axes, shape, strict=True)]
        wrong = any(_differ(*pair) for pair in zip(expected, shape, strict=True))
        check(op, not wrong, f"{name} must have shape [{', '.join(axes)}] = {expected}, got {shape}")


def check_kinds(op: str, attribute: str, **tensors: Tensor | None) -> None:
    """All of one dtype or on one device: the `attribute` of the first."""
    (first, like), *others = [(n, getattr(t, attribute)) for n, t in tensors.items() if t is not None]
    must = "be on the device" if attribute == "device" else f"have the {attribute}"
    for name, kind in others:
        check(op, kind == like, f"{name} must {must} of {first}, {like}, got {kind}")


def check_floating(op: str, **tensor: Tensor) -> None:
    ((name, given),) = tensor.items()
    check(op, given.is_floating_point(), f"{name} must be of floating numbers, got {given.dtype}")


def check_patches(op: str, scale: int, lora_a: Tensor | None, lora_b: Tensor | None) -> None:
    """What patch_embed and patch_deembed have in common."""
    check(op, scale >= 1, f"scale must be at least 1, got {scale}")
    check(op, (lora_a is None) == (lora_b is None), "lora_a and lora_b must be given together")


def _differ(expected: int, size: int) -> bool:
    return isinstance(expected, int) and isinstance(size, int) and expected != size
