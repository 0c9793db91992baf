"""A replay against a service that asks for API keys: it works with them, and says what is missing without."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_live import LiveServer, live

from benchmarks.soak import key_header, solvers_of
from service.access import create_key

LOCUSTFILE = Path(__file__).parents[2] / "loadtest" / "locustfile.py"
LOCUST = (sys.executable, "-W", "ignore", "-m", "locust", "-f", str(LOCUSTFILE))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of keys for the service, and beside it one for its clients."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    acme, _ = create_key(path, "acme")
    other, _ = create_key(path, "other")
    path.with_name("clients.txt").write_text(f"acme {acme}\nother {other}\n")
    path.with_name("wrong.txt").write_text(f"acme {acme}\nstranger hs_of_nobody\n")
    return path


@pytest.fixture(scope="module")
def keyed(keys: Path, resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keyed")
    with live(folder, model=str(resuming_model), keys_file=str(keys), threads="1") as running:
        yield running


def replay(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps({"prompt": f"a red ball {n}", "user": f"u{n}"}) + "\n" for n in range(6)))
    command = [*LOCUST, "--headless", "--only-summary", "--host", url, "--log", str(log), *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "HEADSTART_"))}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=clean)


def test_with_keys_every_request_is_answered(keyed: LiveServer, keys: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    options = ("--keys", str(keys.with_name("clients.txt")), "--skew", "0", "--steps", "2", "--report", str(out))
    done = replay(keyed.url, tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert (report["summary"]["requests"], report["summary"]["failures"]) == (6, 0)
    assert {one["tenant"] for one in report["outcomes"]} == {"acme", "other"}
    assert "model" in report["service"]


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        (None, "the service asks for an API key; give it a file of them with --keys"),
        ("wrong.txt", "the service does not accept the key of stranger"),
    ],
)
def test_without_the_right_keys_it_says_so(
    keyed: LiveServer, keys: Path, tmp_path: Path, file: str | None, complaint: str
) -> None:
    options = () if file is None else ("--keys", str(keys.with_name(file)))
    done = replay(keyed.url, tmp_path, "--slo-seconds", "5", *options)
    assert done.returncode == 3, done.stdout + done.stderr
    assert complaint in done.stdout
    assert "hs_" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


async def test_the_soak_s_client_works_with_a_key_and_says_what_is_missing_without(
    keyed: LiveServer, keys: Path
) -> None:
    async with httpx.AsyncClient(base_url=keyed.url, timeout=240) as client:
        with pytest.raises(RuntimeError, match="the service asks for an API key"):
            await solvers_of(client)
    header = key_header(keys)
    keyed.wait(lambda: httpx.get(f"{keyed.url}/v1/models", headers=header).status_code == 200, "knows the key")
    async with httpx.AsyncClient(base_url=keyed.url, timeout=240, headers=header) as client:
        assert "ddim" in await solvers_of(client)
