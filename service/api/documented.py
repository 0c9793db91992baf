"""Error answers and event streams, as OpenAPI describes them."""

from typing import Any

from pydantic import TypeAdapter

from service.api.schema import ErrorBody, ImageEvent
from service.api.schema_jobs import JobBody

Responses = dict[int | str, dict[str, Any]]


def _errors(**described: str) -> Responses:
    return {int(status.lstrip("_")): {"model": ErrorBody, "description": text} for status, text in described.items()}


UNAUTHORIZED_ERROR: Responses = _errors(_401="A valid API key is needed (`invalid_api_key`).")
OPERATOR_ERRORS: Responses = _errors(_403="The key is no operator's (`not_permitted`).")
GENERATION_ERRORS: Responses = _errors(
    _400="A field is wrong; `error.param` names it.",
    _403="`cache.scope` is `public`, and the key may not share (`sharing_not_allowed`).",
    _404="The model is not served here.",
    _413="The body is too large.",
    _429="It would be too late, too many are waiting, or a quota is used up; see Retry-After and the code.",
    _500="The picture could not be drawn; the message names the request.",
    _503="Not now; see Retry-After.",
    _504="`not_cached`: `Cache-Control: only-if-cached`, and nothing fits. `deadline_exceeded`: too late.",
)
_IDEMPOTENCY_ERRORS: Responses = _errors(
    _409="The first request with this `Idempotency-Key` is still being answered.",
    _422="The `Idempotency-Key` was used with another request.",
)
IMAGE_ERRORS: Responses = {**GENERATION_ERRORS, **_IDEMPOTENCY_ERRORS}
EDIT_ERRORS: Responses = {
    **IMAGE_ERRORS,
    **_errors(
        _400="A field is wrong, or a picture cannot be read; `error.param` names it.",
        _415="The body is not multipart/form-data.",
    ),
}
JOB_ERRORS: Responses = {
    **{status: said for status, said in IMAGE_ERRORS.items() if status not in (500, 504)},
}


def _header(text: str) -> dict[str, Any]:
    return {"schema": {"type": "string"}, "description": text}


IDEMPOTENCY_HEADERS: dict[str, Any] = {
    "Idempotency-Status": _header(
        "With an `Idempotency-Key`: `stored`, `replayed`, or `unavailable` (answered, but not kept)."
    ),
}
VERDICT_HEADERS: dict[str, Any] = {
    "Cache-Status": _header("RFC 9211."),
    "X-Headstart-Cache": _header("The verdict of each picture."),
    "X-Headstart-Generation": _header("The id of each picture."),
    "X-Headstart-Feature-Cache": _header("What feature caching did for each picture."),
    **{f"X-{stage}-Time": _header("Seconds.") for stage in ("Queue", "Denoise", "Decode", "Total")},
}
ACCEPTED_JOB: Responses = {
    202: {
        "model": JobBody,
        "description": "A job; with `Prefer: respond-async` here, too.",
        "headers": {
            "Location": _header("Where the job is found."),
            "Preference-Applied": _header("`respond-async`, where that was asked for."),
            "Retry-After": _header("Seconds after which to look for the first time."),
            **IDEMPOTENCY_HEADERS,
        },
    }
}
JOB_EVENTS: Responses = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "Events `job` (the whole job; their ids are its versions), `preview` (`PreviewBody`, the "
        "newest only) and `error` (the error envelope). The stream ends with the job.",
    },
    204: {"description": "The job has ended, and `Last-Event-ID` is that of its last event: do not come back."},
}
LOOKUP_ERRORS: Responses = _errors(
    _400="A parameter is wrong; `error.param` names it.",
    _404="There is nothing of that name, or it is not yours.",
    _503="The cache is unavailable.",
)
PICTURE: Responses = {
    200: {
        "description": "The picture.",
        "content": {kind: {} for kind in ("image/png", "image/jpeg", "image/webp")},
        "headers": {
            "ETag": _header("Of the bytes."),
            "Cache-Control": _header("`private`, and for how many seconds it is kept."),
        },
    },
    304: {"description": "`If-None-Match` names its ETag."},
}
EXPLAIN_ERRORS: Responses = _errors(
    _400="A field is wrong; `error.param` names it.",
    _403="`cache.scope` is `public`, and the key may not share (`sharing_not_allowed`).",
    _404="The model is not served here.",
    _413="The body is too large.",
    _503="The cache is unavailable: the request would be drawn in full.",
)
REPLAY_ERRORS: Responses = {
    **GENERATION_ERRORS,
    **_errors(
        _400="A parameter is wrong, or the texts of what was not to be remembered are needed (`text_needed`), or the "
        "picture that was drawn over (`picture_needed`).",
        _404="There is no such generation, or it is not yours, or its record is past its time.",
        _410="It cannot be had again: `state_gone`, `other_model`, `other_calibration`, `lora_changed` or "
        "`record_unreadable`.",
        _504="`deadline_exceeded`: too late.",
    ),
}
HEATMAP_ANSWERS: Responses = {
    200: {"content": {"image/png": {}}, "description": "The picture in grey, and what speaks for the text over it."},
    **_errors(
        _400="A parameter is wrong, or the record holds no text and none is given (`text_needed`).",
        _404="There is no such generation, or it is not yours, or it has no source (`no_source`).",
        _409="`no_judge`, `judge_unavailable`, `judge_without_maps`; `unexplainable`: the judge cannot read "
        "the text, or the picture.",
        _410="The picture is not kept (`picture_gone`), or the record cannot be read (`record_unreadable`).",
        _503="Pictures are being drawn (`busy`), or the cache is unavailable; see Retry-After.",
    ),
}

_event_schema: dict[str, Any] = TypeAdapter(ImageEvent).json_schema(
    ref_template="#/components/schemas/{model}", mode="serialization"
)
IMAGE_EVENT_PARTS: dict[str, Any] = _event_schema.pop("$defs")
"""The components that `IMAGE_ANSWER` refers to; the framework knows only those of JSON answers."""
IMAGE_ANSWER: Responses = {
    200: {
        "headers": {**VERDICT_HEADERS, **IDEMPOTENCY_HEADERS},
        "description": "The pictures. With `stream: true` events instead: `image_generation.partial_image`, at most "
        "`partial_images` times, then `image_generation.completed`, or `error` with the error envelope as its data.",
        "content": {"text/event-stream": {"schema": _event_schema}},
    }
}
IMAGE_ANSWER_ONLY: Responses = {
    200: {"headers": {**VERDICT_HEADERS, **IDEMPOTENCY_HEADERS}, "description": "The pictures."}
}
