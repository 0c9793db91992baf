import json

import pytest

from benchmarks.code_blocks import FROM_CODE
from benchmarks.results import DOCUMENTS, REPORTS, TUNING_DOCUMENT, replace_block
from benchmarks.tuning import TUNING


@pytest.mark.parametrize("name", FROM_CODE)
def test_documents_say_what_the_code_says(name: str) -> None:
    """Fails where a setting, a method or a route has changed: `python -m benchmarks.results` writes it anew."""
    path, lines = FROM_CODE[name]
    assert replace_block(path.read_text(), name, lines()) == path.read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_quote_the_saved_reports(name: str) -> None:
    path, summary = DOCUMENTS[name]
    report = json.loads((REPORTS / f"{name}.json").read_text())
    assert replace_block(path.read_text(), name, summary(report)) == path.read_text()


@pytest.mark.parametrize("name", TUNING)
def test_the_tuning_page_quotes_the_saved_reports(name: str) -> None:
    text, report = TUNING_DOCUMENT.read_text(), REPORTS / f"{name}.json"
    lines = TUNING[name](json.loads(report.read_text())) if report.exists() else []
    assert replace_block(text, name, lines) == text or not report.exists()
