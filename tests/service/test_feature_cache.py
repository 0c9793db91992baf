"""Feature caching as a wish: checked, resolved, told, counted, remembered. Policies themselves are not run here."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from service_samples import CAPTURE, INFO, plan, request, result

from cache_store.types import NoiseState, StoreStats
from policies.features.artefact import digest_of
from policies.features.choice import FeatureChoice, FeatureReport
from policies.features.front import Front, FrontError, FrontKey, FrontPoint
from policies.matching import Candidate, StateRef
from service.access import ANONYMOUS_RIGHTS, Identity
from service.api.app import create_app
from service.api.bodies import plan_event
from service.api.errors import InvalidRequestError
from service.api.schema import GenerationBody
from service.api.verdict_headers import headers_of
from service.api.wishes import feature_wish, order_of
from service.assembly import Service, StartError, engine_config, feature_caching, open_service
from service.engine import EngineConfig, make_engine
from service.engine.base import Engine, EngineStats, JobEvent, JobResult, JobSpec, Lora, ModelInfo
from service.features import FeatureCaching, load_front
from service.gauges import Gauges
from service.generator import Picture
from service.keys import exact_key
from service.metrics import Metrics
from service.planner import Planner
from service.settings import Settings
from service.totals import Totals
from service.types import CacheMode, CacheOptions, FeaturePlan, FeatureVerdict, FeatureWish, Verdict, VerdictKind
from service.verdicts import exact_verdict, run_verdict

POLICIES = ("cfg-cache", "deepcache", "deepcache-nonuniform", "output-interval")
CACHING = replace(INFO, feature_policies=POLICIES)
CHOICE = FeatureChoice("deepcache", 0.4)
REPORT = FeatureReport("deepcache", 0.4, None, computed=3, reused=5, compute_share=0.5, state_bytes=10)
ASKED = FeaturePlan("auto", CHOICE)


# ---- the request ----

SOMEBODY = Identity("default", ANONYMOUS_RIGHTS)


def _wish(body: object, info: ModelInfo = CACHING, **settings: object) -> FeatureWish:
    fields = {"prompt": "a red cube"} if body is None else {"prompt": "a red cube", "feature_cache": body}
    return feature_wish(GenerationBody(**fields).feature_cache, info, Settings(**settings))


@pytest.mark.parametrize(
    ("body", "wish"),
    [
        (None, FeatureWish("off", 0.5, 0.99)),
        ("off", FeatureWish("off", 0.5, 0.99)),
        ("auto", FeatureWish("auto", 0.5, 0.99)),
        ("deepcache", FeatureWish("deepcache", 0.5, 0.99)),
        ("deepcache+cfg-cache", FeatureWish("cfg-cache+deepcache", 0.5, 0.99)),
        ({"policy": "deepcache", "strength": 1}, FeatureWish("deepcache", 1.0, 0.99)),
        ({"policy": "auto", "min_quality": 0.9}, FeatureWish("auto", 0.5, 0.9)),
    ],
)
def test_a_wish_is_a_name_or_an_object(body: object, wish: FeatureWish) -> None:
    assert _wish(body) == wish


def test_without_a_wish_the_services_own_holds() -> None:
    service = {"feature_cache": "deepcache+cfg-cache", "feature_strength": 0.8, "feature_min_quality": 0.95}
    assert _wish(None, **service) == FeatureWish("cfg-cache+deepcache", 0.8, 0.95)
    assert _wish("off", **service).policy == "off"
    assert _wish({"policy": "auto", "strength": 0.1}, **service) == FeatureWish("auto", 0.1, 0.95)
    order = order_of(GenerationBody(prompt="a", n=2), "", CACHING, Settings(**service), SOMEBODY)
    assert [one.features.strength for one in order.requests] == [0.8, 0.8]


@pytest.mark.parametrize(
    ("policy", "info"),
    [
        ("magic", CACHING),
        ("", CACHING),
        ("deepcache+", CACHING),
        ("deepcache+magic", CACHING),
        ("off+deepcache", CACHING),
        ("auto+deepcache", CACHING),
        ("Deepcache", CACHING),
        ("deepcache+deepcache", CACHING),
        ("deepcache+deepcache-nonuniform", CACHING),
        ("taylorseer", CACHING),
        ("deepcache", replace(CACHING, architecture="transformer")),
        ("deepcache", INFO),
    ],
)
def test_what_the_model_cannot_run_is_refused(policy: str, info: ModelInfo) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _wish(policy, info)
    assert (caught.value.param, caught.value.status) == ("feature_cache.policy", 400)
    assert "off" in caught.value.message
    assert "magic" not in caught.value.message
    assert all(name in caught.value.message for name in info.feature_policies)


# ---- what a wish becomes ----


def _front_file(folder: Path, **changes: object) -> None:
    """Write a front: at quality 0.98 deepcache 0.4 for full runs of 8 ddim steps, cfg-cache behind half of them."""
    folder.mkdir(parents=True, exist_ok=True)
    key = {name: getattr(INFO, name) for name in ("weights_digest", "schedule", "width", "height", "dtype")}
    key["guidance"] = request().guidance_scale
    points = (
        FrontPoint("ddim", 8, "cfg-cache", 0.3, skip=0.0, speedup=1.2, quality=0.99, lower95=0.95),
        FrontPoint("ddim", 8, "deepcache", 0.4, skip=0.0, speedup=2.0, quality=0.98, lower95=0.9),
        FrontPoint("ddim", 8, "cfg-cache", 0.3, skip=0.5, speedup=1.5, quality=0.98, lower95=0.9),
    )
    Front(FrontKey(**{**key, **changes}), points).save(folder / "front.json")


def _auto(caching: FeatureCaching, min_quality: float = 0.9, skip: float = 0.0, **changes: object) -> FeaturePlan:
    return caching.resolve(request(features=FeatureWish("auto", min_quality=min_quality), **changes), skip)


def test_auto_chooses_on_the_front(tmp_path: Path) -> None:
    _front_file(tmp_path)
    caching = FeatureCaching(CACHING, load_front(tmp_path, CACHING))
    assert _auto(caching) == FeaturePlan("auto", CHOICE)
    assert _auto(caching, 0.985).choice == FeatureChoice("cfg-cache", 0.3)
    assert _auto(caching, 0.999) == FeaturePlan("auto", reason="no-safe-policy")
    assert _auto(caching, steps=9).reason == "no-safe-policy"
    assert _auto(caching, skip=0.45).choice == FeatureChoice("cfg-cache", 0.3)
    assert _auto(caching, skip=0.2).reason == "no-safe-policy"
    assert _auto(caching, width=64).reason == "uncalibrated"
    assert _auto(caching, guidance_scale=30.0).reason == "uncalibrated"
    assert _auto(caching, loras=(Lora("a", "0" * 64, 1.0),)).reason == "uncalibrated"
    assert _auto(FeatureCaching(CACHING)) == FeaturePlan("auto", reason="uncalibrated")
    assert _auto(FeatureCaching(INFO, load_front(tmp_path, INFO))).reason == "unsupported"
    foreign = replace(CACHING, feature_policies=("cfg-cache", "interval"))
    assert _auto(FeatureCaching(foreign, load_front(tmp_path, foreign))).reason == "no-safe-policy"


def test_a_named_policy_keeps_its_strength() -> None:
    wished = request(features=FeatureWish("deepcache+cfg-cache", 0.7))
    assert FeatureCaching(CACHING).resolve(wished).choice == FeatureChoice("cfg-cache+deepcache", 0.7)
    assert FeatureCaching(INFO).resolve(wished) == FeaturePlan("deepcache+cfg-cache", reason="unsupported")
    assert FeatureCaching(CACHING).resolve(request()) == FeaturePlan()


@pytest.mark.parametrize(
    "change", [{"weights_digest": "another model"}, {"schedule": "another"}, {"dtype": "float16"}]
)
def test_another_models_front_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object]
) -> None:
    _front_file(tmp_path, **change)
    assert load_front(tmp_path, INFO) is None
    assert "another model" in caplog.text


def test_a_front_may_be_absent_but_not_broken(tmp_path: Path) -> None:
    assert load_front(None, INFO) is None
    assert load_front(tmp_path, INFO) is None
    (tmp_path / "front.json").write_text("{")
    with pytest.raises(FrontError, match=r"front\.json") as caught:
        load_front(tmp_path, INFO)
    assert "\n" not in str(caught.value)


def test_the_calibration_counts_but_for_the_front(tmp_path: Path) -> None:
    assert digest_of(None) == digest_of(tmp_path / "absent") == digest_of(tmp_path) == ""
    _front_file(tmp_path)
    assert digest_of(tmp_path) == ""
    (tmp_path / "teacache-ddim-8.safetensors").write_text("1")
    first = digest_of(tmp_path)
    (tmp_path / "teacache-ddim-8.safetensors").write_text("2")
    assert first
    assert digest_of(tmp_path) not in ("", first)


# ---- settings ----


def test_the_settings_policy_must_fit_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(model=str(tmp_path), feature_cache="smoothcache")
    with pytest.raises(StartError, match="HEADSTART_FEATURE_CACHE") as caught:
        feature_caching(settings, CACHING, "")
    assert "\n" not in str(caught.value)
    assert "no front" not in caplog.text
    feature_caching(Settings(model=str(tmp_path), feature_cache="auto"), CACHING, "")
    assert "no front" in caplog.text
    _front_file(tmp_path / "features")
    caching = feature_caching(Settings(model=str(tmp_path), feature_cache="auto"), CACHING, "")
    assert _auto(caching).choice == CHOICE


def test_the_engine_is_told_where_and_how_much(tmp_path: Path) -> None:
    bare = engine_config(Settings(model=str(tmp_path), feature_bytes=7))
    assert (bare.features, bare.feature_bytes) == (None, 7)
    (tmp_path / "features").mkdir()
    assert engine_config(Settings(model=str(tmp_path))).features == tmp_path / "features"
    (tmp_path / "other").mkdir()
    named = engine_config(Settings(model=str(tmp_path), feature_calibration=tmp_path / "other"))
    assert named.features == tmp_path / "other"


# ---- keys ----


def test_another_choice_is_another_picture() -> None:
    keys = [
        exact_key(request(), INFO, CAPTURE, choice, calibration)
        for choice, calibration in (
            (None, ""),
            (CHOICE, ""),
            (CHOICE, "c"),
            (replace(CHOICE, strength=0.5), ""),
            (replace(CHOICE, policy="cfg-cache"), ""),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_a_key_without_feature_caching_is_the_one_it_always_was() -> None:
    key = exact_key(request(), INFO, CAPTURE)
    assert key == "ccd3b388d68868c79e28018b6c81db676482370cf22efdbd6cf598d45729050d"
    assert exact_key(request(), INFO, CAPTURE, None, "c") == key
    assert exact_key(request(features=FeatureWish("auto")), INFO, CAPTURE) == key


# ---- the planner ----


class FakeEmbedder:
    digest = "e"

    async def embed(self, prompt: str) -> np.ndarray:
        return np.zeros(384, np.float32)


class FakeStore:
    """Holds one entry with two states, the deeper one of a run with feature caching."""

    refs = (StateRef(0.0, 0.25, True), StateRef(1.0, 0.5, True, approximated=True))

    async def search(self, *_: object, **__: object) -> list[Candidate]:
        return [Candidate(1, 0.9, "a red cube", self.refs)]

    async def load(self, entry_id: int, state: StateRef) -> NoiseState:
        latent = np.zeros((4, 16, 16), np.float16)
        return NoiseState(latent, state.log_snr, 500.0, state.skip, latent, approximated=state.approximated)


def _planner(**options: Any) -> Planner:
    from test_planner import FakeMatching

    store: Any = FakeStore()
    embedder: Any = FakeEmbedder()
    return Planner(store, embedder, FakeMatching(), CACHING, capture=CAPTURE, candidates=8, **options)


@pytest.mark.parametrize(("allowed", "marks"), [(True, [False, True]), (False, [False])])
async def test_the_planner_may_refuse_states_of_feature_cached_runs(allowed: bool, marks: list[bool]) -> None:
    made = await _planner(resume_approximated=allowed).plan(request())
    assert made.job is not None
    assert [point.approximated for point in made.job.resume] == marks
    assert made.kind is VerdictKind.APPROX


async def test_the_plan_carries_the_choice() -> None:
    plain = await _planner().plan(request())
    assert (plain.features, plain.exact_key) == (FeaturePlan(), plain.plain_key)
    cached = await _planner().plan(request(features=FeatureWish("deepcache", 0.4)))
    assert cached.job is not None
    assert cached.job.features == CHOICE
    assert cached.plain_key == plain.plain_key
    assert cached.exact_key != cached.plain_key
    assert cached.signature == plain.signature
    assert plan_event(cached)["feature_cache"] == {
        "policy": "deepcache",
        "strength": 0.4,
        "requested": "deepcache",
        "reason": None,
    }
    assert plan_event(plain)["feature_cache"]["policy"] == "off"


async def test_auto_chooses_anew_for_a_run_that_will_be_resumed(tmp_path: Path) -> None:
    _front_file(tmp_path)
    planner = _planner(features=FeatureCaching(CACHING, load_front(tmp_path, CACHING)))
    wish = FeatureWish("auto", min_quality=0.9)
    off = CacheOptions(mode=CacheMode.OFF)
    full = await planner.plan(request(features=wish, cache=off))
    resumed = await planner.plan(request("a red cube", features=wish))
    assert full.job is not None
    assert resumed.job is not None
    assert (full.kind, full.job.features) == (VerdictKind.BYPASS, CHOICE)
    assert (resumed.kind, resumed.job.features) == (VerdictKind.APPROX, None)  # 0.25 was not measured
    assert resumed.features == FeaturePlan("auto", reason="no-safe-policy")
    # Should the gate refuse, it is the plain picture; the job says what the key says.
    assert resumed.exact_key == resumed.plain_key != full.exact_key


# ---- what is told ----


@pytest.mark.parametrize(
    ("asked", "report", "told"),
    [
        (FeaturePlan(), None, FeatureVerdict(computed=8, compute_share=1.0)),
        (
            FeaturePlan("auto", reason="uncalibrated"),
            None,
            FeatureVerdict(requested="auto", computed=8, compute_share=1.0, reason="uncalibrated"),
        ),
        (ASKED, REPORT, FeatureVerdict("deepcache", 0.4, "auto", 3, 5, 0.5)),
        (
            ASKED,
            replace(REPORT, reason="too-large"),
            FeatureVerdict(requested="auto", computed=8, compute_share=1.0, reason="too-large"),
        ),
        (ASKED, None, FeatureVerdict(requested="auto", computed=8, compute_share=1.0, reason="unsupported")),
    ],
)
def test_a_verdict_tells_what_ran(asked: FeaturePlan, report: FeatureReport | None, told: FeatureVerdict) -> None:
    assert run_verdict(replace(plan(), features=asked), result(features=report)).features == told


def test_a_stored_picture_tells_how_it_was_drawn() -> None:
    stored = exact_verdict(replace(plan(VerdictKind.EXACT, "exact"), features=ASKED))
    assert stored.features == FeatureVerdict("deepcache", 0.4, "auto", reason="exact")
    assert exact_verdict(plan(VerdictKind.EXACT, "exact")).features == FeatureVerdict()


def test_the_header_names_every_picture() -> None:
    told = (
        FeatureVerdict("cfg-cache+deepcache", 0.4, "auto", 3, 5, 0.51239),
        FeatureVerdict(computed=8, compute_share=1.0),
        FeatureVerdict("deepcache", 1.0, "deepcache", reason="exact"),
    )
    pictures = [
        Picture(b"", 1, Verdict(VerdictKind.MISS, "", 8, features=one), False, 0.5, 1.0, 0.25, 2.0) for one in told
    ]
    assert headers_of(pictures, 2.0)["X-Headstart-Feature-Cache"] == (
        "cfg-cache+deepcache;strength=0.4;compute=0.512, off;compute=1.000, deepcache;strength=1"
    )


# ---- metrics ----


def _samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_every_picture_is_counted_under_bounded_labels() -> None:
    metrics = Metrics()
    for told in (
        FeatureVerdict(computed=8, compute_share=1.0),
        FeatureVerdict("deepcache", 0.4, "auto", 3, 5, 0.5),
        FeatureVerdict("cfg-cache+deepcache", 0.4, "cfg-cache+deepcache", 3, 5, 0.25),
        FeatureVerdict(requested="auto", computed=8, compute_share=1.0, reason="uncalibrated"),
        FeatureVerdict(requested="deepcache", computed=8, compute_share=1.0, reason="too-large"),
        FeatureVerdict("deepcache", 0.4, "auto", reason="exact"),
    ):
        metrics.note_verdict(Verdict(VerdictKind.MISS, "", 8, features=told))
    assert _samples(metrics, "headstart_feature_cache_requests_total") == {
        ("off", "off"): 1,
        ("deepcache", "ran"): 1,
        ("stack", "ran"): 1,
        ("auto", "uncalibrated"): 1,
        ("deepcache", "too-large"): 1,
        ("deepcache", "exact"): 1,
    }
    assert metrics.registry.get_sample_value("headstart_feature_compute_share_count") == 2
    assert metrics.registry.get_sample_value("headstart_feature_compute_share_sum") == 0.75


def test_the_two_savings_share_no_step() -> None:
    """Of 8 steps of 0.1 s, 4 are skipped and 4 run at half: 0.2 s spent, 0.2 s saved by each; 0.2 s nobody claims."""
    run = result(resumed=0, skipped=4, denoise_seconds=0.2, step_seconds=0.05, features=REPORT)
    metrics, totals = Metrics(), Totals()
    verdict = run_verdict(plan(VerdictKind.APPROX, "match", attempts=1), run)
    for counts in (metrics, totals):
        counts.note_run(run)
        counts.note_verdict(verdict)
    for name in ("headstart_cache_saved_gpu_seconds_total", "headstart_saved_feature_seconds_total"):
        assert metrics.registry.get_sample_value(name) == pytest.approx(0.2)
    assert (totals.saved_gpu_seconds, totals.saved_feature_seconds) == pytest.approx((0.2, 0.2))
    assert totals.saved_gpu_seconds + totals.saved_feature_seconds + run.denoise_seconds <= 8 * 0.1


@pytest.mark.parametrize(
    "report",
    [
        None,
        replace(REPORT, reason="too-large"),
        replace(REPORT, compute_share=0.0),
        replace(REPORT, compute_share=1.0),
    ],
)
def test_what_did_not_run_saved_nothing(report: FeatureReport | None) -> None:
    metrics = Metrics()
    metrics.note_run(result(features=report))
    assert metrics.registry.get_sample_value("headstart_saved_feature_seconds_total") == 0.0


def test_the_engines_counts_are_exported() -> None:
    gauges = Gauges()
    stats = EngineStats(feature_bytes=7, feature_evaluations={"reused": 5})
    gauges.take(StoreStats(), stats, policy="lcbfu", inside=0, pending=0, backlog=0.0)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in gauges.collect()
        for sample in family.samples
    }
    assert found["headstart_feature_state_bytes",] == 7
    assert found["headstart_feature_evaluations_total", "computed"] == 0
    assert found["headstart_feature_evaluations_total", "reused"] == 5


# ---- all together, with an engine that says it reused features ----


class Reporting:
    """The real engine, which draws in full; says that feature caching ran, or why not."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.reason: str | None = None

    @property
    def info(self) -> ModelInfo:
        return replace(self._engine.info, feature_policies=POLICIES, architecture="unet")

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    async def start(self) -> None:
        await self._engine.start()

    async def close(self, *, grace_seconds: float = 0.0) -> None:
        await self._engine.close(grace_seconds=grace_seconds)

    async def run(self, spec: JobSpec) -> AsyncGenerator[JobEvent, None]:
        async with aclosing(self._engine.run(replace(spec, features=None))) as events:
            async for event in events:
                yield self._claimed(spec, event) if isinstance(event, JobResult) else event

    def _claimed(self, spec: JobSpec, found: JobResult) -> JobResult:
        if spec.features is None:
            return found
        report = replace(REPORT, policy=spec.features.policy, strength=spec.features.strength, reason=self.reason)
        marked = tuple(replace(state, approximated=self.reason is None) for state in found.captured)
        return replace(found, features=report, captured=marked)


Opener = Callable[..., AbstractAsyncContextManager[tuple[Service, httpx.AsyncClient]]]


@pytest.fixture
def opened(tiny_model: Path, tables: Path, tmp_path: Path) -> Opener:
    def make(config: EngineConfig) -> Engine:
        return Reporting(make_engine(config))

    @asynccontextmanager
    async def opener(**changes: object) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
        fields = {
            "model": str(tiny_model),
            "engine": "local",
            "store_timeout_seconds": 20,
            "data_dir": tmp_path / "data",
            "matching_table": tables / "loose.json",
        }
        settings, metrics = Settings(**{**fields, **changes}), Metrics()
        app = create_app(settings)
        async with open_service(settings, metrics, make) as service:
            app.state.service = service
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                yield service, client

    return opener


async def _draw(
    service: Service, client: httpx.AsyncClient, **fields: object
) -> tuple[dict[str, Any], httpx.Headers]:
    answer = await client.post("/v1/images/generations", json={"prompt": "a red cube", **fields})
    assert answer.status_code == 200, answer.text
    await service.memory.flush()
    return answer.json()["data"][0], answer.headers


async def test_answers_tell_and_exact_repeats_know(opened: Opener) -> None:
    async with opened(feature_cache="deepcache", feature_strength=0.4) as (service, client):
        first, headers = await _draw(service, client, seed=3)
        assert first["feature_cache"] == {
            "policy": "deepcache",
            "strength": 0.4,
            "requested": "deepcache",
            "computed": 3,
            "reused": 5,
            "compute_share": 0.5,
            "reason": None,
        }
        assert headers["x-headstart-feature-cache"] == "deepcache;strength=0.4;compute=0.500"
        again, headers = await _draw(service, client, seed=3)
        assert (again["cache"]["verdict"], again["feature_cache"]["reason"]) == ("EXACT", "exact")
        assert headers["x-headstart-feature-cache"] == "deepcache;strength=0.4"
        for wish in ("off", "cfg-cache+deepcache", {"policy": "deepcache", "strength": 0.5}):
            other, _ = await _draw(service, client, seed=3, feature_cache=wish)
            assert other["cache"]["verdict"] == "MISS", wish
        models = (await client.get("/v1/models")).json()["data"]
        assert models[0]["feature_policies"] == list(POLICIES)
        assert (await client.get("/v1/stats")).json()["saved_feature_seconds"] > 0


async def test_a_picture_drawn_in_full_answers_for_the_plain_one(opened: Opener) -> None:
    async with opened() as (service, client):
        engine: Any = service.engine
        engine.reason = "too-large"
        drawn, headers = await _draw(service, client, seed=3, feature_cache="deepcache")
        assert (drawn["feature_cache"]["policy"], drawn["feature_cache"]["reason"]) == ("off", "too-large")
        assert headers["x-headstart-feature-cache"] == "off;compute=1.000"
        engine.reason = None
        assert (await _draw(service, client, seed=3))[0]["cache"]["verdict"] == "EXACT"
        cached, _ = await _draw(service, client, seed=3, feature_cache="deepcache")
        assert cached["cache"]["verdict"] == "MISS"


@pytest.mark.parametrize(("allowed", "verdict", "reason"), [(True, "APPROX", "match"), (False, "MISS", "no-states")])
async def test_states_remember_that_features_were_reused(
    opened: Opener, allowed: bool, verdict: str, reason: str
) -> None:
    async with opened(resume_approximated=allowed, ram_bytes=0) as (service, client):
        await _draw(service, client, feature_cache="deepcache")
        entry = (await client.get("/v1/cache/entries")).json()["data"][0]
        assert entry["states"] == entry["approximated_states"] != []
        next_one, _ = await _draw(service, client)
        assert (next_one["cache"]["verdict"], next_one["cache"]["reason"]) == (verdict, reason)


async def test_streams_tell_it_too(opened: Opener) -> None:
    async with opened() as (_, client):
        body = {"prompt": "a red cube", "feature_cache": {"policy": "auto"}}
        watched = (await client.post("/v1/generations/events", json=body)).text
        assert watched.count('"requested": "auto", "reason": "uncalibrated"') == 1  # the plan
        assert watched.count('"reason": "uncalibrated"') == 2  # and the picture
        streamed = (await client.post("/v1/images/generations", json={**body, "stream": True})).text
        assert streamed.count('"reason": "uncalibrated"') == 1
