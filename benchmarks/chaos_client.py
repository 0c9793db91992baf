"""A client of a chaos run: sends an errand, follows the job that came of it, and notes everything in the ledger."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx

from benchmarks.chaos_ledger import ChaosLedger, JobNote
from benchmarks.chaos_mix import JOBS, Errand
from benchmarks.soak_client import Drawn, WrongAnswer, error_code, pixels, send

FOLLOW_SECONDS = 600.0
POLL_SECONDS = 0.1

FINAL = ("succeeded", "failed", "cancelled")


class ChaosClient:
    """Runs errands against one service.

    Args:
        http: to the service.
        port: of the service, for what is no HTTP.
        ledger: hears of everything.
    """

    def __init__(self, http: httpx.AsyncClient, port: int, ledger: ChaosLedger) -> None:
        self._http = http
        self._port = port
        self._ledger = ledger

    async def run(self, errand: Errand) -> None:
        """Do one errand; what goes wrong is in the ledger."""
        if errand.raw:
            await self._send_raw(errand)
            return
        if not errand.then and not errand.key:
            begun = time.monotonic()
            outcome = await send(self._http, errand.shot)
            self._ledger.outcome(outcome, begun, time.monotonic())
            if outcome.retry_after and outcome.status == 429:
                await asyncio.sleep(outcome.retry_after)
            return
        try:
            async with asyncio.timeout(FOLLOW_SECONDS):
                await self._submit(errand)
        except TimeoutError:
            self._wrong(errand, f"not over after {FOLLOW_SECONDS:.0f} s")
        except (WrongAnswer, ValueError, KeyError, OSError, httpx.TransportError) as error:
            self._wrong(errand, f"{type(error).__name__}: {error}"[:300])

    def _wrong(self, errand: Errand, what: str) -> None:
        self._ledger.ended(errand.shot.kind, "wrong")
        self._ledger.fault(errand.shot.kind, what)

    async def _send_raw(self, errand: Errand) -> None:
        """Send bytes, wait a moment, and cut the connection."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError as error:
            self._wrong(errand, type(error).__name__)
            return
        answer = b""
        with suppress(ConnectionError):
            writer.write(errand.raw)
            await writer.drain()
            with suppress(TimeoutError):
                answer = await asyncio.wait_for(reader.read(100), errand.pause)
        writer.transport.abort()
        status = answer.split(b" ")[1:2]
        self._ledger.ended("half", status[0].decode("latin-1") if status else "cut")
        if status and status[0].startswith(b"5"):
            self._ledger.fault("half", f"status {status[0]!r}")

    async def _submit(self, errand: Errand) -> None:
        """Send what may be kept under a key, or become a job."""
        shot = errand.shot
        answer = await self._http.request(shot.method, shot.path, content=shot.body, headers=shot.headers)
        status = answer.status_code
        self._ledger.statuses[str(status)] += 1
        if status not in (*shot.accepts, 429):
            raise WrongAnswer(f"status {status}, not {shot.accepts}: {answer.text[:200]}")
        if errand.key and status in (200, 202):
            self._ledger.keyed(errand.key, answer.headers["idempotency-status"], answer.content)
        if status == 202:
            job_id = answer.json()["id"]
            wish = {name: value for name, value in shot.wish.items() if name in PICTURE_FIELDS}
            fresh = JobNote(errand.then, shot.pictures, wish, errand.deadline)
            note = self._ledger.jobs.setdefault(job_id, fresh)
            await self._follow(job_id, note, errand)
            self._ledger.ended(shot.kind, note.end)
        elif status == 200:
            for item in answer.json()["data"]:
                self._ledger.made(shot.wish, drawn_of(item, base64.b64decode(item["b64_json"])))
            self._ledger.ended(shot.kind, answer.headers["idempotency-status"])
        else:
            self._ledger.ended(shot.kind, error_code(answer.json()))
            await asyncio.sleep(float(answer.headers.get("retry-after", 0)) if status == 429 else 0)

    async def _follow(self, job_id: str, note: JobNote, errand: Errand) -> None:
        """Do with a job what the errand says, and see how it ends."""
        match errand.then:
            case "events":
                await self._watch(job_id, note, errand.pause)
            case "cancel":
                await asyncio.sleep(errand.pause)
                await self._ask("POST", f"{JOBS}/{job_id}/cancel")
            case "delete":
                await asyncio.sleep(errand.pause)
                await self._ask("DELETE", f"{JOBS}/{job_id}")
                if (await self._ask("GET", f"{JOBS}/{job_id}")).status_code != 404:
                    raise WrongAnswer("a deleted job is there")
                note.end = "deleted"
                return
        body = await self._until_final(job_id, note)
        if body["status"] == "succeeded":
            await self._collect(body, note)

    async def _until_final(self, job_id: str, note: JobNote) -> dict[str, Any]:
        while True:
            answer = await self._ask("GET", f"{JOBS}/{job_id}")
            if answer.status_code == 404:
                raise WrongAnswer("an accepted job is unknown")
            body: dict[str, Any] = answer.json()
            self._note(note, body)
            if body["status"] in FINAL:
                return body
            await asyncio.sleep(POLL_SECONDS)

    def _note(self, note: JobNote, body: dict[str, Any]) -> None:
        """Note how a job stands; it may not go back, nor rise again."""
        if body["version"] < note.version:
            raise WrongAnswer(f"version {body['version']} of a job after {note.version}")
        if note.end and body["status"] != note.end:
            raise WrongAnswer(f"a job that had {note.end} is {body['status']}")
        note.version = body["version"]
        if body["status"] in FINAL:
            note.end = body["status"]
            note.code = "" if body["error"] is None else error_code({"error": body["error"]})

    async def _ask(self, method: str, path: str) -> httpx.Response:
        """Ask about a job until the catalogue is there to answer."""
        while True:
            begun = time.monotonic()
            answer = await self._http.request(method, path)
            self._ledger.statuses[str(answer.status_code)] += 1
            if answer.status_code == 503:
                self._ledger.unavailable("follow", error_code(answer.json()), begun, time.monotonic())
                await asyncio.sleep(2 * POLL_SECONDS)
                continue
            if answer.status_code not in (200, 404):
                raise WrongAnswer(f"{method} of a job: status {answer.status_code}: {answer.text[:200]}")
            return answer

    async def _watch(self, job_id: str, note: JobNote, pause: float) -> None:
        """Watch a job's events; the client hangs up at the pause, or stays to the end."""
        patience = pause if pause < 0.3 else FOLLOW_SECONDS
        begun = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience), self._http.stream("GET", f"{JOBS}/{job_id}/events") as answer:
                if answer.status_code == 503:
                    return
                async for name, data in events_of(answer):
                    if name == "job":
                        self._note(note, data)
                    elif name == "error":
                        self._ledger.unavailable("watch", error_code(data), begun, time.monotonic())
                        return
                if not note.end:
                    raise WrongAnswer("the events ended before the job did")

    async def _collect(self, body: dict[str, Any], note: JobNote) -> None:
        """Fetch the pictures of a job that succeeded."""
        items = body["result"]["data"]
        if len(items) != note.pictures:
            raise WrongAnswer(f"{len(items)} pictures, not {note.pictures}")
        for item in items:
            if (data := await self._picture(item)) is None:
                self._ledger.gone += 1
                continue
            pixels(data)
            self._ledger.made(note.wish, drawn_of(item, data))

    async def _picture(self, item: dict[str, Any]) -> bytes | None:
        """Return the picture's bytes; None if it is gone."""
        if item["b64_json"] is not None:
            return base64.b64decode(item["b64_json"])
        if item["url"] is None:
            return None
        if item["url"].startswith("data:"):
            return base64.b64decode(item["url"].partition("base64,")[2])
        answer = await self._ask("GET", httpx.URL(item["url"]).path)
        return answer.content if answer.status_code == 200 else None


PICTURE_FIELDS = ("prompt", "num_inference_steps", "scheduler", "size", "guidance_scale", "seed")
"""What decides what is in a picture."""


def drawn_of(item: dict[str, Any], data: bytes) -> Drawn:
    """Return a picture of an answer."""
    return Drawn(data, item["seed"], item["cache"]["verdict"], item["cache"]["reason"], item["id"])


async def events_of(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield the events of a stream, each with its data."""
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
