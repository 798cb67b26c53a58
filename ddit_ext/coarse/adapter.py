"""`Adapter`: the weights of all patch sizes of one model, training-free or trained."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from . import adapter_file
from .base_weights import feed_forward_layers, fingerprint, read_base
from .errors import AdapterError
from .patch_layers import layers_of
from .scale_spec import Positions, ScaleSpec, Start
from .scale_weights import ScaleWeights

Lora = Literal["beside", "merged"]


class Adapter(nn.Module):
    """All coarse patch sizes of one base model.

    Make one with :meth:`training_free`, :meth:`create` or :meth:`load`. It keeps copies of what it needs and
    leaves the transformer as it is; none of its parameters is in the transformer's module tree.

    Attributes:
        base: the fingerprint of the model it belongs to.
        scales: the coarse ones, ascending, without 1.
        training_record: what the trainer noted about how the weights came about (free form, JSON).
        lora: how feed-forward LoRAs are computed, see :meth:`load`; not in the file.
    """

    lora: Lora = "beside"

    def __init__(
        self,
        specs: Iterable[ScaleSpec],
        lora_layers: Mapping[str, tuple[int, int]],
        base: dict[str, Any],
        training_record: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.base = base
        self.training_record = dict(training_record or {})
        sizes = {
            spec.scale: ScaleWeights(spec, lora_layers) for spec in sorted(specs, key=attrgetter("scale"))
        }
        self.sizes = nn.ModuleDict({str(scale): weights for scale, weights in sizes.items()})
        self.scales = tuple(sizes)
        if not sizes:
            raise AdapterError("scales must name at least one patch size above 1")
        self._cache: dict[tuple[int, torch.device, torch.dtype], ScaleWeights] = {}

    @classmethod
    def training_free(
        cls,
        transformer: nn.Module,
        scales: Iterable[int] = (2, 4),
        *,
        start: Start = "noise_matched",
        positions: Positions = "centre",
        detail_variance: Mapping[int, float] | None = None,
        detail_residual: bool = True,
    ) -> Adapter:
        """Coarse sizes made from the base's own weights alone.

        Args:
            transformer: of a family with larger patches; offloaded, cast, compiled or with peft layers as well.
            scales: patch sizes in base patches; a 1 among them is skipped.
            start: "noise_matched" (this project's), "pi_resize" (the paper's), or "blended" (the first, but above
                a noise level of 0.8 to 0.9 latent and timestep as they are); see docs/design/coarse-step.md.
            positions: "centre" of the merged cells, or "grid" as if the latent were a smaller picture, which
                suits a base that was trained on small pictures too.
            detail_variance: H per scale (see ``noise_match.measure_detail``); None: estimated from each latent.
            detail_residual: whether g(σ)·(z - up(low)) is added.

        Raises:
            AdapterError: a model class or argument that isn't supported.
        """
        adapter = cls.create(
            transformer,
            scales,
            0,
            start=start,
            positions=positions,
            detail_variance=detail_variance,
            detail_residual=detail_residual,
            refinement_hidden=0,
            refinement_tokens=False,
        )
        return adapter.requires_grad_(False).eval()

    @classmethod
    def create(
        cls,
        transformer: nn.Module,
        scales: Iterable[int] = (2, 4),
        rank: int = 32,
        *,
        start: Start = "noise_matched",
        positions: Positions = "centre",
        detail_variance: Mapping[int, float] | None = None,
        detail_residual: bool = True,
        refinement_hidden: int = 512,
        refinement_tokens: bool = True,
        seed: int = 0,
    ) -> Adapter:
        """A trainable adapter whose coarse step is, until trained, exactly that of :meth:`training_free`.

        Args:
            rank: of the feed-forward LoRA, one per patch size; 0 for none.
            refinement_hidden: width of the residual's perceptron; 0 for no refinement.
            refinement_tokens: whether that perceptron also reads the tokens that leave the blocks.
            seed: of the random first factors (B and the last layers are zero); the global generators are not used.
        """
        base = read_base(transformer)
        width, in_channels = base.embed_weight.shape[:2]
        specs = [
            ScaleSpec(
                scale=scale,
                patch_size=layers_of(transformer).patch,
                width=width,
                in_channels=in_channels,
                out_channels=base.deembed_weight.shape[0],
                start=start,
                positions=positions,
                detail_residual=detail_residual,
                detail_variance=(detail_variance or {}).get(scale),
                rank=rank,
                refinement_hidden=refinement_hidden,
                refinement_tokens=refinement_tokens,
            )
            for scale in dict.fromkeys(scales)
            if scale != 1
        ]
        layers = feed_forward_layers(transformer) if rank else {}
        adapter = cls(specs, layers, fingerprint(transformer))
        generator = torch.Generator().manual_seed(seed)
        for weights in adapter.sizes.values():
            weights.initialise(base, generator)
        return adapter

    def own(self, scale: int) -> ScaleWeights:
        """The weights of ``scale`` as they are kept: the ones to train."""
        if str(scale) not in self.sizes:
            raise ValueError(f"scale must be one of the adapter's, {self.scales}, got {scale}")
        return self.sizes[str(scale)]

    def weights(self, scale: int, like: Tensor) -> ScaleWeights:
        """The weights of ``scale`` on the device and in the dtype of ``like``.

        In training mode these are the adapter's own (float32 parameters, cast in the forward, gradients
        flow). In evaluation mode a cast copy is made once and kept until :meth:`train`, :meth:`eval`,
        :meth:`to` or :meth:`load_state_dict` is called.

        Raises:
            ValueError: an unknown scale, or training on another device than the adapter's.
        """
        own = self.own(scale)
        held = own.embed_weight
        if self.training:
            if held.device != like.device:
                raise ValueError(
                    f"adapter is in training mode on {held.device}, but the latents are on {like.device}"
                )
            return own
        if held.device == like.device and held.dtype == like.dtype:
            return own
        key = (scale, like.device, like.dtype)
        if key not in self._cache:
            with torch.inference_mode(False), torch.no_grad():  # may be called in any mode later
                cast = copy.deepcopy(own).requires_grad_(False).to(like.device, like.dtype)
                if own.refinement is not None:  # 48 scalars that multiply whole velocities: kept in float32
                    cast.refinement.knots = nn.Parameter(
                        own.refinement.knots.to(like.device), requires_grad=False
                    )
            self._cache[key] = cast
        return self._cache[key]

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write ``adapter.safetensors`` and ``adapter.json`` into ``folder``; returns the folder.

        Each file is replaced as a whole, and the second names the digest of the first: an interrupted save is
        detected when loading, never loaded half. ``dtype`` stores the matrices in a smaller type.

        Raises:
            AdapterError: a ``dtype`` other than float32, float16, bfloat16 or float64. Nothing has been written then.
        """
        return adapter_file.write(self, Path(folder), dtype)

    @classmethod
    def load(cls, path: str | Path, transformer: nn.Module | None, *, lora: Lora = "beside") -> Adapter:
        """Read what :meth:`save` wrote; the result is in evaluation mode.

        Args:
            path: the folder, or the ``adapter.safetensors`` in it.
            transformer: the model it is meant for; None skips the check that it is the right one.
            lora: "beside" computes the feed-forward LoRA beside its layers, which stay what they are (quantised,
                offloaded, with LoRAs of yours). "merged" adds it to copies of their weights: no arithmetic at all,
                but memory for each coarse scale (FLUX.1-dev 12.2 GB in bfloat16, Wan 2.1 1.3B 1.7 GB), filled at
                its first step. Layers that can't be merged stay beside, with a warning that says why.

        Raises:
            ValueError: another `lora`.
            AdapterError: a file that is missing, damaged, of another format or a newer version, or made for
                another model. Nothing has been changed then.
        """
        if lora not in get_args(Lora):
            raise ValueError(f"lora must be 'beside' or 'merged', got {lora!r}")
        adapter = adapter_file.read(cls, Path(path), transformer)
        adapter.lora = lora
        return adapter

    def train(self, mode: bool = True) -> Adapter:
        self._cache.clear()
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self._cache.clear()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, fn, recurse: bool = True):
        self._cache.clear()
        return super()._apply(fn, recurse)
