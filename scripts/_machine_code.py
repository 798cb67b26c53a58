"""The machine code of CUDA kernels as cuobjdump prints it: loops, what stands in them, and what is too much.

A loop is a natural loop of the control flow graph: a jump back to a block that dominates it, with all blocks
between. Every instruction of it counts once, also on paths that are rarely taken.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

FUNCTION = re.compile(r"Function : (\S+)")
INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
PREDICATE = re.compile(r"^@!?U?P\w+\s+")
TARGET = re.compile(r"0x([0-9a-f]+)")

MOST_PER_COPY = 12
"""Instructions of a loop for each asynchronous copy, without those of the tensor cores."""
LEAST_TENSOR = 0.2
"""Share of tensor-core instructions and ldmatrix in a loop that has both copies and products."""
MOST_PER_MOVE = 12
"""Instructions of a loop that only moves numbers, for each of its reads and writes of global memory. Factors of what is
moved, and the way to float32 and back, are not counted."""

MOST_LDC = 0.5
"""Reads of kernel arguments in a loop for each access to global memory; it waits for those much longer."""

COPIES = {"LDGSTS", "UBLKCP"}
TENSOR = {"HMMA", "IMMA", "QMMA", "HGMMA", "LDSM", "LDTM"}
GLOBAL = {"LDG", "STG"}
ANY_MEMORY = {"LD", "ST"}
SPECIAL = {"S2R", "S2UR", "CS2UR"}  # CS2R zeroes registers, too
ON_THE_WAY = {"FMUL", "HADD2", "F2FP"}  # HADD2 makes float32 of float16; F2FP rounds
FLOATING = {"FADD", "FMUL", "FFMA", "DADD", "DMUL", "DFMA", "HADD2", "HFMA2", "MUFU"}


@dataclass(frozen=True)
class Instruction:
    address: int
    text: str

    @cached_property
    def parts(self) -> list[str]:
        return PREDICATE.sub("", self.text).split()[0].split(".")

    @property
    def name(self) -> str:
        return self.parts[0]

    @property
    def conditional(self) -> bool:
        # A branch may also name its condition as an operand: BRA.U UP0, 0x...; BRA.DIV UR4, 0x...
        return bool(PREDICATE.match(self.text)) or len(self.text.split(",")) > 1

    @property
    def target(self) -> int | None:
        # Some calls never come back: jumps over a long way.
        if self.name not in ("BRA", "CALL"):
            return None
        found = TARGET.findall(self.text)
        return int(found[-1], 16) if found else None

    @property
    def divides(self) -> bool:
        """A step of an integer division: there is no instruction for it, and each begins with a reciprocal of a
        converted integer, rounded up."""
        return self.name == "I2F" and "RP" in self.parts


@dataclass(frozen=True)
class Loop:
    start: int
    instructions: tuple[Instruction, ...]
    innermost: bool

    @cached_property
    def counts(self) -> Counter[str]:
        return Counter(instruction.name for instruction in self.instructions)

    def count(self, names: set[str]) -> int:
        return sum(self.counts[name] for name in names)

    @property
    def size(self) -> int:
        return len(self.instructions)

    @property
    def moves_data(self) -> bool:
        return self.count(COPIES | TENSOR | GLOBAL | ANY_MEMORY) > 0

    @property
    def only_moves(self) -> bool:
        """It reads global memory, writes to some memory, and computes nothing but products on the way."""
        computes = (FLOATING | TENSOR) - ON_THE_WAY
        return bool(self.counts["LDG"] and self.count({"STG", "STS"}) and not self.count(computes))

    def __str__(self) -> str:
        parts = [f"{self.size} instructions"]
        for what, names in (("copies", COPIES), ("tensor", TENSOR), ("global", GLOBAL)):
            if count := self.count(names):
                parts.append(f"{count} {what}")
        return f"loop at {self.start:#x} ({', '.join(parts)})"


@dataclass(frozen=True)
class Kernel:
    name: str  # mangled
    instructions: tuple[Instruction, ...]

    @cached_property
    def loops(self) -> list[Loop]:
        return list(_loops(self.instructions))

    def pipeline(self) -> Loop | None:
        """The smallest loop that has both asynchronous copies and products."""
        both = [loop for loop in self.loops if loop.count(COPIES) and loop.count(TENSOR)]
        return min(both, key=lambda loop: loop.size, default=None)


def read(disassembly: str) -> list[Kernel]:
    """The kernels of what `cuobjdump -sass` printed."""
    kernels: list[tuple[str, list[Instruction]]] = []
    for line in disassembly.splitlines():
        if match := FUNCTION.search(line):
            kernels.append((match.group(1), []))
        elif kernels and (match := INSTRUCTION.match(line)):
            kernels[-1][1].append(Instruction(int(match.group(1), 16), match.group(2)))
    return [Kernel(name, tuple(instructions)) for name, instructions in kernels]


def problems(kernel: Kernel) -> list[str]:
    """A line for each loop that costs more than it may."""
    found = []
    for loop in kernel.loops:
        if not loop.innermost or not loop.moves_data:
            continue
        if copies := loop.count(COPIES):
            each = (loop.size - loop.count(TENSOR)) / copies
            if each > MOST_PER_COPY:
                found.append(f"{loop}: {each:.0f} instructions a copy, at most {MOST_PER_COPY} are allowed")
        elif loop.only_moves:
            each = (loop.size - loop.count(ON_THE_WAY)) / loop.count(GLOBAL)
            if each > MOST_PER_MOVE:
                found.append(f"{loop}: {each:.0f} instructions a move, at most {MOST_PER_MOVE} are allowed")
        slow = [i.name for i in loop.instructions if i.name in SPECIAL]
        slow += ["LDC"] if loop.counts["LDC"] > MOST_LDC * loop.count(COPIES | GLOBAL) else []
        slow += ["an access to any kind of memory" for i in loop.instructions if i.name in ANY_MEMORY]
        slow += ["an integer division" for i in loop.instructions if i.divides]
        if slow:
            found.append(f"{loop}: has {', '.join(sorted(set(slow)))}; take it out of the loop")
    if loop := kernel.pipeline():
        share = loop.count(TENSOR) / loop.size
        if share < LEAST_TENSOR:
            found.append(
                f"{loop}: {share:.0%} of it are tensor-core instructions, at least {LEAST_TENSOR:.0%} are wanted"
            )
    return found


def _blocks(instructions: tuple[Instruction, ...]) -> tuple[list[tuple[int, int]], list[list[int]]]:
    """Basic blocks as ranges of instructions, and each one's successors."""
    index = {instruction.address: i for i, instruction in enumerate(instructions)}
    starts = {0}
    for i, instruction in enumerate(instructions):
        if instruction.target in index:
            starts.add(index[instruction.target])
        if instruction.target is not None or instruction.name in ("EXIT", "RET", "BRX"):
            starts.add(i + 1)
    ordered = sorted(start for start in starts if start < len(instructions))
    ranges = list(zip(ordered, [*ordered[1:], len(instructions)], strict=True))
    block_at = {start: number for number, (start, _) in enumerate(ranges)}
    successors = []
    for number, (_, end) in enumerate(ranges):
        last = instructions[end - 1]
        following = [number + 1] if number + 1 < len(ranges) else []
        if last.target is not None:
            jump = [block_at[index[last.target]]] if last.target in index else []
            successors.append(jump + (following if last.conditional or last.name == "CALL" else []))
        elif last.name in ("EXIT", "RET", "BRX") and not last.conditional:
            successors.append([])
        else:
            successors.append(following)
    return ranges, successors


def _dominators(successors: list[list[int]]) -> list[set[int]]:
    """For each block, those that every way to it passes; of one that nothing reaches, none."""
    predecessors: list[list[int]] = [[] for _ in successors]
    order, stack, seen = [], [(0, iter(successors[0]))], {0}
    while stack:  # depth first, to go through the blocks in an order that converges at once
        block, ahead = stack[-1]
        following = next((s for s in ahead if s not in seen), None)
        if following is None:
            order.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(successors[following])))
    order.reverse()
    for block in order:
        for successor in successors[block]:
            predecessors[successor].append(block)
    dominators: list[set[int]] = [set() for _ in successors]
    dominators[0] = {0}
    known, changed = {0}, True
    while changed:
        changed = False
        for block in order[1:]:
            ways = [dominators[p] for p in predecessors[block] if p in known]
            new = set.intersection(*ways) | {block}
            if block not in known or new != dominators[block]:
                dominators[block], changed = new, True
                known.add(block)
    return dominators


def _loops(instructions: tuple[Instruction, ...]) -> Iterator[Loop]:
    if not instructions:
        return
    ranges, successors = _blocks(instructions)
    dominators = _dominators(successors)
    predecessors: list[list[int]] = [[] for _ in ranges]
    for block, following in enumerate(successors):
        for successor in following:
            predecessors[successor].append(block)
    bodies: dict[int, set[int]] = {}  # by the block that a loop begins with
    for block, following in enumerate(successors):
        for head in following:
            if head not in dominators[block] or _stops(instructions, ranges[block], block == head):
                continue
            body, stack = bodies.setdefault(head, {head}), [block]
            while stack:
                inside = stack.pop()
                if inside not in body:
                    body.add(inside)
                    stack += predecessors[inside]
    for head, body in bodies.items():
        inner = any(other != head and other in body for other in bodies)
        inside = [i for block in sorted(body) for i in range(*ranges[block])]
        yield Loop(
            instructions[ranges[head][0]].address, tuple(instructions[i] for i in inside), innermost=not inner
        )


def _stops(instructions: tuple[Instruction, ...], block: tuple[int, int], on_itself: bool) -> bool:
    """The jump of a program's end to itself, which nothing reaches, is no loop."""
    return on_itself and block[1] - block[0] == 1
