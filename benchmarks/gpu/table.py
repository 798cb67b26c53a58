"""The record as Markdown, for people: what ran, on what, and how far from its floor each op is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

COLUMNS = (
    "eager",
    "compiled",
    "F.linear, ready",
    "F.conv2d, ready",
    "copy of the four latents",
)


def markdown(record: dict[str, Any]) -> str:
    """All of it; parts that are not there are left away."""
    stages = record["stages"]
    results = {name: stage.get("results", {}) for name, stage in stages.items()}
    parts = [
        *_head(record, results.get("environment", {}), results.get("build", {})),
        *_stages(stages),
        *_tests(results.get("tests", {})),
        *_sanitizer(results.get("sanitizer", {})),
        *_ceilings(results.get("ceilings", {})),
        *_ops(results.get("ops", {}), record.get("against", {})),
        *_steps(results.get("flux", {}) | results.get("wan", {})),
        *_counters(results.get("ncu", {})),
    ]
    return "\n".join(parts) + "\n"


def _head(record: dict, environment: dict, build: dict) -> list[str]:
    lines = [f"# GPU check: {environment.get('device_name', 'device unknown')}", ""]
    if record.get("options", {}).get("tiny"):
        lines += ["**A dry run on tiny sizes: its figures mean nothing.**", ""]
    versions = {k: v for k, v in environment.get("versions", {}).items() if v}
    info = build.get("build_info", {})
    smi = environment.get("smi", {})
    facts = {
        "date": record.get("date"),
        "command": f"`{record['command']}`" if record.get("command") else None,
        "commit": environment.get("commit"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "CUDA of torch": environment.get("torch_cuda"),
        "nvcc": environment.get("nvcc"),
        "driver": smi.get("driver_version"),
        "clocks at the start": ", ".join(f"{k} {v}" for k, v in smi.items() if k.startswith("clocks")),
        "ddit_ext": f"{info.get('version')}, CUDA {info.get('cuda')}, {', '.join(info.get('architectures', ()))}"
        if info
        else None,
    }
    return lines + [f"* {name}: {fact}" for name, fact in facts.items() if fact] + [""]


def _stages(stages: dict) -> list[str]:
    rows = []
    for name, stage in stages.items():
        notes = [stage.get("reason", "").strip().splitlines()[-1:], stage.get("problems", [])]
        rows.append([name, stage["status"], stage.get("seconds", ""), _shortened(sum(notes, []))])
    lines = ["## Stages", "", *_table(("stage", "status", "seconds", "notes"), rows)]
    for name, stage in stages.items():
        for left in stage.get("results", {}).get("left_out", ()):
            lines.append(f"* {name}, left out: {left}")
    return lines + [""]


def _shortened(notes: Sequence[str], most: int = 3) -> str:
    shown = "; ".join(note.replace("|", "\\|")[:160] for note in notes[:most])
    return shown + (f"; and {len(notes) - most} more" if len(notes) > most else "")


def _tests(results: dict) -> list[str]:
    if "outcomes" not in results:
        return []
    counted = ", ".join(f"{count} {outcome}" for outcome, count in sorted(results["outcomes"].items()))
    lines = ["## Tests", "", counted or "none ran", ""]
    return lines + [f"* {reason}" for reason in results.get("reasons") or results.get("failures", ())] + [""]


def _sanitizer(results: dict) -> list[str]:
    rows = [
        (tool, found["passed"], len(found["tests"]), found["summary"] or "none", found["seconds"])
        for tool, found in results.items()
        if isinstance(found, dict) and "summary" in found
    ]
    if not rows:
        return []
    return ["## Sanitizer", "", *_table(("tool", "passed", "of tests", "summary", "seconds"), rows), ""]


def _ceilings(results: dict) -> list[str]:
    rows = []
    for name, found in results.items():
        if "bytes_per_s" in found:
            rows.append((name, *(f"{found[k] / 1e12:.3g}" for k in ("bytes_per_s", "low", "high")), "TB/s"))
        elif "flops_per_s" in found:
            row = (f"{found[k] / 1e12:.4g}" for k in ("flops_per_s", "low", "high"))
            rows.append((f"{name} product, {found['side']} a side", *row, "TFLOP/s"))
    if not rows:
        return []
    return ["## Ceilings", "", *_table(("what", "median", "low", "high", "unit"), rows), ""]


def _ops(results: dict, against: dict) -> list[str]:
    before = {
        _key(entry): entry["timed"].get("ddit_ext") for entry in against.get("cases", ()) if "timed" in entry
    }
    compiled = {_key(entry): entry["timed"] for entry in results.get("compiled", ())}
    lines = []
    for op in dict.fromkeys(entry["op"] for entry in results.get("cases", ())):
        entries = [entry for entry in results["cases"] if entry["op"] == op and "timed" in entry]
        timed = [{**compiled.get(_key(entry), {}), **entry["timed"]} for entry in entries]
        shown = [name for name in COLUMNS if any(name in candidates for candidates in timed)]
        rows = [
            _op_row(entry, candidates, shown, before.get(_key(entry)))
            for entry, candidates in zip(entries, timed, strict=True)
        ]
        head = (
            "shape",
            "batch",
            "scale",
            "dtype",
            "LoRA",
            "floor, µs",
            "ddit_ext, µs",
            "before, µs",
            "over floor",
            "as wanted",
            *shown,
            "error",
        )
        lines += [f"### {op}", "", *_table(head, rows), ""]
    if not lines:
        return []
    note = (
        "Device time, L2 flushed, candidates taking turns; brackets are the 95 % interval of the median. `eager` gathers, "
        "multiplies by F.linear and scatters. Its column and those after it are times over ddit_ext's in the same "
        "round (above 1: ddit_ext is faster); in µs where ddit_ext did not run. The floor is the larger of bytes over "
        "the measured copy and operations over the measured product (b, f). As wanted: within the floor and "
        f"{SPARE_S * 1e6:.1f} µs or at {SHARE:.0%} of the floor's rate, and no slower than eager."
    )
    return ["## Ops", "", note, "", *lines]


def _op_row(entry: dict, timed: dict, shown: Iterable[str], before: dict | None) -> list[str]:
    ours, floor = timed.get("ddit_ext"), entry.get("floor_s")
    row = [
        entry["shape"],
        str(entry["batch"]),
        str(entry["scale"]),
        entry["dtype"],
        "yes" if entry.get("lora") else "",
    ]
    row.append(f"{_us(floor)} {entry['bound'][0]}" if floor else "")
    if ours:
        row.append(f"{_us(ours['median_s'])} [{_us(ours['low_s'])}, {_us(ours['high_s'])}]")
        row.append(_us(before["median_s"]) if before else "")
        row.append(f"{ours['median_s'] / floor:.2f}" if floor else "")
        row.append(_as_wanted(ours["median_s"], floor, timed.get("eager")) if floor else "")
    else:
        row += ["did not run", "", "", ""]
    for name in shown:
        other = timed.get(name)
        row.append("" if not other else f"{other['ratio']:.2f}" if ours else f"{_us(other['median_s'])} µs")
    row.append(f"{entry['error']:.1e}" if "error" in entry else "")
    return row


SPARE_S = 2.5e-6
SHARE = 0.85


def _as_wanted(seconds: float, floor: float, eager: dict | None) -> str:
    near = seconds <= max(floor + SPARE_S, floor / SHARE)
    slower = eager is not None and eager["ratio_high"] < 1
    return "no" if slower or not near else "yes"


def _key(entry: dict) -> tuple:
    return (
        entry["op"],
        entry["shape"],
        entry["batch"],
        str(entry["scale"]),
        entry["dtype"],
        entry.get("lora", False),
    )


def _steps(results: dict) -> list[str]:
    lines = []
    for name, found in results.items():
        if not isinstance(found, dict) or "tokens" not in found:
            continue
        tokens = ", ".join(f"{scale}p {count}" for scale, count in found["tokens"].items())
        rows = []
        compiled = [mode for mode in found if mode.startswith("compiled")]
        for mode in ("eager", "eager, LoRA", *compiled, "decision"):
            for candidate, timed in found.get(mode, {}).items():
                if isinstance(timed, dict) and "median_s" in timed:
                    rows.append(_step_row(mode, candidate, timed))
        lines += [f"### {name}", "", f"Image tokens: {tokens}.", ""]
        if "coarse" in found:
            lines += [f"Coarse calls: {found['coarse']}", ""]
        if rows:
            lines += [*_table(("mode", "what", "ms", "over the first"), rows), ""]
        for how in ("eager", "compiled"):
            shares = found.get(f"LoRA over none, {how}", {})
            if shares:
                listed = ", ".join(f"{name} {share:+.1%}" for name, share in shares.items())
                lines += [f"The LoRA's share of a step, {how} (wanted: at most 5 %): {listed}.", ""]
        lines += _queued(found.get("queued_s", {}))
        for label in ("runs", "runs with graphs"):
            lines += _runs(label, found.get(label, {}))
        lines += _profile(found.get("profile", {}))
    if not lines:
        return []
    note = (
        "Host time of one transformer call that is waited for, at batch 1, random weights. Ratios are medians "
        "over the rounds, with 95 % intervals."
    )
    return ["## Steps", "", note, "", *lines]


def _queued(seconds: dict) -> list[str]:
    if not seconds:
        return []
    listed = ", ".join(f"{name} {taken * 1e3:.2f} ms" for name, taken in seconds.items())
    return [f"A call among ten that are queued one after the other: {listed}.", ""]


def _runs(label: str, found: dict) -> list[str]:
    rows = [
        (
            name,
            f"{way['seconds']:.2f}" if "seconds" in way else "",
            f"{way['speedup']:.2f}" if way.get("speedup") else "",
            ", ".join(f"{count} at {scale}" for scale, count in way.get("scales", {}).items()),
        )
        for name, way in found.get("ways", {}).items()
    ]
    head = ("way", "seconds", "times as fast", "steps at a scale (0: forecast)")
    return [f"{found['steps']} steps end to end, {label}:", "", *_table(head, rows), ""] if rows else []


def _profile(found: dict) -> list[str]:
    lines = []
    for call, seen in found.items():
        busy = f"{seen['busy']:.0%}" if seen["busy"] is not None else "?"
        lines += [
            f"A call at {call}: {seen['wall_ms']:.2f} ms, of which the device works {seen['busy_ms']:.2f} ms ({busy}), "
            f"{seen['launches']:.0f} launches. Most of it:",
            "",
            *_table(
                ("kernel", "launches", "ms"),
                [(f"`{n[:80]}`", f"{c:g}", f"{t:.3f}") for n, c, t in seen["kernels"][:8]],
            ),
            "",
        ]
    return lines


COUNTERS = (
    "Duration",
    "DRAM Throughput",
    "Memory Throughput",
    "Compute (SM) Throughput",
    "Achieved Occupancy",
)


def _counters(results: dict) -> list[str]:
    launches = results.get("launches", [])
    if not launches:
        return []
    rows = []
    for launch in launches:
        named = {
            wanted: next((v for k, v in launch.items() if k.startswith(wanted)), "") for wanted in COUNTERS
        }
        rows.append([f"`{launch['kernel'][:70]}`", *named.values()])
    return ["## Counters", "", *_table(("kernel", *COUNTERS), rows), ""]


def _step_row(mode: str, candidate: str, timed: dict) -> list[str]:
    return [
        mode,
        candidate,
        f"{timed['median_s'] * 1e3:.3f} [{timed['low_s'] * 1e3:.3f}, {timed['high_s'] * 1e3:.3f}]",
        f"{timed['ratio']:.3f} [{timed['ratio_low']:.3f}, {timed['ratio_high']:.3f}]",
    ]


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.4g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
