"""Uploads that mean harm: bombs, broken pictures, broken forms. Each is a clear no, and nothing of it is a fault."""

import io
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from service_live import Client

ROUTES = ("/v1/images/edits", "/v1/images/variations")
TYPE = "multipart/form-data; boundary=b"


def _assert_alive(client: Client) -> None:
    assert client.http.get("/livez").status_code == 200
    assert client.metric("headstart_pictures_in_work") == 0


def _encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, data: bytes = b"", *more: bytes) -> bytes:
    """A grey PNG that says it has such a size."""
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _sent(client: Client, image: bytes, route: str = ROUTES[0], **fields: str) -> httpx.Response:
    wish = {"prompt": "a hostile cube", "num_inference_steps": "1", **fields}
    texts = {name: (None, value) for name, value in wish.items()}
    return client.http.post(route, files={"image": ("a", image), **texts})


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**24, 2), (4097, 4096)])
def test_bombs_are_refused_by_their_header(client: Client, width: int, height: int) -> None:
    for image in (_png(width, height), _png(width, height, zlib.compress(bytes(10_000_000), 9))):
        answer = _sent(client, image)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
        assert answer.json()["error"]["code"] in ("image_too_large", "invalid_image")
    _assert_alive(client)


def test_a_mask_can_be_no_bomb_either(client: Client) -> None:
    files = {"image": ("a", _encoded("PNG")), "mask": ("m", _png(60_000, 60_000)), "prompt": (None, "a")}
    answer = client.http.post(ROUTES[0], files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "mask")


def test_bombs_beside_the_pixels_do_no_harm(client: Client) -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    rows = zlib.compress(bytes(33 * 32))
    for more in (
        _chunk(b"zTXt", b"Comment\0\0" + bomb),
        _chunk(b"iCCP", b"profile\0\0" + bomb),
        _chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        b"".join(_chunk(b"tEXt", b"a\0b") for _ in range(10_000)),
        _chunk(b"eXIf", bytes(range(256)) * 20),
    ):
        answer = _sent(client, _png(32, 32, rows, more))
        assert answer.status_code in (200, 400), answer.text
    _assert_alive(client)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_broken_files(client: Client, kind: str) -> None:
    whole = _encoded(kind)
    chance = np.random.default_rng(1)
    broken = [whole[: len(whole) * part // 8] for part in range(1, 8)]
    for _ in range(12):
        bent = bytearray(whole)
        for place in chance.integers(0, len(bent), 8):
            bent[place] = int(chance.integers(0, 256))
        broken.append(bytes(bent))
    for image in broken:
        answer = _sent(client, image)
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert answer.json()["error"]["code"] in ("invalid_image", "image_too_large")
            assert len(answer.content) < 1000
    _assert_alive(client)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "PDF", "EPS"])
def test_other_formats_are_not_even_tried(client: Client, kind: str) -> None:
    answer = _sent(client, _encoded(kind))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")


def test_what_a_picture_says_of_itself_is_never_repeated(client: Client) -> None:
    told = PngInfo()
    told.add_text("Comment", "a-secret-of-mine")
    answer = _sent(client, _encoded("PNG", pnginfo=told)[:-40])
    assert "secret" not in answer.text
    answer = client.http.post(ROUTES[0], files={"a-secret-of-mine" * 50: ("../../etc/passwd", b"x")})
    assert answer.status_code == 400
    assert len(answer.content) < 1000
    assert "passwd" not in answer.text


def _part(head: bytes, body: bytes = b"x") -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n"


NAMED = b'Content-Disposition: form-data; name="%s"'


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b--\r\n",
        b"\r\n" * 1000,
        b"no boundary at all",
        _part(b"Content-Disposition: form-data") + b"--b--\r\n",
        _part(b"Content-Disposition: attachment") + b"--b--\r\n",
        _part(b"\xff\xfe: \x00") + b"--b--\r\n",
        _part(NAMED % b"prompt"),
        _part(NAMED % b"prompt", b"x" * 900_000) + b"--b--\r\n",
        b"".join(_part(NAMED % b"f%d" % number) for number in range(1000)) + b"--b--\r\n",
        b"".join(_part(NAMED % b"image" + b'; filename="a"') for _ in range(100)) + b"--b--\r\n",
        _part(NAMED % b"image" + b'; filename="a"') * 2 + b"--b--\r\n",
        _part(NAMED % b"prompt") * 2 + b"--b--\r\n",
        _part(NAMED % b"cache") + _part(NAMED % b"cache[mode]") + b"--b--\r\n",
        _part(NAMED % b"cache[mode]") + _part(NAMED % b"cache") + b"--b--\r\n",
        _part(NAMED % b"cache[") + b"--b--\r\n",
        _part(NAMED % b"[mode]") + b"--b--\r\n",
        _part(NAMED % b"cache[a][b][c]") + b"--b--\r\n",
        _part(NAMED % b"" + b'; filename=""') + b"--b--\r\n",
        _part(NAMED % (b"n" * 100_000)) + b"--b--\r\n",
        _part(b"X: " + b"y" * 500_000 + b"\r\n" + NAMED % b"prompt") + b"--b--\r\n",
        b"".join(b"X-%d: y\r\n" % number for number in range(20_000)) + b"--b--\r\n",
        _part(b"".join(b"X-%d: y\r\n" % number for number in range(20_000)) + NAMED % b"prompt") + b"--b--\r\n",
        _part(NAMED % b"prompt", b"\xed\xa0\x80\x00\xff") + b"--b--\r\n",
        _part(NAMED % b"\xed\xa0\x80") + b"--b--\r\n",
    ],
    ids=lambda value: repr(value[:40]),
)
def test_forms_that_are_none(client: Client, route: str, body: bytes) -> None:
    answer = client.http.post(route, content=body, headers={"Content-Type": TYPE})
    assert answer.status_code in (400, 413), answer.text[:300]
    assert answer.json()["error"]["message"]
    assert len(answer.content) < 2000
    _assert_alive(client)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/plain", 415),
        ("multipart/mixed; boundary=b", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "b" * 10_000, 400),
        ("multipart/form-data; charset=utf-99; boundary=b", 400),
        ("multipart/form-data; boundary=b; boundary=c", 400),
    ],
)
def test_content_types(client: Client, kind: str, status: int) -> None:
    body = _part(NAMED % b"prompt", b"a cube") + b"--b--\r\n"
    answer = client.http.post(ROUTES[0], content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text


def test_forms_above_the_bound_are_too_large(client: Client) -> None:
    for content in (bytes(17 * 1024**2), (bytes(1024**2) for _ in range(17))):
        answer = client.http.post(ROUTES[0], content=content, headers={"Content-Type": TYPE})
        assert (answer.status_code, answer.json()["error"]["code"]) in (
            (413, "body_too_large"),
            (400, "invalid_multipart"),
        )
    big = _sent(client, bytes(17 * 1024**2))
    assert (big.status_code, big.json()["error"]["code"]) == (413, "body_too_large")
    # Routes without pictures have their own, lower bound.
    answer = client.http.post("/v1/images/generations", content=b'{"prompt": "' + b"a" * 1_100_000 + b'"}')
    assert answer.status_code == 413
    _assert_alive(client)


def test_a_large_picture_within_the_bounds_is_drawn_over(client: Client) -> None:
    noise = np.random.default_rng(2).integers(0, 255, (1500, 1500, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 5_000_000
    assert _sent(client, buffer.getvalue()).status_code == 200
