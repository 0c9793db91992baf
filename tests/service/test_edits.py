"""Pictures drawn over a given one, by the official client: what is drawn, remembered, refused and replayed."""

import base64
import io
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from service_live import Client, LiveServer

EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"


@pytest.fixture(scope="module")
def official(live_service: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live_service.url}/v1", api_key="unused", max_retries=0)


def _pixels(size: tuple[int, int] = (32, 32), turn: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]]
    channels = [(rows * 7 + turn) % 256, columns * 5 % 256, (rows + columns) * 3 % 256]
    return np.stack(channels, axis=2).astype(np.uint8)


def _file(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _mask(size: tuple[int, int] = (32, 32)) -> bytes:
    """Transparent, and so drawn anew, in the right half."""
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[:, : size[0] // 2, 3] = 255
    return _file(pixels)


def _opened(b64: str | None) -> np.ndarray:
    assert b64 is not None
    with Image.open(io.BytesIO(base64.b64decode(b64))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def _send(client: Client, route: str = EDITS, **fields: Any) -> httpx.Response:
    """Post a form: bytes are files, the rest text."""
    headers = fields.pop("headers", None)
    wish = {"image": _file(_pixels()), **({"prompt": "a red cube"} if route == EDITS else {}), **fields}
    parts = {name: value for name, value in wish.items() if value is not None}
    files = {
        name: (name + ".png", value) if isinstance(value, bytes) else (None, str(value))
        for name, value in parts.items()
    }
    return client.http.post(route, files=files, headers=headers)


def _edit(client: Client, route: str = EDITS, **fields: Any) -> dict[str, Any]:
    answer = _send(client, route, **fields)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["data"][0])


def test_the_official_client_edits(official: openai.OpenAI) -> None:
    answer = official.images.edit(
        image=("a.png", _file(_pixels())),
        prompt="a red cube",
        n=2,
        size="48x32",
        response_format="b64_json",
        model="tiny",
        user="ann",
        extra_body={
            "seed": 5,
            "num_inference_steps": 6,
            "guidance_scale": 3.5,
            "negative_prompt": "green",
            "scheduler": "dpmpp_2m",
            "strength": 0.5,
            "cache": {"mode": "exact", "store": False},
        },
    )
    assert answer.data is not None
    assert answer.size == "48x32"
    assert [item.model_extra["seed"] for item in answer.data if item.model_extra] == [5, 6]
    for item in answer.data:
        assert item.model_extra is not None
        cache = item.model_extra["cache"]
        # Half of six steps were asked for, and none of them saved.
        assert (cache["verdict"], cache["steps"], cache["skipped_steps"], cache["stored"]) == ("MISS", 3, 0, False)
        assert _opened(item.b64_json).shape == (32, 48, 3)


def test_the_official_client_masks_and_lists(official: openai.OpenAI) -> None:
    answer = official.images.edit(
        image=[io.BytesIO(_file(_pixels()))],
        mask=("m.png", _mask()),
        prompt="a blue cube",
        output_format="png",
        extra_body={"seed": 1, "strength": 1.0},
    )
    assert answer.data is not None
    drawn = _opened(answer.data[0].b64_json)
    assert np.array_equal(drawn[:, :16], _pixels()[:, :16])
    assert not np.array_equal(drawn[:, 16:], _pixels()[:, 16:])


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_the_official_client_varies(official: openai.OpenAI) -> None:
    answer = official.images.create_variation(image=("a.png", _file(_pixels())), n=2, response_format="b64_json")
    assert answer.data is not None
    first, second = (_opened(item.b64_json) for item in answer.data)
    assert first.shape == (32, 32, 3)
    assert not np.array_equal(first, second)


def test_strength_is_how_many_steps_run(client: Client) -> None:
    drawn = [_edit(client, seed=3, strength=strength) for strength in (0.01, 0.5, 1.0)]
    assert [one["cache"]["steps"] for one in drawn] == [1, 4, 8]
    assert [one["cache"]["evaluations"] for one in drawn] == [1, 4, 8]
    assert len({one["b64_json"] for one in drawn}) == 3


def test_an_identical_edit_is_an_exact_hit_and_nothing_else_is(client: Client) -> None:
    wish: dict[str, Any] = {"prompt": "edits of one kind", "seed": 9, "strength": 0.5}
    first = _edit(client, **wish)
    client.settle()
    again = _edit(client, **wish)
    assert (again["cache"]["verdict"], again["cache"]["steps"], again["b64_json"]) == ("EXACT", 4, first["b64_json"])
    # The same pixels in another file are the same picture.
    assert _edit(client, **wish, image=_file(_pixels(), compress_level=1))["cache"]["verdict"] == "EXACT"
    for other in (
        {"strength": 0.75},
        {"image": _file(_pixels(turn=1))},
        {"mask": _mask()},
        {"prompt": "edits of another kind"},
        {"seed": 10},
    ):
        assert _edit(client, **{**wish, **other})["cache"]["verdict"] == "MISS", other
    text = client.draw("edits of one kind", seed=9)
    assert text["cache"]["verdict"] == "MISS"


def test_what_came_from_an_edit_counts_the_steps_it_asked_for(client: Client) -> None:
    wish: dict[str, Any] = {"prompt": "an edit to be repeated", "seed": 19, "strength": 0.5}
    first = _edit(client, **wish)
    client.settle()
    again = _edit(client, **wish)
    assert again["cache"]["verdict"] == "EXACT"
    client.settle()
    entry = client.http.get(f"/v1/generations/{first['id']}").json()["entry"]
    (found,) = client.http.get(f"/v1/cache/entries/{entry}/generations").json()["data"]
    assert (found["id"], found["steps"], found["skipped_steps"]) == (again["id"], 4, 4)


def test_partitions_hold_one_picture_each(client: Client) -> None:
    wish: dict[str, Any] = {"cache[mode]": "approximate", "strength": 0.9}
    text = client.draw("an amber bowl on a white table")
    client.settle()
    first = _edit(client, prompt="an amber bowl on a white table", **wish)
    assert (first["cache"]["verdict"], first["cache"]["reason"]) == ("MISS", "no-candidates")
    client.settle()
    near = _edit(client, prompt="an amber bowl on the white table", **wish)
    assert near["cache"]["verdict"] == "APPROX"
    assert 0 < near["cache"]["skipped_steps"] < near["cache"]["steps"] == 7
    assert near["cache"]["source"]["id"] != text["id"]
    client.settle()
    for other in ({"image": _file(_pixels(turn=9))}, {"strength": 0.8}):
        assert (
            _edit(client, prompt="an amber bowl on a white table", **{**wish, **other})["cache"]["verdict"] == "MISS"
        )
    # Nor does a text run find what edits left.
    found = client.cache("an amber bowl on the white table")
    assert found["verdict"] == "APPROX"
    assert found["source"]["prompt"] == "an amber bowl on a white table"
    assert found["steps"] == 8


def test_edits_look_for_nothing_similar_unless_told_to(client: Client) -> None:
    for _ in range(2):
        cache = _edit(client, prompt="a copper kettle, edited", strength=0.9)["cache"]
        assert (cache["verdict"], cache["reason"]) == ("MISS", "no-seed")
        client.settle()
    masked = _edit(client, prompt="a copper kettle, edited", mask=_mask(), **{"cache[mode]": "approximate"})["cache"]
    assert (masked["verdict"], masked["reason"]) == ("MISS", "no-seed")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_formats(client: Client, kind: str) -> None:
    assert _edit(client, image=_file(_pixels(), kind), num_inference_steps=2)["b64_json"]


def test_odd_pictures_are_read(client: Client) -> None:
    grey = Image.fromarray(_pixels()[..., 0])
    kinds = {
        "P": grey.convert("P"),
        "1": grey.convert("1"),
        "LA": grey.convert("LA"),
        "I;16": Image.fromarray(_pixels()[..., 0].astype(np.uint16) * 257),
        "RGBA": Image.fromarray(_pixels()).convert("RGBA"),
    }
    for mode, picture in kinds.items():
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        assert _edit(client, image=buffer.getvalue(), num_inference_steps=2)["b64_json"], mode
    buffer = io.BytesIO()
    grey.convert("CMYK").save(buffer, "JPEG")
    assert _edit(client, image=buffer.getvalue(), num_inference_steps=2)["b64_json"]


@pytest.mark.parametrize(
    ("given", "size", "drawn"),
    [
        ((48, 32), None, "48x32"),
        ((48, 32), "auto", "48x32"),
        ((33, 31), None, "32x32"),
        ((640, 480), None, "32x32"),
        ((1, 1), None, "32x32"),
        ((48, 32), "64x64", "64x64"),
    ],
)
def test_sizes(client: Client, given: tuple[int, int], size: str | None, drawn: str) -> None:
    answer = _send(client, image=_file(_pixels(given)), size=size, num_inference_steps=2)
    assert answer.status_code == 200, answer.text
    assert answer.json()["size"] == drawn


def test_a_wider_picture_is_cut_around_its_centre(client: Client) -> None:
    wide = np.concatenate([np.zeros((32, 16, 3), np.uint8), _pixels(), np.zeros((32, 16, 3), np.uint8)], axis=1)
    wish: dict[str, Any] = {"size": "32x32", "seed": 4, "strength": 0.25, "prompt": "cut"}
    cut = _opened(_edit(client, image=_file(wide), **wish)["b64_json"])
    assert np.array_equal(cut, _opened(_edit(client, **wish)["b64_json"]))


def test_a_picture_is_turned_as_it_says(client: Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    answer = _send(client, image=_file(_pixels((48, 32)), exif=exif), num_inference_steps=2)
    assert answer.json()["size"] == "32x48"


def test_an_edit_is_a_job_where_that_is_preferred(client: Client) -> None:
    answer = _send(client, prompt="an edit for later", headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    place = answer.headers["Location"]
    client.server.wait(lambda: client.http.get(place).json()["status"] == "succeeded", "drawn")
    job = client.http.get(place).json()
    assert job["progress"] == [{"step": 8, "steps": 8, "first_step": 2}]  # strength .8: it entered at the second step
    assert client.http.get(job["result"]["data"][0]["url"]).status_code == 200


def test_edits_by_url_and_under_a_key(client: Client) -> None:
    wish: dict[str, Any] = {
        "prompt": "once edited",
        "response_format": "url",
        "headers": {"Idempotency-Key": "edit-1"},
    }
    first = _send(client, **wish)
    assert client.http.get(first.json()["data"][0]["url"]).status_code == 200
    again = _send(client, **wish)
    assert (again.headers["Idempotency-Status"], again.json()) == ("replayed", first.json())
    other = _send(client, **wish, image=_file(_pixels(turn=2)))
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reuse")


def _replay(client: Client, drawn: dict[str, Any], **body: Any) -> httpx.Response:
    return client.http.post(f"/v1/generations/{drawn['id']}/replay", json=body or None)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("mask", [None, _mask()], ids=["whole", "masked"])
def test_an_edit_is_replayed_bit_for_bit_with_its_picture(client: Client, mask: bytes | None) -> None:
    image = _file(_pixels((60, 40)))
    drawn = _edit(client, image=image, mask=None if mask is None else _mask((60, 40)), seed=77, size="48x32")
    given = {"image": _text(image)} | ({} if mask is None else {"mask": _text(_mask((60, 40)))})
    record = client.http.get(f"/v1/generations/{drawn['id']}").json()
    assert record["reference"]["strength"] == 0.8
    assert (record["reference"]["first_step"], record["reference"]["masked"]) == (2, mask is not None)
    client.settle()
    answer = _replay(client, drawn, **given)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["identical"], answer.json()["max_difference"]) == (True, 0)
    for wrong in ({}, {"image": _text(_file(_pixels((60, 40), turn=1)))}, {"image": _text(_file(_pixels()))}):
        refused = _replay(client, drawn, **wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "picture_needed"), refused.text
        assert refused.json()["error"]["param"] == "image"


def test_a_replay_of_an_edit_made_from_another_edits_state(client: Client) -> None:
    wish: dict[str, Any] = {"cache[mode]": "approximate", "strength": 0.9}
    _edit(client, prompt="a walnut desk by a window, edited", **wish)
    client.settle()
    near = _edit(client, prompt="the walnut desk by a window, edited", **wish)
    assert near["cache"]["verdict"] == "APPROX"
    answer = _replay(client, near, image=_text(_file(_pixels())))
    assert (answer.status_code, answer.json()["identical"]) == (200, True)


def test_what_is_wrong_with_a_replay_is_said(client: Client) -> None:
    edited, plain = _edit(client, seed=78), client.draw("not edited", seed=78)
    for drawn, body, code in (
        (edited, {"image": "not base64!"}, "invalid_value"),
        (edited, {"image": _text(b"no picture")}, "invalid_image"),
        (plain, {"image": _text(_file(_pixels()))}, "invalid_value"),
    ):
        refused = _replay(client, drawn, **body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, code), refused.text


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"strength": 0}, "strength", "greater_than"),
        ({"strength": 1.01}, "strength", "less_than_equal"),
        ({"strength": "nan"}, "strength", None),
        ({"strength": "much"}, "strength", "float_parsing"),
        ({"n": 11}, "n", "less_than_equal"),
        ({"n": "1.5"}, "n", None),
        ({"size": "7x7"}, "size", "invalid_size"),
        ({"size": "9999x9999"}, "size", "invalid_size"),
        ({"prompt": ""}, "prompt", "string_too_short"),
        ({"prompt": "  "}, "prompt", "invalid_value"),
        ({"prompt": None}, "prompt", "missing"),
        ({"image": None}, "image", "missing"),
        ({"image": "text"}, "image", "invalid_value"),
        ({"image": b""}, "image", "invalid_image"),
        ({"image": b"GIF89a" + bytes(100)}, "image", "invalid_image"),
        ({"mask": b"x"}, "mask", "invalid_image"),
        ({"mask": _file(_pixels())}, "mask", "invalid_mask"),
        ({"mask": _mask((16, 16))}, "mask", "invalid_mask"),
        ({"mask": _file(np.full((32, 32, 4), 255, np.uint8))}, "mask", "invalid_mask"),
        ({"other": b"x"}, "other", "invalid_value"),
        ({"cfg_scal": 3}, "cfg_scal", "extra_forbidden"),
        ({"stream": "true"}, "stream", "value_error"),
        ({"lora": "ink"}, "lora", None),
        ({"cache": "exact"}, "cache", None),
        ({"cache[mode]": "perhaps"}, "cache.mode", "literal_error"),
        ({"model": "dall-e-2"}, "model", "model_not_found"),
        ({"scheduler": "none"}, "scheduler", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_named(client: Client, fields: dict[str, Any], param: str, code: str | None) -> None:
    answer = _send(client, **fields)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert code is None or error["code"] == code


def test_a_variation_takes_no_mask(client: Client) -> None:
    answer = _send(client, VARIATIONS, mask=_mask())
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "mask")


def test_an_identical_variation_is_an_exact_hit_without_any_text(client: Client) -> None:
    first = _edit(client, VARIATIONS, seed=12)
    client.settle()
    again = _edit(client, VARIATIONS, seed=12)
    assert (again["cache"]["verdict"], again["b64_json"]) == ("EXACT", first["b64_json"])
    assert _edit(client, VARIATIONS, seed=12, prompt="a red cube")["cache"]["verdict"] == "MISS"
