"""A safety checker: what it flags or cannot judge is never shown, and verdicts of other versions are not believed."""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from service_checkers import STEER
from service_live import Client, live
from transformers import CLIPConfig, CLIPImageProcessor

from service.safety import (
    SafetyCheckerError,
    SafetyVerdict,
    load_checker,
)

HERE = Path(__file__).parent
Serve = Callable[..., AbstractContextManager[Client]]


class Steering:
    """Tells the checker of a server in another process what to do."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checker.order"
        self("pass")

    def __call__(self, order: str) -> None:
        self.file.write_text(order)


@pytest.fixture(scope="module")
def steer(tmp_path_factory: pytest.TempPathFactory) -> Steering:
    return Steering(tmp_path_factory.mktemp("steering"))


@pytest.fixture(scope="module")
def serve(steer: Steering, resuming_model: Path) -> Iterator[Serve]:
    """Starts a server with the checker of a version, "" = none, over what another may have left in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STEER, str(steer.file))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))

        @contextmanager
        def start(version: str, folder: Path, **settings: str) -> Iterator[Client]:
            steer.file.with_suffix(".version").write_text(version)
            safety = {"safety": "service_checkers:Steered"} if version else {}
            with live(folder, model=str(resuming_model), threads="1", **safety, **settings) as server:
                client = Client(server)
                yield client
                client.settle()
                client.http.close()

        yield start


@pytest.fixture(scope="module")
def guarded(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with serve("v1", tmp_path_factory.mktemp("guarded")) as client:
        yield client


@pytest.fixture(autouse=True)
def _passing(steer: Steering) -> Iterator[None]:
    steer("pass")
    yield
    steer("pass")


def _checks(client: Client, picture: str, outcome: str) -> float:
    return client.metric("headstart_safety_checks_total", picture=picture, outcome=outcome)


def _error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


FLAGGED = (400, "content_policy_violation")
UNCHECKED = (503, "safety_unavailable")


def test_what_passes_is_answered_and_remembered(guarded: Client) -> None:
    before = _checks(guarded, "drawn", "passed")
    drawn = guarded.draw("a harmless kite", seed=1)
    assert _checks(guarded, "drawn", "passed") == before + 1
    guarded.settle()
    again = guarded.draw("a harmless kite", seed=1)
    assert (again["cache"]["verdict"], again["b64_json"]) == ("EXACT", drawn["b64_json"])
    # Its verdict is of the version in force: stored with it, and believed.
    assert _checks(guarded, "stored", "passed") == 0


def test_what_is_flagged_is_neither_shown_nor_remembered(guarded: Client) -> None:
    guarded.settle()
    entries, before = guarded.entries(), _checks(guarded, "drawn", "flagged")
    body = {"prompt": "a forbidden kite", "seed": 2}
    for _ in range(2):
        assert _error(guarded.post(body)) == FLAGGED
    official = openai.OpenAI(base_url=f"{guarded.server.url}/v1", api_key="unused", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        official.images.generate(prompt="a forbidden kite", n=2)
    assert refused.value.code == "content_policy_violation"
    with pytest.raises(openai.BadRequestError):
        official.images.edit(image=("a.png", _png()), prompt="a forbidden edit")
    name, data = guarded.events(body)[-1]
    assert (name, data["error"]["code"]) == ("error", "content_policy_violation")
    guarded.settle()
    assert guarded.entries() == entries
    assert _checks(guarded, "drawn", "flagged") >= before + 5
    assert guarded.metric("headstart_pictures_in_work") == 0


@pytest.mark.parametrize("order", ["break", "exit", "nonsense", "other version"])
def test_what_the_checker_cannot_say_is_not_shown(guarded: Client, steer: Steering, order: str) -> None:
    guarded.settle()
    entries, before = guarded.entries(), _checks(guarded, "drawn", "failed")
    steer(order)
    answer = guarded.post({"prompt": f"a kite while it does {order}", "seed": 3})
    assert _error(answer) == UNCHECKED
    assert answer.headers["x-should-retry"] == "false"  # the client would have it drawn, and paid for, again
    guarded.settle()
    assert guarded.entries() == entries
    assert _checks(guarded, "drawn", "failed") == before + 1
    steer("pass")
    assert guarded.cache(f"a kite while it does {order}", seed=3)["verdict"] == "MISS"


def test_nothing_is_shown_on_the_way(guarded: Client) -> None:
    told = guarded.events({"prompt": "a kite, step by step", "partial_images": 6})
    assert [data for name, data in told if name == "progress"]
    assert not [data for _, data in told if "preview_b64" in data]
    official = openai.OpenAI(base_url=f"{guarded.server.url}/v1", api_key="unused", max_retries=0)
    events = list(official.images.generate(prompt="a kite, streamed", stream=True, partial_images=3))
    assert [event.type for event in events] == ["image_generation.completed"]


def test_a_replay_is_judged_too(guarded: Client, steer: Steering) -> None:
    drawn = guarded.draw("a kite to be had again", seed=4)
    steer("flag")
    assert _error(guarded.http.post(f"/v1/generations/{drawn['id']}/replay")) == FLAGGED


def test_verdicts_of_another_version_are_not_believed(serve: Serve, steer: Steering, tmp_path: Path) -> None:
    with serve("v1", tmp_path) as client:
        kept = _remembered(client)
    with serve("v2", tmp_path) as client:
        steer("break")
        for answer in _asked_for(client, kept):
            assert _error(answer) == UNCHECKED
        steer("pass")
        similar = client.cache("a red kite over a pier", cache={"mode": "approximate"})
        assert (similar["verdict"], similar["reason"]) == ("MISS", "no-candidates")
        steer("flag")
        for answer in _asked_for(client, kept):
            assert _error(answer) == FLAGGED
        client.settle()
        assert client.http.get(f"/v1/cache/entries/{kept['entry']}").status_code == 404
        assert client.http.get(kept["job"]).json()["result"]["data"][0]["b64_json"] is None
        again = client.post({"prompt": "a kite under a key"}, headers={"Idempotency-Key": "kite"})
        assert _error(again) == FLAGGED  # not the stored answer: it was drawn, and judged
        assert _checks(client, "stored", "flagged") == 4
        steer("pass")
        assert client.cache("a red kite over the pier", seed=5)["verdict"] == "MISS"  # it was forgotten


def test_a_checker_of_another_version_is_told_the_prompt(serve: Serve, steer: Steering, tmp_path: Path) -> None:
    wish = {"prompt": "a forbidden kite by its address", "seed": 7, "response_format": "url"}
    steer("pass all")
    with serve("v1", tmp_path) as client:
        drawn = client.draw(**wish)
        job = str(client.http.post("/v1/jobs", json={**wish, "response_format": "b64_json"}).headers["Location"])
        client.server.wait(lambda: client.http.get(job).json()["status"] == "succeeded", "drawn")
    steer("pass")
    with serve("v2", tmp_path) as client:
        assert _error(client.http.get(f"/v1/images/{drawn['id']}")) == FLAGGED
        assert client.http.get(job).json()["result"]["data"][0]["b64_json"] is None
        assert _error(client.post(wish)) == FLAGGED


def test_while_the_checker_hangs_nothing_is_drawn(serve: Serve, steer: Steering, tmp_path: Path) -> None:
    with serve("v1", tmp_path, safety_seconds="4") as client:
        assert client.http.get("/readyz").json()["safety"] == "ok"
        client.draw("a kite before", seed=8)
        client.settle()
        steer("hang")
        assert _error(client.post({"prompt": "a kite in vain"})) == UNCHECKED
        client.server.wait(lambda: client.http.get("/readyz").status_code == 503, "in doubt")
        steps = client.metric("headstart_denoise_steps_total")
        for path in ("/v1/images/generations", "/v1/generations/events"):
            refused = client.http.post(path, json={"prompt": "a kite not drawn"})
            assert _error(refused) == (503, "safety_busy")
            assert 1 <= int(refused.headers["Retry-After"]) <= 4
            assert refused.headers["x-should-retry"] == "true"
        ready = client.http.get("/readyz").json()
        assert (ready["status"], ready["engine"], ready["safety"]) == ("unavailable", "ok", "unavailable")
        assert client.draw("a kite before", seed=8)["cache"]["verdict"] == "EXACT"
        assert client.metric("headstart_denoise_steps_total") == steps
        assert _checks(client, "drawn", "refused") == 2
        steer("pass")
        client.server.wait(lambda: client.http.get("/readyz").json()["safety"] == "ok", "judging again")
        client.draw("a kite after")


def test_a_verdict_is_stored_with_its_entry(serve: Serve, steer: Steering, tmp_path: Path) -> None:
    repeat = {"prompt": "a kite that nobody judged", "seed": 6}
    with serve("", tmp_path) as client:
        client.draw(**repeat)
    for judged in (1, 0):
        with serve("v3", tmp_path) as client:
            if not judged:  # nor is it asked
                steer("flag")
            assert client.draw(**repeat)["cache"]["verdict"] == "EXACT"
            assert _checks(client, "stored", "passed") == judged


def _remembered(client: Client) -> dict[str, str]:
    """Draw pictures that are found again in every way there is."""
    client.draw("a red kite over the pier", seed=5)
    shown = client.draw("a kite in the explorer")
    by_url = client.draw("a kite by its address", response_format="url")
    client.post({"prompt": "a kite under a key"}, headers={"Idempotency-Key": "kite"})
    wish = {"prompt": "a kite for later", "response_format": "b64_json"}
    job = str(client.http.post("/v1/jobs", json=wish).headers["Location"])
    client.server.wait(lambda: client.http.get(job).json()["status"] == "succeeded", "drawn")
    client.settle()
    entry = client.http.get(f"/v1/generations/{shown['id']}").json()["entry"]
    return {"entry": entry, "url": f"/v1/images/{by_url['id']}", "job": job}


def _asked_for(client: Client, kept: dict[str, str]) -> Iterator[httpx.Response]:
    yield client.http.get(kept["url"])
    yield client.http.get(f"/v1/cache/entries/{kept['entry']}/image")
    yield client.post({"prompt": "a red kite over the pier", "seed": 5})


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing", '"module:function" or a folder'),
        ("no.such.module:checker", "cannot be loaded"),
        ("service_checkers:absent", "has no 'absent'"),
        ("service_checkers:broken", "ValueError"),
        ("service_checkers:Nameless", "has no version"),
        ("service_checkers:np.zeros", "has no"),
    ],
)
def test_a_checker_that_cannot_be_had_is_one_clear_line(name: str, line: str) -> None:
    with pytest.raises(SafetyCheckerError, match=re.escape(line)) as caught:
        load_checker(name)
    assert "\n" not in str(caught.value)


def test_the_checker_that_stable_diffusion_ships(tmp_path: Path) -> None:
    with pytest.raises(SafetyCheckerError, match="cannot be loaded"):
        load_checker(str(tmp_path))
    folder = tmp_path / "model"
    network = _write_concepts(folder, threshold=1.1)
    passing = load_checker(str(folder))
    picture = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    assert passing.judge(picture, None) == SafetyVerdict(False, passing.version)
    assert load_checker(str(folder)).version == passing.version
    network.concept_embeds_weights.data.fill_(-1.1)
    network.save_pretrained(folder / "safety_checker")
    flagging = load_checker(str(folder))
    assert flagging.version != passing.version
    assert flagging.judge(picture, "a kite") == SafetyVerdict(True, flagging.version)


def _write_concepts(folder: Path, threshold: float) -> StableDiffusionSafetyChecker:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config={**vision, "image_size": 32, "patch_size": 16}, projection_dim=8)
    network = StableDiffusionSafetyChecker(config)
    network.concept_embeds_weights.data.fill_(threshold)
    network.special_care_embeds_weights.data.fill_(1.1)
    network.save_pretrained(folder / "safety_checker")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**size).save_pretrained(folder / "feature_extractor")
    return network
