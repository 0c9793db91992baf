"""The settings tree: one frozen object, filled from `HEADSTART_…` environment variables.

`load_settings` is the only way in: it refuses unknown variables and bad values with one clear line, so a
misspelt name can never be silently ignored.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.judges.loading import shipped_judge
from service.settings.access import Access, Safety
from service.settings.engine import DEFAULT_MODEL, REPOSITORY, Batches, Model
from service.settings.load import LoadLimits
from service.settings.reuse import Audit, Features, HeadStarts
from service.settings.section import Section
from service.settings.service import Address, Requests
from service.settings.storage import Records, Storage
from service.settings.watching import Watching

__all__ = ["DEFAULT_MODEL", "PREFIX", "REPOSITORY", "SECTIONS", "Settings", "SettingsError", "load_settings"]

PREFIX = "HEADSTART_"
SECRET = ("webhook_secret", "traces_endpoint")
"""Settings whose values no message shows."""


class SettingsError(Exception):
    """A setting is unknown or bad; the message is one clear line that names it."""


class Settings(
    Address,
    Model,
    Batches,
    Storage,
    Records,
    HeadStarts,
    Audit,
    Features,
    Access,
    LoadLimits,
    Safety,
    Requests,
    Watching,
    BaseSettings,
):
    """Everything an operator may choose; every field is the variable `HEADSTART_` + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_parse_none_str="none", validate_default=True
    )

    @property
    def table_path(self) -> Path | None:
        """Where the matching table is expected; None for a hub id without one of its own."""
        if self.matching_table is not None:
            return self.matching_table
        folder = Path(self.model)
        return folder / "matching.json" if folder.is_dir() else None

    @property
    def keys_path(self) -> Path:
        """Where the API keys are."""
        return self.keys_file or self.data_dir / "keys.json"

    @property
    def judge_name(self) -> str:
        """The judge of the shadow audit; "" = none."""
        return (shipped_judge(self.model) or "") if self.judge is None else self.judge

    @property
    def features_path(self) -> Path | None:
        """Folder of what feature caching was calibrated to; None where there is none."""
        folder = self.feature_calibration or Path(self.model) / "features"
        return folder if folder.is_dir() else None


SECTIONS: tuple[type[Section], ...] = tuple(base for base in Settings.__bases__ if issubclass(base, Section))
"""In the order in which they are documented."""


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; values given as keywords (the command line) win over it, None means not given.

    Raises:
        SettingsError: an unknown `HEADSTART_…` variable or a bad value, named in one line.
    """
    for variable in os.environ:
        if variable.upper().startswith(PREFIX):
            _check_known(variable)
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def _check_known(variable: str) -> None:
    if variable[len(PREFIX) :].lower() not in Settings.model_fields:
        raise SettingsError(f"unknown setting {variable}; `headstart settings` lists the known ones")


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    message = " ".join(str(first["msg"]).split())
    given = "" if name in SECRET else f"={first['input']!r}"
    return f"bad setting {PREFIX}{name.upper()}{given}: {message}"
