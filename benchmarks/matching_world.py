"""A small cache of real runs, and any matching policy served from it through the engine's own gate."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from policies.matching import Attempt, Candidate, MatchingPolicy, StateRef
from service.calibrate.jobs import RunSettings, text_jobs
from service.embedder import Embedder
from service.engine.base import CapturedState, JobResult, JobSpec, ResumePoint
from training.lab import Lab, resume_point, resumed
from training.scenes import Caption

QUERY_SEED = 2**31


@dataclass(frozen=True, slots=True)
class Question:
    """A request: its caption, and the sources a policy may look at (rows of the world's sources), nearest first."""

    target: Caption
    nearest: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Served:
    """What a policy's plan came to.

    Attributes:
        score: of the delivered picture.
        full: of a full run from the noise the source run began with; of a miss, `other`.
        other: of the full run from the request's own noise.
        saved: steps skipped less steps thrown away, as a share of N; negative if the gate refused all.
        source: row of the source resumed from; None = a full run.
        repeat: whether source and target are the same text.
    """

    score: float
    full: float
    other: float
    saved: float
    source: int | None
    repeat: bool


@dataclass
class World:
    """Source runs with their states, as a cache would hold them.

    Attributes:
        lab: runs and judges.
        run: N, solver, guidance, and the levels captured at.
        sources: captions of the runs remembered; row i ran with seed i.
        results: the runs.
    """

    lab: Lab
    run: RunSettings
    sources: list[Caption]
    results: list[JobResult]
    _scores: dict[tuple[str, int, tuple[object, ...]], tuple[float, JobResult]] = field(default_factory=dict)
    _fulls: dict[tuple[str, int], float] = field(default_factory=dict)

    @classmethod
    def remember(cls, lab: Lab, run: RunSettings, sources: Sequence[Caption]) -> "World":
        """Run all sources."""
        specs = text_jobs([one.text for one in sources], range(len(sources)), run, lab.info, "source")
        return cls(lab, run, list(sources), lab.run(specs, "source runs"))

    def serve(self, policy: MatchingPolicy, questions: Sequence[Question], label: str) -> list[Served]:
        """Serve every question by `policy`; runs that earlier policies had made are not made again."""
        plans = [self.plan(policy, question) for question in questions]
        self._run_hits(questions, plans, label)
        outcomes = [self._outcome(i, plan, q) for i, (plan, q) in enumerate(zip(plans, questions, strict=True))]
        others = self.full_scores([(q.target, QUERY_SEED + i) for i, q in enumerate(questions)], label)
        seeds = [QUERY_SEED + i if row is None else row for i, (row, _, _) in enumerate(outcomes)]
        fulls = self.full_scores([(q.target, seed) for q, seed in zip(questions, seeds, strict=True)], label)
        served = []
        for question, (row, score, saved), full, other in zip(questions, outcomes, fulls, others, strict=True):
            repeat = row is not None and self.sources[row].text == question.target.text
            served.append(Served(other if score is None else score, full, other, saved, row, repeat))
        return served

    def full_scores(self, wanted: Sequence[tuple[Caption, int]], label: str) -> list[float]:
        """Scores of full runs of captions from seeds."""
        missing = list(
            {
                (caption.text, seed): caption for caption, seed in wanted if (caption.text, seed) not in self._fulls
            }.items()
        )
        if missing:
            # All capture: where a latent is rounded is part of the picture.
            texts, seeds = [text for (text, _), _ in missing], [seed for (_, seed), _ in missing]
            results = self.lab.run(text_jobs(texts, seeds, self.run, self.lab.info, "full"), f"{label}: full runs")
            scores = self.lab.judge(results, [caption for _, caption in missing]).score
            self._fulls |= {key: float(score) for (key, _), score in zip(missing, scores, strict=True)}
        return [self._fulls[caption.text, seed] for caption, seed in wanted]

    def plan(self, policy: MatchingPolicy, question: Question) -> tuple[Attempt, ...]:
        """What a policy proposes for a question; entry ids are rows of `sources` plus one."""
        candidates = [
            Candidate(row + 1, similarity, self.sources[row].text, tuple(map(_ref, self.results[row].captured)))
            for row, similarity in question.nearest
        ]
        return policy.choose(question.target.text, candidates, steps=self.run.steps).attempts

    def point(self, attempt: Attempt) -> ResumePoint:
        """As the planner enters an attempt."""
        states = {state.skip: state for state in self.results[attempt.entry_id - 1].captured}
        deeper = tuple(resume_point(states[rung.state.skip], rung.max_divergence) for rung in attempt.deeper)
        return replace(resume_point(states[attempt.state.skip], attempt.max_divergence), deeper=deeper)

    def _run_hits(self, questions: Sequence[Question], plans: Sequence[tuple[Attempt, ...]], label: str) -> None:
        todo = {}
        for number, (question, plan) in enumerate(zip(questions, plans, strict=True)):
            key = _key(question.target.text, number, plan)
            if plan and key not in self._scores:
                todo[key] = (question.target, self._job(question, number, plan))
        results = self.lab.run([spec for _, spec in todo.values()], f"{label}: hits")
        if results:
            scores = self.lab.judge(results, [caption for caption, _ in todo.values()]).score
            for key, score, result in zip(todo, scores, results, strict=True):
                self._scores[key] = (float(score), replace(result, captured=()))

    def _job(self, question: Question, number: int, plan: tuple[Attempt, ...]) -> JobSpec:
        plain = replace(self.run, capture=())
        (spec,) = text_jobs(
            [question.target.text], [QUERY_SEED + number], plain, self.lab.info, f"hit{len(self._scores)}-{number}"
        )
        return resumed(spec, [self.point(attempt) for attempt in plan], "as-served")

    def _outcome(
        self, number: int, plan: tuple[Attempt, ...], question: Question
    ) -> tuple[int | None, float | None, float]:
        if not plan:
            return None, None, 0.0
        score, result = self._scores[_key(question.target.text, number, plan)]
        saved = (result.skipped - result.wasted) / result.steps
        if result.resumed is None:
            return None, None, saved
        return plan[result.resumed].entry_id - 1, score, saved


def ask(embedder: Embedder, sources: Sequence[Caption], targets: Sequence[Caption], limit: int) -> list[Question]:
    """Look the targets up among the sources by exact search."""
    known, asked = _vectors(embedder, sources), _vectors(embedder, targets)
    questions = []
    for target, similarity in zip(targets, asked @ known.T, strict=True):
        order = np.argsort(-similarity, kind="stable")[:limit]
        questions.append(Question(target, tuple((int(row), float(similarity[row])) for row in order)))
    return questions


def _vectors(embedder: Embedder, captions: Sequence[Caption]) -> NDArray[np.float32]:
    return np.stack([embedder.embed_now(caption.text) for caption in captions])


def _ref(state: CapturedState) -> StateRef:
    return StateRef(state.log_snr, state.skip, has_prediction=True)


def _key(text: str, number: int, plan: tuple[Attempt, ...]) -> tuple[str, int, tuple[object, ...]]:
    shape = tuple((a.entry_id, a.state.skip, a.max_divergence, a.deeper) for a in plan)
    return text, number, shape
