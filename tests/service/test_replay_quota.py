"""A replay costs device time, so its tenant's quota pays for it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_live import Client, LiveServer, live

MOST_REPLAYS = 400
WISH = {"num_inference_steps": 8, "seed": 3}


@pytest.fixture(scope="module")
def rationed(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service whose only tenant has some device time, and no more for a long while."""
    folder = tmp_path_factory.mktemp("rationed-replays")
    quota = {"quota_gpu_seconds": "1", "quota_window_seconds": "86400"}
    with live(folder, model=str(resuming_model), threads="1", **quota) as running:
        yield running


def _replay(client: Client, generation: str) -> httpx.Response:
    return client.http.post(f"/v1/generations/{generation}/replay")


def test_replays_use_up_the_quota(rationed: LiveServer) -> None:
    client = Client(rationed)
    generation = client.draw("the only cube", **WISH)["id"]
    client.settle()
    answers = [_replay(client, generation)]
    while answers[-1].status_code == 200 and len(answers) < MOST_REPLAYS:
        answers.append(_replay(client, generation))
    *replayed, refused = answers
    assert [one.json()["identical"] for one in replayed] == [True] * len(replayed)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    assert len(replayed) > 0
    assert client.post({"prompt": "a cube too many", **WISH}).status_code == 429
    assert client.metric("headstart_pictures_in_work") == 0
    client.http.close()
