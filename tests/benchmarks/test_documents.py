from pathlib import Path

from benchmarks.results import replace_block
from service.settings import settings_table


def test_the_readme_lists_every_setting_as_it_is() -> None:
    readme = Path("README.md").read_text()
    assert replace_block(readme, "settings", settings_table().splitlines()) == readme
