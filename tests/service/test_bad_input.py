"""Every way to ask wrongly is answered with a 4xx in OpenAI's envelope that names the field, and leaks nothing."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_live import Client

import service

SECRET = "zebra-secret-prompt"
CHECKOUT = str(Path(service.__file__).parent.parent)


def _assert_refused(answer: httpx.Response, param: str | None, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert param is None or param in error["message"] or param == "model"
    for leak in ("Traceback", CHECKOUT, "site-packages", "pydantic", SECRET):
        assert leak not in answer.text
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n\t\u3000"}, "prompt"),
        ({"prompt": "x" * 100_000}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "a\0b"}, "prompt"),
        ({"negative_prompt": "x" * 100_000}, "negative_prompt"),
        ({"negative_prompt": 1}, "negative_prompt"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 11}, "n"),
        ({"n": "2"}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"n": 10**400}, "n"),
        ({"size": ""}, "size"),
        ({"size": "32"}, "size"),
        ({"size": "0x0"}, "size"),
        ({"size": "-32x32"}, "size"),
        ({"size": "33x32"}, "size"),
        ({"size": "32X32"}, "size"),
        ({"size": "32x32 "}, "size"),
        ({"size": "٣٢x32"}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"size": 32}, "size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 2**63 - 1, "n": 2}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 201}, "num_inference_steps"),
        ({"num_inference_steps": 8.0}, "num_inference_steps"),
        ({"guidance_scale": -0.1}, "guidance_scale"),
        ({"guidance_scale": 30.1}, "guidance_scale"),
        ({"guidance_scale": "3"}, "guidance_scale"),
        ({"guidance_scale": True}, "guidance_scale"),
        ({"scheduler": "magic"}, "scheduler"),
        ({"scheduler": ""}, "scheduler"),
        ({"output_format": "gif"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"response_format": "binary"}, "response_format"),
        ({"stream": "no"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"partial_images": 2}, "partial_images"),
        ({"partial_images": 2, "stream": False}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"partial_images": -1, "stream": True}, "partial_images"),
        ({"partial_images": "2", "stream": True}, "partial_images"),
        ({"partial_images": 1.5, "stream": True}, "partial_images"),
        ({"partial_images": True, "stream": True}, "partial_images"),
        ({"n": 2, "stream": True}, "n"),
        ({"n": 0, "stream": True}, "n"),
        ({"size": "33x32", "stream": True}, "size"),
        ({"output_format": "gif", "stream": True}, "output_format"),
        ({"response_format": "url", "stream": True}, "response_format"),
        ({"prompt": "", "stream": True}, "prompt"),
        ({"background": "transparent"}, "background"),
        ({"guidance": 3.0}, "guidance"),
        ({"steps": 8}, "steps"),
        ({"lora": "x"}, "lora"),
        ({"cache": "off"}, "cache"),
        ({"cache": {"mode": "sometimes"}}, "cache.mode"),
        ({"cache": {"mode": 1}}, "cache.mode"),
        ({"cache": {"min_similarity": 1.1}}, "cache.min_similarity"),
        ({"cache": {"max_skip_ratio": -0.1}}, "cache.max_skip_ratio"),
        ({"cache": {"store": "yes"}}, "cache.store"),
        ({"cache": {"ttl": 5}}, "cache.ttl"),
        ({"cache": {"tenant": "other"}}, "cache.tenant"),
        ({"user": "x" * 10_000}, "user"),
        ({"feature_cache": 5}, "feature_cache"),
        ({"feature_cache": True}, "feature_cache"),
        ({"feature_cache": ["auto"]}, "feature_cache"),
        ({"feature_cache": ""}, "feature_cache.policy"),
        ({"feature_cache": "magic"}, "feature_cache.policy"),
        ({"feature_cache": "deepcache+"}, "feature_cache.policy"),
        ({"feature_cache": "auto+deepcache"}, "feature_cache.policy"),
        ({"feature_cache": SECRET}, "feature_cache.policy"),
        ({"feature_cache": "x" * 1000}, "feature_cache.policy"),
        ({"feature_cache": "deepcache+deepcache-nonuniform"}, "feature_cache.policy"),
        ({"feature_cache": {}}, "feature_cache.policy"),
        ({"feature_cache": {"policy": None}}, "feature_cache.policy"),
        ({"feature_cache": {"policy": "off", "strength": 0}}, "feature_cache.strength"),
        ({"feature_cache": {"policy": "off", "strength": 1.01}}, "feature_cache.strength"),
        ({"feature_cache": {"policy": "off", "strength": "1"}}, "feature_cache.strength"),
        ({"feature_cache": {"policy": "auto", "min_quality": 0}}, "feature_cache.min_quality"),
        ({"feature_cache": {"policy": "auto", "min_quality": 1.01}}, "feature_cache.min_quality"),
        ({"feature_cache": {"policy": "auto", "knob": 1}}, "feature_cache.knob"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else value,
)
def test_a_wrong_field_is_named(client: Client, fields: dict[str, Any], param: str) -> None:
    answer = client.post({"prompt": SECRET, **fields})
    _assert_refused(answer, param)


def test_a_missing_prompt_is_named(client: Client) -> None:
    _assert_refused(client.post({"n": 1}), "prompt")


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["guidance_scale", "cache.min_similarity", "n", "seed"])
def test_numbers_that_are_none(client: Client, literal: str, field: str) -> None:
    inner = f'"cache": {{"min_similarity": {literal}}}' if field.startswith("cache") else f'"{field}": {literal}'
    _assert_refused(_send(client, f'{{"prompt": "{SECRET}", {inner}}}'.encode()), field)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"prompt": "\\ud800"}', "prompt"),
        (b'{"prompt": "a", "negative_prompt": "\\udfff"}', "negative_prompt"),
        (b'{"prompt": "a", "size": "\\ud800"}', "size"),
        (b'{"prompt": "a", "scheduler": "\\ud800"}', "scheduler"),
        (b'{"prompt": "a", "model": "\\ud800"}', "model"),
        (b'{"prompt": "a", "feature_cache": "\\ud800"}', "feature_cache.policy"),
    ],
)
def test_lone_surrogates_are_not_text(client: Client, body: bytes, param: str) -> None:
    _assert_refused(_send(client, body), param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"a red cube"',
        b"12",
        b'{"prompt": "a"',
        b"prompt=a",
        b'{"prompt": "\xff\xfe"}',
        b"[" * 100_000,
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"\x00\x01",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_bodies_that_are_no_json_object(client: Client, body: bytes) -> None:
    answer = _send(client, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_field_with_a_strange_name(client: Client) -> None:
    answer = _send(client, json.dumps({"prompt": "a", "\ud800<script>": 1}).encode())
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_not_declared_as_json(client: Client) -> None:
    answer = client.http.post(
        "/v1/images/generations", content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/generations/events"])
def test_a_huge_body_is_refused(client: Client, path: str) -> None:
    body = b'{"prompt": "' + b"x" * 2_000_000 + b'"}'
    answer = client.http.post(path, content=body, headers={"Content-Type": "application/json"})
    error = _assert_refused(answer, None, 413)
    assert error["code"] == "body_too_large"


def test_a_huge_body_without_a_length_is_refused(client: Client) -> None:
    chunks = (b"x" * 100_000 for _ in range(20))
    headers = {"Content-Type": "application/json"}
    answer = client.http.post("/v1/images/generations", content=chunks, headers=headers)
    _assert_refused(answer, None, 413)


def test_another_model_is_not_found(client: Client) -> None:
    error = _assert_refused(client.post({"prompt": "a", "model": "dall-e-3"}), "model", 404)
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/images/generations", 405),
        ("DELETE", "/v1/images/generations", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/models/dall-e-3", 404),
        ("GET", "/../pyproject.toml", 404),
        ("GET", "/page/%2e%2e/cli.py", 404),
        ("GET", "/%2e%2e/cli.py", 404),
        ("GET", "/v1/cache/entries/12345", 404),
        ("GET", "/v1/cache/entries/12345/image", 404),
        ("GET", "/v1/cache/entries/9999999999999999999/image", 404),
        ("GET", "/v1/cache/entries/abc/image", 400),
        ("GET", "/v1/cache/entries/-1", 400),
        ("GET", "/v1/cache/entries?limit=0", 400),
        ("GET", "/v1/cache/entries?limit=1000000", 400),
        ("GET", "/v1/cache/entries?limit=x", 400),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
    ],
)
def test_wrong_paths_have_the_envelope_too(client: Client, method: str, path: str, status: int) -> None:
    answer = client.http.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "fields", [{"prompt": ""}, {"n": 2}, {"guidance_scale": -1}, {"stream": True}, {"partial_images": 11}]
)
def test_the_event_stream_refuses_before_it_starts(client: Client, fields: dict[str, Any]) -> None:
    answer = client.http.post("/v1/generations/events", json={"prompt": SECRET, **fields})
    _assert_refused(answer, next(iter(fields)))


def test_a_client_may_name_its_request_but_not_inject_headers(client: Client) -> None:
    named = client.post({"prompt": ""}, headers={"X-Request-Id": "order-7"})
    assert named.headers["x-request-id"] == "order-7"
    long = client.post({"prompt": ""}, headers={"X-Request-Id": "x" * 1000})
    assert len(long.headers["x-request-id"]) == 32


def test_the_log_holds_no_prompt(client: Client) -> None:
    client.draw(f"{SECRET} drawn", num_inference_steps=2)
    client.post({"prompt": SECRET, "n": 0})
    assert "zebra" not in client.server.log.read_text()


def _send(client: Client, body: bytes) -> httpx.Response:
    return client.http.post("/v1/images/generations", content=body, headers={"Content-Type": "application/json"})
