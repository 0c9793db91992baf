"""Every codec's contract: what comes out is near what went in, by a known bound, whatever the numbers."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cache_store import NoiseState, StoreConfig, StoreConfigError
from cache_store.codec import CODECS, Codec, pack, unpack
from cache_store.records import FINAL_LEVEL
from cache_store.states import CorruptState, decode_final, decode_state, encode_final, encode_state
from cache_store.types import FinalState, NoiseLevel

HALF = st.floats(width=16, allow_nan=False, allow_infinity=False)
ARRAYS = arrays(np.float16, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=HALF)
LARGEST = float(np.finfo(np.float16).max)


def bound_of(array: np.ndarray, codec: Codec) -> np.ndarray:
    """Largest error per channel: none, or half a spacing of 256 values and what the return to half precision adds."""
    if codec == "fp16":
        return np.zeros((array.shape[0], 1, 1))
    numbers = array.astype(np.float64)
    spacing = np.ptp(numbers, axis=(1, 2), keepdims=True) / 255
    # Arithmetic in float32 adds a few parts in 10^7 of the range.
    rounding = np.spacing(np.abs(array).max(axis=(1, 2), keepdims=True)).astype(np.float64) / 2
    return spacing / 2 * (1 + 1e-4) + rounding


def trip(array: np.ndarray, codec: Codec) -> np.ndarray:
    return unpack("a", safetensors.numpy.load(safetensors.numpy.save(pack("a", array, codec))), codec)


@pytest.mark.parametrize("codec", CODECS)
@settings(deadline=None, max_examples=100)
@given(array=ARRAYS)
def test_the_error_is_bounded_per_channel(codec: Codec, array: np.ndarray) -> None:
    back = trip(array, codec)
    assert (back.dtype, back.shape) == (np.float16, array.shape)
    assert np.isfinite(back).all()
    assert (np.abs(back.astype(np.float64) - array.astype(np.float64)) <= bound_of(array, codec)).all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.14, LARGEST, -LARGEST, 6e-8])
def test_a_constant_channel_is_kept_exactly(codec: Codec, value: float) -> None:
    array = np.full((2, 3, 3), value, np.float16)
    np.testing.assert_array_equal(trip(array, codec), array)


@pytest.mark.parametrize("codec", CODECS)
def test_an_outlier_costs_its_own_channel_only(codec: Codec) -> None:
    array = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float16)
    array[1, 2, 3] = 1000
    error = np.abs(trip(array, codec).astype(np.float32) - array.astype(np.float32)).max(axis=(1, 2))
    assert (error <= bound_of(array, codec)[:, 0, 0]).all()
    assert max(error[0], error[2]) < 0.02
    assert trip(array, codec)[1, 2, 3] == 1000


@pytest.mark.parametrize("codec", CODECS)
def test_the_widest_range_stays_finite(codec: Codec) -> None:
    array = np.linspace(-LARGEST, LARGEST, 64).astype(np.float16).reshape(1, 8, 8)
    back = trip(array, codec)
    assert (back.min(), back.max()) == (array.min(), array.max())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(codec: Codec, value: float) -> None:
    latent = np.zeros((1, 2, 2), np.float16)
    latent[0, 1, 1] = value
    for refuse in (
        lambda: encode_state(1, NoiseState(latent, 0.0, 1.0, 0.5, None), codec),
        lambda: encode_state(1, NoiseState(np.zeros_like(latent), 0.0, 1.0, 0.5, latent), codec),
        lambda: encode_final(1, FinalState(latent, (NoiseLevel(0.0, 1.0, 0.5, None),)), codec),
    ):
        with pytest.raises(ValueError, match="not finite float16"):
            refuse()


def state_of(seed: int) -> NoiseState:
    noise = np.random.default_rng(seed).normal(size=(4, 32, 32)).astype(np.float16)
    return NoiseState(noise, -1.25, 600.5, 0.3, noise[:, ::4, ::4].copy(), depth=2, approximated=True)


def final_of(seed: int) -> FinalState:
    state = state_of(seed)
    levels = (
        NoiseLevel(-2.0, 800.0, 0.1, state.prediction),
        NoiseLevel(-1.0, 600.0, 0.2, None),
        NoiseLevel(0.0, 400.0, 0.3, state.prediction[::-1].copy()),
    )
    return FinalState(state.latent, levels, depth=1, approximated=True)


def near(one: np.ndarray, other: np.ndarray, codec: Codec) -> bool:
    gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return one.dtype == np.float16 and bool((gap <= bound_of(other, codec)).all())


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_says_how_it_is_written(codec: Codec) -> None:
    before = state_of(1)
    after = decode_state(encode_state(5, before, codec), 5, -1250)
    assert near(after.latent, before.latent, codec)
    assert near(after.prediction, before.prediction, codec)
    assert replace(after, latent=before.latent, prediction=before.prediction) == before


@pytest.mark.parametrize("codec", CODECS)
def test_a_clean_latent_keeps_its_levels(codec: Codec) -> None:
    before = final_of(1)
    after = decode_final(encode_final(5, before, codec), 5)
    assert near(after.latent, before.latent, codec)
    assert (after.depth, after.approximated) == (1, True)
    for was, now in zip(before.levels, after.levels, strict=True):
        assert (now.log_snr, now.timestep, now.skip) == (was.log_snr, was.timestep, was.skip)
        assert (now.prediction is None) == (was.prediction is None)
    # The stacked predictions are quantised channel by channel all the same.
    assert near(after.levels[0].prediction, before.levels[0].prediction, codec)
    assert near(after.levels[2].prediction, before.levels[2].prediction, codec)


def test_int8_takes_half_the_bytes() -> None:
    ratio = len(encode_state(5, state_of(1), "int8")) / len(encode_state(5, state_of(1)))
    assert 0.5 < ratio < 0.6  # headers count for more in a small latent


def test_half_precision_is_written_as_it_always_was() -> None:
    """An older service that shares the store can still read it."""
    with_metadata = encode_state(5, state_of(1))
    assert b'"schema":"1"' in with_metadata
    assert b"codec" not in with_metadata


@pytest.mark.parametrize("codec", CODECS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_changed_byte_shows(codec: Codec, data: st.DataObject) -> None:
    for whole, read in (
        (encode_state(5, state_of(1), codec), lambda raw: decode_state(raw, 5, -1250)),
        (encode_final(5, final_of(1), codec), lambda raw: decode_final(raw, 5)),
    ):
        position, mask = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
        with pytest.raises(CorruptState):
            read(whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :])
        with pytest.raises(CorruptState):
            read(whole[:position])


@pytest.mark.parametrize("codec", CODECS)
def test_a_state_is_not_a_clean_latent_nor_another_entrys(codec: Codec) -> None:
    state, final = encode_state(5, state_of(1), codec), encode_final(5, final_of(1), codec)
    for misread in (
        lambda: decode_final(state, 5),
        lambda: decode_state(final, 5, -2000),
        lambda: decode_state(final, 5, FINAL_LEVEL),
        lambda: decode_final(final, 6),
        lambda: decode_state(state, 5, -1251, trusted=True),
    ):
        with pytest.raises(CorruptState):
            misread()


def test_a_clean_latent_without_levels_or_with_odd_predictions_is_refused() -> None:
    final = final_of(1)
    with pytest.raises(ValueError, match="no level"):
        encode_final(1, replace(final, levels=()))
    with pytest.raises(ValueError, match="finite"):
        encode_final(1, replace(final, levels=(NoiseLevel(float("inf"), 0.0, 0.5, None),)))
    odd = NoiseLevel(0.0, 1.0, 0.5, np.zeros((4, 3, 3), np.float16))
    with pytest.raises(ValueError, match="dimension"):
        encode_final(1, replace(final, levels=(*final.levels, odd)))


def test_an_unknown_codec_is_refused(tmp_path) -> None:
    with pytest.raises(StoreConfigError, match="codec"):
        StoreConfig(tmp_path, codec="zip").check()


@pytest.mark.parametrize(("written", "now"), [("fp16", "int8"), ("int8", "fp16")])
async def test_the_store_reads_both_whatever_it_writes(open_store, make, written: Codec, now: Codec) -> None:
    for codec, seed in ((written, 1), (now, 2)):
        store = await open_store(codec=codec)
        store.remember(make.entry(seed), make.states(seed), make.image)
        await store.close()
    for ram_bytes in (0, 10**6):
        store = await open_store(codec=now, ram_bytes=ram_bytes)
        for seed, codec in ((1, written), (2, now)):
            (found, *_) = await store.search(make.signature, make.vector(seed))
            for ref, before in zip(found.states, make.states(seed), strict=True):
                for _ in range(2):
                    after = await store.load(found.entry_id, ref)
                    assert near(after.latent, before.latent, codec)
                    assert near(after.prediction, before.prediction, codec)
        assert await store.check_integrity() == []
        await store.close()


async def test_memory_is_reckoned_in_bytes_as_held(open_store, make) -> None:
    held = {}
    for codec in CODECS:
        store = await open_store(codec=codec)
        store.remember(make.entry(1), make.states(1, size=64), make.image)
        await store.flush()
        stats = await store.stats()
        held[codec] = stats.ram_bytes
        assert stats.ram_bytes == stats.state_bytes + 512 * 5
        await store.clear()
        assert (await store.stats()).ram_bytes == 0
        await store.close()
    assert 0.5 < held["int8"] / held["fp16"] < 0.6
