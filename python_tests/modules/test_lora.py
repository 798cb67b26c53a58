"""The low-rank addition around whatever module stands in the model."""

import copy
from contextlib import contextmanager

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading, apply_layerwise_casting
from peft import LoraConfig, get_peft_model
from tiny_flux import tiny_flux
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ddit_ext.coarse.base_weights import feed_forward_layers
from ddit_ext.modules.diffusers_hooks import MOVING
from ddit_ext.modules.lora import LowRank, LowRankLinear


def low_rank(fan_in=6, fan_out=5, rank=2, scale=0.5):
    module = LowRank(fan_in, fan_out, rank, scale)
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module


def test_it_adds_nothing_at_the_start():
    base, x = nn.Linear(6, 5), torch.randn(3, 6)
    assert torch.equal(LowRankLinear(base, low_rank())(x), base(x))


def trained(fan_in=6, fan_out=5, rank=2, scale=0.5):
    """An addition that does not vanish, for inference."""
    module = low_rank(fan_in, fan_out, rank, scale)
    nn.init.normal_(module.b, generator=torch.Generator().manual_seed(1))
    return module.requires_grad_(False)


def exact(base, addition, x):
    """In float64, from the very weights."""
    weight = base.weight.double() + addition.scale * addition.b.double() @ addition.a.double()
    return nn.functional.linear(x.double(), weight, base.bias.double())


@contextmanager
def gradients(on):
    with torch.enable_grad() if on else torch.inference_mode():
        yield


EPSILONS = {torch.float64: 1e-15, torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7}


# A scale of 1/4 or more keeps the addition as large as the rest.
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", EPSILONS)
@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6), (0, 6), (2, 0, 6)])
def test_it_equals_the_merged_weight(shape, dtype, grad):
    torch.manual_seed(0)
    base = nn.Linear(6, 5).requires_grad_(False).to(dtype)
    addition, x = trained().to(dtype), torch.randn(shape).to(dtype)
    with gradients(grad):
        y = LowRankLinear(base, addition)(x)
    assert y.dtype == dtype and y.shape == (*shape[:-1], 5)
    # Roundings of the base's output, of A x, of the sum: each within epsilon of values of at most 8.
    torch.testing.assert_close(y.double(), exact(base, addition, x), rtol=0, atol=8 * 3 * EPSILONS[dtype])


class Strided(nn.Linear):
    """Its output is not contiguous, as that of a product written the other way round."""

    def forward(self, x):
        return super().forward(x).transpose(0, 1).contiguous().transpose(0, 1)


class Coded(nn.Module):
    """As quantised layers are: codes and a scale, no weight that others could read; output of its own dtype."""

    def __init__(self, base, dtype):
        super().__init__()
        self.step, self.dtype, self.bias = base.weight.abs().max() / 127, dtype, base.bias
        self.codes = (base.weight / self.step).round().to(torch.int8)

    def forward(self, x):
        return nn.functional.linear(x.float(), self.codes * self.step, self.bias.float()).to(self.dtype)


@pytest.mark.parametrize("grad", [True, False])
def test_other_bases(grad):
    torch.manual_seed(0)
    plain, addition, x = nn.Linear(6, 5), trained(), torch.randn(4, 3, 6)
    with_lora = get_peft_model(
        nn.Sequential(copy.deepcopy(plain)), LoraConfig(r=2, target_modules=["0"], init_lora_weights=False)
    ).base_model.model[0]
    strided = Strided(6, 5)
    strided.load_state_dict(plain.state_dict())
    for base in (strided, with_lora, Coded(plain, torch.float32), Coded(plain, torch.bfloat16)):
        with gradients(grad):
            y = LowRankLinear(base, addition)(x)
            expected = base(x) + addition(x)
        assert y.dtype == expected.dtype
        torch.testing.assert_close(y, expected)


def test_a_base_in_another_dtype_than_its_input():
    base, addition, x = Coded(nn.Linear(6, 5), torch.float32), trained(), torch.randn(3, 6).bfloat16()
    with torch.no_grad():
        y = LowRankLinear(base, addition)(x)
        torch.testing.assert_close(y, base(x) + addition(x))
    assert y.dtype == torch.float32


class Allocations(TorchDispatchMode):
    """Every memory that an operation returns anew: (its name, elements)."""

    def __init__(self):
        super().__init__()
        self.known, self.found = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = {
            t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                self.known.append(tensor)  # kept alive, so that no address is met twice
                self.found.append((func.overloadpacket.__name__, tensor.numel()))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_allocates_no_second_activation(dtype):
    """The base's output and the rank's numbers, in two products beside the base's."""
    x = torch.randn(2, 10, 64).to(dtype)
    layer = LowRankLinear(nn.Linear(64, 256), trained(64, 256, rank=4)).to(dtype).requires_grad_(False)
    with torch.no_grad(), Allocations() as allocations:
        layer(x)
    assert allocations.found == [("addmm", 20 * 256), ("mm", 20 * 4)]


def test_what_a_hook_on_the_base_keeps_is_not_overwritten():
    base, seen, x = nn.Linear(6, 5), [], torch.randn(3, 6)
    base.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        y = LowRankLinear(base, trained())(x)
    assert torch.equal(seen[0], nn.functional.linear(x, base.weight, base.bias))
    assert not torch.equal(seen[0], y)


class Keeping(ModelHook):
    """As TaylorSeer does."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def post_forward(self, module, output):
        self.kept.append(output)
        return output


def test_what_a_hook_of_diffusers_keeps_is_not_overwritten():
    base, hook, x = nn.Linear(6, 5), Keeping(), torch.randn(3, 6)
    HookRegistry.check_if_exists_or_initialize(base).register_hook(hook, "keeping")
    with torch.no_grad():
        y = LowRankLinear(base, trained())(x)
    assert torch.equal(hook.kept[0], nn.functional.linear(x, base.weight, base.bias))
    assert not torch.equal(hook.kept[0], y)


def cast(base):
    apply_layerwise_casting(base, torch.bfloat16, torch.float32, skip_modules_pattern=None)


def offloaded(base, **options):
    apply_group_offloading(base, torch.device("cpu"), offload_type="leaf_level", **options)


def no_longer_kept(base):
    registry = HookRegistry.check_if_exists_or_initialize(base)
    registry.register_hook(Keeping(), "keeping")
    registry.remove_hook("keeping")


@pytest.mark.parametrize("hook", [cast, offloaded, no_longer_kept])
def test_hooks_that_only_bring_weights_cost_no_memory(hook):
    """Layers that are offloaded or cast are so where memory is short."""
    base = nn.Linear(64, 256).requires_grad_(False)
    hook(base)
    assert hasattr(base, "_diffusers_hook")
    layer = LowRankLinear(base, trained(64, 256, rank=4))
    with torch.no_grad(), Allocations() as allocations:
        layer(torch.randn(20, 64))
    large = [name for name, elements in allocations.found if elements == 20 * 256]
    assert large == ["addmm"]


def test_hooks_that_only_bring_weights_are_known_by_name():
    from diffusers.hooks import group_offloading, layerwise_casting

    assert MOVING == {
        group_offloading._GROUP_OFFLOADING,
        group_offloading._LAYER_EXECUTION_TRACKER,
        group_offloading._LAZY_PREFETCH_GROUP_OFFLOADING,
        layerwise_casting._LAYERWISE_CASTING_HOOK,
        layerwise_casting._PEFT_AUTOCAST_DISABLE_HOOK,
    }


def test_its_factors_follow_the_input_to_another_device():
    """A transformer may be spread over several; `meta` is another one."""
    base, addition, x = nn.Linear(6, 5, device="meta"), trained(), torch.randn(3, 6, device="meta")
    a, b = addition._factors(x)
    assert a.is_meta and b.is_meta and LowRankLinear(base, addition)(x).is_meta


def test_its_gradients_are_those_of_the_sum():
    base, addition = nn.Linear(6, 5).double(), trained().double().requires_grad_()
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    leaves = (x, base.weight, addition.a, addition.b)
    weights = torch.randn(2, 3, 5, dtype=torch.float64)
    found = torch.autograd.grad((LowRankLinear(base, addition)(x) * weights).sum(), leaves)
    expected = torch.autograd.grad(((base(x) + addition(x)) * weights).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_it_compiles_as_one_graph():
    layer, x = LowRankLinear(nn.Linear(6, 5), trained()), torch.randn(2, 3, 6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(compiled(x), layer(x))


def test_it_follows_autocast_and_trains_in_float32():
    base, addition = nn.Linear(6, 5).requires_grad_(False), low_rank()
    with torch.autocast("cpu", torch.bfloat16):
        y = LowRankLinear(base, addition)(torch.randn(3, 6))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert addition.b.grad.dtype == torch.float32 and addition.b.grad.abs().sum() > 0


def test_gradient_checkpointing_gives_the_same_gradients():
    x = torch.randn(3, 6)
    gradients = []
    for wrapped in (False, True):
        addition = low_rank()
        nn.init.ones_(addition.b)
        torch.manual_seed(0)
        layer = LowRankLinear(nn.Linear(6, 5), addition)
        y = checkpoint(layer, x, use_reentrant=False) if wrapped else layer(x)
        y.square().sum().backward()
        gradients.append(addition.a.grad)
    assert torch.equal(*gradients)


def test_it_answers_for_the_base_modules_attributes():
    base = nn.Linear(6, 5)
    layer = LowRankLinear(base, low_rank())
    assert layer.in_features == 6 and layer.weight is base.weight
    with pytest.raises(AttributeError, match="nonsense"):
        _ = layer.nonsense


def test_flux_targets_are_the_feed_forward_layers():
    names = {
        "transformer_blocks.0.ff.net.0.proj": (32, 128),
        "transformer_blocks.0.ff.net.2": (128, 32),
        "transformer_blocks.0.ff_context.net.0.proj": (32, 128),
        "transformer_blocks.0.ff_context.net.2": (128, 32),
        "single_transformer_blocks.0.proj_mlp": (32, 128),
        "single_transformer_blocks.0.proj_out": (160, 32),
    }
    transformer = tiny_flux()
    assert feed_forward_layers(transformer) == names
    transformer.add_adapter(LoraConfig(r=2, target_modules=["ff.net.2", "proj_mlp"]))
    assert feed_forward_layers(transformer) == names


def test_rank_must_be_positive():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        LowRank(6, 5, 0)
