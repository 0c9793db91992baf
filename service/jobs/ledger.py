"""Jobs as the catalogue keeps them, of whichever service: they outlive the process that draws them."""

import time

from pydantic import ValidationError

from cache_store.deposits import DELETED, Deposit, Deposits
from service.jobs.live import LiveJob
from service.jobs.state import INTERRUPTED, JobState, JobStatus

SILENT_SECONDS = 30.0
"""A job that is not final is written anew more often than this; one that is not has lost its process."""


class Ledger:
    """Reads and writes states of jobs; every method may raise CacheUnavailable.

    Args:
        deposits: where they lie.
    """

    def __init__(self, deposits: Deposits) -> None:
        self._deposits = deposits

    async def save(self, job: LiveJob) -> str:
        """Write a job as it is now; return what another service asks of it: "cancel", "drop" or nothing.

        One that was deleted on purpose is not written again: it is to be dropped.
        """
        state = job.state
        body = state.model_dump_json()
        flag = await self._deposits.update("job", state.id, job.tenant, body)
        if flag == DELETED:
            return "drop"
        if flag is None and not job.dropped:  # new, or the catalogue has lost it
            await self._create(job, body)
        job.saved = state.version
        return flag or ""

    async def _create(self, job: LiveJob, body: str) -> None:
        await self._deposits.create("job", job.state.id, job.tenant, body, user=job.user)
        if job.dropped:  # meanwhile
            await self._deposits.drop("job", job.state.id, job.tenant)

    async def find(self, job_id: str, tenant: str) -> JobState | None:
        """Return `tenant`'s job as last written; one whose process is gone has failed by that."""
        found = await self._deposits.find("job", job_id, tenant)
        state = None if found is None else _parse(found)
        if found is None or state is None:
            return None
        return await self.interrupt(state, tenant) if _lost(found, state) else state

    async def page(self, tenant: str, *, below: int | None, limit: int) -> list[tuple[int, JobState]]:
        """Return `tenant`'s jobs, newest first, each with its number."""
        found = await self._deposits.page("job", tenant, below=below, limit=limit)
        return [(one.number, state) for one in found if (state := _parse(one)) is not None]

    async def ask(self, job_id: str, tenant: str, wish: str) -> bool:
        """Ask something of whichever service draws a job; it sees it within seconds."""
        return await self._deposits.flag("job", job_id, tenant, wish)

    async def drop(self, state: JobState, tenant: str) -> None:
        """Delete a job and its pictures; the job goes last, so that after a fault it can be deleted again."""
        await self.clear(state, tenant)
        await self._deposits.drop("job", state.id, tenant)

    async def clear(self, state: JobState, tenant: str) -> None:
        """Delete what was deposited of a job's pictures, told in an answer or not."""
        told = [item["id"] for item in (state.result or {}).get("data", ())]
        for picture in dict.fromkeys([*state.pictures, *told]):
            await self._deposits.drop("image", picture, tenant)

    async def interrupt(self, state: JobState, tenant: str) -> JobState:
        """Note that a job's process is gone, and return how it stands now."""
        ended = state.model_copy(
            update={
                "version": state.version + 1,
                "status": JobStatus.FAILED,
                "finished": time.time(),
                "queue_position": None,
                "error": INTERRUPTED,
            }
        )
        await self._deposits.update("job", state.id, tenant, ended.model_dump_json())
        return ended

    async def orphans(self, *, all_mine: bool) -> list[tuple[JobState, str]]:
        """Return jobs that no process draws any more, each with its tenant.

        Args:
            all_mine: whether nobody else uses this catalogue, so that a job of before the start has no process.
        """
        found = []
        for job_id, tenant in await self._deposits.all_jobs():
            deposit = await self._deposits.find("job", job_id, tenant)
            state = None if deposit is None else _parse(deposit)
            if deposit is None or state is None or state.status.final:
                continue
            if all_mine or _lost(deposit, state):
                found.append((state, tenant))
        return found


def _lost(found: Deposit, state: JobState) -> bool:
    return not state.status.final and found.idle_seconds > SILENT_SECONDS


def _parse(found: Deposit) -> JobState | None:
    try:
        return JobState.model_validate_json(found.body)
    except ValidationError:  # written by another version of the service
        return None
