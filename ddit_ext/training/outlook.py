"""What an estimate says to somebody who decides whether to train."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .estimate import Estimate

CARDS = (24, 40, 48, 80)  # GiB
FREE = 0.1  # the part of a card that is left for the CUDA context and fragmentation

# Dense bfloat16 with sums in float32, TFLOP/s, from the makers' data sheets.
PEAKS = {"RTX 4090": 165.0, "A100": 312.0, "L40S": 362.0, "H100": 989.0}
USED = 0.4  # the part of the peak that training is assumed to reach

BEFORE = (
    "before you train: on the embedded FLUX, steps at scale 2 with a trained adapter were further from the full run than\n"
    "  fewer steps of equal time were (docs/results.md). ddit_ext.patch(pipe) needs no training: try that first.\n"
    "  coarse calls paid as the first calls of a short forecast, from about 6 times the speed on\n"
    "  (docs/studies/coarse-calls-first.md)."
)


def text(estimate: Estimate) -> str:
    """Several lines: parameters, tokens, memory, disk, hours, and what the adapter can give at most."""
    return "\n".join(
        (
            *_pair(estimate),
            f"base: {estimate.base_parameters / 1e6:.1f}M parameters, frozen",
            f"adapter: {estimate.adapter_parameters / 1e6:.1f}M parameters, trained",
            *_scales(estimate),
            *_memory(estimate),
            _disk(estimate),
            *_time(estimate),
            BEFORE,
        )
    )


def fits(estimate: Estimate, card: float) -> bool:
    """Whether a GPU of so many GiB is enough."""
    return sum(estimate.memory.values()) < card * (1 - FREE) * 2**30


def _pair(estimate: Estimate) -> list[str]:
    if estimate.transformers == 1:
        return []
    return [
        "two transformers, trained one after the other: parameters, memory and samples are those of each, hours of both"
    ]


def _scales(estimate: Estimate) -> list[str]:
    full = estimate.flops[1]
    lines = [
        f"  scale {scale}: {estimate.tokens[scale]} image tokens, {flops / 1e12:.3g} TFLOPs a forward"
        + (f", at most {full / flops:.1f} times as fast a step" if scale > 1 else "")
        for scale, flops in estimate.flops.items()
    ]
    smallest = min(scale for scale in estimate.flops if scale > 1)
    half = 2 / (1 + estimate.flops[smallest] / full)
    return [*lines, f"  a run with half of its steps at scale {smallest}: at most {half:.2f} times as fast"]


def _memory(estimate: Estimate) -> list[str]:
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in estimate.memory.items())
    kept = "with" if estimate.checkpointing else "without"
    cards = ", ".join(f"{card} GB {'yes' if fits(estimate, card) else 'no'}" for card in CARDS)
    return [
        f"memory a GPU, estimated: {sum(estimate.memory.values()) / 2**30:.2f} GiB "
        f"({parts}, {kept} gradient checkpointing)",
        f"  does it fit? {cards} (with a tenth of the card left free)",
        "  making the cache needs the text encoders too, unless it is there already",
    ]


def _disk(estimate: Estimate) -> str:
    one = f"run of {estimate.states} states" if estimate.states > 1 else "picture"
    return (
        f"disk: the cache takes {estimate.cache_bytes / 1e6:.2f} MB a {one}, "
        f"{estimate.cache_bytes / 1e6:.2f} GB for 1000"
    )


def _time(estimate: Estimate) -> list[str]:
    work = f"{estimate.samples} samples of {estimate.flops_per_sample / 1e12:.3g} TFLOPs on {_gpus(estimate.gpus)}"
    if estimate.tflops is not None:
        hours = estimate.hours(estimate.tflops)
        return [f"{work}: {hours:.3g} hours at {estimate.tflops:g} TFLOP/s each, assumed, not measured"]
    kinds = ", ".join(f"{name} {estimate.hours(USED * peak):.3g}" for name, peak in PEAKS.items())
    return [f"{work}, in hours: {kinds}", f"  at {USED:.0%} of the peak in bfloat16, assumed, not measured"]


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
