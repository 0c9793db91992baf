"""Are several candidates better probed in turn, or as rows of one batch? Does it help to look at their pictures?

Sessions on a cache of held-out scenes. For every request the gate's divergence is measured at every candidate the
shipped table would try, through the engine's own gate: a job whose entries are all refused tells them all. What each
way of trying comes to then follows by arithmetic: in turn, each refusal costs a step and the next candidate
waits; as rows of one batch, each row costs an evaluation, all take one step of time, and the deepest accepted is
entered. Floor: an oracle that knows the deepest accepted candidate and whether there is one. Pictures: the judge
scores the candidate's stored picture under the new prompt, before anything is probed; it is the very judge that
tells bad hits afterwards, so its arms show the most that a text-image score could do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.candidates_table import ORACLE, REFERENCE
from benchmarks.facts import Floats, mean_interval
from benchmarks.matching_world import QUERY_SEED, Question, Served, World, ask
from benchmarks.resume_trials import MODEL
from policies.matching import Attempt, Candidate, GatedTableMatching, MatchDecision, MatchingPolicy, StateRef
from policies.matching.table import ThresholdTable
from service.calibrate.jobs import RunSettings, resumed, text_jobs
from service.calibrate.matching.fit import excess_of
from service.calibrate.matching.trials import distinct_levels
from service.embedder import Embedder
from service.engine.gate import passes
from training.judge.by_text import LOSS
from training.lab import Lab
from training.pairs import SESSION_MIX, Pair, follow, sample_pairs
from training.scenes import Caption

SEED, FULL, QUICK = 5005, 400, 16
RUNS = 3
"""Runs that every session has left in the fuller cache."""
NEIGHBOURS = 8
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
MOST = (1, 2, 3, 4)
REFUSE_ALL = -1.0
LONG = 50
"""Steps of a run in which a judging step weighs little: the same acceptances, counted once more."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One candidate and what asking about it would tell.

    Attributes:
        attempt: as the table proposes it.
        divergence: the gate's value at it.
        picture: judge score of the candidate's picture under the new prompt.
    """

    attempt: Attempt
    divergence: float
    picture: float

    @property
    def entered(self) -> StateRef | None:
        """The state the gate lets the run enter, None if it refuses."""
        for rung in self.attempt.deeper:
            if passes(self.divergence, rung.max_divergence):
                return rung.state
        return self.attempt.state if passes(self.divergence, self.attempt.max_divergence) else None

    @property
    def depth(self) -> float:
        """Share of the steps the entered state skips; 0 if refused."""
        return 0.0 if self.entered is None else self.entered.skip

    @property
    def judged_for_nothing(self) -> bool:
        """Whether the judging step is thrown away: always, unless the run goes on from the judged state itself."""
        return self.entered != self.attempt.state


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one way of trying comes to for one request.

    Attributes:
        probe: the candidate entered, None for a full run.
        thrown: evaluations thrown away.
        waited: steps of time that they took.
    """

    probe: Probe | None
    thrown: int
    waited: int

    @property
    def depth(self) -> float:
        """Share of the steps skipped."""
        return 0.0 if self.probe is None else self.probe.depth


Way = Callable[[Sequence[Probe]], Outcome]


def in_turn(most: int) -> Way:
    """Try at most so many, one after another; the first that the gate accepts is entered."""

    def way(probes: Sequence[Probe]) -> Outcome:
        for number, probe in enumerate(probes[:most]):
            if probe.entered is not None:
                thrown = number + probe.judged_for_nothing
                return Outcome(probe, thrown, thrown)
        refused = len(probes[:most])
        return Outcome(None, refused, refused)

    return way


def at_once(most: int) -> Way:
    """Probe so many as rows of one batch; the deepest accepted is entered, of equally deep ones the most alike."""

    def way(probes: Sequence[Probe]) -> Outcome:
        rows = probes[:most]
        best = _best(rows)
        if best is None:
            return Outcome(None, len(rows), min(1, len(rows)))
        lost = int(best.judged_for_nothing)
        return Outcome(best, len(rows) - 1 + lost, lost)

    return way


def oracle(probes: Sequence[Probe]) -> Outcome:
    """Probe nothing but the deepest accepted one, and nothing where there is none."""
    best = _best(probes)
    lost = 0 if best is None else int(best.judged_for_nothing)
    return Outcome(best, lost, lost)


def by_picture(probes: Sequence[Probe]) -> list[Probe]:
    """Return the candidates whose picture suits the new prompt best first."""
    return sorted(probes, key=lambda probe: -probe.picture)


def suited(probes: Sequence[Probe]) -> list[Probe]:
    """Return the candidates whose picture already shows all that the new prompt asks for."""
    return [probe for probe in probes if probe.picture >= 1 - LOSS]


def unjudged(probes: Sequence[Probe]) -> Outcome:
    """Enter the deepest state of the first candidate whose picture suits, and ask the gate nothing."""
    first = next(iter(suited(probes)), None)
    return Outcome(None if first is None else replace(first, divergence=0.0), 0, 0)


def ways() -> dict[str, Way]:
    """Return every way of trying, by name."""
    turn = in_turn(3)
    return (
        {f"{n} in turn": in_turn(n) for n in MOST}
        | {f"{n} at once": at_once(n) for n in MOST[1:]}
        | {
            "3 in turn, best pictures first": lambda probes: turn(by_picture(probes)),
            "3 in turn, only pictures that suit": lambda probes: turn(suited(probes)),
            "a picture that suits, no gate": unjudged,
            ORACLE: oracle,
        }
    )


def _best(probes: Sequence[Probe]) -> Probe | None:
    accepted = [probe for probe in probes if probe.entered is not None]
    return min(accepted, key=lambda probe: (-probe.depth, probe.divergence), default=None)


class Chosen(MatchingPolicy):
    """Resumes each prompt from a state that was chosen before, unjudged."""

    def __init__(self, chosen: Mapping[str, Attempt]) -> None:
        self._chosen = chosen

    def choose(
        self,
        prompt: str,
        candidates: Sequence[Candidate],
        *,
        min_similarity: float = 0.0,
        max_skip: float = 1.0,
        steps: int | None = None,
    ) -> MatchDecision:
        """Return the choice for `prompt`, if there is one."""
        found = self._chosen.get(prompt)
        return MatchDecision((), "no-candidates") if found is None else MatchDecision((found,), "match")


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure on scenes-unet and return the report."""
    table = ThresholdTable.load(MODEL / "matching.json")
    runs, targets = sessions(QUICK if quick else FULL)
    embedder = Embedder()
    with Lab(str(MODEL), quiet=quiet, max_batch=16) as lab:
        info = lab.info
        capture = distinct_levels(LEVELS, info.default_steps)
        settings = RunSettings(info.default_steps, info.solvers[0], info.default_guidance, capture)
        world = World.remember(lab, settings, [caption for line in zip(*runs, strict=True) for caption in line])
        caches = {}
        for kept in (1, RUNS):
            # The first runs of all sessions come first.
            questions = ask(embedder, world.sources[: kept * len(targets)], targets, NEIGHBOURS)
            probes = probed(world, table, questions)
            caches[str(kept)] = compare(world, questions, probes, info.default_steps)
    return {
        "headline": _headline(caches[str(RUNS)]),
        "caches": caches,
        "sessions": len(targets),
        "steps": settings.steps,
        "long": LONG,
        "neighbours": NEIGHBOURS,
    }


def sessions(count: int) -> tuple[list[list[Caption]], list[Caption]]:
    """Draw sessions: what each has left (a scene, and others of its own edits), and what it asks now.

    What asks for a text that the cache holds is left out: nothing is to be found out there.
    """
    mix = {kind: odds for kind, odds in SESSION_MIX.items() if kind != "retry"}
    rng = np.random.default_rng(SEED)
    kinds, odds = list(mix), np.array(list(mix.values()))
    pairs = sample_pairs(SEED, count, mix)
    left = [[pair.source, *_more(pair, rng, kinds, odds / odds.sum())] for pair in pairs]
    held, seen = {caption.text for session in left for caption in session}, set[str]()
    kept = []
    for session, pair in zip(left, pairs, strict=True):
        if pair.target.text not in held | seen:
            seen.add(pair.target.text)
            kept.append((session, pair.target))
    return [session for session, _ in kept], [target for _, target in kept]


def _more(pair: Pair, rng: np.random.Generator, kinds: Sequence[str], odds: Floats) -> list[Caption]:
    return [follow(pair.source, rng, kinds[pick]) for pick in rng.choice(len(kinds), size=RUNS - 1, p=odds)]


def probed(world: World, table: ThresholdTable, questions: Sequence[Question]) -> list[list[Probe]]:
    """Ask the gate about every candidate of every question, in the order the table would try them."""
    policy = GatedTableMatching(table, max_attempts=NEIGHBOURS)
    plans = [world.plan(policy, question) for question in questions]
    numbers = [number for number, plan in enumerate(plans) if plan]
    texts, seeds = [questions[n].target.text for n in numbers], [QUERY_SEED + n for n in numbers]
    specs = text_jobs(texts, seeds, replace(world.run, capture=()), world.lab.info, "probe")
    entering = []
    for number, spec in zip(numbers, specs, strict=True):
        points = [replace(world.point(one), max_divergence=REFUSE_ALL, deeper=()) for one in plans[number]]
        entering.append(resumed(spec, points, "asked"))
    results = world.lab.run(entering, "probes")
    found: list[list[Probe]] = [[] for _ in questions]
    for number, result in zip(numbers, results, strict=True):
        pictures = [world.results[one.entry_id - 1].image for one in plans[number]]
        scores = world.lab.judge_images(pictures, [questions[number].target] * len(pictures)).score
        found[number] = [
            Probe(*row) for row in zip(plans[number], result.divergences, map(float, scores), strict=True)
        ]
    return found


def compare(
    world: World, questions: Sequence[Question], probes: Sequence[Sequence[Probe]], steps: int
) -> dict[str, Any]:
    """Every way of trying over the same requests."""
    outcomes = {name: [way(one) for one in probes] for name, way in ways().items()}
    usual = saved(outcomes[REFERENCE], steps)
    arms = {}
    for name, found in outcomes.items():
        served = _served(world, questions, found, name)
        arms[name] = figures(found, steps) | {
            "bad_hit_rate": mean_interval(bad_hits(served)),
            "saved_more": mean_interval(saved(found, steps) - usual),
            "saved_of_long": mean_interval(saved(found, LONG)),
            "saved_more_of_long": mean_interval(saved(found, LONG) - saved(outcomes[REFERENCE], LONG)),
        }
    return {"arms": arms, "ranks": ranks(probes), "runs": len(world.sources)}


def figures(outcomes: Sequence[Outcome], steps: int) -> dict[str, Any]:
    """One way's hits, saved compute (share of N) and steps from start to end."""
    return {
        "hits": sum(one.probe is not None for one in outcomes),
        "requests": len(outcomes),
        "saved": mean_interval(saved(outcomes, steps)),
        "latency_steps": mean_interval([steps * (1 - one.depth) + one.waited for one in outcomes]),
    }


def saved(outcomes: Sequence[Outcome], steps: int) -> Floats:
    """Share of N not evaluated, less what was thrown away, per request."""
    return np.array([one.depth - one.thrown / steps for one in outcomes])


def ranks(probes: Sequence[Sequence[Probe]]) -> list[dict[str, Any]]:
    """Per place in the order: how often the gate gets there, all before refused, and how often it then accepts."""
    rows = []
    left = [one for one in probes if one]
    for place in range(max(MOST)):
        reached = [one for one in left if len(one) > place]
        accepted = [float(one[place].entered is not None) for one in reached]
        rows.append({"reached": len(reached), "accepted": mean_interval(accepted)})
        left = [one for one, taken in zip(reached, accepted, strict=True) if not taken]
    return rows


def bad_hits(served: Sequence[Served]) -> Floats:
    """How much worse than a second full run each hit is."""
    scores = np.array([(one.score, one.full, one.other) for one in served if one.source is not None], dtype=float)
    hit, one, two = scores.reshape(-1, 3).T
    return excess_of(hit, one, two, LOSS)


def _served(world: World, questions: Sequence[Question], found: Sequence[Outcome], name: str) -> list[Served]:
    chosen = {}
    for question, outcome in zip(questions, found, strict=True):
        if outcome.probe is not None and outcome.probe.entered is not None:
            attempt = outcome.probe.attempt
            chosen[question.target.text] = replace(
                attempt, state=outcome.probe.entered, max_divergence=math.inf, deeper=(), expected=0.0
            )
    return world.serve(Chosen(chosen), questions, name)


def _headline(cache: dict[str, Any]) -> dict[str, Any]:
    arms = cache["arms"]
    together = {name: arm["saved"]["value"] for name, arm in arms.items() if name.endswith("at once")}
    best = max(together, key=lambda name: together[name])
    return {
        "saved_in_turn": arms[REFERENCE]["saved"]["value"],
        "best_at_once": best,
        "saved_at_once": together[best],
        "saved_more_at_once": arms[best]["saved_more"],
        "saved_oracle": arms[ORACLE]["saved"]["value"],
        "latency_in_turn": arms[REFERENCE]["latency_steps"]["value"],
        "latency_at_once": arms[best]["latency_steps"]["value"],
    }
