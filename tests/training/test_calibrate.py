from dataclasses import replace

import numpy as np
import pytest

from training.calibrate import Trial, fit_level, fit_table, foretelling, paying_similarity, saved_steps

KEY = {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"}


def trial(**changes: object) -> Trial:
    fields = {
        "kind": "wording",
        "skip": 0.3,
        "similarity": 0.9,
        "divergence": 0.1,
        "early": 0.1,
        "resumed": 1.0,
        "full": 1.0,
        "neighbour": 1.0,
        "scratch": 0.9,
        "scratch_judged": 0.9,
    }
    return Trial(**{**fields, **changes})  # type: ignore[arg-type]


def trials(count: int, *, loses_above: float, **changes: object) -> list[Trial]:
    rng = np.random.default_rng(3)
    made = []
    for early in np.linspace(0.0, 1.0, count):
        full = float(rng.choice([1.0, 0.8], p=[0.8, 0.2]))
        loss = 0.5 if early > loses_above else 0.0
        fields = {"early": float(early), "resumed": full - loss, "full": full, "scratch_judged": full - 0.1}
        made.append(trial(**{**fields, **changes}))
    return made


def test_the_threshold_lies_where_pictures_start_to_lose_attributes() -> None:
    fitted = fit_level(trials(200, loses_above=0.4), bound=0.01)
    assert fitted is not None
    assert 0.35 <= fitted <= 0.41


def test_a_level_that_always_loses_is_left_out() -> None:
    assert fit_level(trials(200, loses_above=-1.0), bound=0.01) is None


def test_a_few_good_trials_do_not_make_a_threshold() -> None:
    assert fit_level(trials(200, loses_above=0.02), bound=0.01) is None


def test_a_level_at_which_fewer_steps_do_better_is_left_out() -> None:
    worse = [trial(resumed=0.9, full=0.9, scratch_judged=0.95) for _ in range(40)]
    assert fit_level(worse, bound=0.01) is None


def test_the_table_carries_its_key_and_only_the_levels_that_hold() -> None:
    good = trials(100, loses_above=0.5)
    bad = [replace(t, skip=0.5, resumed=t.resumed - 0.5) for t in good]
    table = fit_table([*good, *bad], 0.01, KEY, {"bound": "0.01"}, 10)
    assert [row.skip for row in table.rows] == [0.3]
    assert table.judged_at == 0.3
    assert table.matches(KEY)
    assert not table.matches(KEY | {"weights_digest": "other"})


def test_a_deeper_level_is_never_held_to_less() -> None:
    strict, lax = trials(200, loses_above=0.4, skip=0.1), trials(200, loses_above=0.8, skip=0.3)
    table = fit_table([*strict, *lax], 0.01, KEY, {}, 10)
    assert [row.skip for row in table.rows] == [0.1, 0.3]
    assert table.rows[0].max_divergence == table.rows[1].max_divergence == pytest.approx(0.4, abs=0.05)


def test_repeats_of_a_prompt_prove_nothing_about_other_prompts() -> None:
    repeats = [trial(kind="retry", similarity=1.0, early=0.0) for _ in range(100)]
    table = fit_table([*trials(100, loses_above=-1.0), *repeats], 0.01, KEY, {}, 10)
    assert table.rows == ()


def test_steps_saved_net_of_the_one_spent_on_judging() -> None:
    bounds = {0.1: 0.5, 0.3: 0.2}
    assert saved_steps(0.6, bounds, 0.1, 10) == -1.0
    assert saved_steps(0.4, bounds, 0.1, 10) == pytest.approx(1.0)
    assert saved_steps(0.1, bounds, 0.1, 10) == pytest.approx(2.0)


def test_similarities_at_which_most_attempts_are_refused_are_not_tried() -> None:
    near = [trial(similarity=0.95, early=0.1) for _ in range(20)]
    far = [trial(similarity=0.8, early=0.9) for _ in range(80)]
    assert 0.8 < paying_similarity([*near, *far], {0.3: 0.2}, 0.3, 10) <= 0.95


def test_where_attempts_never_pay_only_the_same_prompt_is_tried() -> None:
    refused = [trial(early=0.9) for _ in range(80)]
    assert 0.999 < paying_similarity(refused, {0.3: 0.2}, 0.3, 10) < 1.0


def test_what_foretells_bad_resumes_is_said() -> None:
    rows = [replace(t, divergence=1 - t.early) for t in trials(100, loses_above=0.5)]
    (line,) = foretelling(rows)
    assert line == "skip 0.30: AUC early 1.00, at the level 0.00, 1 - cosine 0.50"
    assert foretelling([trial()]) == []
