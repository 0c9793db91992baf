"""What is asked for: the same stream of prompts, seeds and entry steps for every system."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice
from statistics import fmean

from benchmarks.resume_trials import MODEL
from policies.features.choice import FeatureChoice
from training.pairs import Pair, sample_pairs

BLOCK = 20
"""Requests per block; every block holds the mix's share of hits, and every K, exactly as often."""
PAIR_SEED = 2005
SKIPS = (5, 10, 15, 20, 25)
FEATURES = {
    policy.replace("+", "_and_"): FeatureChoice(policy, 0.5)
    for policy in ("deepcache", "taylor-output", "cfg-cache", "cfg-cache+deepcache")
}
"""What `joined` is also run with, by name."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What all systems of one server have in common.

    Attributes:
        dtype: number type of every network, in diffusers' pipeline and in the engine alike.
        max_batch: most rows that advance together; the static batches' size.
        steps: N.
        skips: every K a hit may enter at.
        pairs: neighbouring prompts; the first of each pair is run and captured before the clock starts.
        model: folder of the model.
        solver: of the model's solvers; diffusers runs its scheduler of that name.
    """

    dtype: str = "float32"
    max_batch: int = 8
    steps: int = 50
    skips: tuple[int, ...] = SKIPS
    pairs: int = 16
    model: str = str(MODEL)
    solver: str = "ddim"

    @property
    def neighbours(self) -> list[Pair]:
        """Pairs of prompts as sessions produce them; the same arguments give the same pairs."""
        return sample_pairs(PAIR_SEED, self.pairs)


@dataclass(frozen=True, slots=True)
class Mix:
    """A share of approximate hits and the steps they enter at.

    Attributes:
        hits: per cent of the requests.
        skips: every K, each equally often.
    """

    hits: int
    skips: tuple[int, ...] = SKIPS

    @property
    def name(self) -> str:
        """E.g. "75 %", or "75 %, K = 25" where all hits share one K."""
        return f"{self.hits} %" if len(self.skips) > 1 else f"{self.hits} %, K = {self.skips[0]}"

    def block(self) -> list[int]:
        """K of each request of a block, hits first; 0 = a miss."""
        hits = self.hits * BLOCK // 100
        return [*islice(cycle(self.skips), hits), *[0] * (BLOCK - hits)]

    def evaluations(self, steps: int) -> float:
        """Mean network evaluations of a picture whose run is `steps` long."""
        return steps - fmean(self.block())


@dataclass(frozen=True, slots=True)
class Wish:
    """One request: what to draw, and where an engine that keeps states may enter.

    Attributes:
        prompt: the text.
        seed: of the initial noise.
        source: which captured run is its neighbour.
        entry: K; 0 = a miss.
    """

    prompt: str
    seed: int
    source: int
    entry: int

    def body(self) -> dict[str, str | int]:
        """As it is posted."""
        return asdict(self)


def wish_stream(pairs: Sequence[Pair], mix: Mix, first: int = 0) -> Iterator[Wish]:
    """Yield requests without end; the same arguments give the same requests, whatever system they go to.

    Args:
        pairs: the second prompt of each is asked for, in turn.
        mix: hits and their K, shuffled within every block.
        first: number of the first request, so that rounds ask for different ones.
    """
    entries: list[int] = []
    for number in count(first):
        place = number % BLOCK
        if place == 0 or not entries:
            entries = mix.block()
            random.Random(number // BLOCK).shuffle(entries)
        source = number % len(pairs)
        yield Wish(pairs[source].target.text, number, source, entries[place])
