"""What is kept of a finished run: the states it passed through, or the clean latent they can be made from again."""

from typing import Literal

from cache_store.types import FinalState, NoiseLevel, NoiseState
from service.engine.base import CapturedState, JobResult

Form = Literal["auto", "trajectory", "final"]
"""`auto`: whichever takes fewer bytes, where the model's profile finds clean latents adequate; else the states."""


def kept(result: JobResult, form: Form, max_depth: int) -> tuple[list[NoiseState], FinalState | None]:
    """Return what the store may keep of a run: its states, and its clean latent to keep instead if that is smaller.

    Args:
        result: the run.
        form: "auto" where clean latents are adequate, else one of the others.
        max_depth: states with a longer chain of resumes behind them are not kept, in either form.
    """
    captured = [state for state in result.captured if state.depth <= max_depth]
    states = [_noise_state(state) for state in captured]
    final = None if form == "trajectory" else _final_state(result, captured, max_depth)
    return ([] if form == "final" and final is not None else states), final


def resolved_form(form: Form, *, adequate: bool) -> Form:
    """Return the form with `auto` replaced by `trajectory` where clean latents are not known to be adequate."""
    return "trajectory" if form == "auto" and not adequate else form


def _final_state(result: JobResult, captured: list[CapturedState], max_depth: int) -> FinalState | None:
    final = result.final
    if final is None or not captured or final.depth > max_depth:
        return None
    levels = tuple(NoiseLevel(at.log_snr, at.timestep, at.skip, at.prediction) for at in captured)
    return FinalState(final.latent, levels, final.depth, final.approximated)


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
