"""What every section of the settings is made of."""

from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator
from pydantic_settings import NoDecode

MIB = 1024**2

Part = TypeVar("Part")


class Section(BaseModel):
    """Settings that belong together."""

    title: ClassVar[str]
    """Heading in `docs/settings.md`."""


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError("there is no such folder")
    return path


Listed = Annotated[tuple[Part, ...], NoDecode, BeforeValidator(_split)]
"""Several, separated by commas."""
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Folder = Annotated[AbsolutePath, AfterValidator(_existing)]
"""A folder that exists."""
