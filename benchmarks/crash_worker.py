"""A store under full load, there to be killed: `python -m benchmarks.crash_worker FOLDER SEED`.

It writes, finds, loads and touches entries of `crash_world` as fast as it can, and says on its standard output,
a JSON object a line, what it has seen so far. Told to on its standard input, it comes to rest and checks itself:
"check" answers with the integrity problems left after the repair, "stop" ends it.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import crash_world as world
from benchmarks.crash_mend import mend, until
from cache_store import CacheStore, CacheUnavailable, StoreConfig

NUMBERS = 600
# Room for about a sixth of the numbers' states and a tenth of their pictures: eviction never rests.
STATE_BYTES, IMAGE_BYTES, RAM_BYTES = 1_400_000, 180_000, 200_000
WRITERS, READERS = 2, 4
REPORT_SECONDS = 0.1
PATIENCE_SECONDS = 3.0


class Worker:
    """One store and those who use it.

    Args:
        store: is used.
        seed: of everything random here.
    """

    def __init__(self, store: CacheStore, seed: int) -> None:
        self._store = store
        self._random = random.Random(seed)
        self._busy = asyncio.Event()
        self._busy.set()
        self._inside = 0
        self.counts: Counter[str] = Counter()

    async def work(self) -> None:
        """Use the store until cancelled."""
        async with asyncio.TaskGroup() as group:
            for action, many in ((self._write, WRITERS), (self._resume, READERS), (self._repeat, READERS)):
                for _ in range(many):
                    group.create_task(self._again(action))
            group.create_task(self._report())
            group.create_task(self._obey())

    async def _again(self, action: Any) -> None:
        while True:
            await self._busy.wait()
            self._inside += 1
            try:
                await action(self._random.randrange(NUMBERS))
            except CacheUnavailable:
                self.counts["unavailable"] += 1
                await asyncio.sleep(0.02)
            except Exception as error:  # what a request would have failed with
                self.counts["failed"] += 1
                tell(error=f"{type(error).__name__}: {error}"[:200])
            finally:
                self._inside -= 1
            await asyncio.sleep(0)

    async def _write(self, number: int) -> None:
        self.counts["writes"] += self._store.remember(
            world.entry(number), world.states(number), world.picture(number)
        )
        await asyncio.sleep(0.004)

    async def _resume(self, number: int) -> None:
        """As a request does: look for neighbours, load the nearest one's states, count their use."""
        found = await self._store.search(world.SIGNATURE, world.vector(number), 2)
        for candidate in found:
            for ref in candidate.states:
                state = await self._store.load(candidate.entry_id, ref)
                if state is None:
                    self.counts["gone"] += 1
                    continue
                self.counts["loads"] += 1
                self.counts["wrong"] += not world.is_right(world.number_of(candidate.prompt or ""), state)
                await self._store.touch(candidate.entry_id, ref)

    async def _repeat(self, number: int) -> None:
        hit = await self._store.find_exact(world.exact_key(number))
        if hit is not None:
            self.counts["exact"] += 1
            self.counts["wrong"] += hit.image.data != world.picture(number).data or hit.prompt != world.prompt(number)
            await self._store.touch_image(hit.entry_id)

    async def _report(self) -> None:
        while True:
            stats = await self._store.stats()
            tell(available=stats.available, evictions=sum(stats.evictions.values()), **self.counts)
            await asyncio.sleep(REPORT_SECONDS)

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while (await reader.readline()).strip() == b"check":
            self._busy.clear()
            await until(self._at_rest)
            found, left = await mend(self._store)
            tell(problems=left, found=len(found), loaded=await self._load_everything())
            self._busy.set()
        await self._store.close()
        os._exit(0)  # the other tasks never end by themselves

    async def _at_rest(self) -> bool:
        return self._inside == 0

    async def _load_everything(self) -> int:
        """Load every state there is; return how many, wrong ones and missing ones counted apart."""
        loaded = 0
        for summary in await self._store.recent(world.SIGNATURE.tenant, 10 * NUMBERS):
            for ref in summary.states:
                state = await self._store.load(summary.entry_id, ref)
                loaded += state is not None
                self.counts["missing_at_rest"] += state is None
                if state is not None:
                    self.counts["wrong"] += not world.is_right(world.number_of(summary.prompt), state)
        return loaded


def tell(**facts: object) -> None:
    """Write one line for whoever started this process."""
    print(json.dumps(facts), flush=True)


async def main(folder: Path, seed: int) -> None:
    """Open the store in `folder` and work."""
    started = time.monotonic()
    config = StoreConfig(
        data_dir=folder,
        byte_budget=STATE_BYTES,
        image_budget=IMAGE_BYTES,
        ram_bytes=RAM_BYTES,
        queue_size=64,
        timeout_seconds=PATIENCE_SECONDS,
    )
    store = await CacheStore.open(config)
    tell(opened=time.monotonic() - started, available=(await store.stats()).available)
    await Worker(store, seed).work()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
