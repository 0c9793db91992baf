"""What a report is made of, before it becomes HTML or Markdown."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Heading:
    """Starts a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A few sentences; `warning` sets it apart."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Tiles:
    """The few figures that matter most: title, value, remark."""

    tiles: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a head; all but the first column are figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot: file name without suffix, SVG, and what it shows in words."""

    name: str
    svg: str
    caption: str


Block = Heading | Paragraph | Tiles | Table | Figure
