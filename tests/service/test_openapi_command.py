import json
import os

import pytest
from typer.testing import CliRunner

from service.cli import app


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEADSTART_"):
            monkeypatch.delenv(name)


def test_the_document_can_be_had_without_a_service() -> None:
    ended = CliRunner().invoke(app, ["openapi"])
    assert ended.exit_code == 0
    assert "/v1/images/generations" in json.loads(ended.stdout)["paths"]


def test_as_a_reference_it_names_every_route_and_body() -> None:
    document = json.loads(CliRunner().invoke(app, ["openapi"]).stdout)
    ended = CliRunner().invoke(app, ["openapi", "--markdown"])
    assert ended.exit_code == 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            section = ended.stdout.split(f"\n### {method.upper()} {path}\n")[1].split("\n### ")[0]
            assert all(status in section for status in operation["responses"])
            assert all(f"`{one['name']}`" in section for one in operation.get("parameters", []))
    for name, schema in document["components"]["schemas"].items():
        section = ended.stdout.split(f"\n### {name}\n")[1].split("\n### ")[0]
        assert all(f"| `{field}` |" in section for field in schema.get("properties", {}))


def test_a_bad_setting_stops_it_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_PORT", "eighty")
    ended = CliRunner().invoke(app, ["openapi"])
    assert ended.exit_code == 2
    assert ended.stderr.count("\n") == 1
