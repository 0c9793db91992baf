import json
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.features import report as reports
from benchmarks.features.lab import Tally
from benchmarks.features.pictures import BEST_PSNR, psnr, ssim
from benchmarks.features.systems import (
    STRENGTHS,
    System,
    default_runs,
    every_method,
    fewer_steps,
    resumed,
    short_runs,
)
from benchmarks.features.tables import features_summary, features_table
from benchmarks.features_plot import draw
from policies.features.choice import FeatureChoice
from policies.features.methods import check_choice

FULL = System()
FAST = System(features=FeatureChoice("taylor-output", 0.5))
WRONG = System(features=FeatureChoice("taylor-output", 1.0))


def tally(seconds: float, score: float, share: float = 1.0, steps: int = 50) -> Tally:
    count = 4
    made = Tally([seconds, seconds], [seconds * 0.9] * 2, [score] * count, [30.0] * count, [0.9] * count)
    made.share, made.evaluations = [share] * count, [steps] * count
    return made


@pytest.fixture
def tallies():
    return {FULL: tally(8.0, 0.9), FAST: tally(4.0, 0.9, 0.5), WRONG: tally(2.0, 0.5, 0.25)}


class TestPictures:
    def test_the_same_picture_is_as_near_as_can_be(self):
        picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
        assert psnr(picture, picture) == BEST_PSNR
        assert ssim(picture, picture) == pytest.approx(1.0)

    def test_psnr_is_that_of_its_definition(self):
        black = np.zeros((8, 8, 3), dtype=np.uint8)
        assert psnr(black + 1, black) == pytest.approx(20 * np.log10(255))
        assert psnr(black + 255, black) == pytest.approx(0.0, abs=1e-9)

    def test_similarity_falls_with_noise_and_forgives_a_shift_in_brightness(self):
        rng = np.random.default_rng(0)
        picture = (128 + 40 * np.sin(np.arange(64)[:, None, None] / 5) * np.ones((64, 64, 3))).astype(np.uint8)
        noisy = [np.clip(picture + rng.normal(0, level, picture.shape), 0, 255).astype(np.uint8) for level in (5, 20)]
        brighter = (picture + 5).astype(np.uint8)
        assert ssim(noisy[1], picture) < ssim(noisy[0], picture) < ssim(brighter, picture) < 1.0


class TestSystems:
    @pytest.mark.parametrize("architecture", ["unet", "transformer"])
    def test_every_list_can_be_run_and_names_nothing_twice(self, architecture):
        lists = [every_method(architecture), resumed(architecture), short_runs(architecture, 8, 2)]
        lists += [default_runs(architecture, 8), fewer_steps()]
        for systems in map(list, lists):
            assert len({system.name for system in systems}) == len(systems)
            for system in systems:
                if system.features is not None:
                    check_choice(system.features.policy, architecture)

    @pytest.mark.parametrize("architecture", ["unet", "transformer"])
    def test_every_method_has_four_strengths(self, architecture):
        systems = list(every_method(architecture))
        policies = {system.features.policy for system in systems}
        assert len(systems) == len(STRENGTHS) * len(policies)
        assert all(a < b for a, b in pairwise(STRENGTHS))

    def test_the_plain_form_leaves_only_the_features_out(self):
        system = System(8, "dpmpp_2m", FeatureChoice("cfg-cache", 0.5), 2)
        assert system.plain == System(8, "dpmpp_2m", None, 2)


class TestReport:
    def test_ratios_are_those_of_the_run(self, tallies):
        figures = reports.figures(FAST, tallies, FULL)
        assert figures["speedup"]["value"] == pytest.approx(2.0)
        assert figures["flops_ratio"] == pytest.approx(2.0)
        assert figures["score_ratio"]["value"] == pytest.approx(1.0)

    def test_fewer_steps_count_as_fewer_multiplications(self, tallies):
        short = System(10, "dpmpp_2m")
        tallies[short] = tally(1.6, 0.9, steps=10)
        assert reports.figures(short, tallies, FULL)["flops_ratio"] == pytest.approx(5.0)

    def test_what_loses_the_score_is_neither_a_finalist_nor_the_best(self, tallies):
        assert reports.finalists(tallies, FULL, [FAST, WRONG]) == [FAST]
        assert reports.best(tallies, FULL, [FAST, WRONG])["system"] == FAST.name
        assert reports.best(tallies, FULL, [WRONG]) is None

    def test_savings_that_multiply_are_told_so(self, tallies):
        late = System(entry=25)
        both = System(features=FAST.features, entry=25)
        tallies[late], tallies[both] = tally(4.0, 0.9, steps=25), tally(2.0, 0.9, 0.5, steps=25)
        row = reports.multiplied(tallies, [late, both], {"taylor-output": 2.0})[0]
        assert row["both_over_product"] == pytest.approx(1.0)
        assert row["compute_share_of_all"] == pytest.approx(0.25)


def test_a_report_becomes_tables_and_a_picture(tallies, tmp_path):
    short = System(8, "dpmpp_2m", None, 2)
    tallies |= {short: tally(1.0, 0.9, steps=6), short.plain: tally(1.0, 0.9, steps=6)}
    fewer = System(10, "dpmpp_2m"), System(10, "ddim")
    tallies |= {system: tally(1.6, 0.9, steps=10) for system in fewer}
    rows = reports.table(tallies, FULL)
    both = System(features=FAST.features, entry=25)
    tallies |= {System(entry=25): tally(4.0, 0.9, steps=25), both: tally(2.0, 0.9, 0.5, steps=25)}
    part = {
        "architecture": "unet",
        "n_star": 8,
        "screened": rows,
        "validated": rows,
        "validated_joint": rows,
        "short": rows,
        "multiplied": reports.multiplied(tallies, [both], {"taylor-output": 2.0}),
        "best": {"features": rows[1], "fewer_steps": None, "joint": None},
        "joint_over_n_star": None,
        "libraries": rows,
    }
    report = json.loads(json.dumps({"models": {"unet": part}}))
    assert any(FAST.name in line for line in features_table(report))
    assert any("of the product" in line for line in features_summary(report))
    draw(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
