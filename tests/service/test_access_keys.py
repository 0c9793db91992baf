"""The key file and the keys in force."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.access import Identity, Keyring, KeyringError, create_key, list_keys, revoke_key
from service.access.identity import ANONYMOUS_RIGHTS, Rights
from service.access.watch import _LOOK_SECONDS
from service.cli import app
from service.settings import Settings

run = CliRunner()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "keys.json"


def later(ring: Keyring) -> Keyring:
    """Let the time pass in which the file is not looked at."""
    ring._looked -= 2 * _LOOK_SECONDS
    return ring


def test_a_key_is_kept_as_a_hash_in_a_file_of_its_owner_alone(path: Path) -> None:
    key, record = create_key(path, "acme", "laptop", Rights(share_read=True))
    assert key.startswith("hs_")
    assert len(key) == len("hs_") + 43  # 256 bits
    assert key not in path.read_text()
    assert key[3:] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(path.parent)) == ["keys.json", "keys.json.lock"]
    assert list_keys(path) == [record]
    assert create_key(path, "acme")[0] != key


def test_only_a_key_in_force_is_somebody(path: Path) -> None:
    key, record = create_key(path, "acme", rights=Rights(operator=True))
    other, _ = create_key(path, "bolt")
    ring = Keyring(path, "default")
    assert ring.identify(f"Bearer {key}") == Identity("acme", Rights(operator=True))
    assert ring.identify(f"bearer  {other} ") == Identity("bolt", Rights())
    for wrong in (
        None,
        "",
        key,
        f"Basic {key}",
        "Bearer",
        "Bearer hs_",
        f"Bearer {key}x",
        f"Bearer {key[:-1]}",
        "\xff",
    ):
        assert ring.identify(wrong) is None
    assert ring.identify(f"Bearer {record.sha256}") is None
    revoke_key(path, record.key_id)
    assert later(ring).identify(f"Bearer {key}") is None
    assert ring.identify(f"Bearer {other}") == Identity("bolt", Rights())


def test_without_keys_everybody_is_the_one_tenant_until_there_is_one(path: Path) -> None:
    ring = Keyring(path, "default")
    assert ring.identify(None) == Identity("default", ANONYMOUS_RIGHTS)
    key, record = create_key(path, "acme")
    assert later(ring).identify(None) is None
    assert ring.identify(f"Bearer {key}") == Identity("acme", Rights())
    # Neither a last key revoked nor a file deleted makes the service open again.
    revoke_key(path, record.key_id)
    assert later(ring).identify(None) is None
    path.unlink()
    assert later(ring).identify(None) is None
    assert later(ring).identify(f"Bearer {key}") is None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"keys": 3}', '{"keys": [{"key_id": "x"}]}', '{"keys": [{"sha256": "z"}]}', "\0"]
)
def test_a_damaged_file_stops_a_start_and_leaves_a_running_service_its_keys(path: Path, text: str) -> None:
    key, _ = create_key(path, "acme")
    ring = Keyring(path, "default")
    path.write_text(text)
    with pytest.raises(KeyringError, match=r"keys\.json cannot be read") as failure:
        Keyring(path, "default")
    assert str(path) not in str(failure.value)
    assert later(ring).identify(f"Bearer {key}") is not None
    assert ring.identify("Bearer other") is None


def test_a_tenant_with_another_shape_is_not_taken_from_the_file(path: Path) -> None:
    create_key(path, "acme")
    found = json.loads(path.read_text())
    found["keys"][0]["tenant"] = "a b"
    path.write_text(json.dumps(found))
    with pytest.raises(KeyringError):
        list_keys(path)


def test_keys_made_at_the_same_time_are_all_kept(path: Path) -> None:
    threads = [threading.Thread(target=create_key, args=(path, f"tenant-{number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.tenant for record in list_keys(path)} == {f"tenant-{number}" for number in range(20)}
    assert len(os.listdir(path.parent)) == 2


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_DATA_DIR", str(tmp_path))
    made = run.invoke(app, ["keys", "create", "--tenant", "acme", "--label", "laptop", "--share-read", "--operator"])
    assert made.exit_code == 0
    key = made.stdout.strip()
    (record,) = list_keys(Settings(data_dir=tmp_path).keys_path)
    assert record.rights == Rights(share_read=True, operator=True)
    shown = run.invoke(app, ["keys", "list"]).stdout
    assert all(word in shown for word in (record.key_id, "acme", "laptop", "in force", "share-read,operator"))
    assert key not in shown
    assert run.invoke(app, ["keys", "revoke", record.key_id]).exit_code == 0
    assert "revoked" in run.invoke(app, ["keys", "list"]).stdout
    assert run.invoke(app, ["keys", "revoke", "nothing"]).exit_code == 2
    for wrong in (["--tenant", "a b"], ["--tenant", ""], ["--tenant", "a", "--label", "x" * 200]):
        refused = run.invoke(app, ["keys", "create", *wrong])
        assert refused.exit_code == 2
        assert refused.stderr.startswith("headstart: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
def test_beyond_loopback_a_key_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("HEADSTART_DATA_DIR", str(tmp_path))
    refused = run.invoke(app, ["serve", "--host", host])
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert "headstart keys create" in refused.stderr


def test_what_counts_as_guarded(path: Path) -> None:
    from service.server import NotGuardedError, check_guarded

    for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        check_guarded(Settings(host=host, keys_file=path))
    with pytest.raises(NotGuardedError):
        check_guarded(Settings(host="0.0.0.0", keys_file=path))
    check_guarded(Settings(host="0.0.0.0", keys_file=path, allow_anonymous=True))
    create_key(path, "acme")
    check_guarded(Settings(host="0.0.0.0", keys_file=path))
