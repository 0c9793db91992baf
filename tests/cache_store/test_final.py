"""Clean latents in the store: one object that serves several levels, the same states every time."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from cache_store import CacheStore, StoreConfig
from cache_store.records import FINAL_LEVEL, StateRecord, level_of
from cache_store.renoise import noise_between, noised, renoised, unit_noise
from cache_store.states import CorruptState
from cache_store.types import FinalState, NoiseLevel, NoiseState


def final_of(states: list[NoiseState], *, noise: bool = False) -> FinalState:
    clean = np.random.default_rng(9).normal(size=states[0].latent.shape).astype(np.float16)
    levels = tuple(NoiseLevel(at.log_snr, at.timestep, at.skip, at.prediction) for at in states)
    return FinalState(clean, levels, noise_between(clean, states[0]) if noise else None, depth=1)


async def remember_final(store: CacheStore, make, seed: int = 1, *, noise: bool = False) -> FinalState:
    final = final_of(make.states(seed), noise=noise)
    assert store.remember(make.entry(seed), make.states(seed), make.image, final)
    await store.flush()
    return final


def test_noise_is_a_pure_function_of_entry_and_level() -> None:
    noise = unit_noise(2**52 + 1, -1250, (4, 64, 64))
    np.testing.assert_array_equal(noise, unit_noise(2**52 + 1, -1250, (4, 64, 64)))
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    for other in (unit_noise(2**52 + 1, -1251, (4, 64, 64)), unit_noise(2**52, -1250, (4, 64, 64))):
        assert abs(float(np.corrcoef(noise.ravel(), other.ravel())[0, 1])) < 0.05
    # Pinned: a replay next year must draw the same.
    np.testing.assert_allclose(unit_noise(1, 2, (1, 1, 3)).ravel(), PINNED, rtol=1e-6)


PINNED = [-1.0329514741897583, -1.3769803047180176, -0.049237024039030075]


@pytest.mark.parametrize("log_snr", [-20.0, -1.25, 0.0, 3.0, 20.0])
def test_noising_preserves_variance(log_snr: float) -> None:
    latent = np.random.default_rng(0).normal(size=(4, 64, 64)).astype(np.float16)
    noise = unit_noise(1, level_of(log_snr), latent.shape)
    mixed = noised(latent, log_snr, noise)
    assert abs(float(mixed.astype(np.float32).std()) - 1) < 0.03
    alpha, sigma = (np.sqrt(1 / (1 + np.exp(-s))) for s in (log_snr, -log_snr))
    np.testing.assert_allclose(mixed, alpha * latent.astype(np.float32) + sigma * noise, atol=4e-3)


def test_kept_noise_gives_back_the_state_it_was_taken_from(make) -> None:
    states = make.states(1)
    final = final_of(states, noise=True)
    first = renoised(final, 7, level_of(states[0].log_snr))
    np.testing.assert_allclose(first.latent, states[0].latent, atol=4e-3)
    assert (first.skip, first.timestep, first.depth) == (states[0].skip, states[0].timestep, 1)
    np.testing.assert_array_equal(first.prediction, states[0].prediction)


def test_a_level_that_is_not_served_is_refused(make) -> None:
    with pytest.raises(CorruptState, match="does not serve"):
        renoised(final_of(make.states(1)), 7, 12345)


@pytest.mark.parametrize("noise", [False, True])
async def test_one_object_serves_every_level(open_store, make, noise: bool) -> None:
    for ram_bytes in (10**6, 0):
        store = await open_store(ram_bytes=ram_bytes)
        if ram_bytes:
            final = await remember_final(store, make, noise=noise)
        (found,) = await store.search(make.signature, make.vector(1))
        assert [ref.skip for ref in found.states] == list(make.levels)
        assert {ref.form for ref in found.states} == {"final"}
        assert all(ref.has_prediction for ref in found.states)
        stats = await store.stats()
        assert stats.states == 1
        for ref, at in zip(found.states, final.levels, strict=True):
            state = await store.load(found.entry_id, ref)
            again = await store.load(found.entry_id, ref)
            np.testing.assert_array_equal(state.latent, again.latent)
            np.testing.assert_array_equal(state.latent, renoised(final, found.entry_id, level_of(at.log_snr)).latent)
            np.testing.assert_array_equal(state.prediction, at.prediction)
            with pytest.raises(ValueError, match="read-only"):
                state.latent[0, 0, 0] = 1
        assert await store.check_integrity() == []
        await store.close()


async def test_bytes_are_those_of_the_one_object(open_store, make) -> None:
    store = await open_store()
    store.remember(make.entry(1), make.states(1, size=32), make.image)
    await store.flush()
    apart = (await store.stats()).state_bytes
    await store.clear()
    store.remember(make.entry(2), make.states(2, size=32), make.image, final_of(make.states(2, size=32)))
    await store.flush()
    stats = await store.stats()
    assert stats.state_bytes == stats.ram_bytes - 512
    assert stats.state_bytes < 0.5 * apart


async def test_use_and_eviction_are_of_the_whole_entry(open_store, make) -> None:
    store = await open_store()
    await remember_final(store, make)
    (found,) = await store.search(make.signature, make.vector(1))
    for ref in found.states[:2]:
        await store.touch(found.entry_id, ref)
    uses = await store._link.call("HGET", f"headstart:1:states:{found.entry_id}", f"{FINAL_LEVEL}:u")
    assert int(uses) == 2
    assert await store._parts.catalogue.levels(found.entry_id) == [FINAL_LEVEL]
    await store._remover.drop_state((found.entry_id, FINAL_LEVEL), "test")
    assert await store.search(make.signature, make.vector(1)) == []
    assert await store.load(found.entry_id, found.states[0]) is None
    stats = await store.stats()
    assert (stats.states, stats.state_bytes, stats.ram_bytes) == (0, 0, 0)
    assert await store.check_integrity() == []


async def test_what_takes_fewer_bytes_is_kept(store: CacheStore, make) -> None:
    """A single state is smaller than a clean latent with its noise; then the state itself is kept."""
    states = make.states(1, 0.3)
    store.remember(make.entry(1), states, make.image, final_of(states, noise=True))
    await store.flush()
    (found,) = await store.search(make.signature, make.vector(1))
    assert [ref.form for ref in found.states] == ["trajectory"]
    bad = replace(final_of(make.states(2)), latent=np.full((4, 8, 8), np.inf, np.float16))
    store.remember(make.entry(2), make.states(2), make.image, bad)
    await store.flush()
    (second,) = await store.search(make.signature, make.vector(2), limit=1)
    assert len(second.states) == 5
    assert {ref.form for ref in second.states} == {"trajectory"}


async def test_a_damaged_object_loses_all_its_levels(open_store, make, tmp_path) -> None:
    store = await open_store(ram_bytes=0)
    await remember_final(store, make)
    (found,) = await store.search(make.signature, make.vector(1))
    (path,) = [p for p in tmp_path.rglob("*") if p.is_file() and str(FINAL_LEVEL) in p.name]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert await store.load(found.entry_id, found.states[3]) is None
    await store.flush()
    assert await store.search(make.signature, make.vector(1)) == []


def test_records_of_before_clean_latents_are_read_and_written_alike(make) -> None:
    record = StateRecord.of(7, make.state(1, 0.3), 100, 5)
    assert "levels" not in record.dump()
    assert [ref.form for ref in record.refs] == ["trajectory"]
    final = StateRecord.of(7, final_of(make.states(1)), 100, 5)
    assert StateRecord.parse(final.dump().encode()) == final
    assert (final.level, final.skip) == (FINAL_LEVEL, 0.5)


def test_forms_default_to_what_they_were(tmp_path) -> None:
    assert StoreConfig(tmp_path).codec == "fp16"


async def test_levels_asked_for_together_are_read_once(open_store, make, monkeypatch) -> None:
    store = await open_store(ram_bytes=0)
    final = await remember_final(store, make)
    (found,) = await store.search(make.signature, make.vector(1))
    assert len(store._parts.pins._leases) == 1
    objects, reads = store._parts.objects, []
    original = objects.get

    async def counted(path: str) -> bytes | None:
        reads.append(path)
        return await original(path)

    monkeypatch.setattr(objects, "get", counted)
    given_up = asyncio.create_task(store.load(found.entry_id, found.states[0]))
    await asyncio.sleep(0)
    loading = asyncio.gather(*(store.load(found.entry_id, ref) for ref in found.states))
    await asyncio.sleep(0)
    given_up.cancel()
    for state, at in zip(await loading, final.levels, strict=True):
        np.testing.assert_array_equal(state.latent, renoised(final, found.entry_id, level_of(at.log_snr)).latent)
    assert len(reads) == 1
    assert await store.load(found.entry_id, found.states[0]) is not None
    assert len(reads) == 2
