"""The settings tree as Markdown: what `headstart settings` prints and `docs/settings.md` holds."""

from service.settings import PREFIX, SECTIONS


def settings_reference() -> str:
    """Render every setting as a row of a Markdown table, a table a section."""
    lines: list[str] = []
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", "| variable | default | what it does |", "|---|---|---|"]
        lines += [
            f"| `{PREFIX}{name.upper()}` | {_default_text(name, field.default)} | {field.description} |"
            for name, field in section.model_fields.items()
        ]
    return "\n".join(lines[1:])


def _default_text(name: str, value: object) -> str:
    if name == "model":
        return "`models/scenes-unet`"
    if value is None or value == ():
        return "unset"
    if isinstance(value, tuple):
        return "`" + ",".join(str(part) for part in value) + "`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"
