"""Which steps of a run are shown: so many pictures in progress, spread evenly over the steps that run."""

import math
from dataclasses import replace

from service.engine.base import Progress
from service.types import Plan


class Previews:
    """Lets through at most `wanted` previews of one picture, whatever becomes of its run.

    A run may enter later or earlier than foreseen, or start again after the engine died; none of that shows a
    share of the run twice.

    Args:
        wanted: most previews to show.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._shown = 0

    def screen(self, event: Progress) -> Progress:
        """Return the event, without its preview unless one is due."""
        if event.preview is None:
            return event
        if due(event.step, event.first_step, event.steps, self._wanted) <= self._shown:
            return replace(event, preview=None)
        self._shown += 1
        return event


def paced(plan: Plan, wanted: int) -> Plan:
    """Return the plan with a job that makes the wanted number of previews."""
    if plan.job is None or wanted == 0:
        return plan
    every = preview_every(foreseen_step(plan), plan.job.steps, wanted)
    return replace(plan, job=replace(plan.job, preview_every=every))


def foreseen_step(plan: Plan) -> int:
    """Return K as far as it is known before the run: the gate may refuse."""
    if plan.job is None:
        return plan.request.steps
    return plan.job.steps - plan.job.foreseen_steps


def steps_before(skip: float, steps: int) -> int:
    """Return K of an N-step run that enters at a state with share `skip` of its own run's steps before it."""
    return round(skip * steps)


def preview_every(first: int, steps: int, wanted: int) -> int:
    """Return the period of previews that shows as many of the wanted ones as the run has room for.

    The engine counts the period in steps of the whole run, skipped ones included, so what falls inside a resumed
    run depends on where it enters.

    Args:
        first: K, steps skipped.
        steps: N.
        wanted: previews to show.

    Returns:
        `JobSpec.preview_every`; 0 when no step lies between the first and the last.
    """
    run = steps - first
    room = min(wanted, run - 1)
    if room <= 0:
        return 0
    longest = math.ceil(run / (wanted + 1))
    return next(every for every in range(longest, 0, -1) if len(shown_steps(first, steps, every, wanted)) == room)


def shown_steps(first: int, steps: int, every: int, wanted: int) -> list[int]:
    """Return the steps whose previews are let through when the engine makes one every so many steps."""
    shown: list[int] = []
    for step in range(first + every - first % every, steps, every):
        if due(step, first, steps, wanted) > len(shown):
            shown.append(step)
    return shown


def due(step: int, first: int, steps: int, wanted: int) -> int:
    """Return how many of the wanted previews are due: preview i at share i / (wanted + 1) of the steps that run."""
    return min(wanted, (step - first) * (wanted + 1) // (steps - first))
