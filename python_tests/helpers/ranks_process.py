"""Processes that share one tiny transformer's tokens through gloo, as diffusers' context parallelism does it:

    MASTER_ADDR=127.0.0.1 MASTER_PORT=... python ranks_process.py FOLDER PROCESSES

Each writes what it saw to FOLDER/<rank>.pt: case -> {"latents", "sizes", "scores"}, or {"error"}. They are forked from one
that has everything imported and has not computed anything.
"""

import time
import warnings
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import flux_pipelines
import torch
import torch.distributed as dist
import wan_pipelines
from diffusers import ContextParallelConfig, ParallelConfig
from family_cases import BY_NAME
from processes import fork

import ddit_ext
from ddit_ext import Budget, Forecast, TeaCache, Threshold, policies
from ddit_ext.calibration.runner import Runner, Setting
from ddit_ext.coarse import Adapter
from ddit_ext.families import family_for

STEPS = 7
SIZES = [1, 2, 4, 2, 4, 1, 1]
FORECAST = [1, 1, 0, 1, 0, 0, 1]
SKIPPED_SIZES = [1, 1, 0, 2, 2, 0, 1]


def pipeline(family, **config):
    if family in BY_NAME:
        return BY_NAME[family].build()
    return (flux_pipelines if family == "flux" else wan_pipelines).make_pipeline(**config)


def call_of(family, **changes):
    """A run with a number of tokens that two ranks can share at all sizes, unless `changes` says otherwise."""
    if family in BY_NAME:
        return {"steps": STEPS, "height": 128, "width": 128} | changes
    if family == "flux":
        return flux_pipelines.make_call(**(dict(rows=8, columns=8, steps=STEPS) | changes))
    return wan_pipelines.make_call(**(dict(rows=4, columns=8, steps=STEPS) | changes))


def adapter_of(pipe):
    """Weights of every size, with feed-forward LoRA that does something."""
    torch.manual_seed(7)
    adapter = Adapter.create(pipe.transformer, rank=2)
    for parameter in adapter.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return adapter.requires_grad_(False)


def budget():
    return Budget(1.7, costs=(0.4, 0.2))


def tea_cache(family, call):
    """A threshold that some sums of the changes are above and some below, from a run of one process."""
    changes = seen(family, pipeline(family), call, schedule=TeaCache(1e-30))["scores"][1:-1]
    return TeaCache(1.5 * max(score[0][0] for score in changes))


def stacked(family, call):
    """The same, and what is computed is coarse where it may be."""
    return replace(tea_cache(family, call), sizes=Threshold(1e9, (1, 2)))


def share(pipe, **config):
    """Context parallelism over both ranks. diffusers asks for the number of accelerators to name a device: a CPU has none."""
    with mock.patch.object(torch.accelerator, "device_count", return_value=1):
        parallel = ContextParallelConfig(ulysses_degree=2, **config)
        pipe.transformer.enable_parallelism(config=ParallelConfig(context_parallel_config=parallel))
    return pipe


def seen(family, pipe, call, adapter=None, **settings):
    """What one patched run ended with, what it chose and why."""
    handle = ddit_ext.patch(pipe, adapter, **settings)
    try:
        if family in BY_NAME:
            latents = BY_NAME[family].run(pipe, **call)
        else:
            latents = (flux_pipelines if family == "flux" else wan_pipelines).run(pipe, call)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        handle.unpatch()
    steps = handle.report().to_dict()["steps"]
    return {
        "latents": latents,
        "sizes": [step["scale"] for step in steps],
        "scores": [step["scores"] for step in steps],
        "changes": [step.get("changes") for step in steps],
    }


class Raises(policies.Policy):
    """Goes wrong at step 2 on one rank alone."""

    def __init__(self, rank):
        self.rank = rank

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        if step == 2 and dist.get_rank() == self.rank:
            raise ArithmeticError("no size here")
        return 2


def close_to_a_threshold(rank):
    """Latents that differ by a little, and a threshold between the scores of both ranks: alone, and sharing tokens."""
    call = call_of("flux")
    noise = torch.randn(1, 64, flux_pipelines.FEATURES, generator=torch.Generator().manual_seed(3))
    call["latents"] = noise * (1 + 1e-4 * rank)
    pipe = pipeline("flux")
    never = seen("flux", pipe, call, scales=(1, 2), threshold=0.0)
    scores = [None, None]
    dist.all_gather_object(scores, never["scores"][3][0][-1])
    policy = dict(scales=(1, 2), threshold=sum(scores) / 2)
    alone = seen("flux", pipe, call, **policy)
    return {"alone": alone | {"scores of both": scores}, "shared": seen("flux", share(pipe), call, **policy)}


def take_part(folder, rank, processes):
    """The life of one process."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo", rank=rank, world_size=processes, timeout=timedelta(minutes=2))
    found = {}
    for family in ("flux", "wan"):
        pipe, call = share(pipeline(family)), call_of(family)
        adapter = adapter_of(pipe)
        found[f"{family} at p"] = seen(family, pipe, call, schedule=1)
        found[f"{family} fixed"] = seen(family, pipe, call, adapter, schedule=SIZES)
        found[f"{family} dynamic"] = seen(family, pipe, call, adapter, schedule=budget())
        found[f"{family} by the clock"] = seen(family, pipe, call, schedule=Budget(1.5))
        for one in range(processes):
            found[f"{family} rank {one} raises"] = seen(family, pipe, call, schedule=Raises(one))
        found[f"{family} after an error"] = seen(family, pipe, call, adapter, schedule=SIZES)
        found |= skipping(family, pipe, call, adapter)
    pipe, odd = share(pipeline("flux")), call_of("flux", rows=6, columns=6)
    found["indivisible fixed"] = seen("flux", pipe, odd, schedule=[1, 2, 2, 1, 1, 1, 1])
    found["indivisible dynamic"] = seen("flux", pipe, odd, threshold=1e-3)
    found["indivisible at p"] = seen("flux", pipe, odd, schedule=1)
    found["anything"] = seen(
        "flux", share(pipeline("flux"), ulysses_anything=True), call_of("flux"), schedule=SIZES
    )
    kontext = share(flux_pipelines.make_pipeline("kontext"))
    found["references"] = seen(
        "flux", kontext, flux_pipelines.make_call("kontext", rows=8, columns=8, steps=2), schedule=2
    )
    control = share(flux_pipelines.make_pipeline("controlnet"))
    found["residuals"] = seen(
        "flux", control, flux_pipelines.make_call("controlnet", rows=8, columns=8, steps=2), schedule=2
    )
    found["split"] = seen("flux", pipe, call_of("flux", batch=2), schedule=budget(), batch="split")
    found |= close_to_a_threshold(rank)
    found["trained"] = trained(pipe)
    per_token, call = token_timesteps()
    found["token timesteps"] = seen("wan", share(per_token), call, schedule=SKIPPED_SIZES)
    found |= of_later_families()
    found["measured"] = measured(pipe, call_of("flux"))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def of_later_families():
    """FLUX.2 shares its tokens as FLUX does; what the ranks share of Qwen-Image only whole calls can be made of."""
    flux2, call = share(pipeline("FLUX.2")), call_of("FLUX.2")
    ways = {"at p": dict(schedule=1), "fixed": dict(schedule=SIZES), "used again": dict(schedule=FORECAST)}
    found = {f"FLUX.2 {way}": seen("FLUX.2", flux2, call, **settings) for way, settings in ways.items()}
    qwen, call = share(pipeline("Qwen-Image")), call_of("Qwen-Image")
    found["Qwen-Image forecast"] = seen("Qwen-Image", qwen, call, schedule=Forecast(calls=4))
    try:
        ddit_ext.patch(qwen, schedule=2)
    except NotImplementedError as error:
        found["Qwen-Image sizes"] = {"error": f"{type(error).__name__}: {error}"}
    return found


def skipping(family, pipe, call, adapter):
    """Runs in which steps are skipped; all but the sizes without an adapter."""
    ways = {
        "forecast": dict(schedule=Forecast(calls=FORECAST.count(1))),
        "used again": dict(schedule=FORECAST),
        "tea cache": dict(schedule=tea_cache(family, call)),
        "stacked": dict(schedule=stacked(family, call)),
    }
    found = {f"{family} {way}": seen(family, pipe, call, **settings) for way, settings in ways.items()}
    found[f"{family} skipped sizes"] = seen(family, pipe, call, adapter, schedule=SKIPPED_SIZES)
    anything = share(pipeline(family), ulysses_anything=True)
    found[f"{family} skipped anything"] = seen(family, anything, call, schedule=SKIPPED_SIZES)
    return found


def token_timesteps():
    """A pipeline and a call whose timestep is one a token, which ranks share as they do the tokens."""
    return pipeline("wan", kind="ti2v"), wan_pipelines.make_call("ti2v", rows=4, columns=8, steps=STEPS)


def measured(pipe, call):
    """Two runs of a calibration, whose clock is each rank's own."""
    own = {name: value for name, value in call.items() if name not in ("generator", "output_type")}
    runner = Runner(pipe, None, [own], 0, time.perf_counter, lambda: None)
    done = runner.run(0, Setting(STEPS, Forecast(calls=FORECAST.count(1))))
    pictures = torch.from_numpy(done.pictures)
    return {"pictures": pictures, "seconds": done.seconds}


def trained(pipe):
    """A coarse call with gradients."""
    family = family_for(pipe.transformer)
    weights = Adapter.create(pipe.transformer, rank=2).weights(2, torch.zeros(1))
    try:
        with family.coarse({}, weights.requires_grad_(), torch.zeros(1)):
            return {}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    fork(take_part)
