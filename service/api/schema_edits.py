"""What clients send to have a picture drawn over: the text fields of multipart bodies, and how OpenAPI shows them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from service.api.schema import GenerationBody, LoraBody, Share, Text

EDIT_STRENGTH = 0.8
VARIATION_STRENGTH = 0.6
_NOT_HERE = ("lora", "stream", "partial_images")


def _no_streaming(asked: bool) -> bool:
    if asked:
        raise ValueError("edits are not streamed")
    return asked


class EditBody(GenerationBody):
    """OpenAI's image edit request, with strict extras; the pictures come beside it, as files."""

    strength: Share = Field(
        default=EDIT_STRENGTH,
        description="Share of the steps that are run on the picture, noised that far: small keeps it, 1 leaves next "
        f"to nothing of it (default {EDIT_STRENGTH}).",
    )
    size: Text | None = Field(
        default=None,
        description="`WIDTHxHEIGHT`; `auto` (default): the picture's own where the model can draw that, else the "
        "model's. A picture of another size is scaled to cover it and cut around its centre.",
    )
    input_fidelity: Literal["high", "low"] | None = Field(default=None, description="Ignored.")
    lora: list[LoraBody] | None = Field(default=None, max_length=0)
    # A form's "false" and "0" are texts, which a literal would not take.
    stream: Annotated[bool, AfterValidator(_no_streaming)] | None = None
    partial_images: Annotated[int, Field(ge=0, le=0)] | None = None


class VariationBody(EditBody):
    """OpenAI's image variation request, with strict extras."""

    prompt: Text = Field(default="", description="What to draw (default: nothing said).")
    strength: Share = Field(
        default=VARIATION_STRENGTH,
        description="Share of the steps that are run on the picture, noised that far "
        f"(default {VARIATION_STRENGTH}).",
    )


def form_of(body: type[BaseModel], **files: str) -> dict[str, Any]:
    """Return the request body of a route, for OpenAPI: the fields of a schema, and files with what each is."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    for name in _NOT_HERE:
        schema["properties"].pop(name, None)
    parts = {"cache": "CacheBody", "feature_cache": "FeatureCacheBody"}
    for name in parts:
        schema["properties"][name]["description"] += f" As fields `{name}[…]`."
    about = {name: {"type": "string", "format": "binary", "description": text} for name, text in files.items()}
    schema["properties"] = about | schema["properties"]
    schema["required"] = ["image", *schema.get("required", [])]
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
