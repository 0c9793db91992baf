"""What the cache does for one request after another, over HTTP. A negative prompt of its own isolates each test."""

import base64

import pytest
from service_live import Client


def test_miss_then_approximate(client: Client) -> None:
    first = client.draw("a red cube on a table", negative_prompt="flow1")
    assert first["cache"]["verdict"] == "MISS"
    assert first["cache"]["reason"] == "no-candidates"
    assert first["cache"]["skipped_steps"] == 0
    assert (first["cache"]["entry"], first["cache"]["evaluations"]) == (None, 8)
    assert first["cache"]["stored"]
    client.settle()
    second = client.draw("on a table there is a red cube", negative_prompt="flow1")
    cache = second["cache"]
    assert cache["verdict"] == "APPROX"
    assert 0 < cache["skipped_steps"] <= 4
    assert cache["steps"] == 8
    assert cache["entry"] == "exact"
    assert cache["evaluations"] == 8 - cache["skipped_steps"] + cache["wasted_steps"]
    assert 0.6 < cache["similarity"] < 1.0
    assert cache["divergence"] > 0.0
    assert cache["source"]["prompt"] == "a red cube on a table"
    assert cache["saved_gpu_seconds"] > 0.0
    assert not cache["seed_exact"]


def test_what_feature_caching_did_is_told_beside_the_cache(client: Client) -> None:
    policies = client.http.get("/v1/models/tiny").json()["feature_policies"]
    plain = client.draw("a plain cube", negative_prompt="flow18")["feature_cache"]
    assert plain == {
        "policy": "off",
        "strength": None,
        "requested": "off",
        "computed": 8,
        "reused": 0,
        "compute_share": 1.0,
        "reason": None,
    }
    body = {"prompt": "a plain cube", "negative_prompt": "flow18", "feature_cache": "auto", "n": 2}
    answer = client.post({**body, "cache": {"mode": "off"}})
    told = answer.json()["data"][0]["feature_cache"]
    reason = "uncalibrated" if policies else "unsupported"
    assert (told["policy"], told["requested"], told["reason"]) == ("off", "auto", reason)
    assert answer.json()["feature_cache"] == {"policies": {"off": 2}, "computed": 16, "reused": 0}
    assert answer.headers["x-headstart-feature-cache"] == "off;compute=1.000, off;compute=1.000"
    assert client.metric("headstart_feature_cache_requests_total", policy="auto", outcome=reason) == 2


def test_a_policy_of_feature_caching_runs(client: Client) -> None:
    wish = {"negative_prompt": "flow19", "seed": 4}
    before = client.metric("headstart_feature_evaluations_total", outcome="reused")
    plain = client.draw("a thrifty cube", **wish)
    client.settle()
    drawn = client.draw("a thrifty cube", feature_cache={"policy": "deepcache", "strength": 0.5}, **wish)
    told = drawn["feature_cache"]
    assert (told["policy"], told["strength"], told["reason"]) == ("deepcache", 0.5, None)
    assert told["computed"] + told["reused"] == drawn["cache"]["evaluations"] == 8
    assert told["reused"] > 0
    assert 0.0 < told["compute_share"] < 1.0
    assert drawn["cache"]["verdict"] == "MISS"
    assert drawn["b64_json"] != plain["b64_json"]
    client.settle()
    marked = client.http.get("/v1/cache/entries", params={"limit": 1}).json()["data"][0]
    assert marked["approximated_states"]
    again = client.draw("a thrifty cube", feature_cache={"policy": "deepcache", "strength": 0.5}, **wish)
    assert (again["cache"]["verdict"], again["b64_json"]) == ("EXACT", drawn["b64_json"])
    assert client.metric("headstart_feature_evaluations_total", outcome="reused") == before + told["reused"]
    assert client.metric("headstart_saved_feature_seconds_total") > 0
    assert client.metric("headstart_feature_state_bytes") == 0


def test_a_repeat_without_a_seed_resumes_deep(client: Client) -> None:
    client.draw("a repeated cube", negative_prompt="flow2")
    client.settle()
    cache = client.cache("a repeated cube", negative_prompt="flow2")
    assert (cache["verdict"], cache["skipped_steps"]) == ("APPROX", 4)
    assert cache["similarity"] == pytest.approx(1.0)


def test_the_same_seed_is_the_same_picture(client: Client) -> None:
    first = client.draw("a seeded cube", negative_prompt="flow3", seed=11)
    assert (first["cache"]["verdict"], first["cache"]["reason"]) == ("MISS", "no-exact")
    client.settle()
    again = client.draw("a seeded cube", negative_prompt="flow3", seed=11)
    cache = again["cache"]
    assert (cache["verdict"], cache["skipped_steps"], cache["seed_exact"]) == ("EXACT", 8, True)
    assert again["b64_json"] == first["b64_json"]
    assert cache["saved_gpu_seconds"] > 0.0
    # Another seed, or any other detail, is another picture; a given seed allows no approximate hit.
    for change in ({"seed": 12}, {"num_inference_steps": 7}, {"guidance_scale": 2.5}, {"scheduler": "dpmpp_2m"}):
        wish = {"seed": 11, "negative_prompt": "flow3", **change}
        assert client.cache("a seeded cube", **wish)["verdict"] == "MISS"


def test_a_repeat_saves_what_its_own_picture_took(client: Client) -> None:
    wish = {"prompt": "a small seeded cube", "negative_prompt": "flow20", "seed": 11, "size": "16x16"}
    first = client.post(wish)
    took = float(first.headers["X-Denoise-Time"])
    client.settle()
    saved = client.cache(**wish)["saved_gpu_seconds"]
    assert saved == pytest.approx(took, abs=1e-3)
    assert saved > 0
    client.draw("a large cube", size="64x64", num_inference_steps=20, cache={"mode": "off"})
    assert client.cache(**wish)["saved_gpu_seconds"] == saved


def test_a_reported_seed_repeats_the_picture(client: Client) -> None:
    first = client.draw("a lottery cube", negative_prompt="flow4")
    client.settle()
    again = client.draw("a lottery cube", negative_prompt="flow4", seed=first["seed"])
    assert again["cache"]["verdict"] == "EXACT"
    assert again["b64_json"] == first["b64_json"]


def test_a_resumed_picture_never_answers_for_its_seed(client: Client) -> None:
    client.draw("a green cube by a lake", negative_prompt="flow5")
    client.settle()
    resumed = client.draw("a green cube beside a lake", negative_prompt="flow5")
    assert resumed["cache"]["verdict"] == "APPROX"
    client.settle()
    exact = client.draw("a green cube beside a lake", negative_prompt="flow5", seed=resumed["seed"])
    assert exact["cache"]["verdict"] == "MISS"


def test_an_exact_hit_in_another_format(client: Client) -> None:
    client.draw("a portable cube", negative_prompt="flow6", seed=3, output_format="webp")
    client.settle()
    again = client.draw("a portable cube", negative_prompt="flow6", seed=3, output_format="jpeg")
    assert again["cache"]["verdict"] == "EXACT"
    assert base64.b64decode(again["b64_json"]).startswith(b"\xff\xd8")


def test_off_neither_reads_nor_writes(client: Client) -> None:
    client.draw("a private cube", negative_prompt="flow7", seed=5)
    client.settle()
    before = client.entries()
    for _ in range(2):
        cache = client.cache("a private cube", negative_prompt="flow7", seed=5, cache={"mode": "off"})
        assert (cache["verdict"], cache["stored"], cache["source"]) == ("BYPASS", False, None)
    client.settle()
    assert client.entries() == before


def test_exact_mode_without_a_seed_has_nothing_to_repeat(client: Client) -> None:
    client.draw("a strict cube", negative_prompt="flow8")
    client.settle()
    cache = client.cache("a strict cube", negative_prompt="flow8", cache={"mode": "exact"})
    assert (cache["verdict"], cache["reason"]) == ("MISS", "no-seed")


def test_approximate_mode_with_a_seed_may_resume(client: Client) -> None:
    client.draw("a mixed cube on grass", negative_prompt="flow9", seed=1)
    client.settle()
    wish = {"negative_prompt": "flow9", "seed": 2, "cache": {"mode": "approximate"}}
    cache = client.cache("a mixed cube on grass", **wish)
    assert (cache["verdict"], cache["seed_exact"]) == ("APPROX", False)
    wish = {"negative_prompt": "flow9", "seed": 1, "cache": {"mode": "approximate"}}
    assert client.cache("a mixed cube on grass", **wish)["verdict"] == "EXACT"


def test_the_clients_own_bounds_hold(client: Client) -> None:
    client.draw("a bounded cube in snow", negative_prompt="flow10")
    client.settle()
    wish = {"negative_prompt": "flow10", "cache": {"max_skip_ratio": 0.3, "store": False}}
    assert 0 < client.cache("a bounded cube in snow", **wish)["skipped_steps"] <= 3
    wish = {"negative_prompt": "flow10", "cache": {"max_skip_ratio": 0.0, "store": False}}
    assert client.cache("a bounded cube in snow", **wish)["verdict"] == "MISS"
    wish = {"negative_prompt": "flow10", "cache": {"min_similarity": 0.999, "store": False}}
    cache = client.cache("in snow there is a bounded cube", **wish)
    assert (cache["verdict"], cache["reason"]) == ("MISS", "low-similarity")


def test_no_cache_refreshes(client: Client) -> None:
    wish = {"negative_prompt": "flow11", "seed": 9}
    client.draw("a stale cube", **wish)
    client.settle()
    cache = client.cache("a stale cube", headers={"Cache-Control": "no-cache"}, **wish)
    assert (cache["verdict"], cache["stored"]) == ("REFRESH", True)


def test_no_store_is_not_remembered(client: Client) -> None:
    wish = {"negative_prompt": "flow12", "seed": 9}
    for options in ({"headers": {"Cache-Control": "no-store"}}, {"cache": {"store": False}}):
        assert not client.cache("a secret cube", **options, **wish)["stored"]
    client.settle()
    assert client.cache("a secret cube", **wish)["verdict"] == "MISS"


def test_only_if_cached(client: Client) -> None:
    header = {"Cache-Control": "only-if-cached"}
    body = {"prompt": "a cube from the shelf", "negative_prompt": "flow13"}
    answer = client.post(body, headers=header)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "not_cached"
    assert answer.headers["x-should-retry"] == "false"
    client.post(body)
    client.settle()
    assert client.post(body, headers=header).headers["x-headstart-cache"] == "APPROX"


def test_partitions_never_mix(client: Client) -> None:
    client.draw("a lonely cube", negative_prompt="flow14", guidance_scale=2.0)
    client.settle()
    for change in ({"negative_prompt": "flow14 too"}, {"size": "48x32"}, {"guidance_scale": 7.0}):
        wish = {"negative_prompt": "flow14", **change}
        assert client.cache("a lonely cube", **wish)["reason"] == "no-candidates"


def test_a_state_serves_other_step_counts_and_solvers(client: Client) -> None:
    client.draw("a general cube", negative_prompt="flow15")
    client.settle()
    wish = {"negative_prompt": "flow15", "num_inference_steps": 20, "scheduler": "dpmpp_2m"}
    cache = client.cache("a general cube", **wish)
    assert (cache["verdict"], cache["entry"]) == ("APPROX", "first-order restart")
    assert 0 < cache["skipped_steps"] <= 10


def test_a_state_serves_a_solver_that_evaluates_twice_a_step(client: Client) -> None:
    client.draw("a doubled cube", negative_prompt="flow20")
    client.settle()
    cache = client.cache("a doubled cube", negative_prompt="flow20", num_inference_steps=20, scheduler="heun")
    assert (cache["verdict"], cache["entry"]) == ("APPROX", "exact")
    assert cache["evaluations"] == 2 * (20 - cache["skipped_steps"]) - 1


def test_several_pictures_in_one_answer(client: Client) -> None:
    client.draw("a summed cube", negative_prompt="flow16")
    client.settle()
    answer = client.post({"prompt": "a summed cube", "negative_prompt": "flow16", "n": 3})
    summary = answer.json()["cache"]
    assert summary["verdicts"] == {"APPROX": 3}
    assert (summary["steps"], summary["skipped_steps"]) == (24, 12)
    assert answer.headers["cache-status"] == 'headstart; hit; detail="n=3; approx=3"'


def test_entries_can_be_looked_at(client: Client) -> None:
    drawn = client.draw("a visible cube", negative_prompt="flow17", seed=4)
    client.settle()
    newest = client.http.get("/v1/cache/entries", params={"limit": 1}).json()["data"][0]
    assert (newest["prompt"], newest["seed"], newest["has_image"]) == ("a visible cube", 4, True)
    assert newest["states"]
    assert client.http.get(f"/v1/cache/entries/{newest['id']}").json() == newest
    picture = client.http.get(f"/v1/cache/entries/{newest['id']}/image")
    assert picture.headers["content-type"] == "image/png"
    assert picture.content == base64.b64decode(drawn["b64_json"])
