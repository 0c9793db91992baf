import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import SECTIONS, Settings, SettingsError, load_settings
from service.settings.reference import settings_reference


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEADSTART_"):
            monkeypatch.delenv(name)


def test_defaults_serve_the_shipped_model_on_this_machine_only() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.model.endswith("models/scenes-unet")
    assert settings.table_path == Path(settings.model) / "matching.json"
    assert settings.data_dir.is_absolute()
    assert not settings.log_prompts


def test_a_hub_id_has_no_table_of_its_own(tmp_path: Path) -> None:
    assert load_settings(model="org/name").table_path is None
    table = tmp_path / "table.json"
    assert load_settings(model="org/name", matching_table=table).table_path == table


def test_feature_caching_is_off_unless_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = load_settings(model=str(tmp_path))
    assert (settings.feature_cache, settings.feature_strength, settings.feature_min_quality) == ("off", 0.5, 0.99)
    assert settings.feature_bytes == 1024**3
    assert settings.resume_approximated
    assert settings.features_path is None
    monkeypatch.setenv("HEADSTART_FEATURE_CACHE", "cfg-cache+deepcache")
    monkeypatch.setenv("HEADSTART_FEATURE_CALIBRATION", str(tmp_path))
    monkeypatch.setenv("HEADSTART_RESUME_APPROXIMATED", "false")
    settings = load_settings(model="org/name")
    assert (settings.feature_cache, settings.features_path) == ("cfg-cache+deepcache", tmp_path)
    assert not settings.resume_approximated


def test_variables_fill_the_tree_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_REDIS_URL", "redis://elsewhere:6379/0")
    monkeypatch.setenv("HEADSTART_CAPTURE", "0.25, 0.5")
    monkeypatch.setenv("HEADSTART_PORT", "9000")
    settings = load_settings(port=9001, host=None)
    assert settings.redis_url == "redis://elsewhere:6379/0"
    assert settings.capture == (0.25, 0.5)
    assert settings.port == 9001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("STATE_BYTES", "-1"),
        ("DRAIN_SECONDS", "nan"),
        ("MATCHING", "magic"),
        ("CAPTURE", "0.5,0.2"),
        ("CAPTURE", "0,1"),
        ("CAPTURE", "a"),
        ("TENANT", "two words"),
        ("LOG_PROMPTS", "perhaps"),
        ("LORA_DIR", "/no/such/folder"),
        ("MAX_LORAS", "3"),
        ("FEATURE_CACHE", "magic"),
        ("FEATURE_CACHE", ""),
        ("FEATURE_CACHE", "deepcache+"),
        ("FEATURE_CACHE", "auto+deepcache"),
        ("FEATURE_STRENGTH", "0"),
        ("FEATURE_STRENGTH", "1.1"),
        ("FEATURE_MIN_QUALITY", "nan"),
        ("FEATURE_BYTES", "-1"),
        ("FEATURE_CALIBRATION", "/no/such/folder"),
        ("RESUME_APPROXIMATED", "perhaps"),
    ],
)
def test_a_bad_value_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"HEADSTART_{name}", value)
    with pytest.raises(SettingsError, match=f"HEADSTART_{name}") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_RADIS_URL", "redis://x")
    with pytest.raises(SettingsError, match="HEADSTART_RADIS_URL"):
        load_settings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().port = 1  # type: ignore[misc]


def test_the_table_documents_every_field() -> None:
    table = settings_reference()
    for name, field in Settings.model_fields.items():
        assert f"`HEADSTART_{name.upper()}`" in table
        assert field.description
    assert str(Path.cwd()) not in table
    assert sum(len(section.model_fields) for section in SECTIONS) == len(Settings.model_fields)
    assert table.count("\n## ") == len(SECTIONS) - 1


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        ([], {"HEADSTART_PROT": "1"}, "HEADSTART_PROT"),
        (["--port", "99999"], {}, "HEADSTART_PORT"),
    ],
)
def test_the_command_line_stops_with_one_line(
    arguments: list[str], variables: dict[str, str], complaint: str
) -> None:
    command = [sys.executable, "-m", "service.cli", "serve", *arguments]
    ended = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
