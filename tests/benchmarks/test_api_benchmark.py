import asyncio
import contextlib

import pytest

from benchmarks import api
from benchmarks.http.load import measure


def _turns(*rates: float) -> list[dict[str, float]]:
    return [{"rps": rate, "p50_ms": 1.0, "p99_ms": 2.0} for rate in rates]


def test_a_system_that_is_absent_is_null_and_not_guessed() -> None:
    measured = {"headstart": _turns(100, 200), "exact": _turns(50, 100), "bare_fastapi": _turns(400, 800)}
    report = api._report(measured, 2, 1.0)
    assert report["headline"] == {"rps_over_litserve": None, "rps_over_bare_fastapi": 0.25}
    assert report["rps_over_exact"]["value"] == 2.0
    with_it = api._report({**measured, "litserve": _turns(50, 100)}, 2, 1.0)
    assert with_it["headline"]["rps_over_litserve"] == 2.0


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: bytes) -> None:
    with contextlib.suppress(asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
        while await reader.readline():
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
    writer.close()


async def test_the_client_counts_answers_and_refuses_errors() -> None:
    for status in (b"200 OK", b"500 No"):
        server = await asyncio.start_server(lambda r, w, said=status: _answer(r, w, said), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            if status.startswith(b"200"):
                found = await measure(url, "{}", 0.2, 2)
                assert found["rps"] > 0
                assert found["p50_ms"] <= found["p99_ms"]
            else:
                with pytest.raises(RuntimeError, match="500"):
                    await measure(url, "{}", 0.2, 1)
