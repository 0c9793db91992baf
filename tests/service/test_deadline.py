"""A picture that is late is given up, wherever it is on its way."""

from service_live import Client


def test_a_request_may_set_a_deadline(client: Client) -> None:
    wish = {"prompt": "a late cube", "num_inference_steps": 200, "deadline_seconds": 0.05, "cache": {"mode": "off"}}
    answer = client.post(wish)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    assert client.post({"prompt": "a punctual cube", "deadline_seconds": 300.0}).status_code == 200


def test_a_deadline_must_lie_ahead(client: Client) -> None:
    for bad in (0, -1.0, 1e9, "soon"):
        answer = client.post({"prompt": "a cube", "deadline_seconds": bad})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "deadline_seconds"
