"""The discrete variance-preserving noise schedule of a trained model, read through diffusers' DDIMScheduler."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

# What of a scheduler's configuration decides noise levels and time values.
SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "set_alpha_to_one",
    "steps_offset",
    "timestep_spacing",
    "rescale_betas_zero_snr",
)


class NoiseSchedule:
    """Time values and noise levels of runs of any length.

    Where N does not divide the number of training steps, diffusers' DDIM steps to t - T // N although its next
    evaluation is at another time (up to one training step off with trailing spacing); here a step always ends at the
    level the network is told next.

    Args:
        config: configuration of any of diffusers' schedulers for the model.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._scheduler = DDIMScheduler.from_config(config)
        kept = {key: self._scheduler.config[key] for key in SCHEDULE_KEYS}
        digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=list).encode()).hexdigest()
        self.name = f"{kept['beta_schedule']}-{kept['timestep_spacing']}-{digest[:8]}"
        self.prediction_type = str(self._scheduler.config.prediction_type)
        cumulative = self._scheduler.alphas_cumprod
        final = self._scheduler.final_alpha_cumprod.reshape(1)
        # The end level lies behind the last training step, where index -1 finds it. 1 - a in float32, as trained.
        table = torch.cat([cumulative, final])
        self.alphas = table.double().sqrt()
        self.sigmas = (1 - table).double().sqrt()

    def timesteps(self, steps: int) -> Tensor:
        """Return the descending time values float32 [N] of diffusers' DDIMScheduler.

        Raises:
            ValueError: N is larger than the number of training steps.
        """
        self._scheduler.set_timesteps(steps)
        times: Tensor = self._scheduler.timesteps
        # Rounding gives diffusers' trailing spacing one time too many for some N (61, 103, …): -1, past the end.
        return times[times >= 0][:steps].float()

    def alpha_sigma(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), float64 on the CPU, at time values; t < 0 is the end of a run."""
        index = timesteps.round().long().clamp(min=-1).cpu()
        return self.alphas[index], self.sigmas[index]
