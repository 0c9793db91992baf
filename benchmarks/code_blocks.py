"""Blocks of the documents that the code itself fills: references, and what is counted rather than measured."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.model_sizes import sizes_table
from policies.features.methods import methods_table
from service.api.app import create_app
from service.api.reference import api_reference
from service.settings import load_settings
from service.settings.reference import settings_reference


def api_lines() -> list[str]:
    """The reference of the API, by the service's own OpenAPI document."""
    return api_reference(create_app(load_settings()).openapi())


FROM_CODE: dict[str, tuple[Path, Callable[[], list[str]]]] = {
    "api": (Path("docs/api-reference.md"), api_lines),
    "methods": (Path("docs/feature-caching.md"), lambda: methods_table().splitlines()),
    "settings": (Path("docs/settings.md"), lambda: settings_reference().splitlines()),
    "sizes": (Path("docs/real-models.md"), sizes_table),
}
"""Blocks that no report is needed for."""
