"""Deleting a job while the catalogue is away, or while the job is being written."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from benchmarks.crash_mend import until
from cache_store import CacheStore, CacheUnavailable, StoreConfig
from service.generator import Wish
from service.jobs.desk import JobDesk, JobOrder
from service.jobs.ledger import Ledger
from service.jobs.live import LiveJob
from service.jobs.postman import Postman
from service.jobs.state import JobError, JobState
from service.jobs.targets import Targets
from service.line import Line
from service.turnstile import Turnstile

TENANT = "acme"


class Endless:
    """A generator whose pictures are never finished."""

    def __init__(self) -> None:
        self.turnstile = Turnstile(8)
        self.line = Line()

    async def stream(self, *_: object) -> AsyncGenerator[Any, None]:
        await asyncio.Event().wait()
        yield


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CacheStore]:
    opened = await CacheStore.open(StoreConfig(data_dir=tmp_path / "data", timeout_seconds=20.0))
    yield opened
    await opened.close()


@pytest.fixture
async def desk(store: CacheStore) -> AsyncIterator[JobDesk]:
    ended = Counter("ended", "", ["status"], registry=CollectorRegistry())
    postman = Postman(Targets(()), b"", Counter("hooks", "", ["outcome"], registry=CollectorRegistry()))
    made = JobDesk(Endless(), Ledger(store.deposits), postman, ended, most=10)  # type: ignore[arg-type]
    yield made
    await made.close(0.0)
    await postman.close()


async def submit(desk: JobDesk) -> JobState:
    async def finish(_: object) -> dict[str, Any]:
        return {}

    request: Any = SimpleNamespace(steps=4, tenant=TENANT, user="", request_id="r")
    order = JobOrder((request,), Wish(), finish, lambda error: JobError(message=str(error), type="server_error"))
    return await desk.submit(order)


async def test_a_job_deleted_while_the_catalogue_is_away_stays_deleted(desk: JobDesk, store: CacheStore) -> None:
    state = await submit(desk)
    assert await desk.find(state.id, TENANT) is not None
    store._link.renew("for the test")
    with pytest.raises(CacheUnavailable):
        await desk.delete(state.id, TENANT)
    assert await desk.find(state.id, TENANT) is None
    assert await store._link.wait_available(20)
    assert await desk.find(state.id, TENANT) is None
    assert await desk.page(TENANT, below=None, limit=5) == []

    async def forgotten() -> bool:
        return await Ledger(store.deposits).find(state.id, TENANT) is None

    async with asyncio.timeout(20):
        await until(forgotten)
    assert not await desk.delete(state.id, TENANT)
    assert desk._generator.turnstile.inside == 0


async def test_a_deleted_job_is_not_written_anew(store: CacheStore) -> None:
    job = LiveJob(JobState(id="a" * 32, created=0.0, progress=()), TENANT, "", "r", dropped=True)
    ledger = Ledger(store.deposits)
    await ledger.save(job)
    assert await ledger.find(job.state.id, TENANT) is None


async def test_deleting_what_is_not_one_s_own_does_nothing(desk: JobDesk) -> None:
    state = await submit(desk)
    assert not await desk.delete(state.id, "another")
    assert await desk.find(state.id, TENANT) is not None
    assert await desk.delete(state.id, TENANT)
    assert await desk.find(state.id, TENANT) is None
