"""One table from exceptions to answers. Of what a client sent only field names are echoed; no path, no traceback."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cache_store.types import CacheUnavailable
from service.api.problem import CLIENT_GONE, SERVER, Problem
from service.engine.base import MESSAGES
from service.engine.lora import CHANGED, UNFIT
from service.generator import GenerationFailedError, NotCachedError
from service.heatmaps import NoHeatmapError
from service.logs import frames_of
from service.refusals import RefusedError
from service.replay import NotReplayableError, PictureNeededError, TextNeededError
from service.safety import CheckerBehindError, PictureFlaggedError, PictureUncheckedError
from service.uploads import TooLateError, UploadError

log = logging.getLogger(__name__)

INVALID = "invalid_request_error"


class InvalidRequestError(Exception):
    """The request is wrong in one field; the message is for the client."""

    def __init__(
        self,
        param: str | None,
        message: str,
        *,
        code: str = "invalid_value",
        status: int = 400,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.message = message
        self.code = code
        self.status = status
        self.headers = headers or {}


class ClientGoneError(Exception):
    """The client closed the connection before the answer."""


STOPPING = Problem(503, "the service is stopping", code="stopping", headers={"Retry-After": "2"})

# The same for a key that is missing, malformed, unknown or revoked: an answer must not help to find one.
UNAUTHORIZED = Problem(
    401,
    "a valid API key is needed, as `Authorization: Bearer hs_…`",
    INVALID,
    code="invalid_api_key",
    headers={"WWW-Authenticate": 'Bearer realm="headstart"'},
)

FLAGGED = Problem(
    400, "the safety checker of this service refuses the picture", INVALID, code="content_policy_violation"
)
UNCHECKED = Problem(
    503, "the picture could not be checked for safety", code="safety_unavailable", headers={"Retry-After": "5"}
)
# A client that came back by itself would have it drawn again, and perhaps for nothing again.
UNCHECKED_DRAWN = replace(UNCHECKED, headers={"x-should-retry": "false"})

HTTP_MESSAGES = {
    403: ("this key may not do that", "not_permitted"),
    404: ("there is nothing here", "not_found"),
    405: ("this method is not allowed here", "method_not_allowed"),
    408: ("the request body did not arrive in time", "body_too_slow"),
    413: ("the request body is too large", "body_too_large"),
}

ENGINE_PROBLEMS = {
    "cancelled": Problem(CLIENT_GONE, "the request was cancelled", code="cancelled"),
    "out-of-memory": Problem(503, "the device has too little memory for this picture now", code="out_of_memory"),
    "engine-lost": Problem(503, "the engine is being restarted", code="engine_lost", headers={"Retry-After": "2"}),
    "deadline": Problem(504, MESSAGES["deadline"], code="deadline_exceeded"),
    CHANGED: Problem(
        503,
        MESSAGES[CHANGED],
        param="lora",
        code="lora_changed",
        headers={"Retry-After": "1"},
    ),
    "not-finite": Problem(500, "the model could not draw this request", code="not_finite"),
}

_BUSY = ("the picture would not be finished in time", "overloaded")
REFUSALS = {
    "queue_full": ("too many pictures are waiting", "queue_full"),
    "late": _BUSY,
    "denoise_busy": _BUSY,
    "decode_busy": _BUSY,
    "quota": ("the quota of device time is used up", "quota_exceeded"),
    "uploads_full": ("too many pictures are being sent", "uploads_full"),
}


def problem_of(error: Exception, request_id: str) -> Problem:
    """Return the client's view of `error`: the one exception table."""
    match error:
        case InvalidRequestError():
            return Problem(error.status, error.message, INVALID, error.param, error.code, error.headers)
        case RequestValidationError():
            return _validation_problem(error)
        case RefusedError():
            return _refusal(error)
        case NotCachedError():
            return Problem(504, "nothing in the cache fits this request", INVALID, code="not_cached")
        case GenerationFailedError() if error.code == UNFIT:
            return Problem(400, f"lora: {error}", INVALID, "lora", "lora_unfit")
        case GenerationFailedError() if error.code in ENGINE_PROBLEMS:
            return ENGINE_PROBLEMS[error.code]
        case NotReplayableError():
            return Problem(410, str(error), INVALID, code=error.code)
        case PictureFlaggedError():
            return FLAGGED
        case PictureUncheckedError():
            return UNCHECKED_DRAWN if error.drawn else UNCHECKED
        case CheckerBehindError():
            return _behind(error)
        case TooLateError():
            return ENGINE_PROBLEMS["deadline"]
        case UploadError():
            return Problem(400, str(error), INVALID, error.field, error.code)
        case PictureNeededError():
            return Problem(400, str(error), INVALID, error.param, "picture_needed")
        case TextNeededError():
            return Problem(400, str(error), INVALID, error.param, "text_needed")
        case NoHeatmapError():
            return _heatmap_problem(error)
        case CacheUnavailable():
            return Problem(503, "the cache is unavailable", code="cache_unavailable", headers={"Retry-After": "2"})
        case ClientGoneError():
            return ENGINE_PROBLEMS["cancelled"]
        # The framework takes a client that leaves in the middle of its body for one that sent a wrong one.
        case HTTPException() if isinstance(error.__cause__, ClientDisconnect):
            return ENGINE_PROBLEMS["cancelled"]
        case HTTPException():
            return _http_problem(error)
        case _:
            return Problem(500, f"internal error; request {request_id}", code="internal_error")


def _refusal(error: RefusedError) -> Problem:
    why, code = REFUSALS[error.reason]
    wait = str(error.retry_after)
    message = f"{why}; try again in {wait} s"
    return Problem(429, message, "rate_limit_error", code=code, headers={"Retry-After": wait})


def _behind(error: CheckerBehindError) -> Problem:
    wait = str(error.retry_after)
    message = f"the safety checker is behind, and nothing was drawn; try again in {wait} s"
    return Problem(503, message, code="safety_busy", headers={"Retry-After": wait})


def _validation_problem(error: RequestValidationError) -> Problem:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Problem(400, "the request body is not valid JSON", INVALID, code="invalid_json")
    # The first part tells where the field was: body, query, path or header.
    path = [str(part) for part in first["loc"][1:]]
    # An unknown field's name is the client's own text: bounded, and made encodable.
    param = ".".join(path)[:100].encode(errors="replace").decode() or None
    if param is None:
        return Problem(400, "the request body must be a JSON object", INVALID, code="invalid_type")
    return Problem(400, f"{param}: {MESSAGES.get(first['type'], first['msg'])}", INVALID, param, first["type"])


MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "this field is required",
    "string_unicode": "not valid Unicode text",
}


HEATMAP_STATUS = {"no_source": 404, "picture_gone": 410, "busy": 503}
"""Any other code: the service, as it is set up, cannot draw this map."""


def _heatmap_problem(error: NoHeatmapError) -> Problem:
    status = HEATMAP_STATUS.get(error.code, 409)
    headers = {"Retry-After": "2"} if status == 503 else {}
    return Problem(status, str(error), SERVER if status == 503 else INVALID, code=error.code, headers=headers)


def _http_problem(error: HTTPException) -> Problem:
    message, code = HTTP_MESSAGES.get(error.status_code, ("the request could not be read", "bad_request"))
    kind = INVALID if error.status_code < 500 else SERVER
    return Problem(error.status_code, message, kind, code=code, headers=dict(error.headers or {}))


def log_unexpected(error: BaseException, request_id: str) -> None:
    """Log what went wrong where; an error's own message may hold a prompt and stays out."""
    extra = {"request_id": request_id, "error": type(error).__name__, "at": frames_of(error)}
    log.error("unexpected error", extra=extra)


def install(app: FastAPI) -> None:
    """Route every expected exception through the table."""

    async def handle(request: Request, error: Exception) -> Response:
        request_id = request.scope["state"]["request_id"]
        found = problem_of(error, request_id)
        if found.code == "internal_error":
            log_unexpected(error, request_id)
        if isinstance(error, RefusedError):
            request.state.refused = error.reason
        return found.response(request.headers.get("accept", ""), request_id)

    for kind in (
        InvalidRequestError,
        RequestValidationError,
        RefusedError,
        NotCachedError,
        GenerationFailedError,
        NotReplayableError,
        TextNeededError,
        UploadError,
        TooLateError,
        PictureFlaggedError,
        PictureUncheckedError,
        CheckerBehindError,
        NoHeatmapError,
        CacheUnavailable,
        ClientGoneError,
        HTTPException,
    ):
        app.add_exception_handler(kind, handle)
