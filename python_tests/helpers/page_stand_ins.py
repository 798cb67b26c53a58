"""Runs the Python of a documentation page with the embedded models in the place of full-size ones.

    python page_stand_ins.py PAGE.md

The blocks of a page run one after the other, as a reader would type them. `from_pretrained` of FLUX and Wan gives an embedded
pipeline, devices are the CPU, and sizes of images are the embedded models' own; calls do six steps at least and twelve at most. Videos are
not written: that takes ffmpeg. Names that a page takes for granted (`pipe`, `prompt`, `prompts`, the folder "adapter") are there.
"""

import re
import shutil
import sys
import warnings
from pathlib import Path

import diffusers
import torch

import ddit_ext
from ddit_ext import embedded

STEPS = 12
SIZES = ("height", "width", "num_frames", "guidance_scale")


def small(pipe):
    """A pipeline of the embedded model's own class, whose calls leave sizes to the model and do few steps."""
    own = type(pipe)

    def call(self, *args, **kwargs):
        kwargs = {name: value for name, value in kwargs.items() if name not in SIZES}
        kwargs["num_inference_steps"] = max(6, min(kwargs.get("num_inference_steps", STEPS), 28))
        return own.__call__(self, *args, **kwargs)

    pipe.__class__ = type(own.__name__, (own,), {"__call__": call, "to": lambda self, *args, **kwargs: self})
    return pipe


def install() -> dict:
    """Put the stand-ins in place; returns the names that pages take for granted."""
    for name, model in (("FluxPipeline", "flux"), ("WanPipeline", "wan")):
        _replace(getattr(diffusers, name), model)
    diffusers.utils.export_to_video = lambda frames, path, fps: [frame.shape for frame in frames]
    model = embedded.load("flux")
    shutil.copytree(model.adapter, "adapter")
    return {
        "torch": torch,
        "ddit_ext": ddit_ext,
        "pipe": small(model.pipeline),
        "prompt": "a penguin on plain blue",
        "prompts": ["a penguin on plain blue"],
    }


def _replace(pipeline: type, model: str) -> None:
    """`pipeline.from_pretrained` gives an embedded model; classes that derive from it load as ever."""
    own = diffusers.DiffusionPipeline.from_pretrained.__func__

    def load(cls, *args, **kwargs):
        return small(embedded.load(model).pipeline) if cls is pipeline else own(cls, *args, **kwargs)

    pipeline.from_pretrained = classmethod(load)


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    names = install()
    for number, block in enumerate(blocks(Path(sys.argv[1]))):
        exec(compile(block, f"{sys.argv[1]}, block {number + 1}", "exec"), names)
        print(f"block {number + 1} ran", flush=True)
