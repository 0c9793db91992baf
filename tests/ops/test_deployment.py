import http.server
import json
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from ops_files import COMPOSE, DOCKERFILE, ROOT, environment_of, read_yaml

from service.settings import Settings

KNOWN = {f"HEADSTART_{name.upper()}" for name in Settings.model_fields}
CUDA = ROOT / "deploy" / "docker-compose.cuda.yml"


def stages() -> dict[str, list[str]]:
    """The instructions of every stage, continuation lines joined, in order."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"FROM (\S+) AS (\S+)", line):
            found[match[2]] = list(found.get(match[1], []))
            current = found[match[2]]
        elif line and not line.startswith(("#", "ARG")):
            current.append(line)
    return found


def test_default_target_is_cpu_and_cuda_is_there() -> None:
    names = list(stages())
    assert names[-1] == "cpu"
    assert "cuda" in names


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_image_runs_unprivileged_checks_itself_and_keeps_state_in_a_volume(target: str) -> None:
    lines = stages()[target]
    assert lines[-1] == "USER headstart"
    assert any(line.startswith("HEALTHCHECK") and "/readyz" in line for line in lines)
    assert "VOLUME /var/lib/headstart" in lines
    assert 'ENTRYPOINT ["headstart"]' in lines


def test_everything_installed_is_pinned() -> None:
    for lines in stages().values():
        for line in lines:
            if "pip install" in line:
                assert "--constraint constraints.txt" in line or "--no-deps" in line
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [
        "wheel",  # installed by name, beside the build requirements
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(
            name
            for extra in ("dev", "loadtest", "training")
            for name in project["project"]["optional-dependencies"][extra]
        ),
    ]
    pins = [line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert all(version for _, _, version in pins)
    assert {distribution(name) for name in named} - {distribution(name) for name, _, _ in pins} == set()


def distribution(requirement: str) -> str:
    """The normalised name (PEP 503) at the head of a requirement."""
    match = re.match(r"[\w.-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_health_check_follows_the_port() -> None:
    line = next(line for line in stages()["cpu"] if line.startswith("HEALTHCHECK"))
    command = json.loads(line.partition("CMD ")[2])
    with socketserver.TCPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_address[1])
        environment = {**os.environ, "HEADSTART_PORT": port}
        subprocess.run([sys.executable, *command[1:]], env=environment, check=True, timeout=30)
        server.shutdown()


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers /readyz, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder that has nothing installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; sys.version_info = (3, 10); exec(sys.argv[1])' \"$2\"\n"
    )
    old.chmod(0o755)
    done = make(tmp_path, "install", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_bench_asks_for_a_name(tmp_path: Path) -> None:
    done = make(tmp_path, "bench", "--old-file=install")
    assert done.returncode != 0
    assert "make bench NAME=" in done.stderr


def test_make_clean_keeps_the_cache(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "build").mkdir()
    assert make(tmp_path, "clean").returncode == 0
    assert (tmp_path / "var").exists()
    assert not (tmp_path / "build").exists()


def test_compose_shares_the_objects_with_the_catalogue() -> None:
    service = read_yaml(COMPOSE)["services"]["headstart"]
    assert "HEADSTART_REDIS_URL" in service["environment"]
    folder = service["environment"]["HEADSTART_OBJECT_URL"].removeprefix("file://")
    assert any(folder.startswith(mount.split(":")[1] + "/") for mount in service["volumes"])


def test_settings_named_in_deployment_files_exist() -> None:
    named = environment_of(DOCKERFILE.read_text()) | set(read_yaml(COMPOSE)["services"]["headstart"]["environment"])
    assert named <= KNOWN


def test_build_context_holds_what_the_image_copies_and_nothing_private() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    for name in kept:
        assert (ROOT / name).exists(), name
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert packages["readme"] in kept
    assert set(packages["license-files"]) <= set(kept)


def test_compose_publishes_on_loopback_only_and_watches_health() -> None:
    services = read_yaml(COMPOSE)["services"]
    assert set(services) == {"headstart", "redis", "prometheus", "grafana"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "healthcheck" in service or name == "headstart", "the image has its own"
        assert re.search(r":v?\d+\.\d+", service["image"]) or "build" in service, "an image needs a version"


def test_compose_mounts_exist_and_volumes_are_declared() -> None:
    compose = read_yaml(COMPOSE)
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in compose["volumes"], mount


def test_drain_fits_into_the_grace_period() -> None:
    grace = read_yaml(COMPOSE)["services"]["headstart"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings.model_fields["drain_seconds"].default


def test_cuda_overlay_changes_the_target_and_asks_for_a_gpu() -> None:
    service = read_yaml(CUDA)["services"]["headstart"]
    assert service["build"]["target"] == "cuda"
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_grafana_is_provisioned_with_the_dashboards() -> None:
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    source = read_yaml(provisioning / "datasources" / "prometheus.yml")["datasources"][0]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    provider = read_yaml(provisioning / "dashboards" / "headstart.yml")["providers"][0]
    grafana = read_yaml(COMPOSE)["services"]["grafana"]
    assert f"./dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert (ROOT / "dashboards" / home.name).is_file()


def test_ci_script_is_sound_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        assert (path.parent / target).exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", (path.parent / target).read_text(), flags=re.M)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, link
