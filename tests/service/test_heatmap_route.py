"""Heat maps over HTTP: of a real service with the shipped model's judge, of one without, and while others wait."""

import asyncio
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from service_live import Client, live
from service_samples import plan, result

from cache_store.generations import GenerationRecord
from cache_store.types import StoredImage
from service.heatmaps import MOST_WAITING, Heatmaps, NoHeatmapError
from service.judges import Judge, SharedJudge, shared
from service.judges.heatmap import Heatmap
from service.judges.sheet import overlaid
from service.metrics import Metrics
from service.pictures import encode
from service.provenance import Provenance, provenance_of
from service.replay import TextNeededError
from service.safety import Guard
from service.settings import DEFAULT_MODEL
from service.turnstile import Turnstile
from service.types import Verdict, VerdictKind
from training.judge.maps import scenes

FIRST = "a large red ball in the middle on a meadow"
PICTURE = np.full((8, 8, 3), 60, np.uint8)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The shipped model, with the judge it names."""
    with live(tmp_path_factory.mktemp("heatmaps"), model=str(DEFAULT_MODEL), audit_share="0", threads="1") as server:
        client = Client(server)
        yield client
        client.http.close()


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def heatmap(client: Client, drawn: dict[str, Any], **query: str) -> Any:
    return client.http.get(f"/v1/generations/{drawn['id']}/heatmap", params=query)


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_result_and_source_are_shown_as_the_judge_sees_them(judged: Client) -> None:
    source = judged.draw(FIRST)
    judged.settle()
    drawn = judged.draw(FIRST)  # the same text, so it resumes for certain
    judged.settle()
    assert drawn["cache"]["verdict"] == "APPROX"
    judge, answers = scenes(), {}
    for of, entry in (("result", None), ("source", drawn["cache"]["source"]["id"])):
        answer = heatmap(judged, drawn, of=of)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        entry = entry or judged.http.get(f"/v1/generations/{drawn['id']}").json()["entry"]
        picture = pixels(judged.http.get(f"/v1/cache/entries/{entry}/image").content)
        made = judge.answer_map(picture, FIRST) if of == "result" else judge.match_map(picture, FIRST)
        assert np.abs(pixels(answer.content).astype(int) - overlaid(picture, made)).max() <= 1
        answers[of] = answer.content
    assert heatmap(judged, drawn).content == answers["result"]
    other = heatmap(judged, drawn, text="a small green star on a meadow")
    assert other.status_code == 200
    assert other.content != answers["result"]
    told = judged.http.post("/v1/cache/explain", json={"prompt": FIRST}).json()
    assert told["candidates"][0]["generation"] in (source["id"], drawn["id"])


def test_what_cannot_be_shown_says_why(judged: Client) -> None:
    drawn = judged.draw(FIRST, cache={"mode": "off", "store": True})
    assert code_of(heatmap(judged, drawn, of="source")) == (404, "no_source")
    assert code_of(heatmap(judged, drawn)) == (410, "picture_gone")
    assert code_of(heatmap(judged, drawn, of="neither"))[0] == 400
    assert code_of(heatmap(judged, drawn, text="x" * 2001))[0] == 400
    assert code_of(heatmap(judged, drawn, text=""))[0] == 400
    assert heatmap(judged, {"id": "0" * 32}).status_code == 404


def test_a_text_the_judge_cannot_read_is_not_repeated(judged: Client) -> None:
    drawn = judged.draw("a small yellow star in the middle on a meadow")
    judged.settle()
    answer = heatmap(judged, drawn, text="the secret meaning of life")
    assert code_of(answer) == (409, "unexplainable")
    assert "secret" not in answer.text
    assert "secret" not in judged.server.log.read_text()


def test_a_picture_whose_entry_was_deleted_is_gone(judged: Client) -> None:
    drawn = judged.draw("a large blue box in the middle on a meadow", seed=5)
    judged.settle()
    again = judged.draw("a large blue box in the middle on a meadow", seed=5)
    assert again["cache"]["verdict"] == "EXACT"
    assert heatmap(judged, again, of="source").status_code == 200
    judged.http.delete(f"/v1/cache/entries/{again['cache']['source']['id']}")
    assert [heatmap(judged, one).status_code for one in (drawn, again)] == [404, 404]


def test_without_a_judge_there_is_no_heat_map(client: Client) -> None:
    drawn = client.draw("a heat map of a clay jug")
    assert code_of(heatmap(client, drawn)) == (409, "no_judge")


class Plain(Judge):
    """Judges, but cannot show where it looks."""

    name, loss = "plain", 0.1

    def score(self, images: Any, prompts: Any) -> np.ndarray:
        return np.zeros(len(images))


class Looking(Plain):
    """Looks at the upper half for the match, at the lower for the answer."""

    def match_map(self, picture: np.ndarray, prompt: str) -> Heatmap:
        return np.repeat([1, 0], 4)[:, None] * np.ones((8, 8), np.float32)

    def answer_map(self, picture: np.ndarray, prompt: str) -> Heatmap:
        return 1 - self.match_map(picture, prompt)


class FakePictures:
    """A store of nothing but one picture."""

    async def image(self, entry_id: int, tenant: str) -> StoredImage | None:
        return StoredImage(encode(PICTURE), 8, 8) if (entry_id, tenant) == (7, "default") else None


def provenance(prompt: str | None = "a clay jug") -> Provenance:
    planned, run = plan(attempts=1, kind=VerdictKind.APPROX, reason="match"), result()
    verdict = Verdict(VerdictKind.MISS, "no-candidates", 8)
    return replace(provenance_of(planned, verdict, run, run.image, {}), prompt=prompt)


UNGUARDED = Guard(None, Metrics().safety)
RECORD = GenerationRecord("0" * 32, "default", "", "", entry_id=7)


def heatmaps(monkeypatch: pytest.MonkeyPatch, judge: Judge, turnstile: Turnstile, seconds: float = 60.0) -> Heatmaps:
    monkeypatch.setattr(shared, "load_judge", lambda _: judge)
    return Heatmaps(SharedJudge("mine"), FakePictures(), turnstile, UNGUARDED, wait_seconds=seconds)  # type: ignore[arg-type]


async def test_a_judge_that_cannot_show_where_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoHeatmapError) as caught:
        await heatmaps(monkeypatch, Plain(), Turnstile(4)).draw(RECORD, provenance(), "result", None)
    assert caught.value.code == "judge_without_maps"


async def test_a_judge_that_cannot_be_loaded() -> None:
    broken = Heatmaps(SharedJudge("no.such.module:judge"), FakePictures(), Turnstile(4), UNGUARDED)  # type: ignore[arg-type]
    with pytest.raises(NoHeatmapError) as caught:
        await broken.draw(RECORD, provenance(), "result", None)
    assert caught.value.code == "judge_unavailable"
    assert "module" not in str(caught.value)


async def test_a_text_is_needed_where_none_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = heatmaps(monkeypatch, Looking(), Turnstile(4))
    with pytest.raises(TextNeededError):
        await maps.draw(RECORD, provenance(None), "result", None)
    png = await maps.draw(RECORD, provenance(None), "result", "a clay jug")
    assert np.array_equal(pixels(png), overlaid(PICTURE, Looking().answer_map(PICTURE, "")))


async def test_a_source_that_may_be_another_tenant_s_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, run = plan(attempts=1, kind=VerdictKind.APPROX, reason="match"), result(resumed=0, skipped=4)
    made = provenance_of(planned, Verdict(VerdictKind.APPROX, "match", 8, 4), run, run.image, {})
    assert made.entered is not None
    maps = heatmaps(monkeypatch, Looking(), Turnstile(4))
    with pytest.raises(NoHeatmapError) as caught:
        await maps.draw(RECORD, replace(made, hidden=True), "source", None)
    assert caught.value.code == "no_source"


async def test_it_waits_for_those_who_draw_and_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    turnstile = Turnstile(4)
    hasty = heatmaps(monkeypatch, Looking(), turnstile, 0.05)
    patient = heatmaps(monkeypatch, Looking(), turnstile)
    with turnstile.enter(1):
        waiting = asyncio.create_task(patient.draw(RECORD, provenance(), "result", None))
        with pytest.raises(NoHeatmapError) as caught:
            await hasty.draw(RECORD, provenance(), "result", None)
        assert caught.value.code == "busy"
        assert not waiting.done()
    assert pixels(await waiting).shape == (8, 8, 3)


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    turnstile = Turnstile(4)
    maps = heatmaps(monkeypatch, Looking(), turnstile)
    with turnstile.enter(1):
        waiting = [asyncio.create_task(maps.draw(RECORD, provenance(), "result", None)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(NoHeatmapError) as caught:
            await maps.draw(RECORD, provenance(), "result", None)
        assert caught.value.code == "busy"
    assert len({await one for one in waiting}) == 1


def test_a_shared_judge_is_loaded_once_and_used_by_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(name: str) -> Judge:
        loaded.append(name)
        return Plain()

    monkeypatch.setattr(shared, "load_judge", load)
    judge = SharedJudge("mine")
    assert loaded == []
    with judge.lent() as first:
        assert judge._lock.locked()
    with judge.lent() as second:
        assert second is first
    assert loaded == ["mine"]
