"""The same route on LitServe, run by an interpreter that has it: `python -m benchmarks.http.with_litserve PORT`."""

import sys
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


if __name__ == "__main__":
    api = Pictures(api_path="/v1/images/generations")
    server = litserve.LitServer(api, accelerator="cpu", healthcheck_path="/readyz")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
