"""What is unusual and still right is served."""

import pytest
from service_live import Client

OFF = {"cache": {"mode": "off"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"num_inference_steps": 1},
        {"num_inference_steps": 2},
        {"guidance_scale": 0},
        {"guidance_scale": 1.0},
        {"guidance_scale": 30},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"scheduler": "dpmpp_2m"},
        {"size": "auto"},
        {"size": "36x48"},
        {"prompt": "é ñ 漢字 🎈 \u202eright to left"},
        {"prompt": "x" * 4000},
        {"negative_prompt": ""},
        {"n": None, "size": None, "seed": None, "cache": None, "guidance_scale": None},
        {"quality": "standard", "style": "vivid", "moderation": "auto", "background": "opaque", "user": "me"},
        {"stream": False, "partial_images": 0, "response_format": "b64_json"},
        {"output_format": "png", "output_compression": 0},
        {"cache": {}},
        {"cache": {"mode": "auto", "min_similarity": 1, "max_skip_ratio": 0, "store": False}},
    ],
    ids=lambda fields: str(fields)[:50],
)
def test_it_is_drawn(client: Client, fields: dict[str, object]) -> None:
    body = {"prompt": "an edge", "num_inference_steps": 2, "negative_prompt": "edges", **fields}
    answer = client.post(body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["b64_json"]


def test_ten_pictures(client: Client) -> None:
    answer = client.post({"prompt": "ten edges", "n": 10, "num_inference_steps": 1, **OFF})
    items = answer.json()["data"]
    assert len({item["seed"] for item in items}) == 10


def test_a_prompts_spaces_are_part_of_it(client: Client) -> None:
    client.draw("spaced", seed=1, negative_prompt="edges")
    client.settle()
    assert client.cache("spaced", seed=1, negative_prompt="edges")["verdict"] == "EXACT"
    assert client.cache(" spaced", seed=1, negative_prompt="edges")["verdict"] == "MISS"


def test_few_steps_leave_states_for_many(client: Client) -> None:
    client.draw("a sparse cube", num_inference_steps=2, negative_prompt="edges2")
    client.settle()
    cache = client.cache("a sparse cube", num_inference_steps=40, negative_prompt="edges2")
    assert (cache["verdict"], cache["skipped_steps"]) == ("APPROX", 20)
