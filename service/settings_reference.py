"""The settings tree as Markdown: what `headstart settings` prints and `docs/settings.md` holds."""

from service.settings import PREFIX, Settings

SECTIONS = {
    "host": "Address",
    "model": "Model and device",
    "max_batch": "Joint batches",
    "data_dir": "What is kept, and where",
    "record_seconds": "Records, jobs, pictures by URL",
    "capture": "Head starts",
    "judge": "Shadow audit",
    "feature_cache": "Feature caching",
    "tenant": "Keys, tenants, sharing",
    "queue_limit": "Load",
    "safety": "Safety and uploads",
    "max_prompt_chars": "Requests, log, stop",
    "gpu_price_per_hour": "Money, energy, tenants, traces",
}
"""A section by the field it begins with."""


def settings_reference() -> str:
    """Render every setting as a row of a Markdown table, a table a section."""
    lines: list[str] = []
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"## {SECTIONS[name]}", "", "| variable | default | what it does |", "|---|---|---|"]
        lines.append(f"| `{PREFIX}{name.upper()}` | {_default_text(name, field.default)} | {field.description} |")
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
