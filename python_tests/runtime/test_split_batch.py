"""batch="split": each sample as if it ran alone, those of one size together."""

import inspect

import accelerate
import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from flux_pipelines import make_call, make_pipeline, make_transformer, run
from loops import Loop
from skip_cases import SCALES, ByScore

import ddit_ext
from ddit_ext import Forecast, policies
from ddit_ext.families import FluxFamily
from ddit_ext.families.batch import join, take
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

BATCH = 3


def batch_call(kind="text", steps=7, **arguments):
    call = make_call(kind, 6, 5, batch=BATCH, steps=steps, **arguments)
    call["latents"] = torch.randn(BATCH, 30, 16, generator=torch.Generator().manual_seed(9))
    for name in ("ip_adapter_image_embeds", "negative_ip_adapter_image_embeds"):
        if name in call:
            call[name] = [embeds[:1] for embeds in call[name]]  # one picture for the whole batch
    return call


def alone(call, sample):
    """The call of one sample of `call`'s batch."""
    taken = {}
    for name, value in call.items():
        whole = isinstance(value, torch.Tensor) and value.shape[0] == BATCH
        taken[name] = value[sample : sample + 1] if whole else value
    return taken


def without_sampling(pipe):
    """Encode pictures without noise: the VAE would draw other noise for each place in a batch."""
    with torch.no_grad():
        pipe.vae.quant_conv.weight[4:] = 0
        pipe.vae.quant_conv.bias[4:] = -100


def sizes_of(handle):
    return [step["scales"] for step in handle.report().to_dict()["steps"]]


@pytest.mark.parametrize(
    ("kind", "true_cfg"),
    [
        ("text", False),
        ("text", True),
        ("kontext", False),
        ("fill", False),
        ("controlnet", False),
        ("ip_adapter", True),
    ],
)
def test_as_one_by_one(kind, true_cfg):
    pipe = make_pipeline(kind)
    without_sampling(pipe)
    call = batch_call(kind, true_cfg=true_cfg)
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    together, sizes = run(pipe, call), sizes_of(handle)
    assert any(len(set(row)) > 1 for row in sizes) and {size for row in sizes for size in row} == set(SCALES)
    for sample in range(BATCH):
        single = run(pipe, alone(call, sample))
        assert [row[0] for row in sizes_of(handle)] == [row[sample] for row in sizes]
        torch.testing.assert_close(together[sample], single[0], rtol=1e-4, atol=1e-4)


def test_guidance_embedded_and_outputs_as_objects():
    """A transformer with a guidance input, called directly; its output is an object as without a patch."""
    pipe = make_pipeline()
    pipe.transformer = make_transformer(guidance_embeds=True)
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    loop = Loop(pipe, batch=BATCH)
    loop.arguments |= dict(return_dict=True, guidance=torch.tensor([1.0, 4.0, 9.0]))
    call = dict(loop.arguments, hidden_states=loop.latents, timestep=torch.full((BATCH,), 0.7))

    def output(sizes):
        with handle.run():
            pipe.transformer(**call)  # a step begins, at size 1; its second call is at the sizes set here
            find_hook(pipe.transformer).watch.run.state.sizes = sizes
            return pipe.transformer(**call)

    mixed = output([2, 1, 4])
    assert isinstance(mixed, Transformer2DModelOutput)
    for sample, size in enumerate([2, 1, 4]):
        torch.testing.assert_close(mixed.sample[sample], output([size]).sample[sample])


def test_the_report_of_a_split_batch():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    run(pipe, batch_call())
    data = handle.report().to_dict()
    assert data["batch"] == "split"
    tokens = {1: 30, 2: 3 * 3, 4: 2 * 2}
    taken = 0.0
    for step in data["steps"]:
        counts = [tokens[size] for size in step["scales"]]
        assert step["scale"] == min(step["scales"])
        assert step["tokens"] == pytest.approx(sum(counts) / BATCH)
        taken += sum((n + 6) * (192 + n + 6) for n in counts) / BATCH
    assert data["speedup_estimate"] == pytest.approx(7 * 36 * (192 + 36) / taken)
    mixed = next(step for step in data["steps"] if len(set(step["scales"])) > 1)
    row = str(handle.report()).splitlines()[3 + mixed["index"]]
    assert row.split()[2] == "/".join(map(str, sorted(set(mixed["scales"]))))


def test_each_sample_has_a_run_of_its_own():
    """Per sample: thresholds, held signals and a budget."""
    pipe = make_pipeline()
    call = batch_call(steps=9)
    for policy in (
        policies.PatchScheduler(SCALES, [0.044, 0.036], mixed="hold"),
        policies.BudgetPolicy(SCALES, [0.4, 0.2], 1.6, warmup_scale=1),
    ):
        handle = ddit_ext.patch(pipe, schedule=policy, batch="split")
        together, sizes = run(pipe, call), sizes_of(handle)
        assert any(len(set(row)) > 1 for row in sizes)
        for sample in range(BATCH):
            single = run(pipe, alone(call, sample))
            assert [row[0] for row in sizes_of(handle)] == [row[sample] for row in sizes]
            torch.testing.assert_close(together[sample], single[0], rtol=1e-4, atol=1e-4)
        handle.unpatch()


class Sums(policies.Policy):
    """A size from all scores so far and the costs it was told."""

    def begin(self, total_steps):
        self.sum = 0.0

    def estimate(self, costs):
        self.costs = costs

    def decide(self, step, scores):
        self.sum += scores[0][1] if scores else 0.0
        return list(self.costs)[int(300 * self.sum) % len(self.costs)] if scores else 1


class FreshSums(Sums):
    def start(self):
        return FreshSums()


@pytest.mark.parametrize("make", [lambda: Forecast(calls=8, sizes=Sums()), FreshSums])
def test_each_sample_has_a_policy_of_its_own(make):
    """In a forecast too, and one that an object's `start` makes is told the costs."""
    pipe = make_pipeline()
    call = batch_call(steps=9)
    with ddit_ext.patch(pipe, schedule=make(), batch="split") as handle:
        run(pipe, call)
        sizes = sizes_of(handle)
    assert any(len(set(row)) > 1 for row in sizes)
    for sample in range(BATCH):
        with ddit_ext.patch(pipe, schedule=make()) as handle:
            run(pipe, alone(call, sample))
            assert [row[0] for row in sizes_of(handle)] == [row[sample] for row in sizes]


def test_where_all_agree_it_is_one_call():
    pipe = make_pipeline()
    calls = []
    pipe.transformer.register_forward_pre_hook(
        lambda m, a, k: calls.append(k["hidden_states"].shape[0]), with_kwargs=True
    )
    handle = ddit_ext.patch(pipe, schedule=2, batch="split")
    split = run(pipe, batch_call(steps=3))
    handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=2)
    assert torch.equal(run(pipe, batch_call(steps=3)), split)
    assert calls == [BATCH] * 6
    handle.unpatch()


class CoarseBelow(policies.Policy):
    """Coarse where the score is below a number."""

    def __init__(self, threshold):
        self.threshold = threshold

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return 2 if scores and scores[0][1] < self.threshold else 1


@pytest.mark.parametrize("how", ["before", "after"])
def test_compiled(how):
    """Two samples of other sizes in the last step: a graph for each call, no more."""
    torch._dynamo.reset()
    pipe = make_pipeline(num_single_layers=0)  # half as much to trace
    call = make_call(rows=5, columns=3, batch=2, steps=4)
    handle = ddit_ext.patch(pipe, schedule=CoarseBelow(0.0))
    run(pipe, call)
    between = sum(row[1] for row in handle.report().to_dict()["steps"][3]["scores"]) / 2
    handle.unpatch()
    arguments = dict(schedule=CoarseBelow(between), scales=(1, 2), batch="split")
    handle = ddit_ext.patch(pipe, **arguments)
    expected = run(pipe, call)
    graphs = []

    def backend(graph, inputs):
        graphs.append(inputs)
        return graph

    if how == "before":
        handle.unpatch()
    pipe.transformer = torch.compile(pipe.transformer, backend=backend, dynamic=False)
    if how == "before":
        handle = ddit_ext.patch(pipe, **arguments)
    torch.testing.assert_close(run(pipe, call), expected)
    assert sorted(sizes_of(handle)[3]) == [1, 2]
    assert len(graphs) == 3
    handle.unpatch()


def test_sequential_offload():
    pipe, call = make_pipeline(), batch_call(steps=5)
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    expected = run(pipe, call)
    for module in (pipe.vae, pipe.transformer):  # as enable_sequential_cpu_offload does, but without a GPU
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    torch.testing.assert_close(run(pipe, call), expected)
    assert any(len(set(row)) > 1 for row in sizes_of(handle))


@pytest.mark.parametrize(
    ("error", "at"),
    [(ArithmeticError, 0), (ArithmeticError, 1), (KeyboardInterrupt, 0), (KeyboardInterrupt, 1)],
)
def test_an_error_in_one_of_the_calls_leaves_nothing(error, at):
    """In the first and in a further one of the calls that belong to a step."""
    pipe, call = make_pipeline(), batch_call(steps=5)
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    expected = run(pipe, call)
    modules = {name: id(module) for name, module in pipe.transformer.named_modules()}
    step = next(step["index"] for step in handle.report().to_dict()["steps"] if len(set(step["scales"])) > 1)
    ran = []

    def fail(module, args):
        ran.append(1)
        if len(ran) == step + 1 + at:
            raise error

    broken = pipe.transformer.single_transformer_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(error):
        run(pipe, call)
    broken.remove()
    assert torch.equal(run(pipe, call), expected)
    assert {name: id(module) for name, module in pipe.transformer.named_modules()} == modules


def arguments_of_every_kind():
    generator = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    return dict(
        hidden_states=noise(BATCH, 4, 16),
        encoder_hidden_states=noise(BATCH, 6, 32),
        pooled_projections=noise(BATCH, 32),
        timestep=noise(BATCH),
        guidance=noise(1),
        img_ids=noise(4, 3),
        txt_ids=noise(6, 3),
        joint_attention_kwargs={"scale": 0.5, "ip_adapter_image_embeds": [noise(BATCH, 1, 32)]},
        controlnet_block_samples=[noise(BATCH, 4, 32), noise(BATCH, 4, 32)],
        controlnet_single_block_samples=(noise(BATCH, 4, 32),),
        controlnet_blocks_repeat=True,
        return_dict=False,
    )


def test_take_knows_every_argument_of_the_transformer():
    parameters = list(inspect.signature(FluxTransformer2DModel.forward).parameters)[1:]
    arguments = arguments_of_every_kind()
    assert set(arguments) == set(parameters)
    model = make_transformer()
    family = FluxFamily(model)
    taken = take(family, arguments, [2, 0])
    assert list(taken) == list(arguments)
    for name in ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep"):
        assert torch.equal(taken[name], arguments[name][[2, 0]])
    for name in ("guidance", "img_ids", "txt_ids", "controlnet_blocks_repeat", "return_dict"):
        assert taken[name] is arguments[name]
    for name in ("controlnet_block_samples", "controlnet_single_block_samples"):
        assert type(taken[name]) is type(arguments[name])
        assert all(torch.equal(a, b[[2, 0]]) for a, b in zip(taken[name], arguments[name], strict=True))
    attention, before = taken["joint_attention_kwargs"], arguments["joint_attention_kwargs"]
    assert attention["scale"] == 0.5 and attention is not before
    assert torch.equal(attention["ip_adapter_image_embeds"][0], before["ip_adapter_image_embeds"][0][[2, 0]])
    # Ids that happen to be as long as the batch are still no samples.
    assert take(family, arguments | dict(img_ids=torch.zeros(BATCH, 3)), [1])["img_ids"].shape == (BATCH, 3)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (dict(pooled_projections=torch.zeros(2, 32)), r"pooled_projections .* 3, got shape \(2, 32\)"),
        (
            dict(controlnet_block_samples=[torch.zeros(6, 4, 32)]),
            r"controlnet_block_samples\[0\] .*\(6, 4, 32\)",
        ),
        (
            dict(joint_attention_kwargs={"attention_mask": None}),
            r"joint_attention_kwargs\['attention_mask'\]",
        ),
        (dict(joint_attention_kwargs={"own": [torch.zeros(3)]}), r"joint_attention_kwargs\['own'\]"),
        (dict(extra={"a": torch.zeros(3)}), "extra is not known"),
    ],
)
def test_what_cannot_be_split_raises_by_name(change, text):
    model = make_transformer()
    with pytest.raises(NotImplementedError, match=rf"batch='split': {text}"):
        take(FluxFamily(model), arguments_of_every_kind() | change, [0])


def test_join_restores_the_order():
    rows = torch.arange(10.0).view(5, 2)
    parts = [([3, 0], rows[[3, 0]]), ([4], rows[[4]]), ([1, 2], rows[[1, 2]])]
    assert torch.equal(join(parts), rows)
    assert torch.equal(join([(samples, (part,)) for samples, part in parts])[0], rows)
    objects = [(samples, Transformer2DModelOutput(sample=part)) for samples, part in parts]
    assert torch.equal(join(objects).sample, rows)
    with pytest.raises(NotImplementedError, match="output is a set"):
        join([([0], {1})])


def test_guidance_in_one_call_of_twice_the_batch():
    """A loop of a user's own, whose sampler has B samples and whose transformer call 2B: both halves alike."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    loop = Loop(pipe, batch=2)
    doubled = {
        name: torch.cat([value, value * 0.5])
        if name in ("encoder_hidden_states", "pooled_projections")
        else value
        for name, value in loop.arguments.items()
    }
    results = []
    for joined in (True, False):
        pipe.scheduler.set_timesteps(9, mu=0.7)
        latents = loop.latents
        for t in pipe.scheduler.timesteps:
            with torch.no_grad():
                sigma = torch.full((4,), float(t) / 1000)
                if joined:
                    both = dict(doubled, hidden_states=torch.cat([latents, latents]), timestep=sigma)
                    positive, negative = pipe.transformer(**both)[0].chunk(2)
                else:
                    half = {
                        name: doubled[name] * 1 for name in ("encoder_hidden_states", "pooled_projections")
                    }
                    one = {name: value[:2] for name, value in half.items()}
                    two = {name: value[2:] for name, value in half.items()}
                    beside = dict(loop.arguments, hidden_states=latents, timestep=sigma[:2])
                    positive = pipe.transformer(**beside | one)[0]
                    negative = pipe.transformer(**beside | two)[0]
            velocity = negative + 2.0 * (positive - negative)
            latents = pipe.scheduler.step(velocity, t, latents, return_dict=False)[0]
        results.append(
            (latents, [row[:2] for row in sizes_of(handle)])
        )  # of 2B rows where there are no scores
    assert any(len(set(row)) > 1 for row in results[0][1])
    assert results[0][1] == results[1][1]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)


def test_a_call_with_another_number_of_rows_raises():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    assert isinstance(pipe.transformer, FluxTransformer2DModel)
    loop = Loop(pipe, batch=3)
    with handle.run():
        loop.call(0.9)
        find_hook(pipe.transformer).watch.run.state.sizes = [1, 2]
        with pytest.raises(
            NotImplementedError, match="batch='split': the sampler has 2 samples.* call has 3"
        ):
            loop.call(0.9)
