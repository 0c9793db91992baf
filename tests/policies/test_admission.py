"""One contract for every admission policy, what each of them is for, and what they stand on."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission import POLICIES, AdmissionPolicy, Ask, Load, Work, make_admission
from policies.admission.base import MARGIN
from policies.admission.forecast import alone, finish_of, forecast, later
from policies.admission.pace import PaceMeter, StepPace
from policies.admission.promises import PromiseBook
from policies.admission.queue_limit import places_free
from policies.admission.retry import drained

PACE = StepPace(0.01, 0.001)
SECOND = Work(steps=10, pixels=90)
"""A picture that takes a second alone."""


def work(steps: float = 10.0, **fields: object) -> Work:
    return replace(SECOND, steps=steps, **fields)  # type: ignore[arg-type]


def load(*jobs: Work, slots: int = 1, **fields: object) -> Load:
    return Load(jobs, slots, PACE, **fields)  # type: ignore[arg-type]


works = st.builds(
    Work,
    steps=st.floats(0.5, 50),
    pixels=st.sampled_from((10.0, 90.0, 300.0)),
    decode_seconds=st.floats(0, 1),
    group=st.sampled_from(("a", "b")),
    tenant=st.sampled_from(("one", "two", "three")),
    weight=st.sampled_from((1.0, 2.0)),
)
entered = st.builds(replace, works, entered=st.just(True))  # type: ignore[arg-type]
decoding = st.builds(replace, entered, steps=st.just(0.0))  # type: ignore[arg-type]
loads = st.builds(
    lambda inside, waiting, slots, pixels, beside: Load((*inside, *waiting), slots, PACE, pixels, beside),
    st.lists(entered | decoding, max_size=4),
    st.lists(works, max_size=12),
    st.integers(1, 4),
    st.sampled_from((math.inf, 200.0)),
    st.booleans(),
)
asks = st.builds(Ask, works, full_steps=st.floats(50, 60), allowed=st.sampled_from((math.inf, 0.1, 3.0, 30.0)))


def make(name: str) -> AdmissionPolicy:
    return make_admission(name, limit=3, slo_factor=3.0)


@pytest.mark.parametrize("name", POLICIES)
class TestAdmissionContract:
    @given(ask=asks, bounds=loads)
    def test_an_idle_device_takes_anything(self, name: str, ask: Ask, bounds: Load) -> None:
        idle = replace(bounds, jobs=(), promised=bounds.jobs)
        assert make(name).decide(ask, idle).admitted

    @given(ask=asks, inside=st.lists(works, max_size=2))
    def test_without_measurements_nothing_is_refused_by_prediction(
        self, name: str, ask: Ask, inside: list[Work]
    ) -> None:
        assert make(name).decide(ask, Load(tuple(inside), 2, StepPace())).admitted

    @given(ask=asks, inside=loads)
    def test_a_refusal_names_a_time_at_which_the_picture_is_let_in(self, name: str, ask: Ask, inside: Load) -> None:
        policy = make(name)
        decision = policy.decide(ask, inside)
        assert decision == policy.decide(ask, inside)
        if decision.admitted:
            assert decision.retry_seconds == 0
            return
        assert decision.retry_seconds > 0
        if math.isinf(decision.retry_seconds):
            assert alone(ask.work, inside) > ask.allowed
        else:
            assert policy.decide(ask, later(inside, decision.retry_seconds)).admitted

    def test_it_is_known_by_its_name(self, name: str) -> None:
        assert make(name).name == name


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'lottery'; known: queue-limit, predicted-finish"):
        make_admission("lottery", limit=1, slo_factor=0)


class TestForecast:
    def test_one_after_the_other_or_together(self) -> None:
        assert [one.done for one in forecast(load(SECOND, SECOND))] == pytest.approx([1, 2])
        # Together the fixed part of each step is paid once.
        assert [one.done for one in forecast(load(SECOND, SECOND, slots=2))] == pytest.approx([1.9, 1.9])

    def test_who_has_entered_goes_first(self) -> None:
        assert [one.done for one in forecast(load(SECOND, work(5, entered=True)))] == pytest.approx([1.5, 0.5])

    def test_decoding_pauses_the_steps_or_goes_on_beside_them(self) -> None:
        jobs = (work(decode_seconds=2.0), work(decode_seconds=2.0))
        assert [one.done for one in forecast(load(*jobs))] == pytest.approx([3, 6])
        assert [one.done for one in forecast(load(*jobs, beside=True))] == pytest.approx([3, 5])
        assert finish_of(SECOND, load(*jobs, beside=True)).denoised == pytest.approx(3)

    def test_groups_fill_batches_of_their_own(self) -> None:
        other = work(group="wide")
        assert [one.done for one in forecast(load(SECOND, other))] == pytest.approx([2, 2])

    def test_a_tenant_with_one_picture_does_not_wait_for_all_of_another(self) -> None:
        crowd = [work(tenant="crowd") for _ in range(10)]
        assert finish_of(work(tenant="crowd"), load(*crowd)).done == pytest.approx(11)
        assert finish_of(work(tenant="lone"), load(*crowd)).done == pytest.approx(2)

    @given(inside=loads)
    def test_the_rest_finishes_when_the_whole_would_have(self, inside: Load) -> None:
        whole = drained(inside)
        for share in (0.25, 0.5, 0.9):
            rest = later(inside, share * whole)
            assert drained(rest) <= (1 - share) * whole * 1.3 + 1.0
            assert len(rest.jobs) <= len(inside.jobs)
        assert later(inside, whole + 1e-6).jobs == ()

    @given(inside=loads)
    def test_everybody_finishes_and_nobody_before_his_own_work_is_done(self, inside: Load) -> None:
        ends = forecast(inside)
        assert len(ends) == len(inside.jobs)
        for job, end in zip(inside.jobs, ends, strict=True):
            assert end.done >= alone(job, inside) - 1e-6
            assert end.done >= end.denoised

    def test_places_become_free_one_by_one(self) -> None:
        assert places_free(load(SECOND, SECOND), 1) == pytest.approx(1)
        assert places_free(load(SECOND, SECOND), 2) == pytest.approx(2)
        assert places_free(load(SECOND), 5) == pytest.approx(1)
        assert places_free(load(), 1) > 0


class TestPolicies:
    def test_a_head_start_is_admitted_where_a_full_run_is_not(self) -> None:
        policy = make("predicted-finish")
        inside = load(SECOND, SECOND)
        assert policy.decide(Ask(SECOND, 10), inside).reason == "late"
        assert policy.decide(Ask(work(5), 10), inside).admitted

    def test_the_time_to_come_back_is_when_enough_has_drained(self) -> None:
        decision = make("predicted-finish").decide(Ask(SECOND, 10), load(*[SECOND] * 5))
        assert decision.finish_seconds == pytest.approx(6)
        assert decision.retry_seconds == pytest.approx(6 - MARGIN * 3)

    def test_the_deadline_counts_where_it_is_nearer(self) -> None:
        policy = make("predicted-finish")
        assert policy.decide(Ask(SECOND, 10, allowed=1.5), load(SECOND)).reason == "late"
        assert policy.decide(Ask(SECOND, 10, allowed=0.5), load(SECOND)).reason == "unreachable"
        assert (
            make_admission("predicted-finish", limit=1, slo_factor=0)
            .decide(Ask(SECOND, 10), load(*[SECOND] * 99))
            .admitted
        )

    def test_promises_are_kept_before_newcomers_are_let_in(self) -> None:
        policy = make("predicted-finish")
        inside = load(SECOND, promised=(SECOND,))
        assert policy.decide(Ask(SECOND, 10), inside).reason == "late"
        assert policy.decide(Ask(SECOND, 10), replace(inside, promised=())).admitted

    def test_time_at_the_door_counts(self) -> None:
        policy = make("predicted-finish")
        assert policy.decide(Ask(SECOND, 10, waited=0.6), load(SECOND)).admitted
        refused = policy.decide(Ask(SECOND, 10, waited=0.9), load(SECOND))
        assert refused.reason == "late"
        assert refused.allowed_seconds == pytest.approx(2.1)

    def test_nobody_inside_is_made_late(self) -> None:
        policy = make("predicted-finish")
        tight = replace(SECOND, entered=True, due=1.5)
        assert policy.decide(Ask(SECOND, 10), load(tight, slots=2)).reason == "late"
        assert policy.decide(Ask(SECOND, 10), load(replace(tight, due=2.0), slots=2)).admitted
        # Who is late anyway is no reason, nor is a waiting tenant that fair share lets the newcomer pass.
        assert policy.decide(Ask(SECOND, 10), load(replace(tight, due=0.5), slots=2)).admitted
        waiting = [work(tenant="crowd", due=number + 1.5) for number in range(2)]
        assert policy.decide(Ask(work(tenant="lone"), 10), load(*waiting)).admitted

    def test_only_prediction_sees_a_decoder_that_will_be_busy(self) -> None:
        slow = work(decode_seconds=10.0)
        coming = load(*[replace(slow, entered=True)] * 4, slots=5, beside=True)
        ask = Ask(slow, 10)
        assert make("early-rejection").decide(ask, coming).admitted
        assert make("early-rejection-predicted").decide(ask, coming).reason == "decode_busy"

    def test_only_prediction_sees_that_the_decoder_will_be_free_again(self) -> None:
        slow = replace(SECOND, steps=0, decode_seconds=10.0, entered=True)
        now = load(slow, slow, slow, slow, beside=True)
        ask = Ask(work(400, decode_seconds=1.0), 400)
        assert make("early-rejection-predicted").decide(ask, now).admitted
        short = Ask(work(40, decode_seconds=1.0), 40)
        assert make("early-rejection").decide(short, now).reason == "decode_busy"

    @given(ask=asks, inside=loads)
    def test_where_decoding_is_no_stage_prediction_cannot_matter(self, ask: Ask, inside: Load) -> None:
        """Decoding that takes no time, or the device of the steps: both rules decide alike."""
        free = replace(
            inside, beside=True, jobs=tuple(replace(job, decode_seconds=0.0) for job in inside.jobs if job.steps)
        )
        plain = replace(ask, work=replace(ask.work, decode_seconds=0.0))
        answers = {make(name).decide(plain, free).admitted for name in POLICIES if name != "queue-limit"}
        assert len(answers) == 1


class TestPace:
    def test_the_line_is_found(self) -> None:
        meter = PaceMeter()
        assert not meter.pace.known
        for pixels in (100, 200, 400, 800):
            meter.observe(pixels, 0.01 + 0.0001 * pixels)
        assert meter.pace.fixed == pytest.approx(0.01)
        assert meter.pace.seconds(1000) == pytest.approx(0.11)
        assert meter.pace.seconds(0) == 0

    def test_batches_of_one_size_tell_of_no_fixed_part(self) -> None:
        meter = PaceMeter()
        for _ in range(5):
            meter.observe(100, 0.2)
        meter.observe(0, 1)
        meter.observe(10, 0)
        assert (meter.pace.fixed, meter.pace.seconds(200)) == (0, pytest.approx(0.4))

    def test_no_part_is_ever_negative(self) -> None:
        falling, steep = PaceMeter(), PaceMeter()
        for pixels in (100, 200, 300):
            falling.observe(pixels, 1 / pixels)
            steep.observe(pixels, (pixels - 90.0) / 100)
        assert falling.pace.per_pixel == 0
        assert steep.pace.fixed == 0

    def test_the_old_is_forgotten(self) -> None:
        meter = PaceMeter()
        for seconds in (9.0, *[0.1] * 200):
            meter.observe(100, seconds)
        assert meter.pace.seconds(100) == pytest.approx(0.1, rel=0.01)


class TestPromises:
    def test_a_promise_is_found_by_its_wish_and_used_once(self) -> None:
        book = PromiseBook(most=10)
        book.make("wish", SECOND, now=0.0, wait=5.0)
        promise = book.find("wish", 5.0)
        assert promise is not None
        assert promise.due == 5.0
        assert book.find("other", 5.0) is None
        book.keep(promise)
        assert book.find("wish", 5.0) is None
        assert book.returning == 1.0

    def test_who_does_not_come_is_forgotten_and_expected_less(self) -> None:
        book = PromiseBook(most=10)
        for _ in range(10):
            book.make("wish", SECOND, now=0.0, wait=5.0)
        assert sum(one.steps for one in book.works(0.0)) == pytest.approx(100)
        assert book.works(60.0) == ()
        assert book.returning < 0.4
        assert len(book) == 0

    def test_the_earlier_appointment_comes_first(self) -> None:
        book = PromiseBook(most=10)
        book.make("late", work(2), now=0.0, wait=9.0)
        book.make("soon", work(1), now=0.0, wait=5.0)
        assert [one.steps for one in book.works(0.0)] == [1, 2]
        assert [one.steps for one in book.works(0.0, before=9.0)] == [1]

    def test_the_book_has_an_end(self) -> None:
        book = PromiseBook(most=1)
        book.make("one", SECOND, now=0.0, wait=5.0)
        book.make("two", SECOND, now=0.0, wait=5.0)
        assert len(book) == 1
