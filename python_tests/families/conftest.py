"""The support table: tests say what a pipeline of a family did; `make support-table` writes docs/families.md from it."""

import os

import pytest
from support_table import DONE, FEATURES, write

LAST = "test_support_table.py"


@pytest.fixture
def supports():
    """supports(family, pipeline, feature): to be called at the end of a test that has seen it work."""
    return lambda family, pipeline, feature: DONE.add((family, pipeline, FEATURES[FEATURES.index(feature)]))


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name == LAST)


def pytest_sessionfinish(session, exitstatus):
    if os.environ.get("DDIT_SUPPORT_TABLE") == "1" and exitstatus == 0:
        write()
