"""What is kept of a finished run: the states it passed through, or the clean latent they can be made from again."""

from dataclasses import replace
from typing import Literal

from cache_store.renoise import noise_between
from cache_store.types import FinalState, NoiseLevel, NoiseState
from service.engine.base import CapturedState, JobResult

Form = Literal["auto", "trajectory", "final-noise", "final"]
"""Of what is kept: see `kept`. `auto` leaves the choice to the model's profile, and then to the number of bytes."""


def kept(
    result: JobResult, form: Form, max_depth: int, *, adequate: str = "trajectory", judged_at: float | None = None
) -> tuple[list[NoiseState], FinalState | None]:
    """Return what the store may keep of a run: its states, and its clean latent to keep instead if that is smaller.

    `trajectory` keeps the states the run passed through. `final` keeps its clean latent alone, and other noise is
    drawn for every state: the predictions of the run's own states then tell the gate nothing, so only the same text
    finds its way back in. `final-noise` keeps one noise beside it, with which the state that the gate judges at is
    the run's own.

    Args:
        result: the run.
        form: what to keep.
        max_depth: states with a longer chain of resumes behind them are not kept, in any form.
        adequate: what `auto` may keep instead of the states.
        judged_at: share of the steps at which the gate judges; None = at the shallowest state.
    """
    captured = [state for state in result.captured if state.depth <= max_depth]
    states = [_noise_state(state) for state in captured]
    chosen = adequate if form == "auto" else form
    final = None if chosen == "trajectory" else _final_state(result, states)
    if final is not None and chosen == "final-noise":
        judge = min(states, key=lambda state: abs(state.skip - (judged_at or 0.0)))
        final = replace(final, noise=noise_between(final.latent, judge))
    return (states if form == "auto" or final is None else []), final


def _final_state(result: JobResult, states: list[NoiseState]) -> FinalState | None:
    clean = result.final
    if clean is None or not states:
        return None
    levels = tuple(NoiseLevel(at.log_snr, at.timestep, at.skip, at.prediction) for at in states)
    return FinalState(clean.latent, levels, None, clean.depth, clean.approximated)


def _noise_state(state: CapturedState) -> NoiseState:
    return NoiseState(
        latent=state.latent,
        log_snr=state.log_snr,
        timestep=state.timestep,
        skip=state.skip,
        prediction=state.prediction,
        depth=state.depth,
        approximated=state.approximated,
    )
