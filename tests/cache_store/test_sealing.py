"""Encryption at rest."""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_nouns import Make

from cache_store import CacheStore, StoreConfigError
from cache_store.sealing import KeyFileError, Sealer, read_master_key

Open = Callable[..., Awaitable[CacheStore]]


def key_file(folder: Path, name: str = "key") -> Path:
    path = folder / name
    path.write_text(secrets.token_hex(32) + "\n")
    return path


@given(data=st.binary(max_size=300), tenant=st.text(max_size=20), flip=st.integers(0, 10_000))
def test_only_the_same_key_name_and_bytes_open(data: bytes, tenant: str, flip: int) -> None:
    sealer = Sealer(b"k" * 32)
    sealed = sealer.seal("states/a", data, tenant)
    assert sealer.try_open("states/a", sealed) == data
    assert sealer.try_open("states/b", sealed) is None
    assert Sealer(b"l" * 32).try_open("states/a", sealed) is None
    altered = bytearray(sealed)
    altered[flip % len(sealed)] ^= 1
    assert sealer.try_open("states/a", bytes(altered)) is None
    assert sealer.try_open("states/a", sealed[: flip % len(sealed)]) is None
    assert sealer.try_open("states/a", data) is None


def test_the_same_bytes_never_look_the_same_and_tenants_have_keys_of_their_own() -> None:
    sealer = Sealer(b"k" * 32)
    one, two, other = (sealer.seal("n", b"same", tenant) for tenant in ("anna", "anna", "bert"))
    assert one != two
    assert one[:20] == two[:20]
    assert one[:20] != other[:20]
    # Under another tenant's key the same object does not open.
    assert sealer.try_open("n", other[:20] + one[20:]) is None


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33, "\xff"])
def test_a_key_file_holds_64_hex_digits_and_nothing_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_text(text, "latin-1")
    with pytest.raises(KeyFileError) as failure:
        read_master_key(path)
    assert str(tmp_path) not in str(failure.value)


async def test_what_is_stored_is_unreadable_and_comes_back(open_store: Open, make: Make, tmp_path: Path) -> None:
    store = await open_store(encryption_key_file=key_file(tmp_path), ram_bytes=0)
    store.remember(make.entry(1), make.states(1), make.image)
    await store.flush()
    files = [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()]
    assert len(files) == 1 + len(make.levels)
    for path in files:
        assert b"PNG" not in path.read_bytes()
        assert b"safetensors" not in path.read_bytes()
        assert b"latent" not in path.read_bytes()
    (found,) = await store.search(make.signature, make.vector(1))
    for ref in found.states:
        assert await store.load(found.entry_id, ref) is not None
    assert await store.image(found.entry_id, "anna") == make.image
    assert await store.check_integrity(scrub=True) == []


@pytest.mark.parametrize(("first", "second"), [("key", "other"), ("key", None), (None, "key")])
async def test_under_another_key_everything_is_absent_and_nothing_fails(
    open_store: Open, make: Make, tmp_path: Path, first: str | None, second: str | None
) -> None:
    keys = {name: key_file(tmp_path, name) for name in ("key", "other")}
    store = await open_store(encryption_key_file=keys[first] if first else None, ram_bytes=0)
    store.remember(make.entry(1), make.states(1, 0.3), make.image)
    await store.flush()
    await store.close()
    store = await open_store(encryption_key_file=keys[second] if second else None, ram_bytes=0)
    (found,) = await store.search(make.signature, make.vector(1))
    assert await store.load(found.entry_id, found.states[0]) is None
    assert await store.find_exact("anna-1") is None
    # What was remembered since is read as usual.
    store.remember(make.entry(2), make.states(2, 0.3), make.image)
    await store.flush()
    assert await store.find_exact("anna-2") is not None


async def test_a_bad_key_file_stops_the_start(open_store: Open, tmp_path: Path) -> None:
    with pytest.raises(StoreConfigError, match="encryption key file nothing cannot be read"):
        await open_store(encryption_key_file=tmp_path / "nothing")
