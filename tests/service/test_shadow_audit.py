"""Approximate hits, drawn again in full while nobody waits: on a real engine, and in a real service."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from service_live import Client, LiveServer, live
from service_samples import plan, result

from policies.matching import ThresholdRow
from policies.matching.audit import ALL, SAME, AuditController, AuditedHit
from service import audit as shadow
from service.audit import QUEUE_LIMIT, ShadowAudit
from service.audit_metrics import AuditMetrics
from service.audit_notebook import AuditNotebook
from service.engine import EngineConfig, make_engine
from service.engine.base import Engine, JobResult, JobSpec
from service.judges import Judge, SharedJudge, shared
from service.settings import DEFAULT_MODEL, Settings
from service.turnstile import Turnstile
from service.types import CacheMode, CacheOptions, Plan, VerdictKind

ROWS = (ThresholdRow(0.25, 0.6, 0.2), ThresholdRow(0.5, 0.6, 0.2))
ROOT_SEED = 99


class Scores(Judge):
    """Gives the delivered picture one score and the full run another, and keeps what it saw."""

    name, loss = "scores", 0.05

    def __init__(self, delivered: float, full: float) -> None:
        self.scores = np.array([delivered, full])
        self.seen: list[Sequence[np.ndarray]] = []

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        self.seen.append(images)
        return self.scores


class FakeLineage:
    """A store that knows which noise entries began with."""

    def __init__(self) -> None:
        self.noise_seed: int | None = ROOT_SEED

    async def entry(self, entry_id: int, tenant: str) -> SimpleNamespace | None:
        return None if self.noise_seed is None else SimpleNamespace(noise_seed=self.noise_seed)


@dataclass
class World:
    """An audit beside a real engine."""

    engine: Engine
    turnstile: Turnstile
    store: FakeLineage
    registry: CollectorRegistry
    audit: ShadowAudit
    judge: Scores

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"headstart_audit_{name}", labels) or 0.0

    @property
    def audited(self) -> int:
        return sum(band.hits for band in self.audit.controller.report() if (band.similarity, band.skip) == (ALL, ALL))


@pytest.fixture
async def engine(tiny_model: Path) -> AsyncIterator[Engine]:
    engine = make_engine(EngineConfig(model=str(tiny_model), kind="local", threads=1))
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
def opened(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Opens an audit of everything, by a judge that finds the hit `delivered` and the full run `full`."""
    monkeypatch.setattr(shadow, "IDLE_SECONDS", 0.05)

    @asynccontextmanager
    async def open_one(
        delivered: float = 0.5, full: float = 0.9, share: float = 1.0, name: str = "judge", key: str = "k"
    ) -> AsyncIterator[World]:
        judge = Scores(delivered, full)
        if name == "judge":
            monkeypatch.setattr(shared, "load_judge", lambda _: judge)
        turnstile, store, registry = Turnstile(64), FakeLineage(), CollectorRegistry()
        audit = ShadowAudit(
            AuditController(ROWS),
            engine,
            store,  # type: ignore[arg-type]
            turnstile,
            AuditMetrics(registry),
            AuditNotebook(tmp_path / "data" / "audit.json", key),
            judge=SharedJudge(name),
            share=share,
        )
        audit.start()
        try:
            yield World(engine, turnstile, store, registry, audit, judge)
        finally:
            await audit.close()

    return open_one


def hit(steps: int = 8, divergence: float = 0.1, **changes: Any) -> tuple[Plan, JobResult]:
    """A hit on the first of two attempts, judged by the gate to differ by `divergence`."""
    planned = plan(attempts=2, kind=VerdictKind.APPROX, reason="match")
    assert planned.job is not None
    job = replace(planned.job, steps=steps, capture=(0.25, 0.5))
    options = CacheOptions(mode=CacheMode.APPROXIMATE, **changes)
    return replace(planned, job=job, request=replace(planned.request, cache=options)), result(
        resumed=0, skipped=4, divergences=(divergence,)
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def drawn(engine: Engine, spec: JobSpec) -> np.ndarray:
    async with aclosing(engine.run(spec)) as events:
        async for event in events:
            if isinstance(event, JobResult):
                return event.image
    raise AssertionError("not drawn")


async def test_a_hit_is_compared_with_the_full_run_from_the_noise_of_its_lineage(opened) -> None:
    planned, run = hit()
    async with opened() as world:
        world.audit.offer(planned, run, None)
        await until(lambda: world.audited == 1)
        (images,) = world.judge.seen
        assert planned.job is not None
        spec = replace(planned.job, job_id="again", resume=(), seed=ROOT_SEED)
        assert np.array_equal(images[0], run.image)
        assert np.array_equal(images[1], await drawn(world.engine, spec))
        assert world.metric("hits_total", verdict="bad", similarity="0.9-0.95", skip="0.5") == 1
        assert world.metric("bad_hit_rate", similarity="all", skip="all") == 1.0
        assert world.metric("gpu_seconds_total") > 0
        assert world.metric("tightening_factor", skip="0.5") == 1.0


@pytest.mark.parametrize(
    ("delivered", "full", "verdict"), [(0.5, 0.9, "bad"), (0.9, 0.5, "good"), (0.9, 0.92, "even")]
)
async def test_verdicts(opened, delivered: float, full: float, verdict: str) -> None:
    async with opened(delivered, full) as world:
        world.audit.offer(*hit(), None)
        await until(lambda: world.audited == 1)
        assert world.metric("hits_total", verdict=verdict, similarity="0.9-0.95", skip="0.5") == 1


async def test_bad_hits_tighten_and_then_close(opened) -> None:
    async with opened() as world:
        for number in range(1, 40):
            # So little divergence that no factor would refuse it.
            world.audit.offer(*hit(steps=2, divergence=0.001), None)
            await until(lambda number=number: world.audited == number)
            if world.audit.controller.factors[ALL] == 0.0:
                break
        assert world.metric("tightening_factor", skip="all") == 0.0
        await world.audit.order(reset=True)
        assert world.metric("tightening_factor", skip="all") == 1.0


async def test_nothing_runs_while_a_client_is_there_and_a_running_audit_gives_way(opened) -> None:
    async with opened() as world:
        with world.turnstile.enter(1):
            world.audit.offer(*hit(steps=50), None)
            await asyncio.sleep(0.3)
            assert world.engine.stats.active == 0
            assert world.audit.queued <= 1
        await until(lambda: world.engine.stats.active == 1)
        with world.turnstile.enter(1):
            await until(lambda: world.metric("interrupted_total") == 1)
            await until(lambda: world.engine.stats.active == 0)
            await asyncio.sleep(0.3)
            assert world.engine.stats.active == 0
            assert world.audited == 0
        await until(lambda: world.audited == 1)
        assert world.metric("interrupted_total") == 1


async def test_the_queue_is_bounded(opened) -> None:
    async with opened() as world:
        with world.turnstile.enter(1):
            for _ in range(QUEUE_LIMIT + 10):
                world.audit.offer(*hit(), None)
                await asyncio.sleep(0.01)
            # One has been taken out of the queue and waits for the client to go.
            assert world.metric("dropped_total", reason="full") in (9, 10)
            assert world.audit.queued == QUEUE_LIMIT


async def test_what_is_not_audited(opened) -> None:
    async with opened() as world, opened(share=0.0) as nothing:
        planned, run = hit()
        world.audit.offer(planned, replace(run, resumed=None), None)
        world.audit.offer(*hit(store=False), None)
        world.audit.offer(planned, replace(run, diversity=0.5), None)
        nothing.audit.offer(planned, run, None)
        assert world.audit.queued == nothing.audit.queued == 0
        world.store.noise_seed = None
        world.audit.offer(planned, run, None)
        await until(lambda: world.metric("dropped_total", reason="source-gone") == 1)


async def test_what_the_judge_cannot_read_counts_for_nothing(opened) -> None:
    async with opened(full=float("nan")) as world:
        world.audit.offer(*hit(), None)
        await until(lambda: world.metric("dropped_total", reason="unjudged") == 1)
        assert world.audited == 0


async def test_a_full_run_that_fails_is_dropped_and_the_next_goes_on(opened) -> None:
    async with opened() as world:
        planned, run = hit()
        assert planned.job is not None
        broken = replace(planned, job=replace(planned.job, solver="no such solver"))
        world.audit.offer(broken, run, None)
        world.audit.offer(planned, run, None)
        await until(lambda: world.audited == 1 and world.metric("dropped_total", reason="failed") == 1)


async def test_without_its_judge_the_audit_ends_with_one_warning(opened, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(name="no.such.module:judge") as world:
        for _ in range(3):
            world.audit.offer(*hit(), None)
        await until(lambda: world.audit.complaint is not None)
        world.audit.offer(*hit(), None)
        assert world.audit.queued == 0
        assert [record.levelname for record in caplog.records if "no audits" in record.message] == ["WARNING"]


async def test_findings_outlive_the_service_but_not_the_model(opened) -> None:
    async with opened() as world:
        world.audit.offer(*hit(), None)
        await until(lambda: world.audited == 1)
        await world.audit.order(frozen=True)
    async with opened() as world:
        assert world.audited == 1
    async with opened(key="another model") as world:
        assert world.audited == 0


@pytest.mark.parametrize("text", ["", "[]", '{"key": "k"}', '{"key": "k", "state": {"version": 1}}', "\x00"])
async def test_a_damaged_file_begins_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(text)
    controller, notebook = AuditController(ROWS), AuditNotebook(path, "k")
    notebook.read(controller)
    assert controller.report() == []
    controller.note(AuditedHit(0.95, 0.5, False, 0.1, "even"))
    await notebook.write(controller)
    again = AuditController(ROWS)
    notebook.read(again)
    assert again.report() == controller.report()


async def test_an_order_to_forget_is_not_undone_by_an_audit_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller, notebook = AuditController(ROWS), AuditNotebook(tmp_path / "audit.json", "k")
    replace_file, begun = notebook._replace, threading.Event()

    def slowly_at_first(text: str) -> None:
        if not begun.is_set():
            begun.set()
            time.sleep(0.2)
        replace_file(text)

    monkeypatch.setattr(notebook, "_replace", slowly_at_first)
    controller.note(AuditedHit(0.95, 0.5, False, 0.1, "bad"))
    writing = asyncio.create_task(notebook.write(controller))
    await asyncio.to_thread(begun.wait)
    controller.reset()
    await asyncio.gather(writing, notebook.write(controller))
    again = AuditController(ROWS)
    notebook.read(again)
    assert again.report() == []


async def test_a_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await AuditNotebook(tmp_path / "file" / "audit.json", "k").write(AuditController(ROWS))


def test_the_model_names_its_judge(tmp_path: Path) -> None:
    assert Settings().judge_name == "training.judge.maps:scenes"
    assert Settings(judge="").judge_name == ""
    assert Settings(judge="clip:x").judge_name == "clip:x"
    assert Settings(model=str(tmp_path)).judge_name == ""
    for text in ("[]", "{", '{"judge": 3}'):
        (tmp_path / "headstart.json").write_text(text)
        assert Settings(model=str(tmp_path)).judge_name == ""


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The shipped model, every hit of which is audited by its own judge."""
    with live(tmp_path_factory.mktemp("audited"), model=str(DEFAULT_MODEL), audit_share="1", threads="1") as server:
        client = Client(server)
        yield client
        client.http.close()


def found(client: Client) -> dict[str, Any]:
    return dict(client.http.get("/v1/cache/audit").json())


def hits(client: Client, similarity: str = ALL) -> int:
    return sum(b["hits"] for b in found(client)["bands"] if (b["similarity"], b["skip"]) == (similarity, ALL))


def test_repeats_of_a_text_are_as_right_as_their_full_runs(audited: Client) -> None:
    text = "a large red ball in the middle on a meadow"
    first = audited.draw(text, scheduler="ddim")
    for number in range(1, 4):
        audited.settle()
        again = audited.draw(text, scheduler="ddim")
        assert again["cache"]["verdict"] == "APPROX"
        # From one picture's noise to the next, through any chain of resumes.
        full = audited.draw(text, scheduler="ddim", seed=first["seed"], cache={"mode": "off"})
        assert full["b64_json"] == again["b64_json"]
        audited.server.wait(lambda number=number: hits(audited, SAME) == number, "audited")
    (band,) = [b for b in found(audited)["bands"] if (b["similarity"], b["skip"]) == (SAME, ALL)]
    assert (band["bad"], band["good"]) == (0, 0)


def test_audits_are_nobodys_requests(audited: Client) -> None:
    before = found(audited)
    assert before["enabled"]
    assert hits(audited) > 0
    stats = audited.http.get("/v1/stats").json()
    assert stats["requests"] == audited.entries() + stats["verdicts"]["BYPASS"]
    assert audited.metric("headstart_audit_gpu_seconds_total") > 0
    drawn_steps = stats["steps_total"] - stats["skipped_steps"] + stats["wasted_steps"]
    assert audited.metric("headstart_denoise_steps_total") == drawn_steps


def test_the_audit_takes_orders(audited: Client) -> None:
    assert audited.http.post("/v1/cache/audit", json={"frozen": True}).json()["frozen"]
    assert found(audited)["bands"]
    answer = audited.http.post("/v1/cache/audit", json={"frozen": False, "reset": True}).json()
    assert (answer["frozen"], answer["bands"]) == (False, [])
    assert set(answer["factors"].values()) == {1.0}
    assert audited.http.post("/v1/cache/audit", json={"melted": True}).status_code == 400


def test_without_a_judge_there_is_no_audit(live_client: Client, live_service: LiveServer) -> None:
    assert found(live_client)["enabled"] is False
    assert "HEADSTART_JUDGE" in found(live_client)["reason"]
    refused = live_client.http.post("/v1/cache/audit", json={"reset": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "audit_off")
    assert not (live_service.data_dir / "audit.json").exists()


def test_its_findings_are_a_small_file_without_prompts(audited: Client) -> None:
    text = (audited.server.data_dir / "audit.json").read_text()
    assert json.loads(text)["state"]["version"] == 2
    assert "ball" not in text
