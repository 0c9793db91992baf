"""States as bytes: what goes in comes out, and a changed byte always shows."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_store.states import CorruptState, decode_state, encode_state
from cache_store.types import NoiseState

STATE = NoiseState(
    latent=np.arange(48, dtype=np.float16).reshape(3, 4, 4),
    log_snr=-1.25,
    timestep=600.5,
    skip=0.3,
    prediction=np.ones((3, 2, 2), np.float16),
    depth=2,
)
DATA = encode_state(2**52, STATE)


def test_round_trip() -> None:
    state = decode_state(DATA, 2**52, -1250)
    np.testing.assert_array_equal(state.latent, STATE.latent)
    np.testing.assert_array_equal(state.prediction, STATE.prediction)
    assert (state.log_snr, state.timestep, state.skip, state.depth) == (-1.25, 600.5, 0.3, 2)


@pytest.mark.parametrize("approximated", [True, False])
def test_a_state_remembers_that_features_were_reused(approximated: bool) -> None:
    data = encode_state(1, replace(STATE, approximated=approximated))
    assert decode_state(data, 1, -1250).approximated is approximated


def test_a_state_of_before_feature_caching_is_not_approximated(monkeypatch: pytest.MonkeyPatch) -> None:
    save = safetensors.numpy.save

    def old(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
        return save(tensors, {name: text for name, text in metadata.items() if name != "approximated"})

    monkeypatch.setattr(safetensors.numpy, "save", old)
    data = encode_state(1, replace(STATE, approximated=True))
    assert b"approximated" not in data
    assert not decode_state(data, 1, -1250).approximated


@settings(deadline=None, max_examples=300)
@given(position=st.integers(0, len(DATA) - 1), mask=st.integers(1, 255))
def test_any_changed_byte_shows(position: int, mask: int) -> None:
    damaged = DATA[:position] + bytes([DATA[position] ^ mask]) + DATA[position + 1 :]
    with pytest.raises(CorruptState):
        decode_state(damaged, 2**52, -1250)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), st.integers(0, len(DATA) - 1).map(lambda end: DATA[:end])))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptState):
        decode_state(data, 2**52, -1250)


@pytest.mark.parametrize(("entry_id", "level"), [(1, -1250), (2**52, 1250), (2**52, -1251)])
def test_another_entrys_or_levels_state_is_refused(entry_id: int, level: int) -> None:
    with pytest.raises(CorruptState, match="another entry or level"):
        decode_state(DATA, entry_id, level)


@pytest.mark.parametrize(
    "latent",
    [
        np.zeros((3, 4, 4), np.float32),
        np.zeros((4, 4), np.float16),
        np.zeros((0, 4, 4), np.float16),
        np.full((3, 4, 4), np.nan, np.float16),
    ],
)
def test_only_finite_half_precision_is_stored(latent: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not finite float16"):
        encode_state(1, NoiseState(latent, 0.0, 1.0, 0.5, None))


def test_an_infinite_noise_level_is_not_stored() -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode_state(1, NoiseState(STATE.latent, np.inf, 1.0, 0.5, None))
