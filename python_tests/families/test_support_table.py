"""The table of docs/families.md is what the tests of this folder have seen, no more and no less."""

from pathlib import Path

import pytest
from support_table import BEGIN, DONE, END, PAGE, table

FOLDER = Path(__file__).parent


def test_the_page_has_what_the_tests_saw(request):
    """The last test of the folder; it needs all the others."""
    ran = {Path(item.fspath) for item in request.session.items}
    whole = set(FOLDER.glob("test_*.py")) <= ran and not request.config.option.keyword
    if not whole or request.session.testsfailed:
        pytest.skip("needs a run of the whole folder without a failure")
    text = PAGE.read_text()
    assert text.split(BEGIN)[1].split(END)[0] == table(DONE), "make support-table writes it anew"
