"""Pictures by URL: fetched like any file on the web, for a while, by whom they belong to."""

import io

import pytest
from PIL import Image
from service_live import Client


def _url(client: Client, **fields: object) -> str:
    item = client.draw("a cube by URL", response_format="url", num_inference_steps=2, **fields)
    assert item["b64_json"] is None
    assert item["url"] == f"{client.server.url}/v1/images/{item['id']}"
    return str(item["url"])


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_it_is_fetched_as_it_was_asked_for(client: Client, output_format: str) -> None:
    answer = client.http.get(_url(client, output_format=output_format))
    assert answer.headers["content-type"] == f"image/{output_format}"
    directives = answer.headers["cache-control"].split(", ")
    assert "private" in directives
    (age,) = (int(part.removeprefix("max-age=")) for part in directives if part.startswith("max-age="))
    assert 0 < age <= 86_400
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.format, picture.size) == (output_format.upper(), (32, 32))


def test_an_etag_saves_the_bytes(client: Client) -> None:
    url = _url(client)
    tag = client.http.get(url).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = client.http.get(url, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert client.http.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    head = client.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0


def test_a_picture_nobody_may_remember_still_has_its_url(client: Client) -> None:
    url = _url(client, cache={"mode": "off"})
    assert client.http.get(url).status_code == 200


def test_it_can_be_deleted(client: Client) -> None:
    url = _url(client)
    assert client.http.delete(url).json()["deleted"] is True
    assert client.http.get(url).status_code == 404
    assert client.http.delete(url).status_code == 404


def test_forgetting_a_user_forgets_the_url(client: Client) -> None:
    url, other = _url(client, user="urls-ann"), _url(client, user="urls-bob")
    client.settle()
    client.http.delete("/v1/cache/entries", params={"user": "urls-ann"}).raise_for_status()
    assert client.http.get(url).status_code == 404
    assert client.http.get(other).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("0" * 32, 404), ("0" * 31, 400), ("..%2f..%2fetc%2fpasswd", 404), ("generations", 405), ("A" * 32, 400)],
)
def test_what_is_no_picture(client: Client, path: str, status: int) -> None:
    answer = client.http.get(f"/v1/images/{path}")
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["[::1", "a b", "evil.example/@x", "x" * 300 + "/"])
def test_a_strange_host_is_not_repeated(client: Client, host: str) -> None:
    body = {"prompt": "a cube by URL", "num_inference_steps": 2, "response_format": "url"}
    answer = client.post(body, headers={"Host": host})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        item = answer.json()["data"][0]
        assert item["url"] == f"/v1/images/{item['id']}"
