from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import PixArtSigmaPipeline, StableDiffusionPipeline

from training.evaluate import interval, prompts
from training.export import load_pipeline, read_defaults
from training.judge import Judge
from training.judge.training import fully_mentioned
from training.lab import Lab, RunSettings, jobs
from training.loop import DIT_FOLDER, JUDGE_FOLDER, UNET_FOLDER
from training.pool import draw_shard
from training.sampling import sample, with_solver

MEBIBYTE = 2**20


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


@pytest.fixture(scope="module")
def transformer() -> PixArtSigmaPipeline:
    return load_pipeline(DIT_FOLDER)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load(JUDGE_FOLDER)


def test_the_shipped_folders_are_small() -> None:
    assert folder_size(UNET_FOLDER) < 25 * MEBIBYTE
    assert folder_size(DIT_FOLDER) < 30 * MEBIBYTE
    assert folder_size(JUDGE_FOLDER) < 3 * MEBIBYTE


def test_the_pipeline_draws_a_picture_in_single_precision(pipeline: StableDiffusionPipeline) -> None:
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    picture = pipeline("a red ball on a beach", num_inference_steps=2).images[0]
    assert picture.size == (128, 128)


def test_any_text_tokenises(pipeline: StableDiffusionPipeline) -> None:
    tokenizer = pipeline.tokenizer
    for text in ("", "Zürich 漢字 🙂", "a " * 500):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        assert len(ids) == tokenizer.model_max_length == 40
        assert max(ids) < pipeline.text_encoder.config.vocab_size


def test_the_same_seed_gives_the_same_picture_alone_and_in_a_batch(pipeline: StableDiffusionPipeline) -> None:
    texts = ["a blue box in the snow", "a star at night"]
    together = next(sample(pipeline, texts, 3, 2.0, seed=5))
    alone = next(sample(pipeline, texts[:1], 3, 2.0, seed=5))
    assert torch.allclose(together[0], alone[0], atol=0.06)


def test_the_model_mostly_draws_what_is_asked(pipeline: StableDiffusionPipeline, judge: Judge) -> None:
    captions = prompts("heldout", 8)
    texts = [one.text for one in captions]
    pictures = torch.cat(list(sample(pipeline, texts, 12, read_defaults()["default_guidance"])))
    assert judge.score(pictures, captions).score.mean() > 0.75


def test_the_transformer_mostly_draws_what_is_asked(transformer: PixArtSigmaPipeline, judge: Judge) -> None:
    captions = prompts("heldout", 8)
    texts = [one.text for one in captions]
    defaults = read_defaults(DIT_FOLDER)
    steps, guidance = defaults["default_steps"], defaults["default_guidance"]
    pictures = torch.cat(list(sample(with_solver(transformer, defaults["default_solver"]), texts, steps, guidance)))
    assert judge.score(pictures, captions).score.mean() > 0.75


def test_any_text_tokenises_for_the_transformer(transformer: PixArtSigmaPipeline) -> None:
    for text in ("", "Zürich 漢字 🙂", "a " * 500):
        ids = transformer.tokenizer(text, max_length=40, truncation=True).input_ids
        assert 1 <= len(ids) <= 40
        assert max(ids) < transformer.text_encoder.config.vocab_size


def test_the_engine_draws_the_transformers_pictures_as_diffusers_does(transformer: PixArtSigmaPipeline) -> None:
    with Lab(str(DIT_FOLDER), dtype="float32", threads=2, quiet=True) as lab:
        caption = prompts("heldout", 1)[0]
        settings = RunSettings(steps=4, solver="ddim", guidance_scale=3.0)
        image = lab.run(jobs([caption], [11], settings, lab.info, "same"), "same")[0].image
    picture = next(sample(with_solver(transformer, "ddim"), [caption.text], 4, 3.0, seed=11))
    ours = torch.from_numpy(image).permute(2, 0, 1) / 255
    assert (ours - picture[0]).abs().mean() < 0.02


def test_the_judge_reads_clean_renders(judge: Judge) -> None:
    pixels, scenes = draw_shard([123], "heldout", 40)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    result = judge.score(images, [fully_mentioned(scene) for scene in scenes])
    assert result.score.mean() > 0.95
    assert all(row.keys() == s.attributes().keys() for row, s in zip(result.correct, scenes, strict=True))


def test_the_judge_counts_mentioned_attributes_only(judge: Judge) -> None:
    captions = prompts("train", 3)
    result = judge.score(torch.rand(3, 3, 128, 128), captions)
    assert [row.keys() for row in result.correct] == [one.mentioned for one in captions]
    assert ((result.score >= 0) & (result.score <= 1)).all()


def test_the_judge_refuses_what_it_cannot_judge(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="128"):
        judge.attributes(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="captions"):
        judge.score(torch.rand(1, 3, 128, 128), [])
    with pytest.raises(FileNotFoundError, match="no judge"):
        Judge.load(tmp_path)


def test_the_interval_holds_the_mean() -> None:
    scores = np.random.default_rng(0).random(200)
    low, high = interval(scores)
    assert low < scores.mean() < high


def test_the_defaults_are_recorded() -> None:
    for folder in (UNET_FOLDER, DIT_FOLDER):
        facts = json.loads((folder / "headstart.json").read_text())
        assert facts.keys() == {"default_guidance", "default_solver", "default_steps", "image_size", "judge"}
        assert facts["image_size"] == 128
