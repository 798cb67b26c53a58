"""Dynamic patch scheduling for diffusion transformers (DDiT, arXiv 2602.16968).

`ddit_ext.patch(pipe)` makes a diffusers pipeline call its model less often, or choose at every step how large its patches may
be. What needs diffusers is imported when it is first used, so that `import ddit_ext` stays light.
"""

import importlib

from . import _library

_library.load()

from . import cells, ops, reference  # noqa: E402  (the ops exist only after the library is loaded)
from . import families as _families  # noqa: E402,F401  (each says which layers an adapter is made for)
from ._build_info import build_info  # noqa: E402
from ._version import __version__  # noqa: E402

_LAZY = {
    "ForecastScheduler": "ddit_ext.schedulers",
    "calibrate": "ddit_ext.calibration",
    "Preset": "ddit_ext.presets",
    "Adapter": "ddit_ext.coarse",
    "Budget": "ddit_ext.strategies",
    "Fixed": "ddit_ext.strategies",
    "Forecast": "ddit_ext.strategies",
    "TeaCache": "ddit_ext.strategies",
    "Threshold": "ddit_ext.strategies",
    "patch": "ddit_ext.runtime",
    "unpatch": "ddit_ext.runtime",
    "PatchScheduler": "ddit_ext.policies",
    "policies": "ddit_ext.policies",
    "strategies": "ddit_ext.strategies",
    "embedded": "ddit_ext.embedded",
    "k_diffusion": "ddit_ext.k_diffusion",
    "training": "ddit_ext.training",
}
_LAZY_MODULES = {"embedded", "k_diffusion", "policies", "strategies", "training"}

__all__ = ["__version__", "build_info", "cells", "ops", "reference", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'ddit_ext' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    value = module if name in _LAZY_MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
