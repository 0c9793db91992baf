"""Error answers and event streams, as OpenAPI describes them."""

from typing import Any

from pydantic import TypeAdapter

from service.api.schema import ErrorBody, ImageEvent

Responses = dict[int | str, dict[str, Any]]


def _errors(**described: str) -> Responses:
    return {int(status.lstrip("_")): {"model": ErrorBody, "description": text} for status, text in described.items()}


GENERATION_ERRORS: Responses = _errors(
    _400="A field is wrong; `error.param` names it.",
    _404="The model is not served here.",
    _413="The body is too large.",
    _429="It would be too late, too many are waiting, or a quota is used up; see Retry-After and the code.",
    _500="The picture could not be drawn; the message names the request.",
    _503="Not now; see Retry-After.",
    _504="`not_cached`: `Cache-Control: only-if-cached`, and nothing fits. `deadline_exceeded`: too late.",
)
LOOKUP_ERRORS: Responses = _errors(
    _400="A parameter is wrong; `error.param` names it.",
    _404="There is nothing of that name, or it is not yours.",
    _503="The cache is unavailable.",
)
EXPLAIN_ERRORS: Responses = _errors(
    _400="A field is wrong; `error.param` names it.",
    _404="The model is not served here.",
    _413="The body is too large.",
    _503="The cache is unavailable: the request would be drawn in full.",
)
REPLAY_ERRORS: Responses = {
    **GENERATION_ERRORS,
    **_errors(
        _400="A parameter is wrong, or the texts of what was not to be remembered are needed (`text_needed`).",
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
"""The components that `IMAGE_STREAM` refers to; the framework knows only those of JSON answers."""
IMAGE_STREAM: Responses = {
    200: {
        "description": "The pictures. With `stream: true` events instead: `image_generation.partial_image`, at most "
        "`partial_images` times, then `image_generation.completed`, or `error` with the error envelope as its data.",
        "content": {"text/event-stream": {"schema": _event_schema}},
    }
}
