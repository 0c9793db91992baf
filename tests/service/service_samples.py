"""Requests, plans and results to build tests from."""

import numpy as np

from cache_store.types import Signature
from policies.matching.base import Attempt, StateRef
from service.engine.base import JobResult, JobSpec, ModelInfo, ResumePoint
from service.keys import exact_key, signature_of
from service.types import CacheOptions, GenerationRequest, Neighbour, Plan, VerdictKind

INFO = ModelInfo(
    model_id="tiny",
    weights_digest="w",
    family="stable-diffusion",
    prediction_type="v_prediction",
    schedule="s",
    width=32,
    height=32,
    size_multiple=2,
    max_size=64,
    default_steps=8,
    default_guidance=2.0,
    solvers=("ddim", "dpmpp_2m"),
    latent_channels=4,
)

CAPTURE = (0.25, 0.5)


def request(prompt: str = "a red cube", **changes: object) -> GenerationRequest:
    fields = {
        "request_id": "r1",
        "tenant": "default",
        "prompt": prompt,
        "negative_prompt": "",
        "width": 32,
        "height": 32,
        "steps": 8,
        "guidance_scale": 2.0,
        "scheduler": "ddim",
        "seed": 7,
        "seed_given": False,
        "cache": CacheOptions(),
    }
    return GenerationRequest(**{**fields, **changes})


def signature(**changes: object) -> Signature:
    return signature_of(request(**changes), INFO, "e")


def plan(kind: VerdictKind = VerdictKind.MISS, reason: str = "no-candidates", attempts: int = 0) -> Plan:
    """A plan with so many resume attempts: entry 1, 2, … at similarity .9, .8, …"""
    wanted = request()
    latent = np.zeros((4, 16, 16), np.float16)
    points = tuple(ResumePoint(latent, 500.0, 0.0, 0.5, None, 0.1, depth=index) for index in range(attempts))
    job = JobSpec("r1", wanted.prompt, "", 7, 8, 2.0, "ddim", 32, 32, resume=points)
    ref = StateRef(log_snr=0.0, skip=0.5, has_prediction=True)
    return Plan(
        request=wanted,
        signature=signature(),
        exact_key=exact_key(wanted, INFO, CAPTURE),
        kind=kind,
        reason=reason,
        job=job,
        attempts=tuple(Attempt(index + 1, ref, 0.9 - index / 10, 0.1) for index in range(attempts)),
        neighbours=tuple(Neighbour(index + 1, f"prompt {index + 1}", 0.9 - index / 10) for index in range(attempts)),
        similarity=0.9 if attempts else None,
    )


def result(**changes: object) -> JobResult:
    fields = {
        "job_id": "r1",
        "image": np.zeros((32, 32, 3), np.uint8),
        "resumed": None,
        "steps": 8,
        "skipped": 0,
        "wasted": 0,
        "divergences": (),
        "captured": (),
        "queue_seconds": 0.01,
        "denoise_seconds": 0.8,
        "step_seconds": 0.1,
        "decode_seconds": 0.05,
    }
    return JobResult(**{**fields, **changes})
