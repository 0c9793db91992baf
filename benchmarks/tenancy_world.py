"""Random tenants, scopes and prompts against a real store, beside a model that says what each of them may see."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cache_store import CacheEntry, CacheStore, NoiseState, Selection, StoredImage, user_digest
from cache_store.browsing import Filter
from cache_store.generations import GenerationRecord
from cache_store.types import Scope, text_digest
from policies.matching.base import Candidate
from service.engine.base import ModelInfo
from service.keys import exact_key, signature_of, text_hash
from service.types import CacheOptions, GenerationRequest

TENANTS = tuple(f"tenant-{number}" for number in range(6))
USERS = ("", "una", "ugo")
SCOPES: tuple[Scope, ...] = ("user", "tenant", "public")
TEXTS = 12
DIMENSION = 16
ROUND, BESIDE = 200, 24
INFO = ModelInfo(
    model_id="m",
    weights_digest="w",
    family="stable-diffusion",
    prediction_type="epsilon",
    schedule="s",
    width=64,
    height=64,
    size_multiple=8,
    max_size=64,
    default_steps=8,
    default_guidance=2.0,
    solvers=("ddim",),
    latent_channels=4,
)


@dataclass(frozen=True, slots=True)
class Made:
    """What was remembered: whose it is, and all that a leak of it would show."""

    request: GenerationRequest
    marker: str
    entry_id: int
    key: str


@dataclass
class World:
    """A store, its tenants' doings, and every answer that told too much."""

    store: CacheStore
    dice: random.Random
    made: dict[int, Made] = field(default_factory=dict)
    operations: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)
    foreign_hits: int = 0
    own_hits: int = 0
    _numbers: int = 0

    async def rounds(self, operations: int) -> AsyncIterator[int]:
        """Do so many operations, and yield how many each round was: writes, then questions, then deletions.

        Questions do not change what the model says, so they run beside one another as they do in a service.
        """
        beside = asyncio.Semaphore(BESIDE)

        async def ask(question: Callable[[], Awaitable[None]]) -> None:
            async with beside:
                await self._count(question)

        asking = (self.search, self.repeat, self.look_up, self.listing, self.record, self.fetch)
        while operations > 0:
            size = min(operations, ROUND)
            operations -= size
            kinds = self.dice.choices(range(3), weights=(8, 89.7, 2.3), k=size)
            for _ in range(kinds.count(0)):
                await self._count(self.write)
            await self.store.flush()
            questions = self.dice.choices(asking, weights=(50, 14, 14, 7, 7, 4), k=kinds.count(1))
            await asyncio.gather(*(ask(question) for question in questions))
            for deletion in self.dice.choices((self.meddle, self.leave), weights=(20, 1), k=kinds.count(2)):
                await self._count(deletion)
            yield size

    async def _count(self, operation: Callable[[], Awaitable[None]]) -> None:
        self.operations[operation.__name__] += 1
        await operation()

    async def write(self) -> None:
        """Remember a generation, its states, its picture and its record; keep the picture by URL as well."""
        request = self._request()
        self._numbers += 1
        marker = f"{request.tenant} {self._numbers}"
        signature = signature_of(request, INFO, "e")
        key = exact_key(request, INFO, ())
        entry = CacheEntry(
            entry_id=2**41 + self._numbers,
            signature=signature.within("public") if request.cache.publishes else signature,
            prompt=request.prompt,
            prompt_hash=text_hash(request.prompt),
            embedding=_vector(request.prompt),
            seed=self._numbers,
            steps=8,
            exact_key=key,
            created=0.0,
            depth=0,
            gpu_seconds=1.0,
            user=request.user,
            generation=request.request_id,
        )
        self.store.remember(entry, [_state()], StoredImage(marker.encode(), 64, 64))
        record = GenerationRecord(request.request_id, request.tenant, request.user, marker)
        await self.store.record_generation(replace(record, noted=float("inf")))
        about = (request.request_id, request.tenant, marker)
        await self.store.deposits.create("image", *about, user=request.user, data=marker.encode())
        self.made[entry.entry_id] = Made(request, marker, entry.entry_id, key)

    async def search(self) -> None:
        """Look for neighbours; everything found must be the reader's, or public and witnessed."""
        request = self._request()
        signature, vector = signature_of(request, INFO, "e"), _vector(request.prompt)
        public = request.cache.reads_public
        for found in await self.store.search(signature, vector, 8, public=public):
            self._judge(request, found, public=public)
            if self.dice.random() < 0.1:
                await self.store.touch(found.entry_id, found.states[0], request.tenant)

    def _judge(self, request: GenerationRequest, found: Candidate, *, public: bool) -> None:
        made = self.made.get(found.entry_id)
        if made is None:
            self.leaks["a deleted entry was found"] += 1
        elif made.request.tenant == request.tenant:
            self.own_hits += 1
            same_user = made.request.user == request.user
            self.leaks["another user's entry was found"] += _user_only(made) and not same_user
            self.leaks["a scope was left"] += request.cache.scope == "user" and not (_user_only(made) and same_user)
            self.leaks["its own was taken for another's"] += found.foreign
        else:
            self.foreign_hits += 1
            allowed = public and made.request.cache.publishes and self._witnessed(made, request.tenant)
            self.leaks["another tenant's entry was found"] += not allowed
            self.leaks["another's was taken for its own"] += not found.foreign

    def _witnessed(self, made: Made, reader: str) -> bool:
        text = text_digest(made.request.prompt)
        return any(
            other.request.tenant not in (made.request.tenant, reader)
            and other.request.cache.publishes
            and text_digest(other.request.prompt) == text
            for other in self.made.values()
        )

    async def repeat(self) -> None:
        """Ask for the very same picture: only one's own is ever returned."""
        request = self._request()
        hit = await self.store.find_exact(exact_key(request, INFO, ()))
        if hit is not None:
            self.leaks["another's picture was repeated"] += not self._is_own(request.tenant, hit.entry_id)
            made = self.made.get(hit.entry_id)
            other_user = made is not None and _user_only(made) and made.request.user != request.user
            self.leaks["another user's picture was repeated"] += other_user

    async def look_up(self) -> None:
        """Ask for an entry and its picture by an id that may be anybody's."""
        tenant, entry_id = self.dice.choice(TENANTS), self._any_id()
        summary, image = await self.store.entry(entry_id, tenant), await self.store.image(entry_id, tenant)
        if not self._is_own(tenant, entry_id):
            self.leaks["another's entry was shown"] += summary is not None
            self.leaks["another's picture was shown"] += image is not None

    async def listing(self) -> None:
        """List one's entries."""
        tenant = self.dice.choice(TENANTS)
        page, _ = await self.store.browse(tenant, Filter(), after=None, limit=50)
        for shown in (await self.store.recent(tenant, 50), page):
            self.leaks["another's entry was listed"] += sum(not self._is_own(tenant, one.entry_id) for one in shown)

    async def fetch(self) -> None:
        """Ask for a picture by URL, which may be anybody's, and for all of one's own."""
        tenant, made = self.dice.choice(TENANTS), self.made.get(self._any_id())
        deposits = self.store.deposits
        if made is not None:
            found = await deposits.find("image", made.request.request_id, tenant)
            self.leaks["another's kept picture was found"] += found is not None and made.request.tenant != tenant
        for one in await deposits.page("image", tenant, below=None, limit=20):
            data = await deposits.data(one)
            own = one.body.startswith(f"{tenant} ") and data in (None, one.body.encode())
            self.leaks["another's kept picture was listed"] += not own

    async def meddle(self) -> None:
        """Try to delete what may be another's: nothing may happen to it."""
        tenant, entry_id = self.dice.choice(TENANTS), self._any_id()
        gone = await self.store.forget(Selection(tenant=tenant, entry_ids=(entry_id,)))
        own = self._is_own(tenant, entry_id)
        self.leaks["another's entry was deleted"] += bool(gone) and not own
        if own:
            self.leaks["an own entry was not deleted"] += gone != 1
            del self.made[entry_id]

    async def record(self) -> None:
        """Ask how a picture came about by an id that may be anybody's."""
        tenant, made = self.dice.choice(TENANTS), self.made.get(self._any_id())
        if made is not None:
            found = await self.store.generation(made.request.request_id, tenant)
            self.leaks["another's record was shown"] += found is not None and made.request.tenant != tenant

    async def leave(self) -> None:
        """Delete all of a tenant's data, or of one of its users."""
        tenant, user = self.dice.choice(TENANTS), self.dice.choice((None, "una"))
        selection = Selection(tenant=tenant, user=user and user_digest(tenant, user))
        await self.store.forget(selection)
        digest = selection.user
        self.made = {
            entry_id: made
            for entry_id, made in self.made.items()
            if made.request.tenant != tenant or (digest is not None and made.request.user != digest)
        }

    def _is_own(self, tenant: str, entry_id: int) -> bool:
        made = self.made.get(entry_id)
        return made is not None and made.request.tenant == tenant

    def _any_id(self) -> int:
        if self.made and self.dice.random() < 0.9:
            return self.dice.choice(list(self.made))
        return 2**41 + self.dice.randrange(1, self._numbers + 10)

    def _request(self) -> GenerationRequest:
        tenant, user = self.dice.choice(TENANTS), self.dice.choice(USERS)
        scope = self.dice.choice(SCOPES if user else SCOPES[1:])
        cache = CacheOptions(scope=scope, share_read=self.dice.random() < 0.7, share_write=self.dice.random() < 0.7)
        text = f"text {self.dice.randrange(TEXTS)}"
        return GenerationRequest(
            request_id=uuid.UUID(int=self.dice.getrandbits(128)).hex,
            tenant=tenant,
            prompt=text.upper() if self.dice.random() < 0.3 else text,
            negative_prompt="",
            width=64,
            height=64,
            steps=8,
            guidance_scale=2.0,
            scheduler="ddim",
            seed=self.dice.randrange(4),
            seed_given=True,
            cache=cache,
            user=user_digest(tenant, user),
        )

    def report(self) -> dict[str, Any]:
        """Return what was done and what leaked; shared hits show that there was something to leak."""
        return {
            "operations": sum(self.operations.values()),
            "by_kind": dict(sorted(self.operations.items())),
            "own_hits": self.own_hits,
            "hits_across_tenants_as_the_rules_allow": self.foreign_hits,
            "leaks": sum(self.leaks.values()),
            "leaks_by_kind": {name: count for name, count in sorted(self.leaks.items()) if count},
        }


def _user_only(made: Made) -> bool:
    return made.request.cache.scope == "user"


def _vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One direction that all texts nearly share, so that nothing but the partition keeps them apart."""
    number = int(text.rsplit(" ", 1)[1])
    vector = np.ones(DIMENSION, np.float32)
    vector[number % DIMENSION] += 0.3
    return vector / np.linalg.norm(vector)


def _state() -> NoiseState:
    return NoiseState(np.zeros((4, 4, 4), np.float16), 0.0, 500.0, 0.3, None)
