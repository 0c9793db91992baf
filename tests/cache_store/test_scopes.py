"""Scopes: what a search sees of users, tenants and the public partition."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from store_nouns import Make, until

from cache_store import CacheEntry, CacheStore, Selection, Signature, user_digest
from cache_store.sharing import FREE_ENTRIES, SharingRules

Open = Callable[..., Awaitable[CacheStore]]
OPEN_RULES = SharingRules(quarantine_seconds=0.0, witnesses=1)


def entry_of(make: Make, tenant: str, seed: int, scope: str = "public", *, text: str = "a red cube") -> CacheEntry:
    entry = make.entry(seed, tenant=tenant, prompt=text)
    user = user_digest(tenant, "u")
    signature = replace(entry.signature, scope=scope, user=user)
    return replace(entry, signature=signature, embedding=make.vector(1), exact_key=f"{tenant}-{seed}-{scope}")


async def keep(store: CacheStore, make: Make, *entries: CacheEntry) -> None:
    for entry in entries:
        assert store.remember(entry, make.states(entry.seed, 0.3), make.image)
    await store.flush()


def reader(make: Make, tenant: str, scope: str = "tenant") -> Signature:
    return replace(make.signature, tenant=tenant, scope=scope, user=user_digest(tenant, "u"))


async def seen(
    store: CacheStore, make: Make, tenant: str, *, public: bool = True, scope: str = "tenant"
) -> list[bool]:
    """Of each candidate that `tenant` gets: whether it is another's."""
    found = await store.search(reader(make, tenant, scope), make.vector(1), public=public)
    return sorted(candidate.foreign for candidate in found)


def test_the_default_scope_leaves_digests_as_they_were(make: Make) -> None:
    assert replace(make.signature, user="f" * 64).digest == make.signature.digest
    scopes = [make.signature.within(scope).digest for scope in ("user", "tenant", "public")]
    assert len(set(scopes)) == 3
    other = replace(make.signature, tenant="bert")
    assert other.within("public").digest == make.signature.within("public").digest
    assert other.within("user").digest != make.signature.within("user").digest


async def test_a_user_s_own_are_for_that_user_alone(store: CacheStore, make: Make) -> None:
    await keep(store, make, entry_of(make, "anna", 1, "user"))
    assert await seen(store, make, "anna", scope="user") == [False]
    assert await seen(store, make, "anna", scope="tenant") == []
    other = replace(reader(make, "anna", "user"), user=user_digest("anna", "v"))
    assert await store.search(other, make.vector(1), public=True) == []


async def test_a_public_entry_needs_a_witness_besides_author_and_reader(open_store: Open, make: Make) -> None:
    store = await open_store(sharing=OPEN_RULES)
    await keep(store, make, entry_of(make, "anna", 1))
    assert await seen(store, make, "anna") == [False]
    assert await seen(store, make, "bert") == []
    await keep(store, make, entry_of(make, "bert", 2, text="A  RED cube"))
    # Each of the two is the other's author and no witness of its own reading.
    assert await seen(store, make, "anna") == [False]
    assert await seen(store, make, "bert") == [False]
    assert await seen(store, make, "carl") == [True, True]
    assert await seen(store, make, "carl", public=False) == []


async def test_another_text_is_no_witness(open_store: Open, make: Make) -> None:
    store = await open_store(sharing=OPEN_RULES)
    await keep(store, make, entry_of(make, "anna", 1), entry_of(make, "bert", 2, text="a red cube by acme"))
    assert await seen(store, make, "carl") == []


async def test_witnesses_go_with_what_they_are_told_by(open_store: Open, make: Make) -> None:
    store = await open_store(sharing=OPEN_RULES)
    await keep(store, make, entry_of(make, "anna", 1), entry_of(make, "bert", 2), entry_of(make, "bert", 3))
    assert len(await seen(store, make, "carl")) == 3
    assert await store.forget(Selection(tenant="bert")) == 2
    assert await seen(store, make, "carl") == []
    assert await seen(store, make, "anna") == [False]
    assert await store._link.call("KEYS", "headstart:1:texts:*") != []
    await store.forget(Selection(tenant="anna"))
    for name in ("texts", "authors", "credited"):
        assert await store._link.call("KEYS", f"headstart:1:{name}:*") == []


async def test_quarantine_is_over_by_time_alone(open_store: Open, make: Make) -> None:
    store = await open_store(sharing=SharingRules(quarantine_seconds=2.0, witnesses=0))
    await keep(store, make, entry_of(make, "anna", 1))
    assert await seen(store, make, "bert") == []
    assert await seen(store, make, "anna") == [False]

    async def shown() -> bool:
        return await seen(store, make, "bert") == [True]

    await until(shown)


async def test_only_others_uses_count_and_each_tenant_s_once(open_store: Open, make: Make) -> None:
    store = await open_store(sharing=SharingRules(quarantine_seconds=0.0, witnesses=0))
    await keep(store, make, entry_of(make, "anna", 1))
    ((found,),) = (await store.search(reader(make, "anna"), make.vector(1), public=True),)
    ref = found.states[0]
    uses = f"{round(ref.log_snr * 1000)}:u"

    async def counted() -> int:
        return int(await store._link.call("HGET", f"headstart:1:states:{found.entry_id}", uses))

    for tenant, expected in (("anna", 0), ("anna", 0), ("bert", 1), ("bert", 1), ("carl", 2), ("", 2)):
        await store.touch(found.entry_id, ref, tenant)
        assert await counted() == expected
    summary = await store.entry(found.entry_id, "anna")
    # What its author may read counts the author's own two and whoever gave no name, never bert or carl.
    assert summary is not None
    assert (summary.public, summary.uses) == (True, 3)


async def test_one_author_gets_a_share_and_keeps_the_rest_to_itself(open_store: Open, make: Make) -> None:
    store = await open_store(sharing=SharingRules(author_share=0.5))
    flood = [entry_of(make, "anna", seed, text=f"text {seed}") for seed in range(FREE_ENTRIES + 5)]
    await keep(store, make, *flood)
    entries = await store.recent("anna", 100)
    assert sum(entry.public for entry in entries) == FREE_ENTRIES
    assert len(entries) == FREE_ENTRIES + 5
    assert await seen(store, make, "anna", public=False) == [False] * 5
    assert await store.check_integrity() == []


@pytest.mark.parametrize("field", ["partition:*", "partitions"])
async def test_repair_puts_public_entries_back_with_their_counts(open_store: Open, make: Make, field: str) -> None:
    store = await open_store(sharing=OPEN_RULES)
    await keep(store, make, entry_of(make, "anna", 1), entry_of(make, "bert", 2))
    names = await store._link.call("KEYS", f"headstart:1:{field}")
    lost = [*names, *await store._link.call("KEYS", "headstart:1:texts:*")] if ":" in field else names
    await store._link.call("DEL", *lost)
    assert await store.repair() != []
    assert await store.check_integrity() == []
    assert await seen(store, make, "carl") == [True, True]
