"""`cache.diversity`: repeats of a prompt that differ, for almost the price of a head start."""

import base64
from typing import Any

import pytest
from service_live import Client

from service.pictures import decode

SHARE = 0.8


@pytest.fixture(scope="module")
def lamp(live_client: Client) -> str:
    """A prompt that was drawn in full."""
    prompt = "a paper lamp over a round table"
    assert live_client.cache(prompt)["verdict"] == "MISS"
    live_client.settle()
    return prompt


def _wish(diversity: float, **more: object) -> dict[str, Any]:
    # Nothing is stored, so that every picture starts from the first one's states.
    return {"mode": "approximate", "store": False, "diversity": diversity, **more}


def _pixels(drawn: dict[str, Any]) -> bytes:
    return decode(base64.b64decode(drawn["b64_json"])).tobytes()


def test_other_seeds_give_other_pictures_and_one_seed_the_same(client: Client, lamp: str) -> None:
    same = [client.draw(lamp, seed=seed, cache=_wish(0.0)) for seed in (101, 102)]
    mixed = [client.draw(lamp, seed=seed, cache=_wish(SHARE)) for seed in (101, 102, 101)]
    unseeded = [client.draw(lamp, cache={"diversity": SHARE, "store": False}) for _ in range(2)]
    assert len({_pixels(one) for one in same}) == 1
    assert len({_pixels(one) for one in (*same, *mixed, *unseeded)}) == 5
    plain = same[0]["cache"]
    for one in (*mixed, *unseeded):
        told = one["cache"]
        assert (told["verdict"], told["diversity"], told["seed_exact"]) == ("APPROX", SHARE, False)
        assert told["skipped_steps"] == plain["skipped_steps"] > 0
        assert told["wasted_steps"] == plain["wasted_steps"] + 1
        assert told["evaluations"] == plain["evaluations"] + 1
    assert plain["diversity"] == 0.0


def test_an_edited_prompt_is_judged_as_without(client: Client, lamp: str) -> None:
    edited = f"{lamp}, at night"
    plain, mixed = (client.cache(edited, seed=5, cache=_wish(share)) for share in (0.0, SHARE))
    assert plain["verdict"] == mixed["verdict"] == "APPROX"
    assert mixed["divergence"] == pytest.approx(plain["divergence"], rel=1e-3)
    assert (plain["diversity"], mixed["diversity"]) == (0.0, SHARE)


def test_every_one_is_replayed_bit_for_bit(client: Client, lamp: str) -> None:
    for prompt in (lamp, f"{lamp}, at noon"):
        drawn = client.draw(prompt, cache={"diversity": SHARE})
        record = client.http.get(f"/v1/generations/{drawn['id']}").json()
        assert (record["diversity"], record["verdict"]) == (SHARE, "APPROX")
        again = client.http.post(f"/v1/generations/{drawn['id']}/replay").json()
        assert (again["identical"], again["differing_versions"]) == (True, [])
        assert _pixels(again) == _pixels(drawn)
        client.settle()


def test_a_seed_still_promises_its_own_picture(client: Client) -> None:
    prompt = "a glass marble on velvet"
    first = client.draw(prompt, seed=1)
    client.settle()
    mixed = client.draw(prompt, seed=2, cache={"mode": "approximate", "diversity": SHARE})
    client.settle()
    assert mixed["cache"]["verdict"] == "APPROX"
    # What it left is nobody's exact hit: the seed stands for its full run.
    own = client.draw(prompt, seed=2, cache={"diversity": SHARE})
    assert (own["cache"]["verdict"], own["cache"]["reason"], own["cache"]["diversity"]) == ("MISS", "no-exact", 0.0)
    assert _pixels(own) not in (_pixels(mixed), _pixels(first))
    client.settle()
    for wish in ({"diversity": SHARE}, {"mode": "approximate", "diversity": SHARE}, {}):
        repeat = client.draw(prompt, seed=2, cache=wish)
        assert (repeat["cache"]["verdict"], repeat["cache"]["diversity"]) == ("EXACT", 0.0)
        assert _pixels(repeat) == _pixels(own)


def test_a_state_that_saves_but_one_step_is_no_use(client: Client, lamp: str) -> None:
    assert client.cache(lamp, cache=_wish(0.0, max_skip_ratio=0.13))["skipped_steps"] == 1
    told = client.cache(lamp, cache=_wish(SHARE, max_skip_ratio=0.13))
    assert (told["verdict"], told["reason"], told["wasted_steps"]) == ("MISS", "no-gain", 0)


def test_a_dry_run_reckons_with_the_step_it_takes(client: Client, lamp: str) -> None:
    def wasted(share: float) -> list[int]:
        body = {"prompt": f"{lamp}, at dawn", "cache": _wish(share)}
        answer = client.http.post("/v1/cache/explain", json=body).json()
        assert answer["verdict"] == "APPROX"
        return [outcome["wasted_steps"] for attempt in answer["attempts"] for outcome in attempt["outcomes"]]

    assert wasted(SHARE) == [steps + 1 for steps in wasted(0.0)]


@pytest.mark.parametrize("value", [-0.1, 1.01, "much", True])
def test_what_is_no_share_is_refused_by_name(client: Client, value: object) -> None:
    answer = client.post({"prompt": "a", "cache": {"diversity": value}})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "cache.diversity"
