"""`ddit calibrate`: a preset for a model folder, a model of the hub's local cache or an embedded one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._quiet import quiet_libraries

EMBEDDED = "embedded:"

SHOWN = 6
"""So many of the closest candidates are printed."""


def add(subcommands: argparse._SubParsersAction) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "calibrate",
        help="find what reaches a speed and is closest to the full run",
        description="Run a few prompts in many ways and keep the one that is closest to the full run at a target "
        "speed. The preset is for ddit_ext.patch(pipe, preset=FILE).",
    )
    parser.add_argument(
        "model",
        help='a diffusers model folder, the name of a model in the hub\'s local cache, or "embedded:flux"',
    )
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="one prompt a line")
    parser.add_argument("--target-speedup", type=float, default=2.0, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--target",
        choices=("run", "exact"),
        default="run",
        help="what to be close to: the pictures of all steps, or the exact sample (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the preset to write (JSON)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with plots and pictures")
    parser.add_argument(
        "--adapter",
        metavar="FOLDER",
        help='of the model (an embedded one brings its own); "none": training-free',
    )
    parser.add_argument(
        "--scales",
        type=int,
        nargs="+",
        metavar="N",
        help="patch scales to try, 1 first (default: 1 2 4 with an adapter, 1 alone without one)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of the full run; default: the pipeline's own")
    parser.add_argument("--height", type=int, metavar="PIXELS")
    parser.add_argument("--width", type=int, metavar="PIXELS")
    parser.add_argument("--guidance-scale", type=float, metavar="N", help="Qwen-Image's true_cfg_scale")
    parser.add_argument("--negative-prompt", metavar="TEXT", help="Qwen-Image has no guidance without one")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="prompts a call (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--device", default=None, help="default: a GPU where there is one")
    parser.add_argument(
        "--offload",
        action="store_true",
        help="keep only the model at work on the GPU (enable_model_cpu_offload)",
    )
    parser.set_defaults(run=run)


@quiet_libraries(progress=True)
def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write the preset, print what was chosen and what was tried."""
    from ..calibration import calibrate
    from ..training.data.prepare import read_prompts

    prompts = read_prompts(arguments.prompts, "--prompts")
    for path in (arguments.out, arguments.html):
        if path is not None and not path.resolve().parent.is_dir():
            raise ValueError(f"there is no folder {path.resolve().parent} to write {path.name} into")
        if path is not None and path.is_dir():
            raise ValueError(f"--out and --html must be files, got the folder {path}")
    pipe, adapter = load(arguments)
    names = {
        "steps": "num_inference_steps",
        "height": "height",
        "width": "width",
        "guidance_scale": guidance_of(pipe),
        "negative_prompt": "negative_prompt",
    }
    call = {
        name: getattr(arguments, key) for key, name in names.items() if getattr(arguments, key) is not None
    }
    preset = calibrate(
        pipe,
        prompts,
        adapter=adapter,
        target_speedup=arguments.target_speedup,
        target=arguments.target,
        scales=arguments.scales,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        **call,
    )
    preset.save(arguments.out)
    if arguments.html is not None:
        preset.html(arguments.html)
    print(f"{preset.explanation}\n\n{preset.table(SHOWN)}")
    if len(preset.candidates) > SHOWN:
        print(f"\nThe closest of {len(preset.candidates)}; all are in {arguments.out}")
    written = ", ".join(str(path) for path in (arguments.out, arguments.html) if path is not None)
    given = "" if adapter is None or not preset.strategy.coarse else f", {str(adapter)!r}"
    print(
        f"\nwrote {written}. Use it with ddit_ext.patch(pipe{given}, preset={str(arguments.out)!r}) and "
        f"pipe(prompt, num_inference_steps={preset.steps})"
    )
    return 0


def guidance_of(pipe: Any) -> str:
    """What the pipeline's call has for the scale of its guidance."""
    from ..families import class_of

    encoder = getattr(class_of(type(getattr(pipe, "transformer", None))), "ENCODER", None)
    return getattr(encoder, "GUIDANCE", "guidance_scale")


def load(arguments: argparse.Namespace) -> tuple[Any, str | Path | None]:
    """The pipeline and its adapter."""
    import torch

    model = arguments.model
    adapter: str | Path | None = None if arguments.adapter == "none" else arguments.adapter
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    cuda = torch.device(device).type == "cuda"
    if cuda and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: this torch finds no CUDA device here")
    if arguments.offload and not cuda:
        raise ValueError(f"--offload needs a CUDA device to bring models to, got --device {device}")
    name = arguments.dtype or ("float32" if device == "cpu" or model.startswith(EMBEDDED) else "bfloat16")
    dtype = getattr(torch, name)
    if model.startswith(EMBEDDED):
        from .. import embedded

        loaded = embedded.load(model.removeprefix(EMBEDDED))
        pipe = loaded.pipeline.to(dtype=dtype)
        adapter = loaded.adapter if arguments.adapter is None else adapter
    else:
        pipe = _pretrained(model, dtype)
    if arguments.offload:
        pipe.enable_model_cpu_offload(device=device)
        return pipe, adapter
    return pipe.to(device), adapter


def _pretrained(model: str, dtype: Any) -> Any:
    """The pipeline of a folder, or of the hub's local cache; nothing is downloaded."""
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import LocalEntryNotFoundError

    expected = (
        'model must be "embedded:flux", a folder with a model_index.json, or the name of a model in the hub\'s local '
        f"cache, got {model!r}"
    )
    folder = Path(model)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(expected)
    try:
        return DiffusionPipeline.from_pretrained(model, torch_dtype=dtype, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise ValueError(f"{expected}, which is not in the cache: hf download {model}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{expected}: {error}") from error
