"""Links between pages, README and sources lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = ("ddit_ext/**/*.py", "csrc/**/*.h", "csrc/**/*.cpp", "csrc/**/*.cu*", "benchmarks/**/*.py")


def places(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{target} does not exist"
        assert not anchor or anchor in places(there), f"{target} has no heading #{anchor}"


def test_pages_that_sources_name_exist():
    named = {
        (str(file.relative_to(ROOT)), name)
        for pattern in SOURCES
        for file in ROOT.glob(pattern)
        for name in re.findall(r"\bdocs/[\w/-]+\.md", file.read_text())
    }
    assert named
    assert not sorted((file, name) for file, name in named if not (ROOT / name).is_file())
