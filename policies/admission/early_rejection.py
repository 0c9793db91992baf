"""Mooncake's early rejection: the later stage as it is now."""

from collections.abc import Mapping

from policies.admission.base import Ask, Load, Reason
from policies.admission.forecast import Finish
from policies.admission.staged import StagedAdmission


class EarlyRejection(StagedAdmission):
    """Refuses on arrival if denoising will take too long, or decoding would *now* (arXiv 2407.00079).

    Mooncake's prefill and decode are denoising and decoding here. By the time a newcomer gets to the decoder, its
    queue is another: with a slow second stage this rule lets bursts in that meet there, then refuses too many.
    """

    name = "early-rejection"

    def stages(self, ask: Ask, load: Load, finish: Finish) -> Mapping[Reason, float]:
        """Each stage against the whole time allowed, as in Mooncake."""
        queue = sum(job.decode_seconds for job in load.jobs if job.steps == 0)
        return {"denoise_busy": finish.denoised, "decode_busy": queue + ask.work.decode_seconds}
