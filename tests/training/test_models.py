from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from training.evaluate import interval, prompts
from training.export import load_pipeline, read_defaults
from training.judge import Judge
from training.judge.training import fully_mentioned
from training.loop import JUDGE_FOLDER, UNET_FOLDER
from training.pool import draw_shard
from training.sampling import sample

MEBIBYTE = 2**20


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load(JUDGE_FOLDER)


def test_the_shipped_folders_are_small() -> None:
    assert folder_size(UNET_FOLDER) < 25 * MEBIBYTE
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
    facts = json.loads((UNET_FOLDER / "headstart.json").read_text())
    assert facts.keys() == {"default_guidance", "default_solver", "default_steps", "image_size"}
    assert facts["image_size"] == 128
