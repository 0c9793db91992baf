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
    _429="Too many pictures are waiting; see Retry-After.",
    _500="The picture could not be drawn; the message names the request.",
    _503="Not now; see Retry-After.",
    _504="`not_cached`: `Cache-Control: only-if-cached`, and nothing fits. `deadline_exceeded`: too late.",
)
LOOKUP_ERRORS: Responses = _errors(
    _400="A parameter is wrong; `error.param` names it.",
    _404="There is nothing of that name, or it is not yours.",
    _503="The cache is unavailable.",
)

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
