"""The store's main path: remember, find, load, count, forget."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from cache_store import CacheStore, CacheUnavailable, StateRef
from cache_store.catalogue import PREFIX
from cache_store.records import StateRecord


async def remember(store: CacheStore, make, *seeds: int, tenant: str = "anna", skips=()) -> None:
    for seed in seeds:
        assert store.remember(make.entry(seed, tenant=tenant), make.states(seed, *skips), make.image)
    await store.flush()


async def test_round_trip(store: CacheStore, make) -> None:
    assert (await store.stats()).available
    await remember(store, make, 1, 2, 3)

    found = await store.search(make.signature, make.vector(2), limit=2)
    assert len(found) == 2
    best = found[0]
    assert best.similarity == pytest.approx(1.0)
    assert best.prompt == "secret prompt 2"
    assert [ref.skip for ref in best.states] == list(make.levels)

    for ref, original in zip(best.states, make.states(2), strict=True):
        state = await store.load(best.entry_id, ref)
        assert state is not None
        np.testing.assert_array_equal(state.latent, original.latent)
        np.testing.assert_array_equal(state.prediction, original.prediction)
        assert (state.log_snr, state.timestep, state.skip) == (original.log_snr, original.timestep, original.skip)

    assert await store.check_integrity() == []


@pytest.mark.parametrize("ram_bytes", [0, 10**6])
async def test_where_features_were_reused_is_remembered(open_store, make, ram_bytes: int) -> None:
    plain, approximated = make.states(1, 0.1, 0.3)
    states = [plain, replace(approximated, approximated=True)]
    store = await open_store(ram_bytes=ram_bytes)
    store.remember(make.entry(1), states, make.image)
    await store.flush()
    for _ in range(2):
        (found,) = await store.search(make.signature, make.vector(1))
        assert [(ref.skip, ref.approximated) for ref in found.states] == [(0.1, False), (0.3, True)]
        loaded = [await store.load(found.entry_id, ref) for ref in found.states]
        assert [state.approximated for state in loaded if state] == [False, True]
        assert await store.check_integrity() == []
        await store.close()
        store = await open_store(ram_bytes=ram_bytes)


async def test_an_entry_knows_the_noise_its_lineage_began_with(store: CacheStore, make) -> None:
    full, resumed, old = (
        make.entry(1),
        replace(make.entry(2), depth=2, noise_seed=2**62),
        replace(make.entry(3), depth=1),
    )
    for entry in (full, resumed, old):
        store.remember(entry, make.states(1), make.image)
    await store.flush()
    assert {entry.seed: entry.noise_seed for entry in await store.recent("anna")} == {1: 1, 2: 2**62, 3: None}


def test_records_of_before_feature_caching_are_read_and_written_alike(make) -> None:
    record = StateRecord.of(7, make.state(1, 0.3), 100, 5)
    assert "approximated" not in record.dump()
    assert StateRecord.parse(record.dump().encode()) == record
    marked = StateRecord.of(7, replace(make.state(1, 0.3), approximated=True), 100, 5)
    assert StateRecord.parse(marked.dump().encode()) == marked
    assert all(ref.approximated for ref in marked.refs)


async def test_exact_hit(store: CacheStore, make) -> None:
    await remember(store, make, 7)
    hit = await store.find_exact("anna-7")
    assert hit is not None
    assert (hit.prompt, hit.image) == ("secret prompt 7", make.image)
    await store.touch_image(hit.entry_id)
    summary = await store.entry(hit.entry_id, "anna")
    assert summary is not None
    assert summary.uses == 1
    assert await store.find_exact("anna-8") is None


async def test_an_exact_hit_tells_what_drawing_it_took(store: CacheStore, make) -> None:
    store.remember(make.entry(1), make.states(1), make.image)
    store.remember(replace(make.entry(2), gpu_seconds=1.6, full_seconds=1.25), make.states(2), make.image)
    await store.flush()
    assert [(await store.find_exact(f"anna-{seed}")).full_seconds for seed in (1, 2)] == [1.5, 1.25]


@pytest.mark.parametrize("kept", [None, b"", b"a while", b"nan", b"inf", b"-1.0"])
async def test_an_entry_of_before_that_has_no_price(store: CacheStore, make, kept: bytes | None) -> None:
    await remember(store, make, 1)
    key = f"{PREFIX}entry:{(await store.find_exact('anna-1')).entry_id}"
    await store._link.call(*("HDEL", key, "full_seconds") if kept is None else ("HSET", key, "full_seconds", kept))
    hit = await store.find_exact("anna-1")
    assert (hit.prompt, hit.image, hit.full_seconds) == ("secret prompt 1", make.image, 0.0)
    assert await store.check_integrity() == []


async def test_load_without_ram_tier_reads_the_object(open_store, make) -> None:
    store = await open_store(ram_bytes=0)
    await remember(store, make, 1)
    (found,) = await store.search(make.signature, make.vector(1))
    state = await store.load(found.entry_id, found.states[2])
    assert state is not None
    np.testing.assert_array_equal(state.latent, make.states(1)[2].latent)
    assert (await store.stats()).ram_bytes == 0


async def test_restart_keeps_the_cache(open_store, make) -> None:
    store = await open_store()
    await remember(store, make, 1, 2)
    (before, _) = await store.search(make.signature, make.vector(1))
    await store.close()

    store = await open_store()
    (after, _) = await store.search(make.signature, make.vector(1))
    assert after == before
    assert await store.load(after.entry_id, after.states[0]) is not None
    assert await store.find_exact("anna-2") is not None
    assert await store.check_integrity() == []
    await remember(store, make, 3)
    newest = (await store.recent("anna"))[0]
    assert newest.entry_id > after.entry_id


async def test_touch_counts_uses_of_entry_and_state(store: CacheStore, make) -> None:
    await remember(store, make, 1)
    (found,) = await store.search(make.signature, make.vector(1))
    for _ in range(3):
        await store.touch(found.entry_id, found.states[0])
    summary = await store.entry(found.entry_id, "anna")
    assert summary is not None
    assert summary.uses == 3
    await store.touch(found.entry_id, StateRef(99.0, 0.5, True))
    await store.touch(12345, found.states[0])
    assert await store.check_integrity() == []


async def test_tenants_do_not_see_each_other(store: CacheStore, make) -> None:
    await remember(store, make, 1)
    await remember(store, make, 2, tenant="bert")
    (mine,) = await store.recent("anna")
    (theirs,) = await store.recent("bert")
    assert await store.entry(theirs.entry_id, "anna") is None
    assert await store.image(theirs.entry_id, "anna") is None
    assert await store.entry(mine.entry_id, "anna") == mine
    assert await store.image(mine.entry_id, "anna") == make.image
    assert await store.entry(999, "anna") is None
    assert await store.image(999, "anna") is None


async def test_recent_is_newest_first(store: CacheStore, make) -> None:
    await remember(store, make, 1, 3, 2)
    assert [summary.seed for summary in await store.recent("anna", limit=2)] == [2, 3]
    assert await store.recent("anna", limit=0) == []
    assert await store.recent("nobody") == []


async def test_clear(store: CacheStore, make, tmp_path) -> None:
    await remember(store, make, 1, 2)
    await remember(store, make, 3, tenant="bert")
    store.remember(make.entry(4), make.states(4), make.image)
    assert await store.clear("anna") in {2, 3}  # the queued one may have been written first
    await store.flush()
    assert await store.recent("anna") == []
    assert await store.search(make.signature, make.vector(1)) == []
    assert await store.find_exact("anna-1") is None
    assert len(await store.recent("bert")) == 1
    assert await store.check_integrity() == []

    assert await store.clear() == 1
    stats = await store.stats()
    assert (stats.entries, stats.states, stats.state_bytes, stats.image_bytes, stats.partitions) == (0, 0, 0, 0, 0)
    assert [path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file()] == []
    await remember(store, make, 5)
    assert len(await store.recent("anna")) == 1


async def test_entry_without_states_or_image(store: CacheStore, make) -> None:
    store.remember(make.entry(1), [], make.image)
    await store.flush()
    assert await store.search(make.signature, make.vector(1)) == []
    assert await store.find_exact("anna-1") is not None
    assert await store.check_integrity() == []


async def test_given_id_is_kept_and_never_overwritten(store: CacheStore, make) -> None:
    assert store.remember(make.entry(1, entry_id=77), make.states(1), make.image)
    assert store.remember(make.entry(2, entry_id=77), make.states(2), make.image)
    await store.flush()
    summary = await store.entry(77, "anna")
    assert summary is not None
    assert summary.seed == 1
    assert (await store.stats()).dropped_writes == 1
    assert await store.check_integrity() == []


async def test_unusable_states_are_left_out(store: CacheStore, make) -> None:
    broken = make.state(1, 0.3)
    broken.latent[0, 0, 0] = np.inf
    store.remember(make.entry(1), [make.state(1, 0.1), broken], make.image)
    await store.flush()
    (found,) = await store.search(make.signature, make.vector(1))
    assert [ref.skip for ref in found.states] == [0.1]


async def test_unusable_embeddings(store: CacheStore, make, caplog) -> None:
    await remember(store, make, 1)
    with pytest.raises(CacheUnavailable):
        await store.search(make.signature, np.zeros(16, np.float32))
    with pytest.raises(CacheUnavailable):
        await store.search(make.signature, make.vector(1, size=8))
    assert (await store.stats()).available
    assert "secret" not in caplog.text


async def test_a_write_of_another_dimension_is_refused(store: CacheStore, make) -> None:
    await remember(store, make, 1)
    store.remember(replace(make.entry(2), embedding=make.vector(2, size=8)), make.states(2), make.image)
    await store.flush()
    assert (await store.stats()).dropped_writes == 1
    assert await store.check_integrity() == []


async def test_loaded_arrays_cannot_be_changed(open_store, make) -> None:
    for ram_bytes in (0, 10**6):
        store = await open_store(ram_bytes=ram_bytes)
        await remember(store, make, 1)
        found = await store.search(make.signature, make.vector(1), limit=1)
        for _ in range(2):
            state = await store.load(found[0].entry_id, found[0].states[0])
            with pytest.raises(ValueError, match="read-only"):
                state.latent[0, 0, 0] = 1
        await store.close()


async def test_many_at_once(store: CacheStore, make) -> None:
    for seed in range(1, 31):
        assert store.remember(make.entry(seed), make.states(seed), make.image)

    async def client(seed: int) -> None:
        for candidate in await store.search(make.signature, make.vector(seed)):
            for ref in candidate.states:
                state = await store.load(candidate.entry_id, ref)
                assert state is None or state.skip == ref.skip
                await store.touch(candidate.entry_id, ref)

    await asyncio.gather(*(client(seed) for seed in range(1, 31)), store.clear("bert"))
    await store.flush()
    assert (await store.stats()).entries == 30
    assert await store.check_integrity() == []


async def test_a_resumed_runs_later_states_are_kept_with_their_lineage(open_store, make) -> None:
    store = await open_store(ram_bytes=0)
    later = [replace(state, depth=2) for state in make.states(1, 0.4, 0.5)]
    store.remember(replace(make.entry(1), depth=2), later, make.image)
    await store.flush()
    (found,) = await store.search(make.signature, make.vector(1))
    assert [ref.skip for ref in found.states] == [0.4, 0.5]
    assert (await store.entry(found.entry_id, "anna")).depth == 2
    for ref in found.states:
        assert (await store.load(found.entry_id, ref)).depth == 2


async def test_a_picture_knows_which_safety_checker_has_let_it_pass(store: CacheStore, make) -> None:
    judged = make.entry(2)
    judged = replace(judged, signature=replace(judged.signature, safety_version="v1"))
    for entry in (make.entry(1), judged):
        assert store.remember(entry, [], make.image)
    await store.flush()
    before, after = await store.find_exact("anna-1"), await store.find_exact("anna-2")
    assert before is not None
    assert after is not None
    assert (before.image.safety_version, after.image.safety_version) == ("", "v1")
    await store.note_safety(after.entry_id, "v2")
    image = await store.image(after.entry_id, "anna")
    assert image is not None
    assert image.safety_version == "v2"
    await store.note_safety(1, "v2")  # of an entry that is gone nothing comes back
    assert await store.entry(1, "anna") is None
    assert await store.check_integrity() == []
