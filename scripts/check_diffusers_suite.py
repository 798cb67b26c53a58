"""Runs diffusers' own tests on pipelines that ddit_ext has patched, and compares with the same tests without a patch.

    python scripts/check_diffusers_suite.py [--diffusers CHECKOUT] [--only z_image ...] [--modes forecast ...] [--results FILE]

CHECKOUT: a clone of diffusers, of the installed version or near it; else that version's tag is cloned. Its wheel has no tests.
What passes without a patch and calls a pipeline is run in each mode. With schedule=1 all of it must pass, with the same bits;
in the other modes what fails must be on the list of _diffusers_differences.py, with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from _diffusers_differences import KNOWN
from _diffusers_hub import make_hub

HERE = Path(__file__).resolve().parent
SOURCE = "https://github.com/huggingface/diffusers"
NEEDED = ("parameterized", "pytest-timeout", "sentencepiece", "ftfy", "wcwidth", "requests-mock")
"""What diffusers' tests import beside what ddit_ext needs."""

FAMILIES = {
    "flux": ["pipelines/flux", "pipelines/controlnet_flux", "lora/test_lora_layers_flux.py"],
    "flux2": ["pipelines/flux2"],
    "hunyuan_video15": ["pipelines/hunyuan_video1_5"],
    "qwen_image": ["pipelines/qwenimage"],
    "sd3": ["pipelines/stable_diffusion_3", "pipelines/controlnet_sd3"],
    "wan": ["pipelines/wan", "lora/test_lora_layers_wan.py", "lora/test_lora_layers_wanvace.py"],
    "z_image": ["pipelines/z_image"],
}
"""The tests of each family, below diffusers' tests/: files or folders. A family more is a line more."""

MODES = ("schedule=1", "schedule=2", "forecast")
LEFT_OUT = ("Slow", "Integration", "Nightly")
"""Tests of full-size models."""


@dataclass
class Outcomes:
    """What one mode's tests did: each test's outcome and the first line of its error, and the bits of each call's output.

    scales: of all steps of patched pipelines.
    """

    tests: dict[str, tuple[str, str]] = field(default_factory=dict)
    bits: dict[tuple[str, int], str] = field(default_factory=dict)
    scales: Counter = field(default_factory=Counter)

    @classmethod
    def read(cls, path: Path) -> Outcomes:
        found = cls()
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            test = entry["test"]
            if "bits" in entry:
                found.bits[test, entry["call"]] = entry["bits"]
                found.scales.update(entry["scales"])
            elif found.tests.get(test, ("passed", ""))[0] != "failed":
                found.tests[test] = entry["outcome"], entry["text"].strip().partition("\n")[0]
        return found

    def telling(self) -> list[str]:
        """Tests that pass and call a pipeline: a patch can make a difference to no other."""
        calling = {test for test, _ in self.bits}
        return [test for test, (outcome, _) in self.tests.items() if outcome == "passed" and test in calling]


def checkout(folder: Path) -> Path:
    """A clone of the installed version."""
    tag = f"v{version('diffusers')}"
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, SOURCE, str(folder)]
    if subprocess.run(command).returncode:
        raise SystemExit(
            f"could not clone {SOURCE} at {tag}: give a clone by --diffusers or DIFFUSERS_CHECKOUT"
        )
    return folder


def prepare(root: Path, source: Path) -> None:
    """A folder to run the tests in: they, what they import, and the stand-ins for what they would download."""
    if not (source / "tests" / "pipelines").is_dir():
        raise SystemExit(f"--diffusers: expected a clone of diffusers, with its tests/, got {source}")
    (root / "tests").symlink_to(source.resolve() / "tests")
    where = ["--no-deps", "--target", str(root / "needed")]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *where, *needed()], check=True)
    make_hub(root)


def needed() -> list[str]:
    """What is installed for the tests: torchvision of the installed torch's release, 0.15 for 2.0, 0.28 for 2.13, too."""
    return [*NEEDED, f"torchvision==0.{15 + int(version('torch').split('.')[1])}.*"]


def run(root: Path, mode: str, tests: Sequence[str], only: Collection[str] = ()) -> Outcomes:
    """The tests of files and folders in one mode; only: by name, all where there are none."""
    log, names = root / f"{mode}.jsonl", root / f"{mode}.txt"
    names.write_text("\n".join(only))
    path = [str(HERE), str(HERE.parent), str(root / "needed"), os.environ.get("PYTHONPATH", "")]
    surroundings = {
        "SUITE_MODE": mode,
        "SUITE_LOG": str(log),
        "SUITE_ONLY": str(names),
        "PYTHONPATH": os.pathsep.join(path),
        "DIFFUSERS_TEST_DEVICE": "cpu",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
    }
    chosen = " and ".join(f"not {word}" for word in LEFT_OUT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "_diffusers_plugin", "-p", "no:cacheprovider"]
    command += ["--tb=short", "--timeout=300", "-W", "ignore", "-k", chosen, *tests]
    done = subprocess.run(command, cwd=root, env=os.environ | surroundings, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"pytest ended with {done.returncode} in mode {mode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return Outcomes.read(log)


def differences(plain: Outcomes, patched: Outcomes) -> dict[str, str]:
    """What passes without a patch alone, with its error."""
    now = {test: patched.tests.get(test, ("missing", "")) for test in plain.telling()}
    return {test: f"{outcome}: {error}" for test, (outcome, error) in now.items() if outcome != "passed"}


def other_bits(plain: Outcomes, patched: Outcomes) -> list[str]:
    """Tests with an output that isn't the unpatched pipeline's, bit for bit."""
    both = plain.bits.keys() & patched.bits.keys()
    return sorted({test for test, call in both if plain.bits[test, call] != patched.bits[test, call]})


def ends_plain(plain: Outcomes, patched: Outcomes, test: str) -> bool:
    """Whether a patch changes the test's first output, but not the last."""
    calls = sorted(key for key in patched.bits if key[0] == test)
    same = [patched.bits[key] == plain.bits.get(key) for key in calls]
    return same != [] and same[-1] and not same[0]


def judge(mode: str, plain: Outcomes, patched: Outcomes) -> tuple[list[str], Counter]:
    """What must not be, a line each; and how often each known reason held."""
    wrong, reasons = [], Counter()
    for test, error in differences(plain, patched).items():
        as_plain = ends_plain(plain, patched, test)
        reason = next((each.reason for each in KNOWN if each.covers(mode, test, error, as_plain)), None)
        if reason is None:
            wrong.append(f"{test}: {error}")
        else:
            reasons[reason] += 1
    if mode == "schedule=1":
        wrong += [
            f"{test}: an output has other bits than without a patch" for test in other_bits(plain, patched)
        ]
    return wrong, reasons


def table(plain: Outcomes, found: dict[str, tuple[Outcomes, list[str], Counter]]) -> str:
    """The counts in Markdown."""
    counts = Counter(outcome for outcome, _ in plain.tests.values())
    telling = len(plain.telling())
    lines = [
        f"Without a patch {counts['passed']} tests pass, {counts['failed']} fail, {counts['skipped']} are skipped; of "
    ]
    lines[0] += f"those that pass {telling} call a pipeline.\n"
    lines += [
        "| mode | pass | fail, for a known reason | fail otherwise | outputs | with the same bits | steps at each scale |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, (outcomes, _, reasons) in found.items():
        failed, both = len(differences(plain, outcomes)), plain.bits.keys() & outcomes.bits.keys()
        same = sum(plain.bits[key] == outcomes.bits[key] for key in both)
        row = [mode, telling - failed, reasons.total(), failed - reasons.total(), len(both), same]
        row.append(", ".join(f"{scale}: {count}" for scale, count in sorted(outcomes.scales.items())))
        lines.append("| " + " | ".join(map(str, row)) + " |")
    for mode, (_, _, reasons) in found.items():
        lines += [f"\n{mode}:\n"] if reasons else []
        lines += [f"* {count} × {reason}" for reason, count in reasons.most_common()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--diffusers", type=Path, default=os.environ.get("DIFFUSERS_CHECKOUT"), help="a clone of diffusers"
    )
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="families")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--results", type=Path, help="a file for the table of counts")
    given = parser.parse_args()
    tests = [f"tests/{path}" for family in given.only for path in FAMILIES[family]]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, Path(given.diffusers) if given.diffusers else checkout(root / "diffusers"))
        plain = run(root, "plain", tests)
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", 2))) as pool:
            patched = pool.map(lambda mode: run(root, mode, tests, plain.telling()), given.modes)
    found = {
        mode: (outcomes, *judge(mode, plain, outcomes))
        for mode, outcomes in zip(given.modes, patched, strict=True)
    }
    text = table(plain, found)
    print(text)
    if given.results:
        given.results.write_text(text)
    wrong = [f"{mode}: {line}" for mode, (_, lines, _) in found.items() for line in lines]
    print(*wrong, sep="\n")
    print(f"{len(wrong)} differences that are not on the list")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
