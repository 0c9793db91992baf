"""The planner with the real store, embedder, engine and gate, in this process."""

import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from service_samples import request

from cache_store.types import CacheUnavailable, NoiseState
from policies.matching import Attempt, Candidate, MatchDecision, MatchingPolicy, StateRef
from service.assembly import Service, StartError, open_service
from service.engine.base import Progress
from service.generator import NotCachedError, Wish
from service.metrics import Metrics
from service.planner import Planner, resolved_mode
from service.settings import Settings
from service.types import CacheMode, CacheOptions, GenerationRequest, Verdict, VerdictKind

Opener = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def opened(tiny_model: Path, tables: Path, tmp_path: Path) -> Opener:
    @asynccontextmanager
    async def opener(table: str = "loose", **changes: object) -> AsyncIterator[Service]:
        fields = {
            "model": str(tiny_model),
            "engine": "local",
            "store_timeout_seconds": 20,
            "data_dir": tmp_path / "data",
        }
        fields |= {"matching_table": tables / f"{table}.json"}
        async with open_service(Settings(**{**fields, **changes}), Metrics()) as service:
            yield service

    return opener


async def draw(service: Service, wanted: GenerationRequest) -> Verdict:
    draw.count += 1
    picture = await service.generator.generate(replace(wanted, request_id=f"r{draw.count}"), Wish())
    await service.memory.flush()
    return picture.verdict


draw.count = 0


async def test_the_gate_refuses_what_similarity_proposes(opened: Opener) -> None:
    async with opened("strict") as service:
        await draw(service, request("a red cube on a table"))
        refused = await draw(service, request("a red cube on a chair"))
        assert (refused.kind, refused.reason) == (VerdictKind.MISS, "gate")
        assert refused.wasted >= 1
        assert refused.skipped == 0
        assert refused.divergence is not None
        assert refused.divergence > 1e-4
        assert refused.saved_gpu_seconds < 0
        repeated = await draw(service, request("a red cube on a table", seed=99))
        assert (repeated.kind, repeated.wasted) == (VerdictKind.APPROX, 0)
        with pytest.raises(NotCachedError):
            await draw(service, request("a red cube in a box", cache=CacheOptions(only_if_cached=True)))


async def test_a_picture_given_up_after_a_refusal_pays_every_step_it_got(opened: Opener) -> None:
    async with opened("strict") as service:
        await draw(service, request("a red cube on a table"))
        heard = []
        async with aclosing(service.generator.stream(request("a red cube on a chair"), Wish())) as events:
            async for event in events:
                if isinstance(event, Progress):
                    heard.append(event)
                    if (event.first_step, event.step) == (0, 2):
                        break
        # It was foreseen to skip more than it had drawn when it was given up.
        assert heard[0].first_step >= 2
        refused = next(event for event in heard if event.first_step == 0)
        given_up = service.metrics.registry.get_sample_value("headstart_given_up_gpu_seconds_total")
        assert given_up == heard[-1].denoise_seconds > refused.denoise_seconds > 0


@pytest.mark.parametrize(
    ("table", "changes", "reason"),
    [
        ("foreign", {}, "uncalibrated"),
        ("loose", {"matching_table": None}, "uncalibrated"),
        ("loose", {"quantise": "int8"}, "uncalibrated"),
        ("int8", {}, "uncalibrated"),
        ("loose", {"matching": "off"}, "matching-off"),
    ],
)
async def test_without_a_fitting_table_only_exact_repeats_hit(
    opened: Opener, table: str, changes: dict[str, object], reason: str
) -> None:
    async with opened(table, **changes) as service:
        await draw(service, request())
        assert (await draw(service, request())).reason == reason
        assert (await draw(service, request(seed_given=True))).kind is VerdictKind.EXACT


async def test_a_table_of_the_quantised_model_serves_it(opened: Opener) -> None:
    async with opened("int8", quantise="int8") as service:
        await draw(service, request())
        assert (await draw(service, request(seed=8))).kind is VerdictKind.APPROX


async def test_the_papers_table_has_no_gate(opened: Opener) -> None:
    async with opened(matching="paper") as service:
        await draw(service, request())
        verdict = await draw(service, request(seed=8))
        assert (verdict.kind, verdict.skipped) == (VerdictKind.APPROX, 4)


async def test_a_named_table_must_exist(opened: Opener, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="HEADSTART_MATCHING_TABLE"):
        async with opened(matching_table=tmp_path / "absent.json"):
            pass
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(StartError, match="broken"):
        async with opened(matching_table=tmp_path / "broken.json"):
            pass


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "/nowhere/model"}, "model"),
        ({"eviction": "magic"}, "magic"),
        ({"redis_url": "gopher://x"}, "redis_url"),
    ],
)
async def test_what_cannot_start_says_why_in_one_line(
    opened: Opener, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(StartError, match=complaint) as caught:
        async with opened(**changes):
            pass
    assert "\n" not in str(caught.value)


async def test_lost_states_mean_a_full_run(opened: Opener, tmp_path: Path) -> None:
    async with opened(ram_bytes=0) as service:
        await draw(service, request())
        for folder in (tmp_path / "data" / "objects").iterdir():
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
        verdict = await draw(service, request(seed=8))
        assert (verdict.kind, verdict.reason) == (VerdictKind.MISS, "state-unreadable")


async def test_another_text_is_judged_early_and_goes_deeper(opened: Opener) -> None:
    async with opened("early") as service:
        await draw(service, request("a red cube on a table", steps=10))
        hit = await draw(service, request("a red cube on a chair", steps=10, seed=8))
        assert (hit.kind, hit.skipped, hit.wasted) == (VerdictKind.APPROX, 5, 1)
        resumed, full = await service.store.recent("default", 2)
        assert full.uses == 2  # the state it was judged at, and the one it went on from
        assert resumed.states == ()  # nothing is captured after the deepest level
        again = await draw(service, request("a red cube on a table", steps=10, seed=9))
        assert (again.kind, again.skipped, again.wasted) == (VerdictKind.APPROX, 5, 0)


async def test_a_deeper_state_that_is_gone_costs_only_its_depth(opened: Opener) -> None:
    async with opened("early") as service:
        await draw(service, request("a red cube on a table", steps=10))
        loaded = service.store.load

        async def load(entry_id: int, ref: StateRef) -> NoiseState | None:
            return None if ref.skip > 0.45 else await loaded(entry_id, ref)

        service.store.load = load  # type: ignore[method-assign]
        hit = await draw(service, request("a red cube on a chair", steps=10, seed=8))
        assert (hit.kind, hit.skipped, hit.wasted) == (VerdictKind.APPROX, 4, 1)


async def test_states_of_long_chains_are_not_kept(opened: Opener) -> None:
    async with opened(max_depth=0) as service:
        await draw(service, request())
        await draw(service, request(seed=8))
        resumed, full = await service.store.recent("default", 2)
        assert full.depth == 0
        assert full.states
        assert (resumed.depth, len(resumed.states)) == (1, 0)
        assert full.uses == 1


async def test_later_states_of_a_resumed_run_are_kept(opened: Opener) -> None:
    async with opened() as service:
        await draw(service, request())
        cautious = CacheOptions(max_skip_ratio=0.3)
        assert (await draw(service, request(seed=8, cache=cautious))).skipped == 2
        resumed = (await service.store.recent("default", 1))[0]
        assert resumed.depth == 1
        assert resumed.states
        assert all(state.skip > 0.25 for state in resumed.states)


@pytest.mark.parametrize("form", ["final", "final-noise"])
async def test_the_same_text_resumes_from_a_clean_latent(opened: Opener, form: str) -> None:
    async with opened(state_form=form, state_codec="int8") as service:
        await draw(service, request())
        (source,) = await service.store.recent("default", 1)
        assert {ref.form for ref in source.states} == {"final"}
        assert (await service.store.stats()).states == 1
        hit = await draw(service, request(seed=8))
        assert (hit.kind, hit.skipped) == (VerdictKind.APPROX, 4)
        resumed, source = await service.store.recent("default", 2)
        assert (resumed.depth, source.uses) == (1, 1)
        assert await service.store.check_integrity() == []


async def test_kept_noise_lets_the_gate_judge_another_text(opened: Opener) -> None:
    kinds, shallow = {}, CacheOptions(max_skip_ratio=0.2)
    for form in ("trajectory", "final-noise"):
        async with opened(state_form=form, tenant=form) as service:
            await draw(service, request("a red cube on a table", tenant=form))
            kinds[form] = await draw(service, request("a red cube on a chair", seed=8, tenant=form, cache=shallow))
    mine, theirs = kinds["final-noise"], kinds["trajectory"]
    assert (mine.kind, mine.skipped) == (theirs.kind, theirs.skipped)
    assert mine.divergence == pytest.approx(theirs.divergence, abs=0.05)


async def test_auto_keeps_states_without_a_profile(opened: Opener) -> None:
    async with opened() as service:
        await draw(service, request())
        (source,) = await service.store.recent("default", 1)
        assert {ref.form for ref in source.states} == {"trajectory"}


async def test_tenants_never_meet(opened: Opener) -> None:
    async with opened() as service:
        await draw(service, request(tenant="one"))
        other = await draw(service, request(tenant="two"))
        assert (other.kind, other.reason) == (VerdictKind.MISS, "no-candidates")
        repeat = await draw(service, request(tenant="two", seed_given=True))
        assert repeat.kind is VerdictKind.EXACT
        stranger = await draw(service, request(tenant="three", seed_given=True))
        assert stranger.kind is VerdictKind.MISS


async def test_two_long_prompts_with_the_same_beginning_are_not_equal(opened: Opener) -> None:
    head = "a cube, " * 300
    async with opened() as service:
        await draw(service, request(head + "red", seed_given=True))
        assert (await draw(service, request(head + "blue", seed_given=True))).kind is VerdictKind.MISS


class FakeStore:
    """A store in whatever trouble a test wants."""

    def __init__(self, trouble: Exception, states: dict[int, NoiseState | None] | None = None) -> None:
        self.trouble = trouble
        self.states = states or {}

    async def find_exact(self, key: str) -> None:
        raise self.trouble

    async def search(self, *_: object, **__: object) -> list[Candidate]:
        if not self.states:
            raise self.trouble
        ref = StateRef(0.0, 0.5, has_prediction=True)
        return [Candidate(entry, 0.9, f"prompt {entry}", (ref,)) for entry in self.states]

    async def load(self, entry_id: int, state: StateRef) -> NoiseState:
        found = self.states[entry_id]
        if found is None:
            raise self.trouble
        return found


class FakeMatching(MatchingPolicy):
    """Tries every state of every candidate."""

    def choose(self, prompt: str, candidates: Sequence[Candidate], **_: float) -> MatchDecision:
        attempts = [Attempt(c.entry_id, ref, c.similarity, 0.1) for c in candidates for ref in c.states]
        return MatchDecision(tuple(attempts), "match")


class FakeEmbedder:
    digest = "e"

    async def embed(self, prompt: str) -> np.ndarray:
        return np.zeros(384, np.float32)


def _planner(store: FakeStore) -> Planner:
    from service_samples import INFO

    return Planner(store, FakeEmbedder(), FakeMatching(), INFO, capture=(0.5,), candidates=8)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed_given", [True, False])
@pytest.mark.parametrize(
    ("trouble", "reason"), [(CacheUnavailable("away"), "cache-unavailable"), (RuntimeError("a bug"), "cache-error")]
)
async def test_no_trouble_of_the_cache_reaches_the_client(trouble: Exception, reason: str, seed_given: bool) -> None:
    plan = await _planner(FakeStore(trouble)).plan(request(seed_given=seed_given))
    assert (plan.kind, plan.reason) == (VerdictKind.MISS, reason)
    assert plan.job is not None
    assert plan.job.resume == ()


def _state(channels: int = 4, *, value: float = 0.0, predicted: bool = True) -> NoiseState:
    latent = np.full((channels, 16, 16), value, np.float16)
    return NoiseState(latent, 0.0, 500.0, 0.5, latent[:, ::2, ::2] if predicted else None)


async def test_holes_in_the_first_candidate_do_not_matter() -> None:
    away = CacheUnavailable("away")
    plan = await _planner(
        FakeStore(away, {1: None, 2: _state(channels=3), 3: _state(value=np.nan), 4: _state()})
    ).plan(request())
    assert plan.kind is VerdictKind.APPROX
    assert [neighbour.entry_id for neighbour in plan.neighbours] == [4]
    assert plan.job is not None
    assert len(plan.job.resume) == len(plan.attempts) == 1


async def test_a_state_the_gate_cannot_judge_serves_only_its_own_prompt() -> None:
    store = FakeStore(CacheUnavailable("away"), {1: _state(predicted=False)})
    assert (await _planner(store).plan(request("another prompt"))).reason == "state-unreadable"
    assert (await _planner(store).plan(request("prompt 1"))).kind is VerdictKind.APPROX


@pytest.mark.parametrize(
    ("mode", "seed_given", "resolved"),
    [
        (CacheMode.AUTO, True, CacheMode.EXACT),
        (CacheMode.AUTO, False, CacheMode.APPROXIMATE),
        (CacheMode.APPROXIMATE, True, CacheMode.APPROXIMATE),
        (CacheMode.EXACT, False, CacheMode.EXACT),
        (CacheMode.OFF, True, CacheMode.OFF),
    ],
)
def test_a_given_seed_promises_its_own_picture(mode: CacheMode, seed_given: bool, resolved: CacheMode) -> None:
    assert resolved_mode(request(seed_given=seed_given, cache=CacheOptions(mode=mode))) is resolved
