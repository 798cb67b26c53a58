"""Students of coarse calls as an adapter: what a copy of the base learned, as low-rank additions to the base."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ddit_ext import embedded
from ddit_ext.coarse import Adapter
from ddit_ext.coarse.base_weights import fingerprint, read_base
from ddit_ext.coarse.resize import pooled, repeated_rows
from ddit_ext.coarse.scale_spec import ScaleSpec

OWNED = ("x_embedder", "proj_out")  # an adapter has its own


def low_rank(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """b ``[out, rank]`` and a ``[rank, in]`` with the smallest squared error of b @ a to ``matrix``."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    b, a = matrix.new_zeros(len(matrix), rank), matrix.new_zeros(rank, matrix.shape[1])
    b[:, :kept], a[:kept] = (u[:, :kept] * root).to(b), (root[:, None] * v[:kept]).to(a)
    return b, a


@torch.no_grad()
def adapter_of(
    base: nn.Module,
    students: dict[int, dict[str, Tensor]],
    rank: dict[int, int],
    detail_variance: dict[int, float] | None = None,
) -> Adapter:
    """An adapter whose coarse call at scale s is the call of the student of s on the noise-matched smaller latent.

    Args:
        base: the transformer that the students were copies of.
        students: scale -> state of the student, see ``train_early_adapter``.
        rank: scale -> rank of the additions; at a layer's own rank nothing is lost.
        detail_variance: scale -> H; estimated from each latent where it is missing.
    """
    own = read_base(base)
    linear = {
        name: module
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and name not in OWNED
    }
    specs = [
        ScaleSpec(
            scale=scale,
            patch_size=own.embed_weight.shape[-1],
            width=own.embed_weight.shape[0],
            in_channels=own.embed_weight.shape[1],
            out_channels=own.deembed_weight.shape[0],
            positions="grid",
            rank=rank[scale],
            detail_variance=(detail_variance or {}).get(scale),
        )
        for scale in students
    ]
    shapes = {name: (module.in_features, module.out_features) for name, module in linear.items()}
    adapter = Adapter(specs, shapes, fingerprint(base))
    for scale, state in students.items():
        weights = adapter.own(scale)
        weights.initialise(own)
        weights.embed_weight.copy_(pooled(state["x_embedder.weight"].view_as(own.embed_weight), scale))
        weights.embed_bias.copy_(state["x_embedder.bias"])
        weights.deembed_weight.copy_(
            repeated_rows(state["proj_out.weight"].view_as(own.deembed_weight), scale)
        )
        weights.deembed_bias.copy_(repeated_rows(state["proj_out.bias"].view_as(own.deembed_bias), scale))
        for name, addition in weights.lora.items():
            b, a = low_rank(state[f"{name}.weight"] - linear[name].weight, rank[scale])
            addition.b.copy_(b)
            addition.a.copy_(a)
    return adapter.requires_grad_(False).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="a safetensors file of the transformer")
    parser.add_argument(
        "--student", nargs=3, action="append", metavar=("SCALE", "FILE", "RANK"), required=True
    )
    parser.add_argument("--detail", nargs=2, type=float, action="append", default=[], metavar=("SCALE", "H"))
    parser.add_argument("--out", type=Path, required=True, help="the adapter's folder")
    arguments = parser.parse_args()
    base = embedded.load("flux").pipeline.transformer
    base.load_state_dict({k: v.float() for k, v in load_file(arguments.base).items()})
    adapter = adapter_of(
        base,
        {int(scale): load_file(file) for scale, file, _ in arguments.student},
        {int(scale): int(rank) for scale, _, rank in arguments.student},
        {int(scale): detail for scale, detail in arguments.detail},
    )
    adapter.save(arguments.out, dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
