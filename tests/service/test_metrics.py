import asyncio
import socket

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_live import Client

EXPECTED = {
    "headstart_requests",
    "headstart_request_duration_seconds",
    "headstart_queue_wait_seconds",
    "headstart_cache_lookups",
    "headstart_cache_similarity",
    "headstart_cache_divergence",
    "headstart_cache_skipped_steps",
    "headstart_cache_wasted_steps",
    "headstart_denoise_steps",
    "headstart_cache_saved_gpu_seconds",
    "headstart_gpu_seconds",
    "headstart_cache_entries",
    "headstart_cache_states",
    "headstart_cache_bytes",
    "headstart_cache_evictions",
    "headstart_cache_repairs",
    "headstart_stage_seconds",
    "headstart_denoise_step_seconds",
    "headstart_batch_size",
    "headstart_queue_depth",
    "headstart_active_jobs",
    "headstart_engine_restarts",
    "headstart_cache_available",
    "headstart_cancelled",
    "headstart_feature_cache_requests",
    "headstart_feature_evaluations",
    "headstart_feature_state_bytes",
    "headstart_feature_compute_share",
    "headstart_saved_feature_seconds",
}


def test_every_promised_metric_is_there(client: Client) -> None:
    client.draw("a counted cube", negative_prompt="metrics0")
    families = {family.name for family in text_string_to_metric_families(client.http.get("/metrics").text)}
    assert families >= EXPECTED
    assert all(name.startswith("headstart_") for name in families)


def test_a_miss_and_a_hit_move_what_they_should(client: Client) -> None:
    names = {
        "misses": ("headstart_cache_lookups_total", {"verdict": "MISS", "reason": "no-candidates"}),
        "hits": ("headstart_cache_lookups_total", {"verdict": "APPROX", "reason": "match"}),
        "run": ("headstart_denoise_steps_total", {}),
        "skipped": ("headstart_cache_skipped_steps_total", {}),
        "saved": ("headstart_cache_saved_gpu_seconds_total", {}),
        "spent": ("headstart_gpu_seconds_total", {}),
        "entries": ("headstart_cache_entries", {}),
        "similarities": ("headstart_cache_similarity_count", {}),
        "divergences": ("headstart_cache_divergence_count", {}),
        "encoded": ("headstart_stage_seconds_count", {"stage": "encode"}),
        "answered": (
            "headstart_requests_total",
            {"route": "/v1/images/generations", "status": "200", "cache": "APPROX"},
        ),
    }
    before = {key: client.metric(name, **labels) for key, (name, labels) in names.items()}
    client.draw("a cube that moves", negative_prompt="metrics1")
    client.settle()
    client.draw("a cube that moves", negative_prompt="metrics1")
    client.settle()
    moved = {key: client.metric(name, **labels) - before[key] for key, (name, labels) in names.items()}
    assert (moved["misses"], moved["hits"], moved["answered"]) == (1, 1, 1)
    assert (moved["run"], moved["skipped"]) == (12, 4)
    assert moved["saved"] > 0
    assert moved["spent"] > 0
    assert (moved["entries"], moved["similarities"], moved["divergences"], moved["encoded"]) == (2, 1, 1, 2)


def test_labels_hold_no_prompt_and_no_id(client: Client) -> None:
    client.http.get("/v1/cache/entries/123456789/image")
    client.http.get("/wp-admin/login.php")
    client.http.get("/some-page-nobody-has")
    text = client.http.get("/metrics").text
    assert "cube" not in text
    assert "123456789" not in text
    assert "wp-admin" not in text
    assert "some-page" not in text
    assert 'route="unmatched"' in text


def test_stats_add_up(client: Client) -> None:
    client.draw("a cube in the sum", negative_prompt="metrics2")
    stats = client.http.get("/v1/stats").json()
    assert stats["requests"] == sum(stats["verdicts"].values())
    assert stats["steps_total"] >= stats["skipped_steps"]
    assert (stats["model"], stats["default_steps"], stats["default_guidance"]) == ("tiny", 8, 2.0)
    assert stats["cache"]["available"]
    assert stats["engine"]["ready"]


def test_health(client: Client) -> None:
    assert client.http.get("/livez").json() == {"status": "ok"}
    ready = client.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "engine": "ok", "cache": "ok", "safety": "off"}


def test_the_description_is_complete(client: Client) -> None:
    document = client.http.get("/openapi.json").json()
    operation = document["paths"]["/v1/images/generations"]["post"]
    assert {"200", "400", "404", "413", "429", "500", "503", "504"} <= set(operation["responses"])
    assert "HTTPValidationError" not in str(operation["responses"])
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("GenerationAnswer")
    body = document["components"]["schemas"]["GenerationBody"]
    assert body["additionalProperties"] is False
    assert all("description" in field for field in body["properties"].values())
    assert "text/event-stream" in document["paths"]["/v1/generations/events"]["post"]["responses"]["200"]["content"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize("path", ["/", "/index.html", "/page/", "/app.js", "/page/app.js", "/style.css"])
def test_the_page_is_served(client: Client, path: str) -> None:
    answer = client.http.get(path)
    assert answer.status_code == 200
    assert answer.content


async def test_the_event_loop_stays_free_under_load(client: Client) -> None:
    body = {"prompt": "a busy cube", "cache": {"mode": "off"}, "n": 4}
    async with httpx.AsyncClient(base_url=client.server.url, timeout=60) as http:
        drawing = [asyncio.create_task(http.post("/v1/images/generations", json=body)) for _ in range(4)]
        slowest = 0.0
        while not all(task.done() for task in drawing):
            slowest = max(slowest, (await http.get("/livez")).elapsed.total_seconds())
            await asyncio.sleep(0.01)
        assert all(task.result().status_code == 200 for task in drawing)
    assert slowest < 2.0
    sizes = [
        (sample.labels["le"], sample.value)
        for family in text_string_to_metric_families(client.http.get("/metrics").text)
        if family.name == "headstart_batch_size"
        for sample in family.samples
        if sample.name.endswith("_bucket")
    ]
    assert float(sizes[-2][0]) > 1, "requests at different steps never shared a batch"


def test_a_client_that_leaves_in_the_middle_of_its_body_is_gone_not_wrong(client: Client) -> None:
    def counts() -> tuple[float, float]:
        labels = {"route": "/v1/images/generations", "cache": "none"}
        gone, wrong = (client.metric("headstart_requests_total", status=code, **labels) for code in ("499", "400"))
        return gone, wrong

    gone, wrong = counts()
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90"
    with socket.create_connection(("127.0.0.1", client.server.port)) as connection:
        connection.sendall(f'{head}\r\n\r\n{{"prompt": "half a '.encode())
    client.server.wait(lambda: sum(counts()) > gone + wrong, "counted")
    assert counts() == (gone + 1, wrong)
