"""scripts/check_cuda_kernels.py finds what makes kernels slow, and only that."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
machine_code = pytest.importorskip("_machine_code")
waves = pytest.importorskip("_waves")


def kernel(*lines: str) -> machine_code.Kernel:
    """From instructions 16 bytes apart, the first at 0."""
    code = "".join(f"        /*{16 * i:04x}*/    {line} ;    /* 0x0 */\n" for i, line in enumerate(lines))
    (found,) = machine_code.read(f"\t\tFunction : _Z1kv\n{code}")
    return found


def loop(*body: str) -> list[str]:
    """The body from 0x10 on, again and again; then the end, with the jump to itself that every kernel has."""
    end = 16 * (len(body) + 3)
    return ["MOV R0, RZ", *body, "@P0 BRA 0x10", "EXIT", f"BRA {end:#x}"]


def test_finds_loops_inside_loops():
    found = kernel(
        "MOV R0, RZ",
        "IADD3 R0, R0, 0x1, RZ",  # 0x10: the outer loop
        "FADD R1, R1, R2",  # 0x20: the inner one
        "@P0 BRA 0x20",
        "@P1 BRA 0x10",
        "EXIT",
    )
    assert {(loop.start, loop.size, loop.innermost) for loop in found.loops} == {
        (0x10, 4, False),
        (0x20, 2, True),
    }


def test_a_call_that_never_comes_back_is_a_jump():
    found = kernel(
        "MOV R0, RZ", "FADD R1, R1, R2", "@P0 CALL.REL.NOINC 0x40", "BRA 0x10", "@P1 BRA 0x0", "EXIT"
    )
    assert {(loop.size, loop.innermost) for loop in found.loops} == {(5, False), (3, True)}


@pytest.mark.parametrize("others, problem", [(11, None), (12, "13 instructions a copy, at most 12")])
def test_instructions_of_a_copy(others, problem):
    found = machine_code.problems(
        kernel(*loop("LDGSTS.E [R1], [R2.64]", *["IADD3 R1, R1, 0x1, RZ"] * (others - 1)))
    )
    assert len(found) == (problem is not None) and all(problem in line for line in found)


@pytest.mark.parametrize("others, problem", [(10, None), (60, "of it are tensor-core instructions")])
def test_share_of_the_tensor_cores(others, problem):
    copies = ["LDGSTS.E [R1], [R2.64]"] * 8
    body = [*copies, "LDSM.16.M88.4 R4, [R1]", *["HMMA.16816.F32.BF16 R8, R4, R6, R8"] * 4]
    found = machine_code.problems(kernel(*loop(*body, *["IADD3 R1, R1, 0x1, RZ"] * others)))
    assert len(found) == (problem is not None) and all(problem in line for line in found)


@pytest.mark.parametrize(
    "slow, name",
    [
        ("S2R R3, SR_TID.X", "S2R"),
        ("LDC R3, c[0x0][0x210]", "LDC"),
        ("I2F.U32.RP R3, R4", "an integer division"),
        ("ST.E [R6], R3", "an access to any kind of memory"),
    ],
)
def test_what_stands_in_no_inner_loop(slow, name):
    found = machine_code.problems(kernel(*loop("LDG.E R3, [R4.64]", "FADD R5, R5, R3", slow)))
    assert len(found) == 1 and name in found[0]
    assert not machine_code.problems(kernel(*loop("FADD R5, R5, R3", "IADD3 R1, R1, 0x1, RZ")))


def test_what_only_moves_has_few_instructions():
    read_and_write = ["LDG.E R3, [R4.64]", "STG.E [R6.64], R3"]
    adds = ["IADD3 R4, R4, 0x1, RZ"]
    assert not machine_code.problems(kernel(*loop(*read_and_write, *adds * 20)))
    (problem,) = machine_code.problems(kernel(*loop(*read_and_write, *adds * 30)))
    assert "16 instructions a move, at most 12" in problem


def test_a_factor_on_the_way_is_no_move():
    read_and_write = [
        "LDG.E R3, [R4.64]",
        "FMUL R3, R3, R7",
        "F2FP.BF16.F32.PACK_AB R3, R3, R8",
        "STG.E [R6.64], R3",
    ]
    adds = ["IADD3 R4, R4, 0x1, RZ"]
    assert not machine_code.problems(kernel(*loop(*read_and_write, *adds * 20)))
    (problem,) = machine_code.problems(kernel(*loop(*read_and_write, *adds * 30)))
    assert "16 instructions a move, at most 12" in problem
    # What adds up as well has another purpose than to move.
    assert not machine_code.problems(kernel(*loop(*read_and_write, "FADD R9, R9, R3", *adds * 30)))


def test_how_blocks_fill_a_gpu():
    gpu = waves.Gpu("one", "90a", 132, 228 * 1024)
    few = waves.fill(waves.Launch("k", 64, 128, 66_560), waves.Resources(85, 1024), gpu)
    assert few.idle and few.resident == 3 and few.evenness == pytest.approx(64 / 132)
    many = waves.fill(waves.Launch("k", 302, 256, 0), waves.Resources(128, 0), gpu)
    assert not many.idle and many.resident == 2 and many.waves == pytest.approx(302 / 264)
    assert many.evenness == pytest.approx(302 / (3 * 132))


@pytest.mark.parametrize("multiprocessors", [2, 132])
def test_launches_of_real_sizes(multiprocessors):
    """What the op would launch, without a run: more blocks where there are more multiprocessors."""
    import os

    import torch

    library = Path(os.environ.get("DDIT_EXT_EMULATION_LIBRARY", ROOT / "build/emulation/libddit_ext_emu.so"))
    if not library.is_file():
        pytest.skip("the emulation is not built")
    torch.ops.load_library(str(library))
    calls = dict(waves.calls())
    (launch,) = waves.launches(library, calls["patch_embed, FLUX 1024x1024, scale 2"], multiprocessors)
    assert launch.kernel == "scale_patches<4, __nv_bfloat16, __nv_bfloat16>" and launch.threads == 256
    assert (launch.blocks >= 132) == (multiprocessors == 132)
    assert not waves.launches(library, calls["patch_embed, FLUX 1024x1024, scale 1"], multiprocessors)
