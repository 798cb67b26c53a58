"""The import graph of the package: no circle among files, and no import of a layer above, not even inside a function.

Imports under ``if TYPE_CHECKING`` don't count: they only name a type in an annotation and never run.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ddit_ext

PACKAGE = Path(ddit_ext.__file__).parent

# From the bottom up. A file imports from its own layer and from those before it.
LAYERS = (
    {"_version", "_build_info", "_library", "_files", "_machine", "_quiet", "_core", "cmake_prefix"},
    {"ops", "cells", "reference", "fidelity"},
    {"modules"},
    {"coarse"},
    {"families"},
    {"strategies", "policies", "schedulers"},
    {"k_diffusion"},
    {"reports"},
    {"presets"},
    {"runtime"},
    {"calibration"},
    {"embedded"},
    {"training"},
    {"ddit_ext"},  # the package's own __init__.py: the public names
    {"cli"},
)

Edge = tuple[str, str]


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package, by its dotted name."""
    files = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = file
    return files


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported(node: ast.AST, package: str, known: set[str]) -> set[str]:
    """The known modules that a piece of code imports, at its top or inside functions."""
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if for_types_only(child):
            found |= set().union(*(imported(other, package, known) for other in child.orelse))
        elif isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")
            above = above[: len(above) - child.level + 1] if child.level else []
            base = ".".join([*above, *([child.module] if child.module else [])])
            # Inside a package, `from . import name` means the file; elsewhere it may mean the package's own name.
            names = [f"{base}.{alias.name}" for alias in child.names]
            found |= {name if name in known else base for name in names}
        else:
            found |= imported(child, package, known)
    return found & known


def graph(package: Path) -> dict[str, set[str]]:
    """For every module the modules that it imports."""
    files = modules(package)
    edges = {}
    for name, file in files.items():
        within = name if file.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = imported(ast.parse(file.read_text()), within, set(files)) - {name}
    return edges


def part(name: str) -> str:
    """What stands in LAYERS: the first name below the package."""
    return name.split(".")[1] if "." in name else name


def upward(edges: dict[str, set[str]]) -> set[Edge]:
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    return {
        (source, target)
        for source, targets in edges.items()
        for target in targets
        if rank[part(target)] > rank[part(source)]
    }


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle of modules, or nothing."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    return graph(PACKAGE)


def test_every_module_has_a_layer(edges):
    layered = set().union(*LAYERS)
    assert {part(name) for name in edges} <= layered


def test_no_import_points_upward(edges):
    assert not sorted(upward(edges))


def test_no_circle(edges):
    assert not circle(edges)


def test_the_graph_sees_what_it_must(tmp_path):
    package = tmp_path / "ddit_ext"
    for name, text in {
        "__init__": "",
        "ops": "def later():\n    from .cli import main\n",  # upward, inside a function
        "cli": "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom . import _version\n"
        "if TYPE_CHECKING:\n    from .training import x\n",
        "_version": "try:\n    import ddit_ext.cells\nexcept ImportError:\n    pass\n",
        "cells": "from ddit_ext import _version\n",
        "training": "",
    }.items():
        (package / f"{name}.py").parent.mkdir(exist_ok=True)
        (package / f"{name}.py").write_text(text)
    edges = graph(package)
    assert edges["ddit_ext.cli"] == {"ddit_ext._version"}
    assert upward(edges) == {("ddit_ext.ops", "ddit_ext.cli"), ("ddit_ext._version", "ddit_ext.cells")}
    assert set(circle(edges)) == {"ddit_ext.cells", "ddit_ext._version"}
