"""The façade: everything the service may ask of the cache."""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from redis.asyncio import Redis

from cache_store.background import Background
from cache_store.browsing import Filter, Place, page
from cache_store.catalogue import Catalogue, ImageRecord
from cache_store.config import StoreConfig, StoreConfigError
from cache_store.data_dir import FileLock, RunMarker, claim
from cache_store.deposits import DepositBounds, Deposits
from cache_store.eviction import Evictor, Remover
from cache_store.expiry import Lifetimes
from cache_store.flights import Flights
from cache_store.follower import Follower
from cache_store.generations import GenerationRecord, Generations
from cache_store.ghosts import Ghosts
from cache_store.link import RedisLink, connect
from cache_store.objects import Objects
from cache_store.parts import Parts
from cache_store.ram import Key, RamTier
from cache_store.ranking import Ranking
from cache_store.recorder import Memory, Recorder
from cache_store.records import checked_embedding, level_of_ref
from cache_store.redis_server import PrivateRedis
from cache_store.renoise import read_state
from cache_store.replica import IndexReplica
from cache_store.searching import Searcher
from cache_store.selection import Selection
from cache_store.states import CorruptState, verify
from cache_store.types import (
    CacheEntry,
    CacheUnavailable,
    EntrySummary,
    ExactHit,
    FinalState,
    Float32Array,
    NoiseState,
    Signature,
    StoredImage,
    StoreStats,
)
from cache_store.upkeep import Upkeep
from cache_store.usage import Usage
from cache_store.writer import WriteBehind
from policies.eviction import POLICIES
from policies.matching.base import Candidate, StateRef

log = logging.getLogger(__name__)

_START_SECONDS = 5.0
_SHARED_START_SECONDS = 2.0
_WRITE_PATIENCE_SECONDS = 2.0
_CLOSE_SECONDS = 5.0


class CacheStore:
    """Remembered generations: find them, load their noise states, remember new ones.

    Every method a request waits for is bounded by `StoreConfig.timeout_seconds` and raises `CacheUnavailable`,
    and nothing else, when the cache cannot answer: the request is then generated in full. Writes happen behind
    the answer. All methods belong to the event loop that opened the store.

    Attributes:
        deposits: what clients come back for: jobs, stored answers, pictures by URL.
    """

    def __init__(self, config: StoreConfig, ranking: Ranking, objects: Objects, client: Redis) -> None:
        """Assemble the parts; use `open` instead."""
        self._config = config
        self._link = RedisLink(client, prepare=self._prepare, check=lambda: self._parts.catalogue.check_identity())
        shared_lease = config.lease_seconds if config.redis_url else 0.0
        catalogue = Catalogue(self._link, ttl=config.ttl_seconds, lease=shared_lease)
        bounds = DepositBounds(config.result_lifetime, config.results, config.result_bytes)
        self.deposits = Deposits(self._link, objects, bounds, config.timeout_seconds)
        self._parts = Parts(
            self._link,
            catalogue,
            Generations(self._link, seconds=config.record_seconds, most=config.generations),
            self.deposits,
            objects,
            RamTier(config.ram_bytes),
            ghosts=Ghosts(config.ghost_similarity),
            ranking=ranking,
        )
        self._recorder = Recorder(self._parts, config.codec, config.sharing)
        self._remover = Remover(self._parts)
        self._replica = IndexReplica(
            self._parts, config.data_dir / "index.snapshot", gpu=config.index_device == "gpu"
        )
        self._follower = Follower(self._parts, self._replica)
        self._evictor = Evictor(
            self._parts,
            self._remover,
            self._follower,
            state_budget=config.byte_budget,
            image_budget=config.image_budget,
        )
        self._writer = WriteBehind(self._write, config.queue_size)
        # Held by whoever writes; taken by whoever needs the store at rest.
        self._exclusive = asyncio.Lock()
        self._marker = RunMarker(config.data_dir)
        self.usage = Usage(self._link, config.timeout_seconds)
        self._upkeep = Upkeep(
            self._parts,
            self._remover,
            self._follower,
            self._exclusive,
            alone=config.redis_url is None and config.object_url is None,
            marker=self._marker,
        )
        self._files = Flights(self._file)
        self._lifetimes = Lifetimes()
        self._searcher = Searcher(
            self._parts,
            self._lifetimes if config.ttl_seconds else None,
            lease_seconds=config.lease_seconds,
            rules=config.sharing,
        )
        self._background = Background()
        self._server: PrivateRedis | None = None
        self._lock: FileLock | None = None
        self._queued = 0
        self._corrupt = 0
        self._last_stats = StoreStats()

    @classmethod
    async def open(cls, config: StoreConfig) -> "CacheStore":
        """Open the store; one whose Redis or objects are away opens too, and connects when they come back.

        Raises:
            StoreConfigError: the configuration cannot work, in one clear line.
        """
        config.check()
        try:
            ranking = Ranking(config.eviction, config.byte_budget)
        except ValueError as error:
            raise StoreConfigError(str(error)) from error
        lock = claim(config.data_dir)
        server: PrivateRedis | None = None
        try:
            objects = Objects(config)
            if config.redis_url is None:
                server = PrivateRedis(config.data_dir / "redis")
                await server.start()
            store = cls(config, ranking, objects, _client(config, server))
        except BaseException:
            if server:
                await server.stop()
            lock.close()
            raise
        store._server, store._lock = server, lock
        try:
            await store._start()
        except BaseException:
            await store.close()
            raise
        return store

    async def _start(self) -> None:
        await asyncio.to_thread(self._parts.objects.remove_drafts)
        self._writer.start()
        self._link.start()
        self._upkeep.start()
        self._follower.start()
        self.deposits.start()
        # A server of our own needs a moment to start; a shared one is there, or it is not.
        await self._link.wait_available(_START_SECONDS if self._server else _SHARED_START_SECONDS)

    async def _prepare(self) -> None:
        """Bring this process in line with the catalogue, before anybody may use it."""
        parts = self._parts
        async with self._exclusive:
            self._upkeep.clock.restart()
            parts.objects.store_id = await parts.catalogue.open()
            await self._follower.recover()
        self._background.run(self._upkeep.sweep())

    async def close(self) -> None:
        """Write what waits (for a few seconds), then let go of everything; a second call does nothing."""
        await self._writer.close(_CLOSE_SECONDS)
        await self._background.close()
        await self.deposits.close()
        await self._upkeep.close()
        await self._follower.close()
        await self._link.close()
        self._replica.close()
        self._parts.thread.close()
        if self._server:
            await self._server.stop()
        if self._lock:
            self._marker.unset()
            self._lock.close()

    async def find_exact(self, exact_key: str) -> ExactHit | None:
        """Return the picture remembered under `exact_key`, or None. Raises CacheUnavailable."""
        deadline = self._deadline()
        async with self._link.guard(deadline):
            record = await self._parts.catalogue.find_exact(exact_key)
        image = await self._read_image(record, deadline) if record else None
        if record is None or image is None:
            return None
        left = self._config.ttl_seconds - record.age if self._config.ttl_seconds else float("inf")
        return ExactHit(record.entry_id, record.prompt, image, record.age, left, record.full_seconds)

    async def search(
        self,
        signature: Signature,
        embedding: Float32Array,
        limit: int = 8,
        *,
        lease: bool = True,
        public: bool = False,
    ) -> list[Candidate]:
        """Return the nearest entries inside `signature`'s partition that still hold a state, most similar first.

        Args:
            signature: names the partition and who reads; of other tenants' no partition is looked into.
            embedding: float32 [D], unit length.
            limit: most candidates returned.
            lease: keep what is returned from eviction for a moment, because it is about to be loaded.
            public: look into the partition that tenants share, too; see `cache_store.sharing` for what shows there.

        Raises:
            CacheUnavailable: the cache cannot answer now.
        """
        deadline = self._deadline()
        vector = checked_embedding(embedding)
        if vector is None:
            raise CacheUnavailable("not a finite unit embedding")
        if not self._link.available:
            raise CacheUnavailable("redis is away")
        return await self._searcher.search(signature, vector, limit, deadline, lease=lease, public=public)

    async def load(self, entry_id: int, state: StateRef) -> NoiseState | None:
        """Return a verified noise state, or None when it is gone or damaged (it is then forgotten).

        Its arrays are read-only and shared with other callers: copy before changing them.

        Raises:
            CacheUnavailable: the object store cannot answer now.
        """
        key, deadline = (entry_id, level_of_ref(state)), self._deadline()
        with self._parts.pins.hold(key):
            self._parts.pins.release(key)
            if not await self._alive(entry_id):
                return None
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._read(key, state)
            except TimeoutError as error:
                raise CacheUnavailable("a state was not read in time") from error
            except CorruptState as error:
                log.warning("noise state %d of entry %d is forgotten: %s", key[1], key[0], error)
                self._corrupt += 1
                self._background.run(self._remover.drop_state(key, "corrupt"))
                return None

    async def _read(self, key: Key, ref: StateRef) -> NoiseState:
        held = self._parts.ram.get(key)
        if held is not None and ref.form == "trajectory":  # takes less time than asking a thread
            return read_state(held, key[0], ref, trusted=True)
        data = held if held is not None else await self._files.join(key)
        state = await asyncio.to_thread(read_state, data, key[0], ref, trusted=True)
        self._parts.ram.put(key, data)
        return state

    async def _file(self, key: Key) -> bytes:
        """Return a verified file; read once, however many of the levels it serves are asked for."""
        objects = self._parts.objects
        if not objects.store_id:
            raise CacheUnavailable("the catalogue has not been reached yet")
        async with objects.guard(self._deadline()):
            data = await objects.get(objects.state_path(*key))
        if data is None:
            raise CorruptState("missing")
        await asyncio.to_thread(verify, data)
        return data

    async def _alive(self, entry_id: int) -> bool:
        """Return whether an entry is within its time; one just found is known to be."""
        if not self._config.ttl_seconds:
            return True
        known = self._lifetimes.alive(entry_id)
        if known is not None:
            return known
        async with self._link.guard(self._deadline()):
            return bool(await self._parts.catalogue.fresh([entry_id]))

    async def touch(self, entry_id: int, state: StateRef, tenant: str = "") -> None:
        """Count one use of a state, for the eviction policy. Raises CacheUnavailable.

        Of a public entry `tenant`'s use counts once, and its author's not at all: nobody can buy it permanence.
        """
        async with self._link.guard(self._deadline()):
            await self._parts.catalogue.touch(entry_id, level_of_ref(state), tenant)

    async def touch_image(self, entry_id: int) -> None:
        """Count one use of a picture, which makes it the last to be evicted. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            await self._parts.catalogue.touch_image(entry_id)

    @property
    def accepting(self) -> bool:
        """Whether a generation remembered now is likely to be kept: the catalogue is there, the queue has room."""
        return self._link.available and not self._writer.full

    def remember(
        self, entry: CacheEntry, states: Sequence[NoiseState], image: StoredImage, final: FinalState | None = None
    ) -> bool:
        """Queue a generation to be written behind the answer; never waits, never raises.

        Args:
            entry: what to remember it by; `entry_id` 0 = assign one.
            states: its noise states, one per noise level.
            image: its final picture.
            final: its clean latent, to be kept instead of `states` where that takes fewer bytes.

        Returns:
            False when the queue is full: the write is dropped, and counted.
        """
        return self.try_remember(entry, states, image, final) is not None

    def try_remember(
        self, entry: CacheEntry, states: Sequence[NoiseState], image: StoredImage, final: FinalState | None = None
    ) -> asyncio.Future[bool] | None:
        """As `remember`, for those who wait: return what tells in the end whether it was written, None = no room."""
        written = self._writer.try_offer(Memory(entry, tuple(states), image, self._queued + 1, final))
        self._queued += written is not None
        return written

    async def _write(self, memory: Memory) -> bool:
        # A short absence of Redis (a restart) is worth waiting for; a long one is not.
        patience = _WRITE_PATIENCE_SECONDS - self._link.down_seconds
        if not self._link.available and not await self._link.wait_available(max(0.0, patience)):
            return False
        async with self._exclusive:
            if self._upkeep.forgetter.drops(memory):
                return True
            if not await self._recorder.write(memory):
                return False
            try:
                await self._upkeep.evict(self._evictor)
            except CacheUnavailable as error:
                log.warning("eviction was interrupted: %s", error)
        return True

    async def flush(self) -> None:
        """Wait until everything remembered so far is written, or lost."""
        await self._writer.flush()
        await self._background.drain()

    async def switch_eviction(self, name: str) -> None:
        """Evict by the policy called `name` from now on, which learns what is stored from the catalogue.

        Raises:
            StoreConfigError: no policy has that name.
            CacheUnavailable: the catalogue cannot be read now; the old policy stays.
        """
        if name not in POLICIES:
            raise StoreConfigError(f"unknown eviction policy {name!r}; known: {', '.join(sorted(POLICIES))}")
        async with self._exclusive:
            await self._follower.catch_up_all()
            await self._follower.rerank(name)

    @property
    def eviction(self) -> str:
        """Name of the eviction policy in force."""
        return self._parts.ranking.policy.name

    async def entry(self, entry_id: int, tenant: str) -> EntrySummary | None:
        """Return `tenant`'s entry; one that is not there and one of somebody else look the same."""
        async with self._link.guard(self._deadline()):
            return await self._parts.catalogue.summary(entry_id, tenant)

    async def image(self, entry_id: int, tenant: str) -> StoredImage | None:
        """Return the picture of `tenant`'s entry; none and not yours look the same."""
        deadline = self._deadline()
        async with self._link.guard(deadline):
            record = await self._parts.catalogue.image_of(entry_id, tenant)
        return await self._read_image(record, deadline) if record else None

    async def _read_image(self, record: ImageRecord, deadline: float) -> StoredImage | None:
        objects = self._parts.objects
        async with objects.guard(deadline):
            data = await objects.get(objects.image_path(record.entry_id))
        if data is None or hashlib.sha256(data).hexdigest() != record.sha256:
            log.warning("picture of entry %d is forgotten: %s", record.entry_id, "damaged" if data else "missing")
            self._background.run(self._remover.drop_image(record.entry_id, "corrupt"))
            return None
        return StoredImage(data, record.width, record.height, record.safety_version)

    async def note_safety(self, entry_id: int, version: str) -> None:
        """Note that a safety checker of this version has let an entry's picture pass. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            await self._parts.catalogue.note_safety(entry_id, version)

    async def recent(self, tenant: str, limit: int = 20) -> list[EntrySummary]:
        """Return `tenant`'s newest entries, newest first. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            return await self._parts.catalogue.recent(tenant, limit)

    async def count(self, tenant: str) -> int:
        """Return how many entries `tenant` has. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            return await self._parts.catalogue.count(tenant)

    async def browse(
        self, tenant: str, wanted: Filter, *, after: Place | None, limit: int
    ) -> tuple[list[EntrySummary], Place | None]:
        """Return a page of `tenant`'s entries, newest first, and where to go on; see `cache_store.browsing`."""
        async with self._link.guard(self._deadline()):
            return await page(self._link, self._parts.catalogue, tenant, wanted, after=after, limit=limit)

    async def record_generation(self, record: GenerationRecord) -> bool:
        """Keep how a generation came about; return whether it is kept. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            return await self._parts.generations.write(record)

    async def generation(self, generation: str, tenant: str) -> GenerationRecord | None:
        """Return `tenant`'s record; none and not yours look the same. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            return await self._parts.generations.find(generation, tenant)

    async def maker_of(self, entry_id: int, tenant: str) -> GenerationRecord | None:
        """Return the record of the generation an entry remembers, even of an evicted one. Raises CacheUnavailable."""
        return (await self.makers_of([entry_id], tenant))[0]

    async def makers_of(self, entry_ids: Sequence[int], tenant: str) -> list[GenerationRecord | None]:
        """Return `maker_of` each of several entries, read together. Raises CacheUnavailable."""
        if not entry_ids:
            return []
        async with self._link.guard(self._deadline()):
            return await self._parts.generations.makers(entry_ids, tenant)

    async def descendants(
        self, entry_id: int, tenant: str, *, before: str | None, limit: int
    ) -> tuple[list[GenerationRecord], str | None]:
        """Return records of what came from an entry; see `Generations.descendants`. Raises CacheUnavailable."""
        async with self._link.guard(self._deadline()):
            return await self._parts.generations.descendants(entry_id, tenant, before=before, limit=limit)

    async def clear(self, tenant: str | None = None) -> int:
        """Forget all entries of a tenant (None = of everybody); see `forget`."""
        return await self.forget(Selection(tenant=tenant, everybody=tenant is None))

    async def forget(self, selection: Selection) -> int:
        """Forget what `selection` names, writes still queued here too; return how many entries were stored.

        In small batches; other services see it with the next events. CacheUnavailable: some entries remain.
        """
        return await self._upkeep.forgetter.forget(selection, self._queued)

    async def stats(self) -> StoreStats:
        """Return counters and gauges; the catalogue's last known ones while it is away. Never raises."""
        try:
            async with self._link.guard(self._deadline()):
                totals = await self._parts.catalogue.totals()
            self._last_stats = replace(
                self._last_stats,
                entries=totals.entries,
                states=totals.states,
                partitions=totals.partitions,
                state_bytes=totals.state_bytes,
                image_bytes=totals.image_bytes,
                evictions=totals.evictions,
                index_lag_events=max(0, totals.last_event - self._follower.sequence),
                index_lag_seconds=self._follower.lag_seconds(totals.last_event),
            )
        except CacheUnavailable:
            log.debug("statistics without the catalogue")
        return replace(
            self._last_stats,
            available=self._link.available,
            ram_bytes=self._parts.ram.nbytes,
            dropped_writes=self._writer.dropped,
            pending_writes=self._writer.pending,
            corrupt_states=self._corrupt,
            regret_requests=self._parts.ghosts.regret_requests,
            regret_seconds=self._parts.ghosts.regret_seconds,
            predictor_queries=self._parts.ranking.queries,
            repairs=self._upkeep.repairs,
        )

    async def check_integrity(self, *, scrub: bool = False) -> list[str]:
        """Return one line for every way in which the parts disagree; `scrub` reads every object. Writes wait."""
        await self.flush()
        return await self._upkeep.check(scrub=scrub)

    async def repair(self, *, scrub: bool = False) -> list[str]:
        """Mend all that, page by page beside other work, and say what; also done after a crash and every hour."""
        return await self._upkeep.repair(scrub=scrub)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._config.timeout_seconds


def _client(config: StoreConfig, server: PrivateRedis | None) -> Redis:
    try:
        return connect(config.redis_url, str(server.socket_path) if server else None)
    except ValueError as error:
        raise StoreConfigError(f"redis_url is not a Redis URL: {error}") from error
