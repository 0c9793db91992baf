"""The OpenAPI document as Markdown: every route, field, answer and header, for `docs/api-reference.md`."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

Document = dict[str, Any]
_ERROR = "ErrorBody"
# What every answer carries, or every error, is said once.
_COMMON_HEADERS = ("X-Request-Id", "x-should-retry", "Retry-After")
_OFTEN = 5
"""Routes that share an error from which it is told once."""


def api_reference(document: Document) -> list[str]:
    """Return the lines of the reference.

    Args:
        document: OpenAPI 3.1, as the service itself serves it.
    """
    lines = ["## Routes", "", "| route | does |", "|---|---|"]
    found = list(_operations(document))
    for route, operation in found:
        lines.append(f"| [`{route}`](#{_slug(route)}) | {_cell(operation['summary'])} |")
    common = _common_errors(operation for _, operation in found)
    lines += ["", "## Common errors", "", "| status | when |", "|---|---|"]
    lines += [f"| {status} | {text} |" for status, text in sorted(common)]
    for route, operation in found:
        lines += ["", *_route(route, operation, common)]
    lines += ["", "## Bodies"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += ["", *_body(name, schema)]
    return lines


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


def _common_errors(operations: Iterable[Document]) -> set[tuple[str, str]]:
    """Return (status, text) of what many routes answer."""
    seen = Counter(
        (status, _cell(answer["description"]))
        for operation in operations
        for status, answer in operation["responses"].items()
        if int(status) >= 400
    )
    return {error for error, count in seen.items() if count >= _OFTEN}


def _route(route: str, operation: Document, common: set[tuple[str, str]]) -> list[str]:
    described = " ".join(operation["description"].split())
    lines = [f"### {route}", "", described if described.endswith(".") else described + "."]
    if "security" not in operation:
        lines += ["", "Needs no key."]
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        lines += ["", "Body: " + ", ".join(f"{_type(part['schema'])} (`{kind}`)" for kind, part in content.items())]
    if operation.get("parameters"):
        lines += ["", "| parameter | in | type | default | meaning |", "|---|---|---|---|---|"]
        lines += [_parameter(one) for one in operation["parameters"]]
    answers = operation["responses"].items()
    often = [status for status, answer in answers if (status, _cell(answer["description"])) in common]
    lines += ["", "| answer | body | when | headers |", "|---|---|---|---|"]
    lines += [_answer(status, answer) for status, answer in answers if status not in often]
    return [*lines, "", f"[Common errors](#common-errors): {', '.join(often)}."]


def _parameter(one: Document) -> str:
    schema = one["schema"]
    default = "required" if one["required"] else _value(schema.get("default"))
    meaning = one.get("description", "")
    return f"| `{one['name']}` | {one['in']} | {_type(schema)} | {default} | {_cell(meaning)} |"


def _answer(status: str, answer: Document) -> str:
    bodies = [_content(kind, part) for kind, part in answer.get("content", {}).items()]
    errors = any(_ERROR in body for body in bodies)
    told = [name for name in answer["headers"] if name not in _COMMON_HEADERS or status == "202"]
    headers = ", ".join(f"`{name}`" for name in told)
    body = "error" if errors else "; ".join(bodies)
    # The framework's own words for a success say nothing.
    when = _cell(answer["description"].replace("Successful Response", ""))
    return f"| {status} | {body} | {when} | {headers} |"


def _content(kind: str, part: Document) -> str:
    schema = part.get("schema")
    if not schema or schema == {"type": "string"}:
        return f"`{kind}`"
    return _type(schema) if kind == "application/json" else f"`{kind}`: {_type(schema)}"


def _body(name: str, schema: Document) -> list[str]:
    lines = [f"### {name}", ""]
    if "description" in schema:
        lines += [" ".join(schema["description"].split()), ""]
    if "properties" not in schema:
        return [*lines, f"{_type(schema)}."]
    required = schema.get("required", ())
    answers = "additionalProperties" not in schema
    lines += [f"| field | type | {'' if answers else 'default | '}meaning |", "|---" * (3 if answers else 4) + "|"]
    for field, part in schema["properties"].items():
        default = "required" if field in required else _value(part.get("default"))
        meaning = part.get("description", "")
        lines.append(f"| `{field}` | {_type(part)} | {'' if answers else default + ' | '}{_cell(meaning)} |")
    return lines


def _value(value: object) -> str:
    return "" if value in (None, "") else f"`{json.dumps(value).strip(chr(34))}`"


def _type(schema: Document) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{_slug(name)})"
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(_type(part) for part in choices)
    if "const" in schema or "enum" in schema:
        return ", ".join(_value(value) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}{_bounds(schema, 'minItems', 'maxItems')}"
    return f"{schema.get('type', 'any')}{_limits(schema)}"


def _limits(schema: Document) -> str:
    for low, high in (("minimum", "maximum"), ("exclusiveMinimum", "maximum"), ("minLength", "maxLength")):
        if low in schema or (high in schema and low != "exclusiveMinimum"):
            return _bounds(schema, low, high)
    return f" like `{schema['pattern']}`" if "pattern" in schema and "|" not in schema["pattern"] else ""


def _bounds(schema: Document, low: str, high: str) -> str:
    least, most = schema.get(low), schema.get(high)
    unit = " long" if low == "minLength" else ""
    above = "above " if low == "exclusiveMinimum" else "at least "
    if least is None:
        return "" if most is None else f", at most {most:.12g}{unit}"
    if most is None:
        return f", {above}{least:.12g}{unit}"
    return f", {above if low == 'exclusiveMinimum' else ''}{least:.12g} to {most:.12g}{unit}"


def _slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return "".join(letter for letter in heading.lower().replace(" ", "-") if letter.isalnum() or letter in "-_")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
