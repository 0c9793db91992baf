"""Mooncake's early rejection with prediction: the later stage as it will be."""

from collections.abc import Mapping

from policies.admission.base import Ask, Load, Reason
from policies.admission.forecast import Finish
from policies.admission.staged import StagedAdmission


class PredictedEarlyRejection(StagedAdmission):
    """As `EarlyRejection`, but with the decoder's queue as predicted for the end of denoising (arXiv 2407.00079)."""

    name = "early-rejection-predicted"

    def stages(self, ask: Ask, load: Load, finish: Finish) -> Mapping[Reason, float]:
        """Each stage against the whole time allowed, as in Mooncake."""
        return {"denoise_busy": finish.denoised, "decode_busy": finish.done - finish.denoised}
