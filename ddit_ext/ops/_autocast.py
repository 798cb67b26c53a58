"""Autocast for ops that cast like torch.nn.functional.linear: every floating argument to the autocast dtype.

torch.library.register_autocast fixes the dtype when it registers; here it is the one of the running region.
"""

import torch
from torch import Tensor

_libraries = []  # registrations last as long as these


def register_lower_precision(name: str, scaled: tuple[int, int] | None = None) -> None:
    """`name`: an op of ddit_ext. float64 stays float64, as in torch's own autocast.

    `scaled`: places of an argument and of its factor. Where this is given, the op reads both as they are and rounds itself;
    a low precision that isn't the region's, which it would refuse, becomes float32.
    """
    op = getattr(torch.ops.ddit_ext, name).default
    library = torch.library.Library("ddit_ext", "FRAGMENT")
    for device_type in ("CPU", "CUDA"):
        library.impl(name, _kernel(op, device_type, scaled), f"Autocast{device_type}")
    _libraries.append(library)


def _kernel(op, device_type: str, scaled: tuple[int, int] | None):
    key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device_type}"))
    device = device_type.lower()

    def run(*args):
        dtype = torch.get_autocast_dtype(device)
        # A factor that is not given is not in args.
        kept = scaled if scaled is not None and len(args) > scaled[1] and args[scaled[1]] is not None else ()
        with torch._C._ExcludeDispatchKeyGuard(key):
            return op(
                *(_cast(a, device, _read_as(a, dtype) if i in kept else dtype) for i, a in enumerate(args))
            )

    return run


def _read_as(argument: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if argument.dtype == dtype else torch.float32


def _cast(argument, device: str, dtype: torch.dtype):
    if not isinstance(argument, Tensor) or not argument.is_floating_point():
        return argument
    if argument.device.type != device or argument.dtype == torch.float64:
        return argument
    return argument.to(dtype)
