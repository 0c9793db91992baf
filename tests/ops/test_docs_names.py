"""Settings, metrics, commands, routes and error codes that the documents speak of: each exists."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
from docs_pages import PAGES, ROOT, code_of, name_of, text_of
from ops_files import METRIC, SUFFIX, environment_of
from service_live import Client
from typer.core import TyperGroup

from service.api.app import create_app
from service.api.errors import HTTP_MESSAGES, REFUSALS
from service.cli import app
from service.settings import Settings, load_settings

# Results tell of past runs, and the changelog of past names.
CURRENT = [page for page in PAGES if page.name not in ("CHANGELOG.md", "RESULTS.md")]
PATTERNS = ("headstart_", "headstart_net")
LOCUST = {f"--{name}" for name in ("headless", "host", "processes", "master", "worker", "users", "help")}
LOCUST |= {"--expect-workers", "--master-host"}
CODES = re.compile(r'code="([a-z_]+)"|(?:NotReplayableError|NoHeatmapError)\(\s*"([a-z_]+)"')
CODE_ROW = re.compile(r"^\| (?:\d{3}|–) \| (.+?) \|", re.MULTILINE)
ROUTE = re.compile(r"/v1/[a-z{}_…0-9/-]*[a-z}…0-9]")


@pytest.fixture(scope="module")
def exported(watched_client: Client) -> set[str]:
    lines = watched_client.http.get("/metrics").text.splitlines()
    return {line.split()[2] for line in lines if line.startswith("# TYPE ")}


@pytest.fixture(scope="module")
def routes() -> list[str]:
    paths = create_app(load_settings()).openapi()["paths"]
    return [re.sub(r"\{[a-z_]+\}", "*", path) for path in paths]


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_setting_exists(page: Path) -> None:
    known = {f"HEADSTART_{name.upper()}" for name in Settings.model_fields}
    mentioned = {name for name in environment_of(text_of(page)) if not name.endswith("_")}
    assert {name for name in mentioned - known if not name.startswith("HEADSTART_TEST_")} == set()


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_metric_exists(page: Path, exported: set[str]) -> None:
    text = text_of(page)
    named = {SUFFIX.sub("", name) for name in METRIC.findall(text)} - set(PATTERNS)
    assert named - exported == set()
    endings = re.findall(r"`…(_[a-z_]+)[`{]", text)
    assert [end for end in endings if not any(name.endswith(end) for name in exported)] == []


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_command_exists(page: Path) -> None:
    assert [line for line in code_of(page) if _is_headstart(line) and not _is_command(line)] == []


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_target_and_module_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code_of(page):
        named = re.match(r"make ([a-z]+)", line)
        assert named is None or named[1] in targets, line
        for benchmark in re.findall(r"python -m benchmarks ([a-z_]+)|make bench NAME=([a-z_]+)", line):
            place = ROOT / "benchmarks" / "".join(benchmark)
            assert place.is_dir() or place.with_suffix(".py").exists(), line
        for module in re.findall(r"python -m ((?:benchmarks|loadtest|training)[a-z_.]*)", line):
            place = ROOT / module.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").exists(), line


def test_every_option_of_the_load_test_exists() -> None:
    source = "".join(path.read_text() for path in (ROOT / "loadtest").rglob("*.py"))
    known = set(re.findall(r'"(--[a-z-]+)"', source)) | LOCUST
    for page in CURRENT:
        for line in code_of(page):
            if "locustfile" in line or re.match(r"make loadtest|python -m loadtest\b", line):
                assert set(re.findall(r"(?<=[\s\"])--[a-z-]+", line)) <= known, line


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_every_route_exists(page: Path, routes: list[str]) -> None:
    unknown = [route for route in ROUTE.findall(text_of(page)) if not any(_same(route, known) for known in routes)]
    assert unknown == []


def test_the_reference_lists_every_error_code_and_no_other() -> None:
    source = "".join(path.read_text() for path in (ROOT / "service").rglob("*.py"))
    raised = {one or other for one, other in CODES.findall(source)}
    raised |= {code for _, code in (*HTTP_MESSAGES.values(), *REFUSALS.values())} | {"busy", "text_needed"}
    rows = CODE_ROW.findall(text_of(ROOT / "docs" / "api-reference.md"))
    listed = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    assert raised - listed == set()
    # What pydantic finds has codes of its own, and some are looked up by name.
    assert all(f'"{code}"' in source or code in ("missing", "extra_forbidden") for code in listed)


def _is_headstart(line: str) -> bool:
    return re.match(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?headstart [a-z-]", line) is not None


def _is_command(line: str) -> bool:
    """Whether the command line's verbs and options exist."""
    words = [word for word in shlex.split(line, comments=True) if not re.match(r"[A-Z_]+=", word)][1:]
    found = typer.main.get_command(app)
    while words and isinstance(found, TyperGroup) and not words[0].startswith("-"):
        name, *words = words
        if name not in found.commands:
            return False
        found = found.commands[name]
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {word.split("=")[0] for word in words if word.startswith("--")} <= {*known, "--help"}


def _same(route: str, known: str) -> bool:
    """Whether a route as written, with whatever id, is a known one, or the beginning of some."""
    parts, wanted = route.strip("/").split("/"), known.strip("/").split("/")
    if len(parts) > len(wanted):
        return False
    free = re.compile(r"\{.*\}|…|[0-9a-f]{8,}…?")
    return all(want in ("*", part) or free.fullmatch(part) for part, want in zip(parts, wanted, strict=False))
