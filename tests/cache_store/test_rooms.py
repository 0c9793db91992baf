"""The rooms keep to themselves, and the event stream holds no content."""

import subprocess
import sys
from pathlib import Path

from cache_store import CacheStore

ROOT = Path(__file__).parents[2]
FORBIDDEN = ("torch", "diffusers", "transformers", "fastapi", "starlette", "uvicorn", "httpx")
PROBE = "import sys, {room}; print(*sorted(set(sys.modules) & set({forbidden!r})))"


def imported(room: str, forbidden: tuple[str, ...]) -> str:
    code = PROBE.format(room=room, forbidden=forbidden)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.strip()


def test_cache_store_knows_neither_http_nor_models() -> None:
    assert imported("cache_store", FORBIDDEN) == ""


def test_policies_do_no_io() -> None:
    rooms = "policies.matching, policies.eviction"
    assert imported(rooms, (*FORBIDDEN, "redis", "obstore", "faiss", "cache_store")) == ""


async def test_events_are_numbered_without_gaps_and_hold_no_prompt(store: CacheStore, make) -> None:
    for seed in (1, 2):
        store.remember(make.entry(seed), make.states(seed), make.image)
    await store.flush()
    found = await store.search(make.signature, make.vector(1))
    await store.touch(found[0].entry_id, found[0].states[0])
    await store.clear()
    raw = await store._link.call("XRANGE", "headstart:1:events", "-", "+")
    assert [name for name, _ in raw] == [b"%d-0" % number for number in range(1, len(raw) + 1)]
    kinds = [fields[b"kind"] for _, fields in raw]
    assert kinds[:3] == [b"add", b"add", b"touch"]
    assert set(kinds[3:]) == {b"evict", b"forget"}
    assert b"secret" not in b"".join(value for _, fields in raw for value in fields.values())
