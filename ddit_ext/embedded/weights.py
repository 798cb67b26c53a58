"""Where the embedded models' weights lie: in a distribution of their own, ``ddit_ext_embedded``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

DISTRIBUTION = "ddit_ext_embedded"


def root() -> Path:
    """The folder with one folder a model, and ``assets``.

    A checkout's own ``embedded/`` comes first, so that weights trained there are the ones that it uses.

    Raises:
        FileNotFoundError: the distribution is not installed, and this is no checkout.
    """
    beside = Path(__file__).resolve().parents[2] / "embedded" / DISTRIBUTION
    if beside.is_dir():
        return beside
    spec = find_spec(DISTRIBUTION)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the weights of the embedded models are not installed: run `pip install ./embedded` in a checkout of "
            "ddit_ext"
        )
    return Path(spec.origin).parent


def folder(name: str) -> Path:
    """The folder of one embedded model, in the format of a diffusers pipeline; "flux-128" has a transformer alone.

    Raises:
        FileNotFoundError: see :func:`root`; or the installed weights have no model of that name.
    """
    found = root() / name
    if not (found / "transformer").is_dir():
        raise FileNotFoundError(f"{root()} holds no model {name!r}: run `pip install ./embedded` again")
    return found
