"""Multipart bodies: a few pictures and text fields, read within bounds and held to the same schema as JSON bodies."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.api.errors import ClientGoneError, InvalidRequestError

Body = TypeVar("Body", bound=BaseModel)
MOST_FIELDS = 64
MOST_FIELD_BYTES = 512 * 1024
TYPE = "multipart/form-data"
_BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class Form:
    """What a multipart body holds.

    Attributes:
        texts: fields by name; `cache[mode]` is `mode` in the object `cache`.
        files: bytes of pictures by name.
    """

    texts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def take(self, name: str) -> bytes:
        """Return a picture that must be there.

        Raises:
            InvalidRequestError: it is not.
        """
        if name not in self.files:
            raise InvalidRequestError(name, f"{name}: this field is required, as a file", code="missing")
        return self.files[name]

    def body(self, schema: type[Body]) -> Body:
        """Return the text fields as a checked body.

        Raises:
            RequestValidationError: a field is wrong.
        """
        try:
            return schema.model_validate_strings(self.texts)
        except ValidationError as error:
            found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
            raise RequestValidationError(found) from None


async def read_form(request: Request, files: tuple[str, ...]) -> Form:
    """Read a multipart body.

    Args:
        request: of the client.
        files: names of the pictures it may hold, one of each; OpenAI's clients write `image[]` for a list of one.

    Raises:
        InvalidRequestError: it is no multipart body, or not one that is accepted here.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != TYPE:
        message = f"the request body must be {TYPE}"
        raise InvalidRequestError(None, message, code="unsupported_media_type", status=415)
    try:
        form = await request.form(max_files=len(files) + 1, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD_BYTES)
    except HTTPException as error:
        if error.status_code != _BAD_REQUEST:  # too large, too slow
            raise
        raise _unreadable() from None
    except ClientDisconnect:
        raise ClientGoneError from None
    except (ValueError, LookupError, TypeError):
        raise _unreadable() from None
    try:
        return await _sorted(form, files)
    finally:
        await form.close()


async def _sorted(form: FormData, files: tuple[str, ...]) -> Form:
    found = Form()
    for name, value in form.multi_items():
        bare = name.removesuffix("[]")
        if isinstance(value, UploadFile):
            if bare not in files:
                raise InvalidRequestError(_shown(name), f"{_shown(name)}: no file is accepted here")
            if bare in found.files:
                raise InvalidRequestError(bare, f"{bare}: one picture only")
            found.files[bare] = await value.read()
        elif bare in files:
            raise InvalidRequestError(bare, f"{bare}: must be a file")
        else:
            _put(found.texts, name, value)
    return found


def _put(texts: dict[str, Any], name: str, value: str) -> None:
    """Add a text field; `a[b]` is field `b` of the object `a`."""
    outer, bracket, inner = name.partition("[")
    if bracket and inner.endswith("]") and outer:
        texts = texts.setdefault(outer, {})
        name = inner[:-1]
    if not isinstance(texts, dict) or name in texts:
        raise InvalidRequestError(_shown(outer), f"{_shown(outer)}: given more than once")
    texts[name] = value


def _shown(name: str) -> str:
    """Return a field's name, which is the client's own text: bounded, and made encodable."""
    return name[:100].encode(errors="replace").decode()


def _unreadable() -> InvalidRequestError:
    return InvalidRequestError(None, "the multipart body could not be read", code="invalid_multipart")
