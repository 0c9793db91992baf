import asyncio
import io
import json
import logging
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from service_samples import plan, result

from service.embedder import Embedder, EmbedderError, packaged_model, verified_digest
from service.logs import JsonLines
from service.memory import Memory
from service.pictures import decode, encode, encode_preview, transcode
from service.turnstile import QueueFullError, Turnstile


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_pictures_are_encoded_as_asked(output_format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    with Image.open(io.BytesIO(encode(pixels, output_format, 80))) as picture:
        assert (picture.format, picture.size) == (output_format.upper(), (48, 32))


def test_png_is_lossless_and_stored_pictures_keep_their_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    png = encode(pixels)
    assert np.array_equal(decode(png), pixels)
    assert np.array_equal(decode(encode_preview(pixels)), pixels)
    assert transcode(png, "png", None) is png
    assert transcode(png, "jpeg", None).startswith(b"\xff\xd8")


def test_the_turnstile_bounds_what_is_inside() -> None:
    turnstile = Turnstile(3, wait_for=lambda places: 4.5 * places)
    with turnstile.enter(2), turnstile.enter(1):
        with pytest.raises(QueueFullError) as caught, turnstile.enter(1):
            pass
        assert caught.value.retry_after == 5
    assert turnstile.inside == 0
    with turnstile.enter(10):
        assert turnstile.inside == 10


def test_the_turnstile_lets_go_on_errors() -> None:
    turnstile = Turnstile(1)
    with pytest.raises(ZeroDivisionError), turnstile.enter(1):
        raise ZeroDivisionError
    assert turnstile.inside == 0


async def test_embeddings_are_unit_vectors_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the embedder touched the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    embedder = Embedder(remember=2)
    await embedder.start()
    first, again, other = [await embedder.embed(text) for text in ("a red ball", "a red ball", "a tax return")]
    assert first is again
    assert first.shape == (384,)
    assert first.dtype == np.float32
    assert not first.flags.writeable
    assert float(first @ first) == pytest.approx(1.0, abs=1e-5)
    assert float(first @ other) < 0.5 < float(first @ await embedder.embed("a crimson ball"))
    assert await embedder.embed("a red ball") is not first  # forgotten: only two are remembered
    await embedder.close()


def test_unofficial_weights_are_refused(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(EmbedderError, match="not the official"):
        verified_digest(tmp_path)
    with pytest.raises(EmbedderError, match="cannot be read"):
        verified_digest(tmp_path / "absent")
    assert len(verified_digest(packaged_model())) == 32


def test_log_lines_are_json() -> None:
    record = logging.makeLogRecord(
        {"name": "x", "levelname": "INFO", "msg": "request %s", "args": ("a\nb",), "status": 200}
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["status"] == 200


class FakeEmbedder:
    async def embed(self, prompt: str) -> np.ndarray:
        return np.zeros(384, np.float32)


class FakeWriter:
    """A store that is there or not, and takes what it is given."""

    def __init__(self, accepting: bool, *, slow: bool = False) -> None:
        self.accepting = accepting
        self.slow = slow
        self.writes: list[asyncio.Future[bool]] = []

    def try_remember(self, *_: object) -> asyncio.Future[bool] | None:
        if not self.accepting:
            return None
        self.writes.append(asyncio.get_running_loop().create_future())
        if not self.slow:
            self.writes[-1].set_result(True)
        return self.writes[-1]


@pytest.mark.parametrize("accepting", [True, False])
async def test_a_run_is_called_stored_only_where_the_store_takes_it(accepting: bool) -> None:
    memory = Memory(FakeWriter(accepting), FakeEmbedder(), max_depth=3)  # type: ignore[arg-type]
    assert memory.note_run(plan(), result(), None) is accepting
    await memory.flush()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def test_a_run_waits_for_its_own_write_only_and_lets_go_of_its_picture() -> None:
    store = FakeWriter(accepting=True, slow=True)
    memory = Memory(store, FakeEmbedder(), max_depth=3)  # type: ignore[arg-type]
    held = []
    for _ in range(2):
        run = result()
        held.append(weakref.ref(run.image))
        memory.note_run(plan(), run, b"png")
        del run
    await until(lambda: len(store.writes) == 2)
    assert [ref() for ref in held] == [None, None]
    assert memory.pending == 2
    store.writes[1].set_result(True)
    await until(lambda: memory.pending == 1)
    store.writes[0].set_result(False)
    await memory.flush()
    assert memory.pending == 0


async def test_shutting_down_waits_for_writes_within_bounds(monkeypatch) -> None:
    monkeypatch.setattr("service.memory._CLOSE_SECONDS", 0.1)
    memory = Memory(FakeWriter(accepting=True, slow=True), FakeEmbedder(), max_depth=3)  # type: ignore[arg-type]
    memory.note_run(plan(), result(), b"png")
    async with asyncio.timeout(5):
        await memory.close()
    assert memory.pending == 0


def test_the_api_process_does_without_the_models_libraries() -> None:
    """Only the engine process draws; loading diffusers beside it would double the time to the first answer."""
    program = (
        "import sys, service.api.app, service.engine.process\n"
        "print([name for name in ('diffusers', 'peft', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
