"""Error answers, as OpenAPI describes them."""

from typing import Any

from service.api.schema import ErrorBody

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
    _504="`Cache-Control: only-if-cached`, and nothing fits.",
)
LOOKUP_ERRORS: Responses = _errors(
    _400="A parameter is wrong; `error.param` names it.",
    _404="There is nothing of that name, or it is not yours.",
    _503="The cache is unavailable.",
)
