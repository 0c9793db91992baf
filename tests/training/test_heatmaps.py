"""Smooth Grad-CAM++ against its formulas, and on the scenes' judge against true outlines."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.heatmaps import (
    Case,
    Tally,
    drawn_cases,
    energy,
    methods,
    points_inside,
    randomised,
    rank_agreement,
)
from service.judges import load_judge
from service.judges.heatmap import (
    PLUS_PLUS,
    Form,
    HeatmapError,
    Seen,
    Smoothing,
    grad_cam,
    hires_cam,
    look,
    smooth_grad_cam_pp,
    smooth_weights,
)
from service.judges.sheet import heatmap_sheet, overlaid
from training.judge.maps import MappingJudge, as_input, explained_layer, scenes, target_of
from training.judge.network import JudgeNetwork
from training.scenes import Scene, Thing, render
from training.scenes.masks import thing_masks


class TinyNetwork(nn.Module):
    """Linear after its explained layer, so that the derivatives of exp(S) are what the formulas take them for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.head = nn.Linear(2 * 3 * 3, 4)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.layer(pictures).flatten(1))
        return scores


@pytest.fixture
def tiny() -> TinyNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return TinyNetwork().double()


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def second_score(output: torch.Tensor) -> torch.Tensor:
    return output[:, 1]


def derivatives(network: TinyNetwork, one: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Feature maps, and the first three derivatives of exp(S) by each of their cells, by nested autograd."""
    maps = network.layer(one[None]).detach().requires_grad_()
    value = network.head(maps.flatten(1))[0, 1].exp()
    orders = [torch.zeros_like(maps[0]) for _ in range(3)]
    (first,) = torch.autograd.grad(value, maps, create_graph=True)
    for place in np.ndindex(*maps.shape[1:]):
        at = (0, *place)
        (second,) = torch.autograd.grad(first[at], maps, create_graph=True)
        (third,) = torch.autograd.grad(second[at], maps, retain_graph=True)
        for order, derivative in zip(orders, (first, second, third), strict=True):
            order[place] = derivative[at].detach()
    return maps[0].detach(), orders


def slow_weights(network: TinyNetwork, picture: torch.Tensor, how: Smoothing) -> list[float]:
    """The paper's formulas, cell by cell."""
    generator = torch.Generator().manual_seed(how.seed)
    noise = torch.randn((how.samples, *picture.shape), generator=generator).double()
    maps, _ = derivatives(network, picture)
    seen = [derivatives(network, picture + how.sigma * noise[m])[1] for m in range(how.samples)]
    weights = []
    for k in range(len(maps)):
        total, spread = 0.0, float(maps[k].sum())
        for i, j in np.ndindex(*maps.shape[1:]):
            d1, d2, d3 = (sum(float(one[p][k, i, j]) for one in seen) / how.samples for p in range(3))
            above = d1 if how.form == "printed" else d2
            below = 2 * d2 + spread * d3
            total += (above / below if below else 0.0) * max(d1, 0.0)
        weights.append(total)
    return weights


@pytest.mark.parametrize("form", ["printed", "corrected"])
@pytest.mark.parametrize(("samples", "sigma"), [(1, 0.0), (5, 0.3)])
def test_weights_are_those_of_the_formulas(
    tiny: TinyNetwork, picture: torch.Tensor, form: Form, samples: int, sigma: float
) -> None:
    how = Smoothing(samples=samples, sigma=sigma, form=form, exponential=True, seed=4)
    noise = torch.randn((samples, *picture.shape), generator=torch.Generator().manual_seed(4)).double()
    noisy = look(tiny, tiny.layer, picture + sigma * noise, second_score)
    maps = look(tiny, tiny.layer, picture[None], second_score).maps[0]
    found = smooth_weights(maps, noisy, how)
    wanted = torch.tensor(slow_weights(tiny, picture, how), dtype=torch.float64)
    # What exp(S) was divided by cancels in alpha, but not in bar(Y g).
    torch.testing.assert_close(found * noisy.scores.max().exp(), wanted, rtol=1e-6, atol=0)


def test_a_map_is_the_weighted_maps_stretched_to_the_picture(tiny: TinyNetwork, picture: torch.Tensor) -> None:
    how = Smoothing(samples=5, sigma=0.3, exponential=True, seed=4)
    weights = torch.tensor(slow_weights(tiny, picture, how))
    raw = (weights[:, None, None] * tiny.layer(picture[None])[0]).sum(dim=0).relu()
    large = nn.functional.interpolate(raw[None, None], size=(6, 6), mode="bilinear")[0, 0]
    wanted = ((large - large.min()) / (large.max() - large.min())).detach().numpy()
    found = smooth_grad_cam_pp(tiny, tiny.layer, picture, second_score, how)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_without_noise_exp_makes_no_difference(tiny: TinyNetwork, picture: torch.Tensor) -> None:
    plain = smooth_grad_cam_pp(tiny, tiny.layer, picture, second_score, PLUS_PLUS)
    weighed = smooth_grad_cam_pp(tiny, tiny.layer, picture, second_score, replace(PLUS_PLUS, exponential=True))
    np.testing.assert_allclose(plain, weighed, atol=1e-6)
    assert plain.min() == 0
    assert plain.max() == 1


def test_with_noise_exp_weighs_the_samples() -> None:
    maps = torch.ones(1, 1, 1)
    noisy = Seen(torch.ones(2, 1, 1, 1), torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([0.0, -50.0]))
    alone = Seen(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.zeros(1))
    one = smooth_weights(maps, alone, Smoothing(samples=1))
    half = smooth_weights(maps, noisy, Smoothing(samples=2, exponential=True))
    torch.testing.assert_close(half, one / 2)
    assert not torch.allclose(smooth_weights(maps, noisy, Smoothing(samples=2)), one / 2)


def test_grad_cam_and_hirescam_by_hand(tiny: TinyNetwork, picture: torch.Tensor) -> None:
    gradients = tiny.head.weight[1].detach().view(2, 3, 3)
    maps = tiny.layer(picture[None])[0].detach()
    for method, raw in (
        (grad_cam, (gradients.mean(dim=(1, 2)).view(2, 1, 1) * maps).sum(dim=0)),
        (hires_cam, (gradients * maps).sum(dim=0)),
    ):
        large = nn.functional.interpolate(raw.relu()[None, None], size=(6, 6), mode="bilinear")[0, 0]
        wanted = (large - large.min()) / (large.max() - large.min()).clamp_min(1e-12)
        np.testing.assert_allclose(method(tiny, tiny.layer, picture, second_score), wanted, atol=1e-6)


def test_the_network_is_left_as_it_was(tiny: TinyNetwork, picture: torch.Tensor) -> None:
    tiny.train()
    with torch.inference_mode():
        smooth_grad_cam_pp(tiny, tiny.layer, picture, second_score)
    assert tiny.training
    assert not tiny.layer._forward_hooks
    assert all(weight.grad is None for weight in tiny.parameters())


def test_what_follows_the_layer_may_work_in_place(picture: torch.Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2)).double()
    assert smooth_grad_cam_pp(network, network[0], picture, second_score).shape == (6, 6)


def test_what_does_not_fit_is_refused_in_one_line(tiny: TinyNetwork, picture: torch.Tensor) -> None:
    with pytest.raises(HeatmapError, match="not part of the network"):
        smooth_grad_cam_pp(tiny, nn.Conv2d(3, 3, 1), picture, second_score)
    with pytest.raises(HeatmapError, match="maps \\[B, K, h, w\\]"):
        smooth_grad_cam_pp(tiny, tiny.head, picture, second_score)
    with pytest.raises(HeatmapError, match="one number per picture"):
        smooth_grad_cam_pp(tiny, tiny.layer, picture, lambda output: output)
    with pytest.raises(HeatmapError, match="does not depend"):
        smooth_grad_cam_pp(tiny, tiny.layer, picture, lambda output: tiny.head.bias[:1].expand(len(output)))
    with pytest.raises(HeatmapError, match="floating"):
        smooth_grad_cam_pp(tiny, tiny.layer, picture.byte(), second_score)
    with pytest.raises(HeatmapError, match="samples"):
        Smoothing(samples=0)
    assert not tiny.layer._forward_hooks


def colourful(*colours: str) -> Scene:
    things = tuple(Thing("star", colour, "large", "plain") for colour in colours)
    return Scene(things, "left of" if len(things) == 2 else "top left", "meadow")


def test_masks_are_where_a_change_of_colour_shows() -> None:
    before, after = (render(colourful("red", other), np.random.default_rng(5)) for other in ("blue", "yellow"))
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    masks = thing_masks(colourful("red", "blue"), rng)
    render(colourful("red", "blue"), same)
    assert rng.bit_generator.state == same.bit_generator.state
    changed = np.abs(before.astype(int) - after).max(axis=-1) > 0
    assert masks.shape == (2, 128, 128)
    assert not (changed & masks[0]).any()
    assert changed[masks[1]].mean() > 0.999
    # Only the outline's soft edge changes beyond it.
    assert 0 < (changed & ~masks[1]).sum() < 0.2 * masks[1].sum()


def test_energy_and_pointing() -> None:
    made = np.zeros((4, 4), np.float32)
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    assert (energy(made, mask), points_inside(made, mask)) == (0, 0)
    made[0, 1], made[3, 3] = 3, 1
    assert (energy(made, mask), points_inside(made, mask)) == (0.75, 1)
    assert points_inside(made, ~mask) == 0


def test_a_tally_averages_a_scenes_attributes_first() -> None:
    tally = Tally()
    tally.add("one thing", "x", {"energy": [1.0, 1.0, 1.0], "pointing": []})
    tally.add("one thing", "x", {"energy": [0.0]})
    tally.add("one thing", "y", {"energy": [0.0]})
    tally.add("one thing", "y", {"energy": [0.0]})
    assert tally.intervals()["one thing"]["x"].keys() == {"energy"}
    assert tally.intervals()["one thing"]["x"]["energy"]["value"] == 0.5
    assert tally.difference("one thing", "energy", "x", "y")["value"] == 0.5


@pytest.fixture(scope="module")
def judge() -> MappingJudge:
    return scenes()


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(drawn_cases(8, seed=9))


def shape_map(network: JudgeNetwork, case: Case, name: str = "smooth grad-cam++") -> np.ndarray:
    target = target_of({"a.shape": case.scene.things[0].shape})
    return methods()[name](network, as_input(case.picture), target)


def test_maps_lie_on_the_thing_more_than_chance_would(judge: MappingJudge, cases: list[Case]) -> None:
    network = judge._judge._network
    found = [energy(shape_map(network, case), case.masks[0]) / case.masks[0].mean() for case in cases]
    chance = [energy(shape_map(network, case, "random"), case.masks[0]) / case.masks[0].mean() for case in cases]
    assert np.mean(found) > 2 * np.mean(chance)


def test_maps_change_with_the_networks_weights(judge: MappingJudge, cases: list[Case]) -> None:
    network = judge._judge._network
    before = [weight.clone() for weight in network.parameters()]
    other = randomised(network, "everything")
    agreements = [rank_agreement(shape_map(network, case), shape_map(other, case)) for case in cases]
    assert np.nanmean(agreements) < 0.6
    same = [rank_agreement(shape_map(network, case), shape_map(network, case)) for case in cases]
    assert same == pytest.approx([1.0] * len(cases))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_what_explains_a_hit_depends_on_what_is_asked_and_smooth_grad_cam_pp_does_not(
    judge: MappingJudge, cases: list[Case]
) -> None:
    """The reason why maps are HiResCAM: with random heads Smooth Grad-CAM++ draws the same map."""
    network = judge._judge._network
    other = randomised(network, "heads")

    def agreement(name: str) -> float:
        pairs = [(shape_map(network, case, name), shape_map(other, case, name)) for case in cases]
        return float(np.nanmean([rank_agreement(*pair) for pair in pairs]))

    assert agreement("hirescam") < 0.6
    assert agreement("grad-cam++") > 0.9


def test_the_judge_of_the_scenes_explains_and_still_judges(judge: MappingJudge) -> None:
    named = load_judge("training.judge.maps:scenes")
    assert isinstance(named, MappingJudge)
    assert named.name == load_judge("training.judge.by_text:scenes").name
    scene = colourful("red")
    drawn = render(scene, np.random.default_rng(5))
    prompt = "a large red star in the top left corner on a meadow"
    assert named.score([drawn], [prompt])[0] == 1
    match, answer = judge.match_map(drawn, prompt), judge.answer_map(drawn, prompt)
    mask = thing_masks(scene, np.random.default_rng(5))[0]
    for made in (match, answer):
        assert made.shape == (128, 128)
        assert (made.min(), made.max()) == (0, 1)
    assert energy(answer, mask) > 2 * mask.mean()
    assert np.array_equal(judge.match_map(drawn, prompt), match)


def test_a_sheet_is_a_picture_of_four_panels(judge: MappingJudge) -> None:
    cached, delivered = (render(colourful(colour), np.random.default_rng(5)) for colour in ("red", "blue"))
    png = heatmap_sheet(judge, cached, delivered, "a blue star on a meadow")
    with Image.open(io.BytesIO(png)) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape == (154, 4 * 128 + 5 * 6, 3)
    assert np.array_equal(pixels[20:148, 6:134], cached)
    assert np.array_equal(pixels[20:148, 274:402], delivered)
    assert not np.array_equal(pixels[20:148, 140:268], pixels[20:148, 408:536])


def test_a_sheet_of_what_cannot_be_explained_is_refused(judge: MappingJudge) -> None:
    drawn = render(colourful("red"), np.random.default_rng(5))
    with pytest.raises(HeatmapError, match="does not describe a scene"):
        heatmap_sheet(judge, drawn, drawn, "the meaning of life")
    with pytest.raises(HeatmapError, match="128 pixels"):
        heatmap_sheet(judge, drawn[:64], drawn, "a red star")
    with pytest.raises(HeatmapError, match="nothing to explain"):
        target_of({})


def test_an_overlay_leaves_cold_places_grey() -> None:
    picture = np.full((2, 2, 3), [255, 0, 0], np.uint8)
    heat = np.array([[0, 1], [0, 0]], np.float32)
    seen = overlaid(picture, heat)
    assert seen[0, 0].tolist() == [85, 85, 85]
    assert seen[0, 1].min() > 200


def test_the_explained_layer_has_sixteen_cells_a_side(judge: MappingJudge) -> None:
    network = judge._judge._network
    seen = look(network, explained_layer(network), torch.rand(1, 3, 128, 128), target_of({"count": "1"}))
    assert seen.maps.shape[-2:] == (16, 16)
