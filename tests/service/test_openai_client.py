"""The official client, unchanged."""

import base64
import io
from collections.abc import AsyncIterator
from functools import partial

import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent, ImageGenStreamEvent
from PIL import Image
from service_live import Client, LiveServer


@pytest.fixture(scope="module")
def official(live_service: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live_service.url}/v1", api_key="unused", max_retries=0)


def _open(b64: str | None) -> Image.Image:
    assert b64 is not None
    return Image.open(io.BytesIO(base64.b64decode(b64)))


def test_generate(official: openai.OpenAI) -> None:
    answer = official.images.generate(model="tiny", prompt="a red cube", size="32x32", response_format="b64_json")
    assert answer.data is not None
    with _open(answer.data[0].b64_json) as picture:
        assert (picture.format, picture.size) == ("PNG", (32, 32))
    assert answer.created > 1_700_000_000
    assert answer.size == "32x32"
    assert answer.model_extra is not None
    assert answer.model_extra["cache"]["steps"] == 8


def test_several_pictures_with_consecutive_seeds(official: openai.OpenAI) -> None:
    answer = official.images.generate(prompt="three cubes", n=3, extra_body={"seed": 40})
    assert answer.data is not None
    assert [item.model_extra["seed"] for item in answer.data if item.model_extra] == [40, 41, 42]
    assert len({item.b64_json for item in answer.data}) == 3


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_other_formats_and_sizes(official: openai.OpenAI, output_format: str) -> None:
    answer = official.images.generate(
        prompt="a blue cone", size="48x32", output_format=output_format, output_compression=60, quality="high"
    )
    assert answer.data is not None
    with _open(answer.data[0].b64_json) as picture:
        assert (picture.format, picture.size) == (output_format.upper(), (48, 32))
    assert answer.output_format == output_format


def test_headers_are_there_for_raw_responses(official: openai.OpenAI) -> None:
    raw = official.images.with_raw_response.generate(prompt="a raw cube", extra_body={"cache": {"mode": "off"}})
    assert raw.headers["x-headstart-cache"] == "BYPASS"
    assert raw.headers["cache-status"] == 'headstart; fwd=bypass; detail="cache-off"'
    assert raw.headers["x-request-id"]
    for stage in ("queue", "denoise", "decode", "total"):
        assert float(raw.headers[f"x-{stage}-time"]) >= 0.0


def test_errors_are_typed(official: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        official.images.generate(prompt="a", size="7x7")
    assert (caught.value.param, caught.value.code) == ("size", "invalid_size")
    with pytest.raises(openai.NotFoundError):
        official.images.generate(prompt="a", model="dall-e-3")
    with pytest.raises(openai.BadRequestError) as caught:
        official.images.generate(prompt="a", extra_body={"cfg_scal": 3})
    assert caught.value.param == "cfg_scal"


def test_models(official: openai.OpenAI) -> None:
    assert [model.id for model in official.models.list()] == ["tiny"]
    assert official.models.retrieve("tiny").owned_by == "headstart"
    with pytest.raises(openai.NotFoundError):
        official.models.retrieve("absent")


@pytest.fixture
async def asynchronous(live_service: LiveServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{live_service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def test_the_asynchronous_client(asynchronous: openai.AsyncOpenAI) -> None:
    answer = await asynchronous.images.generate(prompt="an asynchronous cube")
    assert answer.data is not None
    assert answer.data[0].b64_json


def test_streaming(official: openai.OpenAI) -> None:
    with official.images.generate(
        model="tiny", prompt="a streamed cube", size="48x32", output_format="webp", stream=True, partial_images=2
    ) as stream:
        _assert_streamed(list(stream), "WEBP", (48, 32))


async def test_asynchronous_streaming(asynchronous: openai.AsyncOpenAI) -> None:
    stream = await asynchronous.images.generate(
        prompt="an asynchronously streamed cube", stream=True, partial_images=2, quality="high", n=1
    )
    async with stream:
        events = [event async for event in stream]
    _assert_streamed(events, "PNG", (32, 32))
    assert {event.quality for event in events} == {"high"}


def _assert_streamed(events: list[ImageGenStreamEvent], output_format: str, size: tuple[int, int]) -> None:
    *partials, done = events
    assert [type(event) for event in partials] == [ImageGenPartialImageEvent] * 2
    assert isinstance(done, ImageGenCompletedEvent)
    assert [event.partial_image_index for event in partials if event.type != done.type] == [0, 1]
    for event in events:
        # The client does not check what it is sent; its own models do.
        type(event).model_validate(event.model_dump(), strict=True)
        assert (event.size, event.background) == (f"{size[0]}x{size[1]}", "opaque")
        assert event.output_format == output_format.lower()
        assert event.model_extra is not None
        assert isinstance(event.model_extra["seed"], int)
        with _open(event.b64_json) as picture:
            assert (picture.format, picture.size) == (output_format, size)
    assert done.usage.total_tokens == 0
    assert done.model_extra is not None
    assert done.model_extra["cache"]["steps"] == 8
    assert done.model_extra["timings"]["total_seconds"] > 0


def test_streaming_without_partial_images(official: openai.OpenAI) -> None:
    events = list(official.images.generate(prompt="a cube all at once", stream=True))
    assert [event.type for event in events] == ["image_generation.completed"]


def test_errors_of_a_stream_are_typed(official: openai.OpenAI, live_client: Client) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        official.images.generate(prompt="a", stream=True, n=2)
    assert refused.value.param == "n"
    with pytest.raises(openai.BadRequestError) as refused:
        official.images.generate(prompt="a", partial_images=2)
    assert refused.value.param == "partial_images"
    wish = {"negative_prompt": "official1", "num_inference_steps": 2}
    live_client.draw("a cube of one step", **wish)
    live_client.settle()
    # The state the plan found saves none of one step, which only the engine sees: the stream has begun.
    stream = official.images.generate(
        prompt="a cube of one step",
        stream=True,
        extra_body={**wish, "num_inference_steps": 1},
        extra_headers={"Cache-Control": "only-if-cached"},
    )
    with pytest.raises(openai.APIError) as failed:
        list(stream)
    assert failed.value.code == "not_cached"


async def test_closing_a_stream_cancels_the_picture(asynchronous: openai.AsyncOpenAI, live_client: Client) -> None:
    before = live_client.metric("headstart_cancelled_total", where="denoise")
    stream = await asynchronous.images.generate(
        prompt="an unwanted cube",
        stream=True,
        partial_images=3,
        extra_body={"num_inference_steps": 200, "cache": {"mode": "off"}},
    )
    assert (await anext(aiter(stream))).type == "image_generation.partial_image"
    await stream.close()
    cancelled = partial(live_client.metric, "headstart_cancelled_total", where="denoise")
    live_client.server.wait(lambda: cancelled() == before + 1, "cancelled")
    live_client.server.wait(lambda: live_client.metric("headstart_active_jobs") == 0, "idle")
