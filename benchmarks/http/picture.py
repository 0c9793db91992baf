"""The answer that all systems give; needs nothing but Pillow, so that every interpreter can run it."""

import base64
import io
import time
from typing import Any

from PIL import Image

SIDE = 64


def answer() -> dict[str, Any]:
    """Encode one picture and return it as OpenAI's clients expect."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(buffer, "PNG")
    return {"created": int(time.time()), "data": [{"b64_json": base64.b64encode(buffer.getvalue()).decode()}]}
