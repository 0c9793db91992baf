"""Deleting a job takes its pictures along, whenever it comes; deleting everything takes jobs along that still run."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from service_live import Client

from benchmarks.crash_mend import until
from cache_store import CacheStore, CacheUnavailable, Selection, StoreConfig, user_digest
from cache_store.deposits import Deposits
from service.generator import Picture, Wish
from service.jobs import desk as desks
from service.jobs.desk import JobDesk, JobOrder
from service.jobs.ledger import Ledger
from service.jobs.live import LiveJob
from service.jobs.postman import Postman
from service.jobs.state import JobError, JobState, JobStatus
from service.jobs.targets import Targets
from service.line import Line
from service.turnstile import Turnstile

TENANT = "acme"
ANN = user_digest(TENANT, "ann")
IDS = tuple(f"{number:032x}" for number in (1, 2))


class Painter:
    """A generator whose pictures are there at once, or never."""

    def __init__(self) -> None:
        self.turnstile = Turnstile(8)
        self.line = Line()
        self.endless = False

    async def stream(self, *_: object) -> AsyncGenerator[Any, None]:
        if self.endless:
            await asyncio.Event().wait()
        verdict: Any = SimpleNamespace(skipped=0)
        yield Picture(b"png", 1, verdict, False, 0.0, 0.0, 0.0, 0.0)


class Slow:
    """Keeps the first picture at once, and the second when it may: as a busy store would."""

    def __init__(self, deposits: Deposits) -> None:
        self._deposits = deposits
        self.begun, self.may = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def finish(self, _: object) -> dict[str, Any]:
        await self._deposits.create("image", IDS[0], TENANT, "", user=ANN, data=b"first")
        self.begun.set()
        await self.may.wait()
        await self._deposits.create("image", IDS[1], TENANT, "", user=ANN, data=b"second")
        if self.error is not None:
            raise self.error
        return {"data": [{"id": name} for name in IDS]}

    async def kept(self) -> list[bool]:
        return [await self._deposits.find("image", name, TENANT) is not None for name in IDS]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CacheStore]:
    opened = await CacheStore.open(StoreConfig(data_dir=tmp_path / "data", timeout_seconds=20.0))
    yield opened
    await opened.close()


@pytest.fixture
async def open_desk(store: CacheStore) -> AsyncIterator[Callable[[], JobDesk]]:
    made: list[JobDesk] = []

    def open_one() -> JobDesk:
        ended = Counter("ended", "", ["status"], registry=CollectorRegistry())
        postman = Postman(Targets(()), b"", Counter("hooks", "", ["outcome"], registry=CollectorRegistry()))
        made.append(JobDesk(Painter(), Ledger(store.deposits), postman, ended, most=10))  # type: ignore[arg-type]
        return made[-1]

    yield open_one
    for desk in made:
        await desk.close(0.0)
        await desk.postman.close()


@pytest.fixture
def desk(open_desk: Callable[[], JobDesk]) -> JobDesk:
    return open_desk()


@pytest.fixture
def slow(store: CacheStore) -> Slow:
    return Slow(store.deposits)


async def submit(desk: JobDesk, slow: Slow, *, endless: bool = False) -> JobState:
    desk._generator.endless = endless  # type: ignore[attr-defined]
    requests: Any = tuple(
        SimpleNamespace(steps=4, begin=0, tenant=TENANT, user=ANN, request_id=request_id) for request_id in IDS
    )
    order = JobOrder(requests, Wish(), slow.finish, lambda error: JobError(message=str(error), type="server_error"))
    return await desk.submit(order)


async def soon(reached: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        await until(reached)


@pytest.mark.parametrize("how", ["delete", "cancel"])
async def test_no_picture_stays_of_a_job_ended_while_they_are_kept(desk: JobDesk, slow: Slow, how: str) -> None:
    state = await submit(desk, slow)
    await slow.begun.wait()
    ending = asyncio.create_task(getattr(desk, how)(state.id, TENANT))
    for _ in range(5):
        await asyncio.sleep(0)
    slow.may.set()
    told = await ending
    assert await slow.kept() == [False, False]
    if how == "cancel":
        assert (told.status, told.result) == (JobStatus.CANCELLED, None)
    assert desk._generator.turnstile.inside == 0


async def test_nor_when_keeping_them_outlasts_the_patience_of_a_deletion(
    desk: JobDesk, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desks, "_CANCEL_SECONDS", 0.01)
    state = await submit(desk, slow)
    await slow.begun.wait()
    assert await desk.delete(state.id, TENANT)
    assert await desk.find(state.id, TENANT) is None
    slow.may.set()

    async def gone() -> bool:
        return desk._generator.turnstile.inside == 0 and await slow.kept() == [False, False]

    await soon(gone)


async def test_nor_when_the_answer_cannot_be_made(
    desk: JobDesk, slow: Slow, store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = _away_once(store.deposits, monkeypatch, kind="image")
    slow.error = RuntimeError("no")
    slow.may.set()
    state = await submit(desk, slow)

    async def failed() -> bool:
        found = await desk.find(state.id, TENANT)
        return found is not None and found.status is JobStatus.FAILED and await slow.kept() == [False, False]

    await soon(failed)
    assert away.is_set()


async def test_a_deletion_that_failed_halfway_can_be_repeated(
    desk: JobDesk, slow: Slow, store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.may.set()
    state = await submit(desk, slow)

    async def saved() -> bool:
        return not desk._jobs

    await soon(saved)
    _away_once(store.deposits, monkeypatch, kind="image", after=1)
    with pytest.raises(CacheUnavailable):
        await desk.delete(state.id, TENANT)
    assert await desk.delete(state.id, TENANT)
    assert await slow.kept() == [False, False]
    assert not await desk.delete(state.id, TENANT)


async def test_a_job_of_another_service_that_ends_before_it_is_asked_is_deleted(
    open_desk: Callable[[], JobDesk], slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = open_desk(), open_desk()
    state = await submit(other, slow)
    await slow.begun.wait()
    ask = mine._ledger.ask

    async def ended_first(*about: str) -> bool:
        slow.may.set()

        async def saved() -> bool:
            return not other._jobs

        await soon(saved)
        return await ask(*about)

    monkeypatch.setattr(mine._ledger, "ask", ended_first)
    assert await mine.delete(state.id, TENANT)
    assert await mine.find(state.id, TENANT) is None
    assert await slow.kept() == [False, False]


@pytest.mark.parametrize("criteria", [{}, {"user": ANN}, {"created_after": 1.0}])
async def test_forgetting_a_selection_ends_the_jobs_it_means(
    desk: JobDesk, slow: Slow, store: CacheStore, criteria: dict[str, Any]
) -> None:
    state = await submit(desk, slow, endless=True)
    for other in (
        Selection(tenant="another"),
        Selection(tenant=TENANT, user=user_digest(TENANT, "bob")),
        Selection(tenant=TENANT, created_before=1.0),
        Selection(tenant=TENANT, entry_ids=(1,)),
    ):
        await desk.forget(other)
    assert await desk.find(state.id, TENANT) is not None
    await desk.forget(Selection(tenant=TENANT, **criteria))
    assert await desk.find(state.id, TENANT) is None
    assert await Ledger(store.deposits).find(state.id, TENANT) is None
    assert desk._generator.turnstile.inside == 0


async def test_a_job_forgotten_by_another_service_ends_and_does_not_come_back(
    desk: JobDesk, slow: Slow, store: CacheStore
) -> None:
    state = await submit(desk, slow, endless=True)
    await store.forget(Selection(tenant=TENANT))

    async def ended() -> bool:
        return desk._generator.turnstile.inside == 0 and not desk._jobs

    await soon(ended)
    assert await desk.find(state.id, TENANT) is None


async def test_what_was_forgotten_is_not_written_again_but_what_was_lost_is(store: CacheStore) -> None:
    ledger = Ledger(store.deposits)
    jobs = [LiveJob(JobState(id=name, created=0.0, progress=()), TENANT, "", "r") for name in IDS]
    forgotten, lost = jobs
    assert await ledger.save(forgotten) == ""
    await store.forget(Selection(tenant=TENANT))
    assert await ledger.save(lost) == ""
    await store._link.call("DEL", f"headstart:1:deposit:job:{lost.state.id}")
    assert await ledger.save(forgotten) == "drop"
    assert await ledger.find(forgotten.state.id, TENANT) is None
    assert await ledger.save(lost) == ""
    assert await ledger.find(lost.state.id, TENANT) is not None


def test_deleting_everything_ends_running_jobs(client: Client) -> None:
    body = {"prompt": "a job for hours", "num_inference_steps": 200, "n": 4, "cache": {"mode": "off"}}
    job = client.http.post("/v1/jobs", json=body).json()
    assert client.http.delete("/v1/cache/entries", params={"all": "true"}).status_code == 200
    assert client.http.get(f"/v1/jobs/{job['id']}").status_code == 404
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") == 0, "idle")
    assert client.http.get("/v1/jobs").json()["data"] == []


def _away_once(deposits: Deposits, patch: pytest.MonkeyPatch, *, kind: str, after: int = 0) -> asyncio.Event:
    """Let one deletion of a deposit of `kind` fail, once `after` others have succeeded."""
    drop, failed, left = deposits.drop, asyncio.Event(), [after]

    async def flaky(what: Any, name: str, tenant: str) -> bool:
        if what == kind and not failed.is_set():
            if not left[0]:
                failed.set()
                raise CacheUnavailable("for the test")
            left[0] -= 1
        return await drop(what, name, tenant)

    patch.setattr(deposits, "drop", flaky)
    return failed
