"""Sending one request of a schedule, again where the service said "not now", and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gevent

from loadtest.answer_headers import own_status, parse_retry_after
from loadtest.outcomes import REFUSING, Outcome, Refusal
from loadtest.picture_check import Answer, BadAnswer, read_answer
from loadtest.schedule import Request
from loadtest.tenants import Tenant

ROUTE = "/v1/images/generations"
REFUSED = f"{ROUTE} (refused, comes back)"
SPENT_HEADERS = ("X-Denoise-Time", "X-Decode-Time")
UNAUTHORIZED = 401
RETRIES = ("never", "honour", "ignore")


@dataclass(frozen=True, slots=True)
class Patience:
    """What a client does when it is refused with 429 or 503.

    Attributes:
        retry: `never`; `honour`: comes back after `Retry-After`; `ignore`: comes back after `wait` whatever it says.
        attempts: comebacks of one request at most.
        wait: seconds to wait where `Retry-After` is missing or ignored.
    """

    retry: str = "never"
    attempts: int = 3
    wait: float = 1.0

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ValueError: naming the option.
        """
        if self.retry not in RETRIES:
            raise ValueError(f"--retry must be one of {', '.join(RETRIES)}")
        if self.attempts < 1 or not 0 < self.wait < 3600:
            raise ValueError("--retries must be 1 or more, --retry-wait between 0 and 3600 seconds")

    def pause(self, refusals: list[Refusal]) -> float | None:
        """Return how long to wait after the last refusal, or None to give up."""
        if self.retry == "never" or len(refusals) > self.attempts:
            return None
        promised = refusals[-1].retry_after
        return self.wait if promised is None or self.retry == "ignore" else promised


class Sender:
    """Sends requests through one client of Locust's; knows the clock of its run.

    Args:
        client: Locust's HTTP session.
        now: seconds since the run's start.
        cache_mode: sent with every request.
        tenants: the keys a request's number refers to.
        patience: when refused.
        pictures: folder to write every picture to, or None.
    """

    def __init__(
        self,
        client: Any,
        now: Callable[[], float],
        cache_mode: str,
        tenants: list[Tenant],
        patience: Patience,
        pictures: Path | None = None,
    ) -> None:
        self._client = client
        self._now = now
        self._cache_mode = cache_mode
        self._tenants = tenants
        self._patience = patience
        self._pictures = pictures

    def send(self, request: Request, name: str = ROUTE) -> Outcome:
        """Send a request until it is answered or patience ends; latency counts from its due time."""
        sent = self._now()
        refusals: list[Refusal] = []
        attempts = 1
        while True:
            came = self._try(request, name, refusals)
            if isinstance(came, Outcome):
                intended = sent if request.due is None else request.due
                return replace(came, intended=intended, sent=sent, attempts=attempts, refusals=tuple(refusals))
            gevent.sleep(came)
            attempts += 1

    def complaint(self) -> str | None:
        """Return why the service would turn these clients away, None if it would not."""
        for tenant in self._tenants or (None,):
            headers = {} if tenant is None else _authorised(tenant)
            with self._client.get("/v1/models", headers=headers, catch_response=True) as response:
                response.success()
                if response.status_code != UNAUTHORIZED:
                    continue
            if tenant is None:
                return "the service asks for an API key; give it a file of them with --keys"
            return f"the service does not accept the key of {tenant.name}"
        return None

    def facts(self) -> dict[str, Any]:
        """What the service says of itself before the replay; empty where it does not say."""
        headers = _authorised(self._tenants[0]) if self._tenants else {}
        with self._client.get("/v1/stats", headers=headers, catch_response=True) as response:
            response.success()  # no request of the replay: not to be counted against the service
            try:
                stats = response.json() if response.status_code == 200 else {}
                return {"model": stats["model"], "entries_before": stats["cache"]["entries"]}
            except (ValueError, KeyError, TypeError):
                return {}

    def _try(self, request: Request, name: str, refusals: list[Refusal]) -> Outcome | float:
        """One attempt: what came of it, or the seconds to wait before the next one."""
        sent = self._now()
        with self._post(request, name) as response:
            finished = self._now()
            if response.status_code in REFUSING:
                promised = parse_retry_after(response.headers.get("Retry-After"))
                refusals.append(Refusal(sent, finished, response.status_code, promised))
                pause = self._patience.pause(refusals)
                if pause is not None:
                    response.request_meta["name"] = REFUSED
                    response.success()
                    return pause
            return self._outcome(request, sent, finished, response)

    def _post(self, request: Request, name: str) -> Any:
        headers = {} if request.tenant is None else _authorised(self._tenants[request.tenant])
        body = request.body(self._cache_mode)
        return self._client.post(ROUTE, json=body, headers=headers, catch_response=True, name=name)

    def _outcome(self, request: Request, sent: float, finished: float, response: Any) -> Outcome:
        row = request.row
        tenant = None if request.tenant is None else self._tenants[request.tenant].name
        bare = Outcome(
            number=request.number,
            line=row.line,
            intended=sent,
            sent=sent,
            finished=finished,
            user=row.user,
            kind=row.kind,
            tenant=tenant,
            asked=request.asked,
            last_sent=sent,
        )
        answer = _checked(response)
        if isinstance(answer, BadAnswer):
            response.failure(str(answer))
            return replace(bare, error=str(answer))
        response.success()
        return self._answered(bare, answer, response.headers)

    def _answered(self, bare: Outcome, answer: Answer, headers: Any) -> Outcome:
        cache = answer.cache
        return replace(
            bare,
            verdict=cache["verdict"],
            reason=cache.get("reason"),
            steps=cache["steps"],
            skipped=cache["skipped_steps"],
            wasted=cache.get("wasted_steps", 0),
            similarity=cache.get("similarity"),
            saved_gpu_seconds=cache.get("saved_gpu_seconds", 0.0),
            spent_gpu_seconds=_spent(headers),
            cache_status=_status(headers),
            seed=answer.seed,
            image=self._save(bare.line, answer.picture),
        )

    def _save(self, line: int, picture: bytes) -> str | None:
        if self._pictures is None:
            return None
        self._pictures.mkdir(parents=True, exist_ok=True)
        name = f"{line:06d}.png"
        (self._pictures / name).write_bytes(picture)
        return name


def _authorised(tenant: Tenant) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant.key}"}


def _checked(response: Any) -> Answer | BadAnswer:
    """Check an answer in a thread: decoding a picture here would hold up the requests that are due meanwhile."""
    status = (response.headers or {}).get("Cache-Status")  # without an answer there are no headers
    arguments = (response.status_code, response.content or b"", status)
    checked: Answer | BadAnswer = gevent.get_hub().threadpool.apply(_try_read, arguments)
    return checked


def _try_read(status: int, body: bytes, cache_status: str | None) -> Answer | BadAnswer:
    """Return the error: one that leaves a thread of gevent's is printed with its traceback."""
    try:
        return read_answer(status, body, cache_status)
    except BadAnswer as error:
        return error


def _spent(headers: Any) -> float | None:
    spent = [headers.get(name) for name in SPENT_HEADERS]
    try:
        return None if None in spent else sum(float(value) for value in spent)
    except ValueError:
        return None


def _status(headers: Any) -> str | None:
    status = own_status(headers.get("Cache-Status"))
    return None if status is None else "hit" if status.hit else status.forwarded
