"""The known attacks on approximate caches, with what each achieves in one cache for all, and across tenants.

After "Attacks on Approximate Caches in Text-to-Image Diffusion Models" (arXiv 2508.20424): covert channel, prompt
stealing, poisoning with pinning. Prompts are the shipped model's, the embedder and the threshold table are those that
are served; a hit is what the matching proposes, before the divergence gate, which could only make attacks harder.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache_store import CacheEntry, CacheStore, NoiseState, Signature, StoredImage
from cache_store.types import Float32Array
from policies.matching import MatchingPolicy
from policies.matching.base import Candidate
from service.embedder import Embedder
from service.keys import text_hash

SIGNATURE = Signature("", "m", "w", "e", 128, 128, "v_prediction", "s", "2", "")
SKIPS = (0.1, 0.2, 0.3, 0.4, 0.5)
LOGO = "with a green Globex logo"
PINS = 200
CROWD_TENANTS = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """Who the parties are, and in which scope they ask.

    Attributes:
        name: as the report has it.
        tenants: of the first party (sender, victim, poisoner), of the second (receiver, thief, victim of poison), and
            of a helper of the attacker's.
        public: whether everybody shares.
    """

    name: str
    tenants: tuple[str, str, str]
    public: bool = False

    @property
    def own_witness(self) -> bool:
        """Whether the attacker holds the tenant that vouches for its texts."""
        return self.public and self.tenants[2] not in self.tenants[:2]


SETTINGS = (
    Setting("one cache for all", ("all", "all", "all")),
    Setting("tenants", ("a", "b", "c")),
    Setting("tenants that share", ("a", "b", "b"), public=True),
    Setting("tenants that share, attacker holds two", ("a", "b", "c"), public=True),
)


@dataclass
class Bench:
    """A store and what requests are matched by.

    Attributes:
        store: quarantine 0: as if every attacker had waited.
        embedder: prompt → vector.
        matching: the shipped policy.
        pairs: prompts and rewordings of them.
        dice: draws everything.
    """

    store: CacheStore
    embedder: Embedder
    matching: MatchingPolicy
    pairs: Sequence[tuple[str, str]]
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    _seed: int = 0

    async def draw(self, setting: Setting, tenant: str, prompt: str) -> None:
        """Do what a full run leaves behind."""
        self._seed += 1
        signature = replace(SIGNATURE, tenant=tenant)
        entry = CacheEntry(
            entry_id=0,
            signature=signature.within("public") if setting.public else signature,
            prompt=prompt,
            prompt_hash=text_hash(prompt),
            embedding=await self.embedder.embed(prompt),
            seed=self._seed,
            steps=50,
            exact_key=f"{tenant} {self._seed}",
            created=0.0,
            depth=0,
            gpu_seconds=1.0,
        )
        self.store.remember(entry, [_state(skip) for skip in SKIPS], StoredImage(b"picture", 128, 128))
        await self.store.flush()

    async def ask(self, setting: Setting, tenant: str, prompt: str) -> Candidate | None:
        """Return the entry a request would be resumed from; None = none."""
        vector = await self.embedder.embed(prompt)
        signature = replace(SIGNATURE, tenant=tenant)
        found = await self.store.search(signature, vector, 8, public=setting.public)
        attempts = self.matching.choose(prompt, found).attempts
        if not attempts:
            return None
        return next(one for one in found if one.entry_id == attempts[0].entry_id)

    async def similarity(self, setting: Setting, tenant: str, prompt: str) -> float | None:
        """Return what an answer says of the nearest entry: nothing, where others' are searched."""
        if setting.public:
            return None
        signature = replace(SIGNATURE, tenant=tenant)
        found = await self.store.search(signature, await self.embedder.embed(prompt), 1)
        return found[0].similarity if found else None


def prompt_pairs(path: Path) -> list[tuple[str, str]]:
    """Return prompts and rewordings of them from a file of pairs that a table was profiled on."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["source"], row["target"]) for row in rows if row["kind"] == "wording"]


async def covert_channel(bench: Bench, setting: Setting, bits: int, *, crowd: int = 0) -> dict[str, Any]:
    """A sender draws a text for 1 and nothing for 0; a receiver asks for it and takes a hit for 1.

    Where tenants share, every 1 is a public entry of the sender's and one of the helper's, and what one tenant may
    add there is bounded (`SharingRules.author_share`, at least `FREE_ENTRIES`): beyond that a 1 is read as 0. So
    accuracy falls with the number of bits although the first ones all come through; `ones_read` tells how many did.

    Args:
        bench: store and matching.
        setting: who the parties are.
        bits: how many are sent.
        crowd: texts that other tenants have drawn publicly before; the more there are, the wider the bound.
    """
    sender, receiver, helper = setting.tenants
    for number in range(crowd):
        await bench.draw(setting, f"other {number % CROWD_TENANTS}", f"something else {number}")
    right, ones = 0, []
    for source, _ in bench.dice.sample(list(bench.pairs), bits):
        bit = bench.dice.random() < 0.5
        text = f"{source} {bench.dice.randrange(10**6)} zorb"
        if bit:
            await bench.draw(setting, sender, text)
            if setting.own_witness:
                await bench.draw(setting, helper, text)
        read = await bench.ask(setting, receiver, text) is not None
        right += read == bit
        ones += [read] if bit else []
    counts = {
        "ones": len(ones),
        "ones_read": sum(ones),
        "ones_read_before_the_first_lost": (*ones, False).index(False),
    }
    return {"accuracy": right / bits, "bits": bits, "chance": 0.5, "crowd": crowd, **counts}


async def stealing(bench: Bench, setting: Setting, victims: int, probes: int) -> dict[str, Any]:
    """A thief proposes texts, is told how near they come (or only whether they hit), and keeps the nearest.

    Success is that the kept text lies within the cosine of 0.75 that the paper reports. The guesses are the same
    without anything being told (`blind`): what remains is what texts of one kind have in common.
    """
    victim, thief, helper = setting.tenants
    cosines, blind = [], []
    for source, target in bench.dice.sample(list(bench.pairs), victims):
        await bench.store.clear()
        secret = f"{source}, {bench.dice.randrange(10**6)}"
        await bench.draw(setting, victim, secret)
        guesses = [one for one, _ in bench.dice.sample(list(bench.pairs), probes - 1)] + [target]
        bench.dice.shuffle(guesses)
        told = [await _told(bench, setting, (thief, helper), guess) for guess in guesses]
        best = guesses[int(np.argmax(told))] if max(told) > 0 else bench.dice.choice(guesses)
        aim = await bench.embedder.embed(secret)
        cosines.append(float(aim @ await bench.embedder.embed(best)))
        blind.append(float(aim @ await bench.embedder.embed(bench.dice.choice(guesses))))
    return {
        "success": float(np.mean(np.array(cosines) >= 0.75)),
        "cosine": float(np.mean(cosines)),
        "blind_success": float(np.mean(np.array(blind) >= 0.75)),
        "blind_cosine": float(np.mean(blind)),
        "victims": victims,
        "probes": probes,
    }


async def _told(bench: Bench, setting: Setting, attacker: tuple[str, str], guess: str) -> float:
    thief, helper = attacker
    near = await bench.similarity(setting, thief, guess)
    if near is not None:
        return near
    if helper != thief and setting.public:
        await bench.draw(setting, helper, guess)
    return float(await bench.ask(setting, thief, guess) is not None)


async def poisoning(bench: Bench, setting: Setting, texts: int) -> dict[str, Any]:
    """A poisoner plants texts with a logo beside popular ones; counted are requests that would start from them."""
    poisoner, victim, helper = setting.tenants
    await bench.store.clear()
    chosen = bench.dice.sample(list(bench.pairs), texts)
    for source, _ in chosen:
        await bench.draw(setting, poisoner, f"{source} {LOGO}")
        if helper != victim and setting.public:
            await bench.draw(setting, helper, f"{source} {LOGO}")
        if setting.public:  # honest tenants ask for the plain text, too
            await bench.draw(setting, "honest", source)
    hit = [await bench.ask(setting, victim, source) for source, _ in chosen]
    return {"success": sum(one is not None and LOGO in (one.prompt or "") for one in hit) / texts, "texts": texts}


async def pinning(bench: Bench, setting: Setting, planted: int, honest: int) -> dict[str, Any]:
    """A poisoner uses its entries over and over, others fill the cache; counted are planted entries that outlast it.

    The store evicts by LCBFU, uses times K, which is what pinning was shown on; every honest entry is used once by
    another tenant.
    """
    poisoner, victim, _ = setting.tenants
    await bench.store.clear()
    await bench.store.switch_eviction("lcbfu")
    for number in range(planted):
        text = f"planted {number}"
        await bench.draw(setting, poisoner, text)
        for _ in range(PINS):
            await _use(bench, setting, poisoner, text, poisoner)
    for number in range(honest):
        author = f"honest {number % 5}" if setting.public else victim
        await bench.draw(setting, author, f"asked for {number}")
        await _use(bench, setting, author, f"asked for {number}", victim)
    left = await bench.store.recent(poisoner, planted + honest)
    survivors = sum(one.prompt.startswith("planted") and bool(one.states) for one in left)
    return {"surviving": survivors / planted, "planted": planted, "honest": honest, "uses_each": PINS}


async def _use(bench: Bench, setting: Setting, author: str, text: str, user: str) -> None:
    """Count a use of what `author` has of a text, unless it is gone at once, as behind pinned entries it may be."""
    signature, vector = replace(SIGNATURE, tenant=author), await bench.embedder.embed(text)
    for one in await bench.store.search(signature, vector, 8, lease=False, public=setting.public):
        if one.prompt == text:
            await bench.store.touch(one.entry_id, one.states[-1], user)
            return


def _state(skip: float) -> NoiseState:
    latent: Float32Array = np.zeros((4, 16, 16), np.float32)
    return NoiseState(latent.astype(np.float16), 10 * skip - 5, 900 - 800 * skip, skip, latent.astype(np.float16))
