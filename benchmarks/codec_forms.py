"""The ways to keep a run that `benchmarks/codec` compares, each through the store's own files."""

import time
from dataclasses import dataclass, field, replace

import numpy as np

from cache_store.codec import Codec
from cache_store.records import level_of
from cache_store.renoise import renoised
from cache_store.states import decode_final, decode_state, encode_final, encode_state
from cache_store.types import FinalState, NoiseLevel, NoiseState
from service.engine.base import JobResult, ResumePoint
from service.engine.gate import POOLED_SIDE
from service.forms import Form, kept

SHAPES = {"SD 1.5, 512²": (4, 64, 64), "SDXL, 1024²": (4, 128, 128), "FLUX.1, 1024²": (16, 128, 128)}
LEVELS_PER_ENTRY = 5
ANY_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Way:
    """How a run is kept: in which form, in which codec."""

    form: Form
    codec: Codec

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.form} {self.codec}"


BASELINE = Way("trajectory", "fp16")
FORMS: tuple[Form, ...] = ("trajectory", "final-noise", "final")
WAYS = tuple(Way(form, codec) for form in FORMS for codec in ("fp16", "int8"))


@dataclass
class Costs:
    """What one way of keeping runs takes, a value per run.

    Attributes:
        entry_bytes: files of a run.
        state_bytes: the same per level served.
        encode_us: microseconds to write a run's files.
        decode_us: microseconds to make one state from its file, checksum included.
    """

    entry_bytes: list[int] = field(default_factory=list)
    state_bytes: list[float] = field(default_factory=list)
    encode_us: list[float] = field(default_factory=list)
    decode_us: list[float] = field(default_factory=list)


def keep(result: JobResult, entry_id: int, way: Way, costs: Costs) -> list[NoiseState]:
    """Write a run as the store would and read it again; return its states, shallowest first."""
    states, final = kept(result, way.form, ANY_DEPTH)
    started = time.perf_counter()
    files = _files(entry_id, states, final, way.codec)
    written = time.perf_counter()
    back = _read(entry_id, files, states, final)
    count = len(back)
    costs.encode_us.append((written - started) * 1e6)
    costs.decode_us.append((time.perf_counter() - written) * 1e6 / count)
    costs.entry_bytes.append(sum(map(len, files)))
    costs.state_bytes.append(sum(map(len, files)) / count)
    return back


def _files(entry_id: int, states: list[NoiseState], final: FinalState | None, codec: Codec) -> list[bytes]:
    if final is not None:
        return [encode_final(entry_id, final, codec)]
    return [encode_state(entry_id, state, codec) for state in states]


def _read(entry_id: int, files: list[bytes], states: list[NoiseState], final: FinalState | None) -> list[NoiseState]:
    if final is None:
        levels = [level_of(state.log_snr) for state in states]
        return [decode_state(data, entry_id, level) for data, level in zip(files, levels, strict=True)]
    return [
        renoised(decode_final(files[0], entry_id), entry_id, level_of(at.log_snr))  # each load reads the file
        for at in final.levels
    ]


def point_of(state: NoiseState, bound: float, *, judged: bool) -> ResumePoint:
    """Return where a run enters; without its prediction it is entered unjudged."""
    return ResumePoint(
        latent=state.latent,
        timestep=state.timestep,
        log_snr=state.log_snr,
        skip=state.skip,
        prediction=state.prediction if judged else None,
        max_divergence=bound,
        depth=state.depth,
    )


def sizes() -> dict[str, dict[str, dict[str, int]]]:
    """Bytes per state and entry of well-known models' latents: real files of stand-in latents."""
    return {
        model: {way.name: _size(np.zeros(shape, np.float16), way) for way in WAYS} for model, shape in SHAPES.items()
    }


def _size(latent: np.ndarray[tuple[int, ...], np.dtype[np.float16]], way: Way) -> dict[str, int]:
    pooled = np.zeros((latent.shape[0], POOLED_SIDE, POOLED_SIDE), np.float16)
    state = NoiseState(latent, -1.25, 600.5, 0.3, pooled)
    if way.form == "trajectory":
        one = len(encode_state(2**52, state, way.codec))
        return {"state": one, "entry": one * LEVELS_PER_ENTRY}
    levels = tuple(NoiseLevel(-1.25 + k, 600.5, 0.3, pooled) for k in range(LEVELS_PER_ENTRY))
    final = FinalState(latent, levels)
    if way.form == "final-noise":
        final = replace(final, noise=latent)
    entry = len(encode_final(2**52, final, way.codec))
    return {"state": entry // LEVELS_PER_ENTRY, "entry": entry}
