"""From a checked body and its headers to `GenerationRequest`s, against the model that is served."""

import math
import re
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from cache_store.selection import user_digest
from service.access.identity import ANONYMOUS_RIGHTS, Identity, Rights
from service.api.errors import InvalidRequestError
from service.api.schema import MAX_SEED, CacheBody, FeatureCacheBody, GenerationBody, Quality, StreamedQuality
from service.engine.base import Lora, ModelInfo
from service.engine.reference import Reference
from service.features import canonical, complaint
from service.generator import Wish
from service.loras import LoraFiles
from service.pictures import OutputFormat
from service.settings import Settings
from service.types import CacheMode, CacheOptions, FeatureWish, GenerationRequest
from service.uploads import own_size

SECONDS = re.compile(r"\d{1,20}", re.ASCII)
# RFC 9111 wants arguments beyond what is kept to mean this much.
LONGEST_AGE = float(2**31)
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)
# Drawn seeds stay small enough to read, to type, and to survive JSON numbers.
RANDOM_SEEDS = 2**32
# Names of LoRAs in an error message.
MOST_LISTED = 50


@dataclass(frozen=True, slots=True)
class Order:
    """Everything one HTTP request asks for; `quality` is only repeated to the client, `by_url` how it gets them."""

    requests: tuple[GenerationRequest, ...]
    wish: Wish
    quality: StreamedQuality
    by_url: bool = False

    @property
    def size(self) -> str:
        """The pictures' size as the API writes it."""
        return f"{self.requests[0].width}x{self.requests[0].height}"

    @property
    def output_format(self) -> OutputFormat:
        """The pictures' encoding."""
        return self.wish.output_format


def order_of(
    body: GenerationBody,
    cache_control: str,
    info: ModelInfo,
    settings: Settings,
    identity: Identity,
    *,
    previews: int = 0,
    loras: tuple[Lora, ...] = (),
    reference: Reference | None = None,
    since: float | None = None,
) -> Order:
    """Check what the schema alone cannot, and fill in the model's defaults.

    Args:
        body: the request's body.
        cache_control: its `Cache-Control` header.
        info: the served model.
        settings: bounds.
        identity: whose it is.
        previews: most pictures in progress to show.
        loras: what `lora_set` makes of the body's.
        reference: a picture to begin from, of the size to draw.
        since: time.monotonic() when the request came in; None = now.

    Raises:
        InvalidRequestError: a field does not fit the served model; it is named.
    """
    _check_unsupported(body, info)
    width, height = _size(body.size, info) if reference is None else reference.size
    first = GenerationRequest(
        request_id="",
        tenant=identity.tenant,
        prompt=_text("prompt", body.prompt, settings.max_prompt_chars, may_be_blank=not body.prompt),
        negative_prompt=_text("negative_prompt", body.negative_prompt or "", settings.max_prompt_chars),
        width=width,
        height=height,
        steps=info.default_steps if body.num_inference_steps is None else body.num_inference_steps,
        guidance_scale=info.default_guidance if body.guidance_scale is None else body.guidance_scale,
        scheduler=_solver(body.scheduler, info),
        seed=0,
        seed_given=body.seed is not None,
        loras=loras,
        features=feature_wish(body.feature_cache, info, settings),
        cache=cache_options(body.cache, cache_control, identity.rights, has_user=bool(body.user)),
        user=user_digest(identity.tenant, body.user),
        reference=reference,
        deadline=deadline_of(body, settings, time.monotonic() if since is None else since),
    )
    count = body.n or 1
    requests = tuple(
        replace(first, request_id=uuid.uuid4().hex, seed=_seed(body.seed, index)) for index in range(count)
    )
    wish = Wish(body.output_format or "png", body.output_compression, previews)
    return Order(requests, wish, _quality(body.quality), body.response_format == "url")


def deadline_of(body: GenerationBody, settings: Settings, since: float) -> float:
    """Return the time.monotonic() by which a request that came in at `since` must be answered."""
    return since + min(body.deadline_seconds or math.inf, settings.deadline_seconds)


async def lora_set(body: GenerationBody, info: ModelInfo, files: LoraFiles) -> tuple[Lora, ...]:
    """Return the body's LoRAs as their files are now, in canonical order, without those of scale 0.

    Raises:
        InvalidRequestError: the model takes none, a name comes twice or stands for none; it is named.
    """
    wished = body.lora or []
    if wished and not info.loras:
        kind = "quantised models" if info.quantised else f"models of the family {info.family}"
        message = f"lora: {kind} take no LoRA"
        raise InvalidRequestError("lora", message, code="lora_unsupported")
    names = [lora.name for lora in wished]
    digests = await files.digests(names)
    for index, (name, digest) in enumerate(zip(names, digests, strict=True)):
        if name in names[:index]:
            raise InvalidRequestError(f"lora.{index}.name", f"lora.{index}.name: every LoRA may be named once only")
        if digest is None:
            raise _unknown_lora(index, await files.names())
    found = zip(wished, digests, strict=True)
    return tuple(sorted(Lora(one.name, digest, one.scale) for one, digest in found if digest and one.scale))


def _unknown_lora(index: int, known: list[str]) -> InvalidRequestError:
    rule = f"must be one of {', '.join(known[:MOST_LISTED])}" if known else "no LoRA is available here"
    more = f" and {len(known) - MOST_LISTED} more" if len(known) > MOST_LISTED else ""
    return InvalidRequestError(f"lora.{index}.name", f"lora.{index}.name: {rule}{more}", code="lora_not_found")


def cache_options(
    body: CacheBody | None, cache_control: str, rights: Rights = ANONYMOUS_RIGHTS, *, has_user: bool = False
) -> CacheOptions:
    """Join the body's wishes with the standard header's; the stricter one holds.

    Args:
        body: the wishes.
        cache_control: the header.
        rights: what the client's key allows.
        has_user: whether the request names its user.

    Raises:
        InvalidRequestError: a scope that the key does not allow, or that needs a user.
    """
    given = body or CacheBody()
    if given.scope == "user" and not has_user:
        raise InvalidRequestError("cache.scope", "cache.scope: user needs the field user")
    if given.scope == "public" and not (rights.share_read or rights.share_write):
        message = "cache.scope: public needs a key made with share_read or share_write"
        raise InvalidRequestError("cache.scope", message, code="sharing_not_allowed", status=403)
    directives = directives_of(cache_control)
    max_age = _seconds(directives, "max-age")
    return CacheOptions(
        mode=CacheMode(given.mode or "auto"),
        min_similarity=given.min_similarity or 0.0,
        max_skip_ratio=1.0 if given.max_skip_ratio is None else given.max_skip_ratio,
        read="no-cache" not in directives and max_age != 0,
        store=given.store is not False and "no-store" not in directives,
        only_if_cached="only-if-cached" in directives,
        diversity=given.diversity or 0.0,
        max_age=max_age,
        min_fresh=_seconds(directives, "min-fresh") or 0.0,
        scope=given.scope or "tenant",
        share_read=rights.share_read,
        share_write=rights.share_write,
    )


def directives_of(cache_control: str) -> dict[str, str]:
    """Return the directives of a `Cache-Control` header, with their arguments; unknown ones are nobody's business."""
    parts = (part.strip().lower().partition("=") for part in cache_control.split(","))
    return {name.strip(): value.strip().strip('"') for name, _, value in parts}


def _seconds(directives: dict[str, str], name: str) -> float | None:
    """Return a directive's argument, None where it is not given. Raises InvalidRequestError."""
    if name not in directives:
        return None
    if not SECONDS.fullmatch(directives[name]):
        raise InvalidRequestError("cache-control", f"cache-control: {name} must be a whole number of seconds")
    return min(float(directives[name]), LONGEST_AGE)


def feature_wish(body: FeatureCacheBody | None, info: ModelInfo, settings: Settings) -> FeatureWish:
    """Return the body's wish for feature caching, filled up with the service's.

    Raises:
        InvalidRequestError: the model cannot run the policy.
    """
    given = body or FeatureCacheBody(policy=settings.feature_cache)
    if body is not None and (wrong := complaint(body.policy, info)) is not None:
        message = f"feature_cache.policy: {wrong}"
        raise InvalidRequestError("feature_cache.policy", message, code="feature_cache_unsupported")
    return FeatureWish(
        policy=canonical(given.policy),
        strength=settings.feature_strength if given.strength is None else given.strength,
        min_quality=settings.feature_min_quality if given.min_quality is None else given.min_quality,
    )


def check_streaming(body: GenerationBody) -> None:
    """Check the fields that only a stream has, or that it has not.

    Raises:
        InvalidRequestError: previews without a stream, or a stream of several pictures.
    """
    if body.partial_images and not body.stream:
        raise InvalidRequestError("partial_images", "partial_images: only with stream: true")
    if body.stream and body.response_format == "url":
        raise InvalidRequestError("response_format", "response_format: must be b64_json with stream: true")
    if body.stream and body.n not in (None, 1):
        raise InvalidRequestError("n", "n: must be 1 with stream: true")


def _check_unsupported(body: GenerationBody, info: ModelInfo) -> None:
    if body.model is not None and body.model != info.model_id:
        raise InvalidRequestError(
            "model",
            f"model: this service serves {info.model_id} only",
            code="model_not_found",
            status=404,
        )


def _text(name: str, text: str, limit: int, *, may_be_blank: bool = True) -> str:
    if not may_be_blank and not text.strip():
        raise InvalidRequestError(name, f"{name}: must not be blank")
    if len(text) > limit:
        raise InvalidRequestError(
            name, f"{name}: has {len(text)} characters, at most {limit} are accepted", code="string_too_long"
        )
    if "\0" in text:
        raise InvalidRequestError(name, f"{name}: must not contain NUL characters")
    return text


def _size(text: str | None, info: ModelInfo) -> tuple[int, int]:
    if text is None or text == "auto":
        return info.width, info.height
    match = SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequestError("size", "size: must look like 512x512, or be auto", code="invalid_size")
    width, height = int(match[1]), int(match[2])
    for side in (width, height):
        if side < info.size_multiple or side > info.max_size or side % info.size_multiple:
            raise InvalidRequestError("size", _size_rule(info), code="invalid_size")
    return width, height


def wished_size(text: str | None, info: ModelInfo) -> Callable[[int, int], tuple[int, int]]:
    """Return the size to draw by the size of a given picture: as asked for, else its own or the model's.

    Raises:
        InvalidRequestError: the model cannot draw what was asked for.
    """
    if text is None or text == "auto":
        return own_size(info)
    asked = _size(text, info)
    return lambda width, height: asked


def _size_rule(info: ModelInfo) -> str:
    return f"size: both sides must be multiples of {info.size_multiple}, at most {info.max_size} pixels"


def _solver(name: str | None, info: ModelInfo) -> str:
    if name is None:
        return info.solvers[0]
    if name not in info.solvers:
        raise InvalidRequestError("scheduler", f"scheduler: must be one of {', '.join(info.solvers)}")
    return name


def _quality(asked: Quality | None) -> StreamedQuality:
    """Return the nearest word that OpenAI's events have."""
    match asked:
        case None | "standard":
            return "auto"
        case "hd":
            return "high"
        case _:
            return asked


def _seed(given: int | None, index: int) -> int:
    if given is None:
        return secrets.randbelow(RANDOM_SEEDS)
    if given + index > MAX_SEED:
        raise InvalidRequestError("seed", "seed: too large for this many pictures")
    return given + index
