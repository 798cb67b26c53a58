"""A patched transformer whose weights are moved or fetched between calls: accelerate's and diffusers' offloading."""

import accelerate
import pytest
import torch
from adapters import trained_adapter
from diffusers import FluxTransformer2DModel
from family_cases import BY_NAME, captured
from flux_pipelines import make_call, make_pipeline, run

import ddit_ext
from ddit_ext import Forecast, TeaCache
from ddit_ext.coarse import Adapter

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def test_accelerate_hooks_come_and_go():
    """Model offload removes and adds its hooks after every run."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=2)
    expected = run(pipe, make_call(steps=2))
    for _ in range(2):
        _, hook = accelerate.cpu_offload_with_hook(pipe.transformer, execution_device="cpu")
        assert torch.equal(run(pipe, make_call(steps=2)), expected)
        hook.offload()
        hook.remove()
    assert torch.equal(run(pipe, make_call(steps=2)), expected)
    handle.unpatch()


@pytest.mark.parametrize("patch_first", [True, False])
@pytest.mark.parametrize("kind", ["text", "kontext"])
def test_sequential_offload(patch_first, kind):
    pipe, call = make_pipeline(kind), make_call(kind, steps=2)
    adapter = trained_adapter(pipe.transformer)
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    expected = run(pipe, call)
    plain_free = None
    if not patch_first:
        handle.unpatch()
        handle = ddit_ext.patch(pipe, schedule=2)
        plain_free = run(pipe, call)
        handle.unpatch()
    for module in (pipe.vae, pipe.transformer):  # as enable_sequential_cpu_offload does, but without a GPU
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    assert pipe.transformer.x_embedder.weight.device.type == "meta"
    if not patch_first:
        free = ddit_ext.patch(pipe, schedule=2)
        assert torch.equal(run(pipe, call), plain_free)
        free.unpatch()
        handle = ddit_ext.patch(pipe, adapter, schedule=2)
    assert torch.equal(run(pipe, call), expected)
    handle.unpatch()
    run(pipe, call)


def test_group_offload():
    pipe, call = make_pipeline("kontext"), make_call("kontext", steps=2)
    ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=2)
    expected = run(pipe, call)
    cpu = torch.device("cpu")
    pipe.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    assert torch.equal(run(pipe, call), expected)


@pytest.mark.parametrize("lora", ["beside", "merged"])
@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload_to_disk_before_patch(kind, lora, tmp_path):
    """What lies in memory between calls is empty: weights and fingerprint are read from the files."""
    pipe, call = make_pipeline(), make_call(steps=3)
    trained_adapter(pipe.transformer).save(tmp_path / "adapter")
    with ddit_ext.patch(pipe, tmp_path / "adapter", schedule=2):
        expected = run(pipe, call)
    with ddit_ext.patch(pipe, Adapter.training_free(pipe.transformer, (2,)), schedule=[1, 2, 1]):
        free = run(pipe, call)
    with ddit_ext.patch(pipe, schedule=TeaCache(0.3)) as handle:
        skipped = run(pipe, call)
    scales = [step["scale"] for step in handle.report().to_dict()["steps"]]
    cpu = torch.device("cpu")
    pipe.transformer.enable_group_offload(
        onload_device=cpu,
        offload_device=cpu,
        offload_type=kind,
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path / "disk"),
    )
    adapter = Adapter.load(tmp_path / "adapter", pipe.transformer, lora=lora)
    with ddit_ext.patch(pipe, adapter, schedule=2):
        torch.testing.assert_close(run(pipe, call), expected)  # loaded weights lie elsewhere in memory
    with ddit_ext.patch(pipe, schedule=[1, 2, 1]):
        torch.testing.assert_close(run(pipe, call), free)
    with ddit_ext.patch(pipe, schedule=TeaCache(0.3)) as handle:
        again = run(pipe, call)
    report = handle.report().to_dict()
    if report["warnings"]:  # the first block's input can't be told: nothing is skipped, and a run says so
        assert {step["scale"] for step in report["steps"]} == {1}
    else:
        torch.testing.assert_close(again, skipped)
        assert [step["scale"] for step in report["steps"]] == scales


@pytest.mark.parametrize("name", ["Wan 2.1", "Stable Diffusion 3", "Qwen-Image", "HunyuanVideo 1.5"])
def test_positions_lie_where_the_latents_do(name, monkeypatch):
    """Model offload brings the model's tables there within the call alone. `meta` is another device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # meta has none
    case = captured(BY_NAME[name], 1)
    arguments = {
        key: value.to("meta") if isinstance(value, torch.Tensor) else value
        for key, value in case.arguments.items()
    }
    weights = Adapter.training_free(case.transformer, (2,)).own(2).to("meta")
    with case.family.coarse(arguments, weights, torch.tensor([0.5], device="meta")):
        stand_ins = [
            each for each in case.transformer.modules() if type(each).__module__.startswith("ddit_ext")
        ]
    held = [each for one in stand_ins for each in vars(one).values() if isinstance(each, torch.Tensor)]
    assert held and all(each.is_meta for each in held)


@pytest.mark.parametrize("name", ["Wan 2.1", "Stable Diffusion 3"])
def test_tables_of_positions_that_are_on_disk_until_a_call(name, tmp_path):
    """What lies in memory in their place is not set."""
    case = BY_NAME[name]
    pipe = case.build()
    with ddit_ext.patch(pipe, schedule=2):
        expected = case.run(pipe, 1, steps=2)
    cpu = torch.device("cpu")
    pipe.transformer.enable_group_offload(
        onload_device=cpu,
        offload_device=cpu,
        offload_type="block_level",
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path),
    )
    with ddit_ext.patch(pipe, schedule=2):
        torch.testing.assert_close(case.run(pipe, 1, steps=2), expected)


def every_second_on_disk(transformer):
    return {name: ("cpu", "disk")[place % 2] for place, (name, _) in enumerate(transformer.named_children())}


def all_on_disk(pipe, folder):
    accelerate.disk_offload(pipe.transformer, str(folder), execution_device=torch.device("cpu"))


def some_on_disk(pipe, folder):
    accelerate.dispatch_model(
        pipe.transformer, every_second_on_disk(pipe.transformer), main_device="cpu", offload_dir=str(folder)
    )


def loaded_by_device_map(pipe, folder):
    pipe.transformer.save_pretrained(folder / "saved")
    pipe.transformer = FluxTransformer2DModel.from_pretrained(
        folder / "saved", device_map=every_second_on_disk(pipe.transformer), offload_folder=str(folder)
    )


STRATEGIES = {
    "trained": dict(schedule=[1, 2, 2, 1, 1, 1]),
    "training-free": dict(schedule=[1, 2, 1, 1, 1, 1]),
    "split": dict(threshold=1e9, batch="split"),
    "skipped": dict(schedule=[1, 0, 1, 1, 0, 1]),
    "tea cache": dict(schedule=TeaCache(0.3)),
    "forecast": dict(schedule=Forecast(calls=3)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STRATEGIES)
def test_weights_that_accelerate_keeps_on_disk(name, tmp_path):
    """What stands in the model between calls is on the meta device, patched before or after."""
    call = make_call(steps=6)

    def patched(pipe):
        adapter = trained_adapter(pipe.transformer) if name in ("trained", "split") else None
        handle = ddit_ext.patch(pipe, adapter, **STRATEGIES[name])
        return handle, run(pipe, call)

    def scales(handle):
        return [step["scale"] for step in handle.report().to_dict()["steps"]]

    handle, expected = patched(make_pipeline())
    for place, offload in enumerate((all_on_disk, some_on_disk, loaded_by_device_map)):
        pipe, folder = make_pipeline(), tmp_path / str(place)
        folder.mkdir()
        accelerate.cpu_offload(pipe.vae, execution_device=torch.device("cpu"))
        offload(pipe, folder)
        assert "meta" in {weight.device.type for weight in pipe.transformer.parameters()}
        offloaded, found = patched(pipe)
        torch.testing.assert_close(found, expected)  # loaded weights lie elsewhere in memory
        assert scales(offloaded) == scales(handle)
        offloaded.unpatch()
    pipe = make_pipeline()
    patched(pipe)
    accelerate.cpu_offload(pipe.vae, execution_device=torch.device("cpu"))
    all_on_disk(pipe, tmp_path / "after")
    torch.testing.assert_close(run(pipe, call), expected)


def test_a_placeholder_whose_weights_nobody_holds_is_refused_by_name():
    pipe = make_pipeline()
    pipe.transformer.x_embedder.to("meta")
    with pytest.raises(
        ValueError, match="x_embedder.weight: expected values, got a placeholder on the meta device"
    ):
        ddit_ext.patch(pipe, schedule=2)
