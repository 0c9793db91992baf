"""What two requests must share: the signature of a request (to resume) and its exact key (to repeat)."""

import hashlib
import json
import math

from cache_store.types import Signature
from policies.features.choice import FeatureChoice
from policies.features.methods import VERSION
from service.engine.base import ModelInfo
from service.types import GenerationRequest

# Neighbouring bands' centres differ by this factor, so a band reaches 10 % to either side of its centre.
BAND_FACTOR = 1.21
SMALLEST_BANDED = 0.1


def guidance_band(scale: float) -> str:
    """Return the name of the logarithmic band (about ±10 %) a guidance scale falls in.

    Close scales may share states: the divergence gate still judges the state under the new scale.
    """
    if scale < SMALLEST_BANDED:
        return "none"
    return str(round(math.log(scale) / math.log(BAND_FACTOR)))


def text_hash(text: str) -> str:
    """Return the SHA-256 hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def signature_of(
    request: GenerationRequest, info: ModelInfo, embedder_digest: str, safety_version: str = ""
) -> Signature:
    """Return the partition of its own that `request` may resume from and, unless it is public, is remembered in.

    Args:
        request: what is asked for.
        info: the served model.
        embedder_digest: of the embedding model.
        safety_version: of the checker that pictures pass; empty = there is none.
    """
    return Signature(
        tenant=request.tenant,
        model_id=info.model_id,
        weights_digest=info.weights_digest,
        embedder_digest=embedder_digest,
        width=request.width,
        height=request.height,
        prediction_type=info.prediction_type,
        schedule=info.schedule,
        guidance_band=guidance_band(request.guidance_scale),
        negative_prompt_hash=text_hash(request.negative_prompt),
        dtype=info.dtype,
        loras=tuple((lora.name, lora.digest, lora.scale) for lora in request.loras),
        scope="user" if request.cache.scope == "user" else "tenant",
        user=request.user,
        safety_version=safety_version,
        reference_id="" if request.reference is None else request.reference.name,
    )


def exact_key(
    request: GenerationRequest,
    info: ModelInfo,
    capture: tuple[float, ...],
    features: FeatureChoice | None = None,
    calibration: str = "",
) -> str:
    """Return the hash two requests share exactly when the full run gives both the same picture.

    The full prompt text counts, however long: the embedder's and the text encoder's cuts play no part. So do
    the capture shares: they decide where the running latent is rounded. So does a picture to begin from, with the
    step it enters at. Pictures never cross tenants, whatever the scope, nor users in the scope `user`: a picture
    drawn anew is the same one.

    Args:
        request: what is asked for; its wish for feature caching plays no part.
        info: the served model.
        capture: shares of the steps at which runs leave states.
        features: what the run will reuse inside the network; None leaves the key as it always was.
        calibration: digest of what the feature caching methods were calibrated to.
    """
    parts: list[object] = [
        [request.tenant, request.user] if request.cache.scope == "user" else request.tenant,
        info.model_id,
        info.weights_digest,
        info.schedule,
        info.dtype,
        request.prompt,
        request.negative_prompt,
        request.seed,
        request.steps,
        request.guidance_scale.hex(),
        request.scheduler,
        request.width,
        request.height,
        capture,
        [(lora.name, lora.digest, lora.scale.hex()) for lora in request.loras],
    ]
    if features is not None:
        parts.append([VERSION, features.policy, features.strength.hex(), features.resume_warmup, calibration])
    if request.reference is not None:
        parts.append({"reference": request.reference.digest, "begin": request.begin})
    return text_hash(json.dumps(parts))


def inexact_key(key: str, request_id: str) -> str:
    """Return a key no request can ask for: a resumed run's picture is not the one its seed stands for."""
    return text_hash(f"resumed {request_id} {key}")
