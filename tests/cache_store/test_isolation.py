"""Nothing crosses from one signature to another."""

import asyncio
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_nouns import Make

from cache_store import CacheStore, Signature, StoreConfig

# Scopes and users part in a way of their own: see test_scopes.
PARTING = [field.name for field in fields(Signature) if field.name not in ("scope", "user")]
TEXT_FIELDS = [name for name in PARTING if isinstance(getattr(Make.signature, name), str)]
changes = st.one_of(
    st.dictionaries(st.sampled_from(TEXT_FIELDS), st.sampled_from(["p", "q", "ü"]), max_size=3),
    st.fixed_dictionaries({"width": st.sampled_from([64, 256])}),
    st.fixed_dictionaries({"loras": st.sampled_from([(("x", "d", 0.5),), (("x", "d", 1.0),), (("x", "e", 0.5),)])}),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, CacheStore]]:
    folder: Path = tmp_path_factory.mktemp("isolation")
    with asyncio.Runner() as runner:
        store = runner.run(CacheStore.open(StoreConfig(folder, timeout_seconds=5.0)))
        yield runner, store
        runner.run(store.close())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(variants=st.lists(changes, min_size=2, max_size=4))
def test_a_search_sees_its_own_signature_only(running: tuple[asyncio.Runner, CacheStore], variants) -> None:
    runner, store = running
    make = Make()
    signatures = [replace(make.signature, **change) for change in variants]

    async def scenario() -> None:
        await store.clear()
        # The very same prompt everywhere: only the signature can tell the entries apart.
        for number, signature in enumerate(signatures):
            entry = replace(make.entry(1), signature=signature, exact_key=f"key-{number}", seed=number)
            store.remember(entry, make.states(1, 0.3), make.image)
        await store.flush()
        for number, signature in enumerate(signatures):
            same = {n for n, other in enumerate(signatures) if other == signature}
            found = await store.search(signature, make.vector(1))
            seeds = {(await store.entry(c.entry_id, signature.tenant)).seed for c in found}
            assert seeds == same
            hit = await store.find_exact(f"key-{number}")
            assert (await store.entry(hit.entry_id, signature.tenant)).seed == number
            assert {s.seed for s in await store.recent(signature.tenant)} == {
                n for n, other in enumerate(signatures) if other.tenant == signature.tenant
            }

    runner.run(scenario())


def test_equal_signatures_have_equal_digests() -> None:
    make = Make()
    assert make.signature.digest == replace(make.signature).digest
    digests = {replace(make.signature, **{name: "other"}).digest for name in TEXT_FIELDS}
    assert len(digests | {make.signature.digest}) == len(TEXT_FIELDS) + 1
