import numpy as np

from training.calibrate import Trial, fit_level, fit_table


def trials(count: int, *, loses_above: float, similarity: float = 0.9) -> list[Trial]:
    rng = np.random.default_rng(3)
    made = []
    for divergence in np.linspace(0.0, 1.0, count):
        full = float(rng.choice([1.0, 0.8], p=[0.8, 0.2]))
        loss = 0.5 if divergence > loses_above else 0.0
        made.append(Trial("wording", 0.3, similarity, float(divergence), full - loss, full, full, full - 0.1))
    return made


def test_the_threshold_lies_where_pictures_start_to_lose_attributes() -> None:
    fitted = fit_level(trials(200, loses_above=0.4), bound=0.01, steps=10)
    assert fitted is not None
    assert 0.35 <= fitted[0] <= 0.41


def test_a_level_that_always_loses_is_left_out() -> None:
    assert fit_level(trials(200, loses_above=-1.0), bound=0.01, steps=10) is None


def test_a_few_good_trials_do_not_make_a_threshold() -> None:
    assert fit_level(trials(200, loses_above=0.02), bound=0.01, steps=10) is None


def test_the_table_carries_its_key_and_only_the_levels_that_hold() -> None:
    key = {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"}
    good = trials(100, loses_above=0.5)
    bad = [
        Trial(t.kind, 0.5, t.similarity, t.divergence, t.resumed - 0.5, t.full, t.neighbour, t.scratch) for t in good
    ]
    table = fit_table([*good, *bad], 0.01, key, {"bound": "0.01"}, 10)
    assert [row.skip for row in table.rows] == [0.3]
    assert table.matches(key)
    assert not table.matches(key | {"weights_digest": "other"})


def test_similarities_at_which_most_attempts_are_refused_are_not_tried() -> None:
    near = [Trial("retry", 0.3, 1.0, 0.0, 1.0, 1.0, 1.0, 0.9) for _ in range(20)]
    far = [Trial("colour", 0.3, 0.8, 0.9, 0.5, 1.0, 0.5, 0.9) for _ in range(80)]
    fitted = fit_level([*near, *far], bound=0.01, steps=10)
    assert fitted is not None
    assert 0.8 < fitted[1] <= 1.0


def test_a_level_whose_attempts_never_pay_is_left_out() -> None:
    good = [Trial("wording", 0.1, 0.9, 0.0, 1.0, 1.0, 1.0, 0.9) for _ in range(20)]
    refused = [Trial("colour", 0.1, 0.9, 0.9, 0.5, 1.0, 0.5, 0.9) for _ in range(80)]
    assert fit_level([*good, *refused], bound=0.01, steps=10) is None


def test_a_level_at_which_fewer_steps_do_better_is_left_out() -> None:
    worse = [Trial("retry", 0.3, 1.0, 0.0, 0.9, 0.9, 0.9, 0.95) for _ in range(40)]
    assert fit_level(worse, bound=0.01, steps=10) is None
