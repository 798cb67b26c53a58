"""A pytest plugin: the emulated tests in one mode of the emulation after the other, in one process.

Importing torch takes longer than most tests. The emulation reads its mode from the environment at each launch
(docs/design/emulation.md). DDIT_MUTANT_MODES=one is the first mode alone.
"""

import os

import pytest

# The most revealing first.
MODES = (
    {"DDIT_EMULATION_ORDER": "1", "DDIT_EMULATION_BLOCKS": "3"},
    {},
    {"DDIT_EMULATION_ORDER": "reverse"},
    {"DDIT_EMULATION_ORDER": "2", "DDIT_EMULATION_BLOCKS": "2"},
    {"DDIT_EMULATION_ORDER": "3", "DDIT_EMULATION_BLOCKS": "4"},
)


@pytest.fixture(autouse=True)
def emulation_mode(request, monkeypatch):
    for name, value in MODES[request.param].items():
        monkeypatch.setenv(name, value)


def pytest_generate_tests(metafunc):
    count = 1 if os.environ.get("DDIT_MUTANT_MODES") == "one" else len(MODES)
    metafunc.parametrize(
        "emulation_mode", range(count), ids=[f"mode{mode}" for mode in range(count)], indirect=True
    )


def pytest_collection_modifyitems(items):
    """Mode after mode: most mutants are noticed in the first."""
    items.sort(key=lambda item: item.callspec.params["emulation_mode"])
