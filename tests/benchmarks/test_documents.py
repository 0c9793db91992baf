import json
from pathlib import Path

import pytest

from benchmarks.results import DOCUMENTS, METHODS_DOCUMENT, REPORTS, replace_block
from policies.features.methods import methods_table
from service.settings import settings_table


def test_the_readme_lists_every_setting_as_it_is() -> None:
    readme = Path("README.md").read_text()
    assert replace_block(readme, "settings", settings_table().splitlines()) == readme


def test_the_document_lists_every_method_as_it_is() -> None:
    document = METHODS_DOCUMENT.read_text()
    assert replace_block(document, "methods", methods_table().splitlines()) == document


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_quote_the_saved_reports(name: str) -> None:
    path, summary = DOCUMENTS[name]
    report = json.loads((REPORTS / f"{name}.json").read_text())
    assert replace_block(path.read_text(), name, summary(report)) == path.read_text()
