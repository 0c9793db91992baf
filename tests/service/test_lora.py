"""LoRA per request, over HTTP. A negative prompt of its own isolates each test."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from lora_helpers import write_lora
from service_live import Client, LiveServer
from service_samples import CAPTURE, INFO, request

from service.api.errors import InvalidRequestError
from service.api.schema import GenerationBody
from service.api.wishes import lora_set
from service.engine.base import Lora
from service.engine.lora import LoraShelf
from service.keys import exact_key, signature_of
from service.loras import LoraFiles


@pytest.fixture(scope="module")
def folder(live_service: LiveServer) -> Path:
    folder = live_service.folder / "loras"
    for seed, name in enumerate(("ink", "oil")):
        write(live_service, name, seed)
    return folder


def write(server: LiveServer, name: str, seed: int) -> None:
    path = server.folder / "loras" / f"{name}.safetensors"
    write_lora(StableDiffusionPipeline, server.folder / "tiny", path, seed=seed, unet=4, text_encoder=2)


def wish(name: str, scale: float = 1.0) -> dict[str, object]:
    return {"name": name, "scale": scale}


def error(client: Client, **fields: object) -> dict[str, str]:
    answer = client.post({"prompt": "a cube", **fields})
    assert answer.status_code == 400, answer.text
    assert "loras" not in answer.text
    return dict(answer.json()["error"])


def test_a_lora_changes_the_picture_and_is_echoed(client: Client, folder: Path) -> None:
    same = {"prompt": "a drawn cube", "negative_prompt": "lora1", "seed": 3}
    bare = client.post(same).json()
    drawn = client.post({**same, "lora": [wish("ink")]}).json()
    assert bare["lora"] == []
    digest = hashlib.sha256((folder / "ink.safetensors").read_bytes()).hexdigest()
    assert drawn["lora"] == [{"name": "ink", "scale": 1.0, "digest": digest}]
    assert drawn["data"][0]["b64_json"] != bare["data"][0]["b64_json"]
    none = client.draw(**same, lora=[], cache={"mode": "off"})
    assert none["b64_json"] == bare["data"][0]["b64_json"]


def test_exact_hits_do_not_cross_sets(client: Client, folder: Path) -> None:
    same = {"negative_prompt": "lora2", "seed": 5}
    first = client.draw("an exact cube", **same, lora=[wish("ink"), wish("oil", 0.5)])
    client.settle()
    for lora in ([], [wish("ink")], [wish("ink"), wish("oil", 0.6)], [wish("oil"), wish("ink", 0.5)]):
        assert client.cache("an exact cube", **same, lora=lora, cache={"store": False})["verdict"] == "MISS"
    again = client.draw("an exact cube", **same, lora=[wish("oil", 0.5), wish("ink")])
    assert again["cache"]["verdict"] == "EXACT"
    other_order = {**same, "lora": [wish("oil", 0.5), wish("ink")], "cache": {"mode": "off"}}
    assert first["b64_json"] == again["b64_json"] == client.draw("an exact cube", **other_order)["b64_json"]


def test_approximate_hits_do_not_cross_sets(client: Client, folder: Path) -> None:
    same = {"negative_prompt": "lora3"}
    client.draw("a near cube", **same)
    client.settle()
    assert client.cache("a near cube", **same, lora=[wish("ink")])["reason"] == "no-candidates"
    client.settle()
    assert client.cache("a near cube", **same, lora=[wish("ink", 0.9)])["reason"] == "no-candidates"
    assert client.cache("a near cube", **same, lora=[wish("ink")])["verdict"] == "APPROX"
    assert client.cache("a near cube", **same, lora=[wish("oil", 0.0)])["verdict"] == "APPROX"


def test_a_new_and_a_replaced_file_need_no_restart(client: Client, server: LiveServer, folder: Path) -> None:
    same = {"negative_prompt": "lora4", "seed": 7}
    assert error(client, lora=[wish("late")])["code"] == "lora_not_found"
    write(server, "late", 8)
    first = client.draw("a late cube", **same, lora=[wish("late")])
    client.settle()
    assert client.cache("a late cube", **same, lora=[wish("late")])["verdict"] == "EXACT"
    write(server, "late", 9)
    replaced = client.draw("a late cube", **same, lora=[wish("late")])
    assert replaced["cache"]["verdict"] == "MISS"
    assert replaced["b64_json"] != first["b64_json"]
    (folder / "late.safetensors").unlink()
    assert error(client, lora=[wish("late")])["code"] == "lora_not_found"


def test_events_tell_the_set(client: Client, folder: Path) -> None:
    body = {"prompt": "a watched cube", "negative_prompt": "lora5", "lora": [wish("oil", 0.5)]}
    name, completed = client.events(body)[-1]
    assert (name, completed["lora"][0]["name"], completed["lora"][0]["scale"]) == ("completed", "oil", 0.5)


@pytest.mark.parametrize(
    ("lora", "param"),
    [
        ("ink", "lora"),
        ([wish("ink")] * 5, "lora"),
        ([{"scale": 1.0}], "lora.0.name"),
        ([wish("ink", 4.1)], "lora.0.scale"),
        ([wish("ink"), wish("oil", -5)], "lora.1.scale"),
        ([{"name": "ink", "scale": "1"}], "lora.0.scale"),
        ([{"name": "ink", "path": "x"}], "lora.0.path"),
        ([wish("../ink")], "lora.0.name"),
        ([wish("/etc/passwd")], "lora.0.name"),
        ([wish("..")], "lora.0.name"),
        ([wish("ink\n")], "lora.0.name"),
        ([wish("")], "lora.0.name"),
        ([wish("i" * 65)], "lora.0.name"),
        ([wish("ink"), wish("ink", 0.5)], "lora.1.name"),
    ],
)
def test_what_is_no_set(client: Client, folder: Path, lora: object, param: str) -> None:
    found = error(client, lora=lora)
    assert (found["type"], found["param"]) == ("invalid_request_error", param)
    assert found["message"].startswith(f"{param}: ")


def test_an_unknown_name_is_told_the_known_ones(client: Client, folder: Path) -> None:
    found = error(client, lora=[wish("ink"), wish("pen")])
    assert found["param"] == "lora.1.name"
    assert found["message"].startswith("lora.1.name: must be one of ")
    assert {"ink", "oil"} <= set(found["message"].split("one of ")[1].split(", "))


def test_a_file_that_does_not_fit_is_named_and_breaks_nothing(client: Client, folder: Path) -> None:
    same = {"negative_prompt": "lora6", "seed": 2, "cache": {"mode": "off"}}
    before = client.draw("a safe cube", **same)
    (folder / "broken.safetensors").write_bytes(b"nothing of the kind")
    found = error(client, lora=[wish("broken")])
    assert (found["param"], found["code"]) == ("lora", "lora_unfit")
    assert found["message"] == "lora: LoRA broken does not fit this model: it is not a safetensors file"
    (folder / "broken.safetensors").unlink()
    assert client.draw("a safe cube", **same)["b64_json"] == before["b64_json"]


def refused(files: LoraFiles, info: object = INFO) -> InvalidRequestError:
    body = GenerationBody.model_validate({"prompt": "a", "lora": [{"name": "ink"}]})
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(lora_set(body, info, files))
    return caught.value


def test_a_family_without_loras_and_a_service_without_a_folder(tmp_path: Path) -> None:
    error = refused(LoraFiles(LoraShelf(tmp_path)), replace(INFO, family="pixart-sigma", loras=False))
    assert (error.param, error.code) == ("lora", "lora_unsupported")
    assert error.message == "lora: models of the family pixart-sigma take no LoRA"
    error = refused(LoraFiles(LoraShelf(tmp_path)), replace(INFO, dtype="float32+int8", loras=False))
    assert error.message == "lora: quantised models take no LoRA"
    for shelf in (LoraShelf(), LoraShelf(tmp_path), LoraShelf(tmp_path / "gone")):
        error = refused(LoraFiles(shelf), replace(INFO, loras=True))
        assert error.message == "lora.0.name: no LoRA is available here"


async def test_a_digest_follows_the_file(tmp_path: Path) -> None:
    files = LoraFiles(LoraShelf(tmp_path))
    path = tmp_path / "ink.safetensors"
    for content in (b"one", b"two", b"three"):
        path.write_bytes(content)
        expected = hashlib.sha256(content).hexdigest()
        assert await files.digests(["ink", "ink", "pen", "../ink"]) == [expected, expected, None, None]
    (tmp_path / ".hidden.safetensors").write_bytes(b"")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "ink.bin").write_bytes(b"")
    assert await files.names() == ["ink"]


INK = Lora("ink", "d" * 64, 1.0)


@pytest.mark.parametrize(
    "other", [(), (Lora("oil", INK.digest, 1.0),), (Lora("ink", "e" * 64, 1.0),), (Lora("ink", INK.digest, 0.5),)]
)
def test_another_set_is_another_partition_and_another_picture(other: tuple[Lora, ...]) -> None:
    here, there = request(loras=(INK,)), request(loras=other)
    assert signature_of(here, INFO, "e").digest != signature_of(there, INFO, "e").digest
    assert exact_key(here, INFO, CAPTURE) != exact_key(there, INFO, CAPTURE)
