"""Bad input to patch(): an error that names the argument and what came, and nothing half patched."""

import warnings

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, make_transformer, run

import ddit_ext
from ddit_ext import Forecast, TeaCache, Threshold
from ddit_ext.coarse import Adapter
from ddit_ext.families import FluxFamily
from ddit_ext.policies import PatchScheduler
from ddit_ext.runtime.patched_call import ENTRIES

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

PAPER = PatchScheduler((1, 2, 4), (1.0, 1.0))


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def assert_untouched(pipe):
    assert not set(vars(pipe.transformer)) & set(ENTRIES)
    assert "step" not in pipe.scheduler.__dict__


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (dict(scales=(2, 4)), ValueError, r"scales .*begin with 1.*\(2, 4\)"),
        (dict(scales=(1, 4, 2)), ValueError, "scales .*ascending"),
        (dict(scales=(1, 2, 2)), ValueError, "scales .*distinct"),
        (dict(scales=(0, 1)), ValueError, "scales"),
        (dict(scales=(1, 2.5)), TypeError, "scales.*2.5"),
        (dict(scales=(1, True)), TypeError, "scales"),
        (dict(scales=2), TypeError, "scales.*got 2"),
        (dict(scales=()), TypeError, "scales"),
        (dict(threshold=float("nan")), ValueError, "threshold.*NaN"),
        (dict(threshold=(1e-3, float("nan"))), ValueError, "threshold.*NaN"),
        (dict(threshold=-1.0), ValueError, "threshold.*-1.0"),
        (dict(threshold=(1e-3,)), ValueError, "threshold .*2.*got 1"),
        (dict(threshold="low"), TypeError, "threshold.*'low'"),
        (dict(threshold=0.5, schedule=2), ValueError, "threshold=0.5 is for the paper's rule"),
        (dict(threshold=0.5, schedule=[1, 2]), ValueError, "threshold=0.5 is for the paper's rule"),
        (dict(threshold=0.5, schedule=lambda step: 1), ValueError, "threshold=0.5 is for the paper's rule"),
        (dict(threshold=0.5, schedule=PAPER), ValueError, r"use schedule=Threshold\(0.5\)"),
        (dict(threshold=0.5, schedule=Threshold()), ValueError, "threshold=0.5 is for the paper's rule"),
        (
            dict(protect=(0, 1), schedule=Threshold()),
            ValueError,
            "give schedule or protect, not both: Threshold has",
        ),
        (dict(quantile=1.5), ValueError, r"quantile.*\[0, 1\].*1.5"),
        (dict(quantile=float("nan")), ValueError, "quantile.*NaN"),
        (dict(quantile="0.4"), TypeError, "quantile.*'0.4'"),
        (dict(quantile=0.7, schedule=[1, 2]), ValueError, "quantile=0.7 is for scores .* leave it out"),
        (dict(quantile=0.7, schedule=2), ValueError, "quantile=0.7 is for scores"),
        (dict(quantile=0.7, schedule=lambda step: 1), ValueError, "quantile=0.7 is for scores"),
        (dict(schedule=3), ValueError, r"schedule.*\(1, 2, 4\).*3"),
        (dict(schedule=0), ValueError, "schedule.*0"),
        (dict(schedule=True), TypeError, "schedule.*bool"),
        (dict(schedule=2.0), TypeError, "schedule.*float"),
        (dict(schedule="2"), TypeError, r"schedule .*such as Forecast\(speedup=2\), got the text '2'"),
        (dict(schedule=[1, 2, 8]), ValueError, r"schedule\[2\].*8"),
        (dict(schedule=[]), ValueError, "schedule.*empty"),
        (dict(protect=(1,)), ValueError, r"protect.*\(1,\)"),
        (dict(protect=(-1, 0)), ValueError, "protect.*-1"),
        (dict(protect=2), ValueError, "protect.*2"),
        (dict(batch="coarsest"), ValueError, "batch.*'coarsest'"),
        (dict(batch=None), ValueError, "batch.*None"),
        (
            dict(preset="fast.json"),
            ValueError,
            "preset: there is no file fast.json; ddit_ext.calibrate makes one",
        ),
        (dict(preset=2.0), TypeError, "preset.*float"),
        (dict(target_speedup="2"), TypeError, "target_speedup.*'2'"),
        (dict(target_speedup=0.5), ValueError, "target_speedup.*at least 1.*0.5"),
        (dict(target_speedup=float("nan")), ValueError, "target_speedup.*NaN"),
        (dict(target_speedup=float("inf")), ValueError, "target_speedup.*inf"),
        (dict(target_speedup=2.0, scales=(1, 2)), ValueError, r"target_speedup or scales.*schedule=Budget"),
        (dict(target_speedup=2.0, schedule=2), ValueError, "target_speedup or schedule"),
        (dict(target_speedup=2.0, threshold=0.1), ValueError, "target_speedup or threshold"),
        (dict(target_speedup=2.0, batch="split"), ValueError, "target_speedup or batch, not both"),
        (dict(schedule=ddit_ext.Budget(2), batch="split"), ValueError, "needs batch='finest'"),
        (
            dict(schedule=Forecast(calls=3), batch="split"),
            ValueError,
            r"batch='split': Forecast\(calls=3\) computes the same steps .* leave batch out",
        ),
        (dict(preset="fast.json", quantile=0.4), ValueError, "give preset or quantile, not both"),
        (
            dict(forcast=0.5),
            TypeError,
            r"unexpected keyword argument 'forcast'; use schedule=Forecast\(calls",
        ),
        (dict(treshold=0.5), TypeError, "unexpected keyword argument 'treshold'; did you mean 'threshold'"),
        (dict(calls=11), TypeError, r"keyword argument 'calls'; use schedule=Forecast\(calls=...\)"),
        (dict(speedup=2), TypeError, "keyword argument 'speedup'; did you mean 'target_speedup'"),
        (dict(lora="merged"), TypeError, r"use Adapter.load\(path, transformer, lora=...\)"),
        (dict(zzz=1), TypeError, "unexpected keyword argument 'zzz'; it has pipe, adapter, schedule"),
        (dict(target_speedup=2.0, preset="fast.json"), ValueError, "preset or target_speedup"),
        (dict(adapter=3), TypeError, "adapter.*int"),
        (dict(adapter="no/such/folder"), Exception, "no/such/folder"),
    ],
)
def test_bad_arguments(pipe, arguments, error, text):
    with pytest.raises(error, match=text):
        ddit_ext.patch(pipe, **arguments)
    assert_untouched(pipe)


def test_not_a_flux_pipeline(pipe):
    class Other:
        transformer = torch.nn.Linear(2, 2)
        scheduler = pipe.scheduler

    for other in (None, "flux", pipe.vae, pipe.transformer):
        with pytest.raises(
            TypeError, match="pipe must be a diffusers pipeline with a transformer, got.*: pass the pip"
        ):
            ddit_ext.patch(other)
    with pytest.raises(TypeError, match="pipe must be a diffusers pipeline whose .*FLUX .*ForecastScheduler"):
        ddit_ext.patch(Other(), schedule=2)
    with pytest.raises(TypeError, match="pipe"):
        ddit_ext.unpatch(None)
    Other.transformer, Other.scheduler = pipe.transformer, None
    with pytest.raises(TypeError, match="scheduler"):
        ddit_ext.patch(Other())
    assert_untouched(pipe)


def test_patching_twice_and_unpatching_twice(pipe):
    handle = ddit_ext.patch(pipe)
    with pytest.raises(RuntimeError, match="already patched"):
        ddit_ext.patch(pipe)
    handle.unpatch()
    handle.unpatch()
    with pytest.raises(RuntimeError, match="not patched"):
        ddit_ext.unpatch(pipe)
    ddit_ext.patch(pipe, schedule=1)
    ddit_ext.unpatch(pipe)
    assert_untouched(pipe)


@pytest.mark.parametrize(
    ("arguments", "strategy"),
    [
        (dict(), Forecast(speedup=2)),
        (dict(target_speedup=3), Forecast(speedup=3)),
        (dict(target_speedup=3, adapter=True), Forecast(speedup=3)),
        (dict(adapter=True), Threshold()),
        (dict(threshold=1e-3), Threshold()),
        (dict(scales=(1, 2)), Threshold(scales=(1, 2))),
        (dict(quantile=0.4), Threshold()),
        (dict(protect=(1, 2)), Threshold(protect=(1, 2))),
        (dict(batch="split"), Threshold()),
        (dict(schedule=2), ddit_ext.Fixed(2, scales=(1, 2, 4))),
        (dict(schedule=[1, 2], scales=(1, 2), protect=(0, 1)), ddit_ext.Fixed([1, 2], (1, 2), (0, 1))),
        (dict(schedule=Threshold(0.5)), Threshold(0.5)),
    ],
)
def test_what_stands_for_which_strategy(pipe, arguments, strategy):
    adapter = Adapter.training_free(pipe.transformer) if arguments.pop("adapter", None) else None
    with ddit_ext.patch(pipe, adapter, **arguments) as handle:
        assert handle.strategy == strategy
        assert repr(handle) == f"<ddit_ext.Handle: FluxPipeline, {strategy!r}>"
    assert repr(handle).endswith(", unpatched>")
    assert_untouched(pipe)


@pytest.mark.parametrize(
    ("arguments", "warned"),
    [
        (dict(target_speedup=3), True),
        (dict(schedule=Forecast(calls=3)), True),
        (dict(schedule=Forecast(calls=3, sizes=1)), True),
        (dict(schedule=TeaCache(0.1)), True),
        (dict(scales=(1,)), True),
        (dict(), False),
        (dict(schedule=1), False),
        (dict(schedule=lambda step: 1), False),
        (dict(schedule=PAPER), False),
        (dict(schedule=Forecast(calls=3, sizes=[2, 1, 1])), False),
        (dict(schedule=TeaCache(0.1, sizes=Threshold())), False),
    ],
)
def test_an_adapter_that_no_step_uses(pipe, recwarn, arguments, warned):
    ddit_ext.patch(pipe, Adapter.training_free(pipe.transformer), **arguments).unpatch()
    found = [str(w.message) for w in recwarn if "the adapter is not used" in str(w.message)]
    assert len(found) == warned
    assert all(r"has no coarse step; Forecast(..., sizes=...)" in text for text in found)


def test_a_handle_unpatches_after_an_error(pipe):
    sampler = pipe.scheduler
    with pytest.raises(KeyError), ddit_ext.patch(pipe):
        assert pipe.scheduler is not sampler
        raise KeyError
    assert pipe.scheduler is sampler
    assert_untouched(pipe)


def test_an_adapter_of_another_model(pipe):
    other = Adapter.training_free(make_transformer(seed=7))
    with pytest.raises(ValueError, match="adapter was made for another"):
        ddit_ext.patch(pipe, other)
    wide = Adapter.training_free(make_transformer(num_attention_heads=4))
    with pytest.raises(ValueError, match="adapter was made for"):
        ddit_ext.patch(pipe, wide)
    assert_untouched(pipe)


def test_an_adapter_without_one_of_the_scales(pipe):
    with pytest.raises(ValueError, match=r"scales.*\(2,\).*\[4\]"):
        ddit_ext.patch(pipe, Adapter.training_free(pipe.transformer, (2,)))
    assert_untouched(pipe)


def test_an_adapter_from_a_folder(pipe, tmp_path):
    Adapter.create(pipe.transformer, rank=2).save(tmp_path)
    handle = ddit_ext.patch(pipe, str(tmp_path), schedule=2)
    from_file = run(pipe, make_call(steps=2))
    handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=2)
    torch.testing.assert_close(from_file, run(pipe, make_call(steps=2)))
    handle.unpatch()


def test_a_list_shorter_than_the_run_raises_before_the_first_step():
    pipe = make_pipeline()
    plain = run(pipe, make_call(steps=3))
    steps = []
    block = pipe.transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda m, a, k: steps.append(1), with_kwargs=True)
    ddit_ext.patch(pipe, schedule=[1, 1, 1])
    with pytest.raises(ValueError, match="schedule has 3 entries.*4 steps"):
        run(pipe, make_call(steps=4))
    assert not steps
    assert torch.equal(run(pipe, make_call(steps=3)), plain)


@pytest.mark.parametrize("answer", [3, 2.0, None, True, "2"])
def test_a_callable_with_an_unsupported_answer(answer):
    pipe = make_pipeline()
    plain = run(pipe, make_call(steps=3))
    answers = {1: answer}
    handle = ddit_ext.patch(pipe, schedule=lambda step: answers.get(step, 1))
    with pytest.raises(ValueError, match=r"schedule at step 1: expected one of the scales \(1, 2, 4\)"):
        run(pipe, make_call(steps=3))
    answers.clear()
    assert torch.equal(run(pipe, make_call(steps=3)), plain)
    assert len(handle.report().to_dict()["steps"]) == 3


def test_a_callable_that_raises():
    pipe = make_pipeline()

    def schedule(step):
        raise LookupError("no idea")

    ddit_ext.patch(pipe, schedule=schedule)
    with pytest.raises(LookupError, match="no idea"):
        run(pipe, make_call(steps=2))
    ddit_ext.unpatch(pipe)
    assert_untouched(pipe)


def test_the_training_free_message_only_where_a_step_can_be_coarse(pipe, recwarn):
    ddit_ext.patch(pipe, schedule=1).unpatch()
    ddit_ext.patch(pipe, schedule=[1, 1]).unpatch()
    ddit_ext.patch(pipe, Adapter.training_free(pipe.transformer)).unpatch()
    assert not [w for w in recwarn if "adapter" in str(w.message)]
    ddit_ext.patch(pipe).unpatch()
    assert not [w for w in recwarn if "adapter" in str(w.message)]
    with pytest.warns(UserWarning, match="no adapter was given"):
        ddit_ext.patch(pipe, threshold=1e-3).unpatch()


@pytest.mark.parametrize(("settings", "text"), [({}, "distilled"), ({"schedule": 2}, "no adapter was given")])
def test_a_warning_that_is_an_error_leaves_nothing(settings, text):
    pipe = make_pipeline()
    sampler, kind = pipe.scheduler, type(pipe.scheduler)
    if text == "distilled":
        pipe.transformer.register_to_config(_name_or_path="x/FLUX.1-schnell")
    with warnings.catch_warnings(), pytest.raises(UserWarning, match=text):
        warnings.simplefilter("error")
        ddit_ext.patch(pipe, **settings)
    assert_untouched(pipe)
    assert pipe.scheduler is sampler and type(sampler) is kind


def test_family_names_what_is_wrong():
    with pytest.raises(TypeError, match="FluxTransformer2DModel, got Linear"):
        FluxFamily(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="in_channels"):
        FluxFamily(make_transformer(in_channels=6))
    family = FluxFamily(make_transformer())
    with pytest.raises(TypeError, match="multiple values.*'hidden_states'"):
        family.bind((1,), {"hidden_states": 2})
    with pytest.raises(TypeError, match="at most"):
        family.bind((1,) * 20, {})
    ids = torch.zeros(6, 3)
    ids[:, 2] = torch.tensor([0, 1, 2, 0, 1, 3])
    ids[:, 1] = torch.tensor([0, 0, 0, 1, 1, 1])
    call = dict(hidden_states=torch.zeros(1, 6, 16), img_ids=ids)
    with pytest.raises(ValueError, match="img_ids must be a full grid"):
        family.grid(call)
    with pytest.raises(ValueError, match=r"img_ids must have shape \(6, 3\).*\(5, 3\)"):
        family.grid(call | dict(img_ids=ids[:5]))
    with pytest.raises(TypeError, match="img_ids must be a tensor, got NoneType"):
        family.grid(call | dict(img_ids=None))
    mixed = ids.clone()
    mixed[0, 0] = 1
    with pytest.raises(ValueError, match="img_ids.*before reference tokens"):
        family.grid(call | dict(img_ids=mixed))


def test_positions_that_are_no_grid_raise_only_in_a_coarse_call():
    pipe = make_pipeline()
    ids = torch.zeros(24, 3)
    original = pipe._prepare_latent_image_ids
    pipe._prepare_latent_image_ids = lambda *args: ids
    plain = run(pipe, make_call(steps=2))
    handle = ddit_ext.patch(pipe, schedule=1)
    assert torch.equal(run(pipe, make_call(steps=2)), plain)
    handle.unpatch()
    ddit_ext.patch(pipe, schedule=2)
    with pytest.raises(ValueError, match="img_ids"):
        run(pipe, make_call(steps=2))
    pipe._prepare_latent_image_ids = original
    assert run(pipe, make_call(steps=2)).isfinite().all()
