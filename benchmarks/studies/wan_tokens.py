"""Image tokens and time of one transformer call of a Wan-2.1-1.3B-shaped model with random weights, at each patch size.

    python benchmarks/studies/wan_tokens.py --out benchmarks/studies/results/wan_tokens.json

480x832 pixels and 81 frames, as the model card has it: latents of 16x21x60x104. The layers are 30 in the real model; a
few of them suffice, since each costs the same. Without an adapter the coarse calls are training-free; --rank adds a
LoRA of that rank, as a trained adapter has. A step with guidance is two such calls. The calls take turns; tokens are
counted where they enter the first block.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _timing import interleaved, show, write_json
from diffusers import WanTransformer3DModel

from ddit_ext.coarse import Adapter
from ddit_ext.families import WanFamily

TEMPORAL, SPATIAL = 4, 8  # of the VAE: frames after the first, pixels a side
TEXT_TOKENS = 512


def make_model(layers: int, heads: int, dtype: torch.dtype) -> WanTransformer3DModel:
    """Wan 2.1 1.3B has 30 layers of 12 heads, and 8960 = 12 · 2240 / 3 features in its feed-forward layers."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=128,
        in_channels=16,
        out_channels=16,
        text_dim=4096,
        freq_dim=256,
        ffn_dim=heads * 2240 // 3,
        num_layers=layers,
        cross_attn_norm=True,
        rope_max_seq_len=1024,
    )
    return model.eval().requires_grad_(False).to(dtype)


def make_call(height: int, width: int, frames: int, dtype: torch.dtype) -> dict[str, object]:
    """One call in the middle of a run, on noise."""
    shape = (1, 16, (frames - 1) // TEMPORAL + 1, height // SPATIAL, width // SPATIAL)
    return {
        "hidden_states": torch.randn(shape, dtype=dtype),
        "timestep": torch.tensor([800]),
        "encoder_hidden_states": torch.randn(1, TEXT_TOKENS, 4096, dtype=dtype),
        "return_dict": False,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=12, help="of width 128; a multiple of 3")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    model = make_model(arguments.layers, arguments.heads, dtype)
    call = make_call(arguments.height, arguments.width, arguments.frames, dtype)
    make = Adapter.create if arguments.rank else Adapter.training_free
    adapter = make(model, arguments.scales, **({"rank": arguments.rank} if arguments.rank else {})).eval()
    family = WanFamily(model)
    tokens: dict[str, int] = {}

    @torch.no_grad()
    def fine() -> None:
        model(**call)

    @torch.no_grad()
    def coarse(scale: int) -> None:
        weights = adapter.weights(scale, call["hidden_states"])
        with family.coarse(call, weights, family.noise_level(call)) as rewritten:
            model(**rewritten)

    candidates = {"1": fine} | {str(s): lambda s=s: coarse(s) for s in arguments.scales}

    def counted(name: str) -> None:
        hook = model.blocks[0].register_forward_pre_hook(
            lambda module, args: tokens.update({name: args[0].shape[1]})
        )
        try:
            candidates[name]()
        finally:
            hook.remove()

    timed = interleaved(
        {name: lambda name=name: counted(name) for name in candidates}, arguments.rounds, arguments.warmup
    )
    grid = "x".join(map(str, call["hidden_states"].shape[1:]))
    show(f"one call at {grid}, {arguments.layers} layers of width {arguments.heads * 128}", timed)
    for name, count in tokens.items():
        print(f"  {int(name) * 2:>3} latent pixels a side: {count:>6} tokens")
    if arguments.out:
        results = {name: timed[name] | {"tokens": tokens[name]} for name in candidates}
        settings = {key: value for key, value in vars(arguments).items() if key != "out"}
        write_json(arguments.out, {"settings": settings, "latents": grid, "scales": results})


if __name__ == "__main__":
    main()
