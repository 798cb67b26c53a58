"""Stage `ops`: each op at real sizes, checked, then timed against its floor and against PyTorch's ways to do it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from _timing import interleaved
from bench_quantiles import eager_gathered, eager_variance
from torch import Tensor

import ddit_ext
from ddit_ext import reference

from . import baselines
from .clock import DeviceClock, clock_of, warm_up
from .floors import bytes_of, floor, linear_flops
from .part import Part
from .shapes import QUANTILE, SCALES, SHAPES, TINY, Shape, deembed_arguments, embed_arguments

ROUNDS = 20
COMPILING_S = 10.0  # left at least for a case whose eager version is still to be compiled

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    op: str
    shape: Shape
    batch: int
    scale: int  # 0 for acceleration_quantiles, which takes all at once
    dtype: torch.dtype
    lora: bool = False

    def __str__(self) -> str:
        scale = f"scale {self.scale}" if self.scale else f"scales {SCALES}"
        lora = ", LoRA" if self.lora else ""
        return f"{self.op}, {self.shape.name}, batch {self.batch}, {scale}, {str(self.dtype).split('.')[1]}{lora}"


@dataclass
class Prepared:
    """A case with its arguments on the device: ours, what it is checked against, and the other ways."""

    ours: Call
    expected: Call
    eager: Callable[..., Tensor]  # with `arguments`: also to be compiled
    arguments: dict[str, Any]
    others: dict[str, Call]
    moved: int  # bytes
    flops: int


def run(part: Part) -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, for the convolution too
    clock = clock_of(part.device)
    warm_up(part.device)
    part.add(cases=[])
    with torch.no_grad():
        for case in cases(part.tiny):
            if part.left() < 3:
                part.leave_out(f"{case}: no time was left")
                continue
            _guarded(part, str(case), lambda case=case: _measure(part, case, clock))
        part.add(compiled=[])
        for case in compiled_cases(part.tiny):
            slowest = max((entry["compile_s"] for entry in part.results["compiled"]), default=0.0)
            if part.left() < max(COMPILING_S, 1.5 * slowest):
                part.leave_out(f"compiled, {case}: no time was left")
                continue
            _guarded(part, f"compiled, {case}", lambda case=case: _measure_compiled(part, case, clock))


def cases(tiny: bool) -> Iterator[Case]:
    """All cases, those that matter most first; where the time runs out the last are left out."""
    shapes = TINY if tiny else SHAPES
    linear = ("patch_embed", "patch_deembed")
    for batch in (1, 4):
        for shape in shapes:
            # Coarse steps call scales 2 and 4, and without LoRA.
            for scale in (2, 4, 1):
                for op in linear:
                    yield Case(op, shape, batch, scale, torch.bfloat16)
            yield Case("acceleration_quantiles", shape, batch, 0, torch.float32)
        if batch == 1:
            for scale in (2, 4, 1):
                for op in linear:
                    yield Case(op, shapes[0], 1, scale, torch.bfloat16, lora=True)
            for dtype in (torch.float16, torch.float32):
                for op in linear:
                    yield Case(op, shapes[0], 1, 2, dtype)


def compiled_cases(tiny: bool) -> list[Case]:
    """Compiling takes seconds a case: batch 1, scale 2 first."""
    ready = [
        case for case in cases(tiny) if case.batch == 1 and not case.lora and case.dtype != torch.float16
    ]
    wanted = [case for case in ready if case.scale == 0 or case.dtype == torch.bfloat16]
    if tiny:
        wanted = [case for case in wanted if case.shape is TINY[0] and case.scale in (0, 2)]
    return sorted(wanted, key=lambda case: (0, 2, 4, 1).index(case.scale) if case.scale else 0.5)


def prepare(case: Case, device: str) -> Prepared:
    if case.op == "acceleration_quantiles":
        return _prepare_quantiles(case, device)
    make = embed_arguments if case.op == "patch_embed" else deembed_arguments
    arguments = make(case.shape, case.batch, case.scale, case.dtype, device)
    if not case.lora:
        arguments |= {"lora_a": None, "lora_b": None}
    op, exact = getattr(ddit_ext.ops, case.op), getattr(reference, case.op)
    if case.op == "patch_embed":
        eager, ready = baselines.eager_embed, baselines.ready_embed(arguments)
        written = case.batch * case.shape.tokens(case.scale) * case.shape.width
    else:
        eager, ready = baselines.eager_deembed, baselines.ready_deembed(arguments)
        written = case.batch * case.shape.tokens(1) * case.shape.features(1)
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    return Prepared(
        ours=lambda: op(**arguments),
        expected=lambda: exact(**{k: _upcast(v) for k, v in arguments.items()}),
        eager=eager,
        arguments=arguments,
        others={"eager": lambda: eager(**arguments), **ready},
        moved=bytes_of(*tensors) + written * tensors[0].element_size(),
        flops=linear_flops(case.shape, case.batch, case.scale, case.lora),
    )


def _prepare_quantiles(case: Case, device: str) -> Prepared:
    z = [case.shape.latents(case.batch, case.dtype, device) for _ in range(4)]
    copies = [torch.empty_like(latent) for latent in z]

    def copy() -> Tensor:
        for target, latent in zip(copies, z, strict=True):
            target.copy_(latent)
        return copies[0]

    return Prepared(
        ours=lambda: ddit_ext.ops.acceleration_quantiles(*z, list(SCALES), QUANTILE),
        # ddit_ext.reference loops over patches, which takes a GPU seconds; this is the same in float64.
        expected=lambda: eager_variance([latent.double() for latent in z], SCALES),
        eager=eager_variance,
        arguments={"z": z, "scales": SCALES},
        others={
            "eager": lambda: eager_variance(z, SCALES),
            "eager, gathered": lambda: eager_gathered(z, SCALES),
            "copy of the four latents": copy,
        },
        moved=bytes_of(*z),
        flops=0,
    )


def allowed_error(dtype: torch.dtype) -> float:
    """The bound of ||out - exact|| / ||exact||: twice the unit roundoff for the result's rounding and that of a merged

    LoRA weight; in float32 the sums' own rounding, as in the tests.
    """
    return max(torch.finfo(dtype).eps, 1e-4)


def _upcast(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


def _guarded(part: Part, what: str, call: Callable[[], None]) -> None:
    """One case that fails is a problem of the stage, not its end."""
    try:
        call()
    except Exception as error:
        part.problem(f"{what}: {_text(error)}")


def _text(error: Exception) -> str:
    return traceback.format_exception_only(error)[-1].strip()[:400]


def _entry(case: Case) -> dict[str, Any]:
    return {
        "op": case.op,
        "shape": case.shape.name,
        "batch": case.batch,
        "scale": case.scale or list(SCALES),
        "dtype": str(case.dtype).split(".")[1],
        "lora": case.lora,
    }


def _measure(part: Part, case: Case, clock) -> None:
    prepared = prepare(case, part.device)
    entry = _entry(case) | floor(part.of("ceilings"), prepared.moved, prepared.flops, case.dtype)
    part.results["cases"].append(entry)
    candidates = {"ddit_ext": prepared.ours, **prepared.others}
    try:
        entry.update(_checked(part, case, prepared))
    except Exception as error:
        # What does not run is a problem; what it is compared with is still worth a figure.
        part.problem(f"{case}: {_text(error)}")
        candidates = {name: call for name, call in candidates.items() if not name.startswith("ddit_ext")}
    rounds, warmup = (2, 1) if part.tiny else (ROUNDS, 3)
    entry["timed"] = interleaved(candidates, rounds, warmup, clock)
    if part.device == "cuda":
        # In a step, latent and tokens come from the kernel before: they are in the L2 cache.
        near = {name: candidates[name] for name in ("ddit_ext", "eager") if name in candidates}
        entry["warm"] = interleaved(near, rounds, warmup, DeviceClock(flush=False))
    entry["host_s"] = {name: _host_time(part, call) for name, call in candidates.items()}
    part.save()


def _checked(part: Part, case: Case, prepared: Prepared) -> dict[str, Any]:
    """Ours against the exact result, on fresh random numbers."""
    expected = prepared.expected().double()
    out = prepared.ours().double()
    error = float(torch.linalg.vector_norm(out - expected) / torch.linalg.vector_norm(expected))
    allowed = allowed_error(case.dtype)
    if not error <= allowed:
        part.problem(f"{case}: relative error {error:.2e}, allowed {allowed:.2e}")
    return {"error": error, "error_allowed": allowed}


def _host_time(part: Part, call: Call) -> float:
    """What the host takes to ask for a call, the device idle: the median of 5."""
    taken = []
    for _ in range(5):
        if part.device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[2]


def _measure_compiled(part: Part, case: Case, clock) -> None:
    torch._dynamo.reset()
    prepared = prepare(case, part.device)
    function = torch.compile(prepared.eager, dynamic=False, backend="eager" if part.tiny else "inductor")

    def compiled() -> Tensor:
        return function(**prepared.arguments)

    entry = _entry(case)
    started = time.perf_counter()
    compiled()
    if part.device == "cuda":
        torch.cuda.synchronize()
    entry["compile_s"] = round(time.perf_counter() - started, 2)
    candidates = {"eager": prepared.others["eager"], "compiled": compiled}
    timed_before = [known for known in part.results["cases"] if known.items() >= _entry(case).items()]
    if any("ddit_ext" in known.get("timed", ()) for known in timed_before):
        candidates = {"ddit_ext": prepared.ours, **candidates}
    rounds, warmup = (2, 1) if part.tiny else (ROUNDS, 3)
    entry["timed"] = interleaved(candidates, rounds, warmup, clock)
    part.results["compiled"].append(entry)
    part.save()
