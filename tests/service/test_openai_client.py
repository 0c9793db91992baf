"""The official client, unchanged."""

import base64
import io

import openai
import pytest
from PIL import Image
from service_live import LiveServer


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


async def test_the_asynchronous_client(live_service: LiveServer) -> None:
    async with openai.AsyncOpenAI(base_url=f"{live_service.url}/v1", api_key="unused", max_retries=0) as client:
        answer = await client.images.generate(prompt="an asynchronous cube")
    assert answer.data is not None
    assert answer.data[0].b64_json
