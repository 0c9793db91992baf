from pathlib import Path

from benchmarks.results import METHODS_DOCUMENT, replace_block
from policies.features.methods import methods_table
from service.settings import settings_table


def test_the_readme_lists_every_setting_as_it_is() -> None:
    readme = Path("README.md").read_text()
    assert replace_block(readme, "settings", settings_table().splitlines()) == readme


def test_the_document_lists_every_method_as_it_is() -> None:
    document = METHODS_DOCUMENT.read_text()
    assert replace_block(document, "methods", methods_table().splitlines()) == document
