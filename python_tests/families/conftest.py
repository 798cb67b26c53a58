"""The support table: tests say what a pipeline of a family did; `make support-table` writes docs/families.md from it."""

import os
from pathlib import Path

import pytest

FEATURES = ("Forecast", "TeaCache", "larger patches", "training")
DONE = set()
PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


@pytest.fixture
def supports():
    """supports(family, pipeline, feature): to be called at the end of a test that has seen it work."""
    return lambda family, pipeline, feature: DONE.add((family, pipeline, FEATURES[FEATURES.index(feature)]))


def table(done):
    """Markdown: a row a pipeline, a column a feature, and nothing that no test has seen."""
    lines = ["| family | pipeline | " + " | ".join(FEATURES) + " |", "|---" * (2 + len(FEATURES)) + "|"]
    for family, pipeline in sorted({(family, pipeline) for family, pipeline, _ in done}):
        marks = ["yes" if (family, pipeline, feature) in done else "" for feature in FEATURES]
        lines.append(f"| {family} | `{pipeline}` | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def pytest_sessionfinish(session, exitstatus):
    if os.environ.get("DDIT_SUPPORT_TABLE") == "1" and exitstatus == 0:
        text = PAGE.read_text()
        before, rest = text.split(BEGIN)
        PAGE.write_text(before + BEGIN + table(DONE) + END + rest.split(END)[1])
