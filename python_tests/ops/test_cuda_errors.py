"""Errors of a GPU and its driver, at the op that met them; csrc/ops/cuda_status.cpp on the emulated GPU."""

import pytest
import torch
from op_cases import deembed_arguments, embed_arguments

import ddit_ext

NO_KERNEL, INVALID_FUNCTION, OLD_DRIVER, NO_DEVICE, NEWER_PTX = 209, 98, 35, 100, 222  # as CUDA numbers them
OUT_OF_RESOURCES, ILLEGAL_ADDRESS, LAUNCH_FAILURE = 701, 700, 719


def quantile_arguments() -> dict:
    return {f"z{i}": torch.randn(1, 1, 4, 4, 2, 2, 2) for i in range(4)} | {"scales": [1, 2], "quantile": 0.5}


CALLS = {
    "patch_embed": embed_arguments,
    "patch_deembed": deembed_arguments,
    "acceleration_quantiles": quantile_arguments,
}
every_op = pytest.mark.parametrize("op", CALLS)


@pytest.fixture
def failure(impl, monkeypatch):
    """failure(op, error): the text of the RuntimeError that the op raises where CUDA gives this error."""
    if impl.name != "emu":
        pytest.skip("the emulated GPU fails on demand")

    def of(op: str, error: int, **settings: str) -> str:
        run = getattr(impl.ops, op)
        arguments = CALLS[op]().values()
        expected = run(*arguments)
        with monkeypatch.context() as environment:
            environment.setenv("DDIT_EMULATION_ERROR", str(error))
            for name, value in settings.items():
                environment.setenv(f"DDIT_EMULATION_{name}", value)
            with pytest.raises(RuntimeError) as raised:
                run(*arguments)
        assert torch.equal(run(*arguments), expected)  # the next call is well again
        return str(raised.value)

    return of


@every_op
@pytest.mark.parametrize("error", [NO_KERNEL, INVALID_FUNCTION])
def test_a_gpu_without_a_compiled_architecture(failure, op, error):
    assert failure(op, error, CAPABILITY="12.1") == (
        f"{op}: Emulated GPU has compute capability 12.1, but this build of ddit_ext holds kernels for 80-real 90-real "
        "only; set TORCH_CUDA_ARCH_LIST=12.1 and build again"
    )


@every_op
def test_a_gpu_that_is_too_old(failure, op):
    assert failure(op, NO_KERNEL, CAPABILITY="7.5") == (
        f"{op}: Emulated GPU has compute capability 7.5, but this build of ddit_ext holds kernels for 80-real 90-real "
        "only; they need 8.0 or later"
    )


@every_op
@pytest.mark.parametrize("error", [OLD_DRIVER, NO_DEVICE])
def test_a_missing_driver(failure, op, error):
    assert failure(op, error, DRIVER="0") == (
        f"{op}: this build of ddit_ext (CUDA 13.0, kernels for 80-real 90-real) found no NVIDIA driver"
    )


@every_op
@pytest.mark.parametrize("error", [OLD_DRIVER, NEWER_PTX])
def test_an_old_driver(failure, op, error):
    assert failure(op, error, DRIVER="12040") == (
        f"{op}: this build of ddit_ext (CUDA 13.0, kernels for 80-real 90-real) needs a newer NVIDIA driver than the "
        "one found, which supports CUDA 12.4: update the driver, or build ddit_ext with a CUDA toolkit of at most 12.4"
    )


@every_op
def test_a_launch_that_fails(failure, op):
    assert failure(op, OUT_OF_RESOURCES) == (
        f"{op}: cudaErrorLaunchOutOfResources: too many resources requested for launch"
    )


@every_op
@pytest.mark.parametrize(
    "error, text",
    [
        (ILLEGAL_ADDRESS, "cudaErrorIllegalAddress: an illegal memory access was encountered"),
        (LAUNCH_FAILURE, "cudaErrorLaunchFailure: unspecified launch failure"),
    ],
)
def test_a_kernel_that_failed_before_is_not_blamed_on_the_op(failure, op, error, text):
    assert failure(op, error) == (
        f"{op}: {text}; a kernel failed while it ran, this op's or one launched before it: with "
        "CUDA_LAUNCH_BLOCKING=1 the error comes from the op that caused it"
    )


@every_op
@pytest.mark.skipif(ddit_ext.build_info().cuda, reason="this build has CUDA kernels")
def test_a_build_without_kernels(op):
    """There is no CUDA tensor without a GPU, but the function that torch would call with one is there."""
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(RuntimeError) as raised:
        getattr(torch.ops.ddit_ext, op).default.redispatch(cuda, *CALLS[op]().values())
    assert str(raised.value) == (
        f"{op}: this build of ddit_ext holds no CUDA kernels; build it again where nvcc is, with DDIT_EXT_CUDA=ON"
    )
