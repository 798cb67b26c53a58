"""What tests have seen a pipeline of a family do, as a table."""

from pathlib import Path

FEATURES = ("Forecast", "TeaCache", "larger patches", "training")
DONE = set()
PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def table(done):
    """Markdown: a row a pipeline, a column a feature, and nothing that no test has seen."""
    lines = ["| family | pipeline | " + " | ".join(FEATURES) + " |", "|---" * (2 + len(FEATURES)) + "|"]
    for family, pipeline in sorted({(family, pipeline) for family, pipeline, _ in done}):
        marks = ["yes" if (family, pipeline, feature) in done else "" for feature in FEATURES]
        lines.append(f"| {family} | `{pipeline}` | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def write():
    """Put the table into the page."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table(DONE) + END + rest.split(END)[1])
