"""A closed-loop HTTP client over raw sockets, so that it costs little: `… load URL BODY SECONDS CONNECTIONS`."""

import asyncio
import json
import sys
import time
from contextlib import closing
from urllib.parse import urlsplit


async def measure(url: str, body: str, seconds: float, connections: int) -> dict[str, float]:
    """Return requests per second and the latencies' percentiles in milliseconds.

    Raises:
        RuntimeError: an answer was not 200.
    """
    place = urlsplit(url)
    payload = body.encode()
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: {place.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    request = head.encode() + payload
    started = time.perf_counter()
    until = started + seconds
    clients = [_client(str(place.hostname), place.port or 80, request, until) for _ in range(connections)]
    latencies = sorted(latency for found in await asyncio.gather(*clients) for latency in found)
    elapsed = time.perf_counter() - started
    return {
        "rps": len(latencies) / elapsed,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
    }


async def _client(host: str, port: int, request: bytes, until: float) -> list[float]:
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    latencies = []
    with closing(writer):
        while (began := time.perf_counter()) < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(head.decode("latin-1"))
            lines = head.lower().split(b"\r\n")
            length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - began)
    return latencies


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])))))
