"""The same route on LitServe, run by an interpreter that has it: `python -m benchmarks.http.with_litserve PORT`."""

import os
import signal
import sys
from types import FrameType
from typing import Any

import litserve

from benchmarks.http.picture import answer


class Pictures(litserve.LitAPI):  # type: ignore[misc]
    """Returns the picture."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def decode_request(self, request: dict[str, Any]) -> str:
        """Return the prompt."""
        return str(request["prompt"])

    def predict(self, prompt: str) -> dict[str, Any]:
        """Return the picture."""
        return answer()

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return it as it is."""
        return output


def _end(number: int, frame: FrameType | None) -> None:
    # Its workers would outlive it.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, _end)
    api = Pictures(api_path="/v1/images/generations")
    server = litserve.LitServer(api, accelerator="cpu", healthcheck_path="/readyz")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
