"""What a training file says: which model, which adapter, what data, how it is trained and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..coarse.scale_spec import Positions, Start
from ..strategies import checks
from .config import DistillConfig
from .data.sizes import STEP, Size, name_of, sizes_like


@dataclass(frozen=True)
class ModelSettings:
    """The base model.

    Attributes:
        path: a diffusers folder or a name on the hub; "embedded:flux" is the small model that ships with ddit_ext.
        revision, variant: of the hub, as diffusers takes them.
        dtype: of its frozen weights. The adapter is trained in float32 whatever this is.
        gradient_checkpointing: run blocks again in the backward instead of keeping what they computed.
    """

    path: str
    revision: str | None = None
    variant: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    gradient_checkpointing: bool = True


@dataclass(frozen=True)
class AdapterSettings:
    """The arguments of ``Adapter.create``; see there."""

    scales: tuple[int, ...] = (2, 4)
    rank: int = 32
    start: Start = "noise_matched"
    positions: Positions = "centre"
    detail_variance: Mapping[int, float] | None = None
    detail_residual: bool = True
    refinement_hidden: int = 512
    refinement_tokens: bool = True
    seed: int = 0

    def __post_init__(self):
        if not self.scales or min(self.scales) < 2 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales must be distinct and above 1, got {list(self.scales)}")
        for name in ("rank", "refinement_hidden"):
            checks.whole(name, getattr(self, name), 0)


@dataclass(frozen=True)
class GenerateSettings:
    """How the base makes its own training data.

    Attributes:
        steps: denoising steps of a run.
        states: noisy latents kept of each run, one in each of so many equal stretches of it.
        guidance_scale: as the pipeline takes it; None: its default, or ``data.guidance`` where the model is told that.
        per_prompt: runs of each prompt, with a seed each.
        seed: of the first run.
    """

    steps: int = 28
    states: int = 8
    guidance_scale: float | None = None
    per_prompt: int = 1
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "states", "per_prompt"):
            checks.whole(name, getattr(self, name))
        if self.states > self.steps:
            raise ValueError(f"states must be at most steps ({self.steps}), got {self.states}")


@dataclass(frozen=True)
class DataSettings:
    """What is trained on.

    Attributes:
        source: "pictures": pictures or clips with captions from ``path``; "generated": the base's own runs of the
            prompts in ``prompts``.
        path: a folder of pictures (captions in metadata.jsonl, or beside each picture as .txt), or a folder, file
            or pattern of .tar shards in webdataset's layout.
        prompts: a text file, one prompt a line.
        cache: folder for latents and text embeddings, computed once.
        height, width: of the pictures in pixels; they are scaled to cover it and cropped at the centre.
        buckets: more sizes [height, width], or "auto" for common aspect ratios with about as many pixels. Each picture
            goes to the size nearest in aspect ratio, and a step learns from pictures of one size; runs of "generated"
            are made in one size after the other.
        frames: of a clip; 1 for pictures.
        max_sequence_length: text tokens.
        batch: samples of one process in one pass.
        empty_share: of the samples, the caption is replaced by the empty one: guidance asks for it.
        guidance: the guidance that a guidance-distilled model (FLUX.1-dev) is told; None: that of "generated" runs, or 3.5.
        shard_size: samples in one file of the cache.
        seed: of the order.
        generate: of "generated".
    """

    source: Literal["pictures", "generated"]
    cache: str
    height: int
    width: int
    path: str | None = None
    prompts: str | None = None
    buckets: Literal["auto"] | tuple[tuple[int, int], ...] = ()
    frames: int = 1
    max_sequence_length: int = 512
    batch: int = 1
    empty_share: float = 0.1
    guidance: float | None = None
    shard_size: int = 64
    seed: int = 0
    generate: GenerateSettings = field(default_factory=GenerateSettings)

    def __post_init__(self):
        needed, unwanted = ("path", "prompts") if self.source == "pictures" else ("prompts", "path")
        if getattr(self, needed) is None:
            raise ValueError(f'{needed} is needed for source "{self.source}"')
        if getattr(self, unwanted) is not None:
            raise ValueError(f'{unwanted} is not for source "{self.source}", got {getattr(self, unwanted)!r}')
        for name in ("height", "width", "frames", "max_sequence_length", "batch", "shard_size"):
            checks.whole(name, getattr(self, name))
        if self.buckets == "auto" and len(self.sizes) == 1:
            raise ValueError(
                f"buckets: auto knows only {name_of(self.sizes[0])} with as many pixels as {self.height}x{self.width}, "
                f"its sides are multiples of {STEP}: name the sizes, [[height, width], ...]"
            )
        for index, size in enumerate(() if self.buckets == "auto" else self.buckets):
            if len(size) != 2 or min(size) < 1:
                raise ValueError(
                    f"buckets[{index}] must be [height, width], both at least 1, got {list(size)}"
                )
        if not 0 <= self.empty_share <= 1:
            raise ValueError(f"empty_share must be in [0, 1], got {self.empty_share}")

    @property
    def told(self) -> float:
        """What a guidance-distilled model is told, in training as in its own runs."""
        if self.guidance is not None:
            return self.guidance
        own = self.generate.guidance_scale if self.source == "generated" else None
        return 3.5 if own is None else own

    @property
    def sizes(self) -> tuple[Size, ...]:
        """All sizes (height, width), ``height``×``width`` first."""
        if self.buckets == "auto":
            return tuple(sizes_like(self.height, self.width))
        return tuple(dict.fromkeys([(self.height, self.width), *self.buckets]))


@dataclass(frozen=True)
class OutputSettings:
    """Where results go.

    Attributes:
        folder: receives ``checkpoints/``, ``adapter/``, ``log.jsonl``, ``samples/`` and ``tensorboard/``.
        trackers: "auto": TensorBoard if it is installed; or a list of "tensorboard" and "wandb".
        project: wandb's project.
        sample_prompts: prompts that are drawn by the base and with the adapter while it trains.
        sample_every: in steps; 0: never.
        sample_steps: denoising steps of a sample.
        push_to_hub: repository ("user/name") that the adapter is uploaded to at the end.
        private: whether that repository is made a private one.
        licence: of the adapter for its card; None: that of the base, where it is known.
    """

    folder: str
    trackers: Literal["auto"] | tuple[Literal["tensorboard", "wandb"], ...] = "auto"
    project: str = "ddit"
    sample_prompts: tuple[str, ...] = ()
    sample_every: int = 0
    sample_steps: int = 28
    push_to_hub: str | None = None
    private: bool = True
    licence: str | None = None

    def __post_init__(self):
        if self.sample_every < 0 or self.sample_steps < 1:
            raise ValueError(
                f"sample_every must not be negative and sample_steps at least 1, "
                f"got {self.sample_every} and {self.sample_steps}"
            )
        if self.sample_every and not self.sample_prompts:
            raise ValueError("sample_prompts is needed with sample_every")


@dataclass(frozen=True)
class TrainSettings:
    """A whole training file."""

    model: ModelSettings
    data: DataSettings
    output: OutputSettings
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    training: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self):
        training, adapter = self.training, self.adapter
        named = {*training.noise_range, *(training.scale_shares or {}), *(adapter.detail_variance or {})}
        unknown = sorted(named - set(adapter.scales))
        if unknown:
            raise ValueError(
                "noise_range, scale_shares and detail_variance must name scales of the adapter, "
                f"{list(adapter.scales)}, got {unknown}"
            )
