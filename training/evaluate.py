"""The figures of the model card: judge on renders, model on prompts it has never seen."""

from __future__ import annotations

import json
import multiprocessing
from collections import defaultdict
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from training.export import load_pipeline, read_defaults, write_defaults
from training.judge import Judge, JudgeResult
from training.judge.training import fully_mentioned
from training.loop import DIT_FOLDER, JUDGE_FOLDER, MODELS, UNET_FOLDER
from training.pool import draw_shard
from training.sampling import ScenesPipeline, Solver, sample, with_solver
from training.scenes import Caption, Split, caption, sample_scene
from training.vae import reconstruct, to_tensor

RESULTS = MODELS / "evaluation.json"
_PROMPT_SEEDS = {"heldout": 70_001, "novel": 70_002, "train": 70_003}
_RENDER_SEED = 70_004
_TUNING_SEED = 70_005
_NOISE_SEED = 500_000
_CHUNK = 16
_FULL_STEPS = 50
# Of the names of a model's figures; the UNet came first and has none.
_PREFIX = {UNET_FOLDER: "", DIT_FOLDER: "dit_"}

Figures = dict[str, Any]


def prompts(split: Split, count: int, seed: int | None = None) -> list[Caption]:
    """Captions of random scenes of one split; the same ones in every call."""
    rng = np.random.default_rng(_PROMPT_SEEDS[split] if seed is None else seed)
    return [caption(sample_scene(rng, split), rng) for _ in range(count)]


def interval(scores: npt.NDArray[np.float64], draws: int = 2000) -> list[float]:
    """95 % bootstrap interval of the mean over pictures."""
    rng = np.random.default_rng(0)
    means = scores[rng.integers(len(scores), size=(draws, len(scores)))].mean(1)
    return [round(float(q), 4) for q in np.quantile(means, (0.025, 0.975))]


def summary(result: JudgeResult) -> Figures:
    """Mean score with its interval, share of pictures wholly right, and accuracy per attribute."""
    by_name: dict[str, list[bool]] = defaultdict(list)
    for row in result.correct:
        for name, right in row.items():
            by_name[name.split(".")[-1]].append(right)
    return {
        "pictures": len(result.score),
        "score": round(float(result.score.mean()), 4),
        "interval95": interval(result.score),
        "wholly_right": round(float((result.score == 1).mean()), 4),
        "by_attribute": {k: round(float(np.mean(v)), 4) for k, v in sorted(by_name.items())},
    }


def judge_on_renders(pipeline: ScenesPipeline, judge: Judge, count: int) -> Figures:
    """The judge on clean renders, and on the same renders through the autoencoder."""
    figures: Figures = {}
    splits: tuple[Split, ...] = ("heldout", "novel")
    for split in splits:
        pixels, scenes = draw_shard([_RENDER_SEED], split, count)
        images, captions = to_tensor(pixels), [fully_mentioned(scene) for scene in scenes]
        figures[f"clean_{split}"] = summary(judge.score((images + 1) / 2, captions))
        soft = reconstruct(pipeline.vae, images)
        figures[f"reconstructed_{split}"] = summary(judge.score((soft + 1) / 2, captions))
    return figures


@dataclass(frozen=True)
class Setting:
    """How pictures are sampled for an evaluation."""

    steps: int
    guidance: float
    solver: Solver = "ddim"
    model: Path = UNET_FOLDER


@lru_cache(maxsize=2)
def _models(folder: Path) -> tuple[ScenesPipeline, Judge]:
    """A shipped model and the judge, loaded once per worker process."""
    torch.set_num_threads(1)
    return load_pipeline(folder), Judge.load(JUDGE_FOLDER)


def _judge_chunk(captions: list[Caption], setting: Setting, seed: int) -> JudgeResult:
    pipeline, judge = _models(setting.model)
    texts = [one.text for one in captions]
    pictures = sample(with_solver(pipeline, setting.solver), texts, setting.steps, setting.guidance, seed)
    return judge.score(torch.cat(list(pictures)), captions)


def judge_model(executor: Executor, captions: list[Caption], setting: Setting) -> JudgeResult:
    """Sample one picture per caption and judge it; picture i always has the same noise."""
    starts = range(0, len(captions), _CHUNK)
    jobs = [executor.submit(_judge_chunk, captions[k : k + _CHUNK], setting, _NOISE_SEED + k) for k in starts]
    title = f"{setting.solver} {setting.steps} x{len(captions)}"
    parts = [job.result() for job in tqdm(jobs, desc=title)]
    rows = [row for part in parts for row in part.correct]
    return JudgeResult(rows, np.concatenate([part.score for part in parts]))


def workers(count: int = 2) -> ProcessPoolExecutor:
    """Processes that sample and judge, one thread each."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))


def tune_guidance(folder: Path, count: int = 96, steps: int = 16) -> Figures:
    """Score guidance scales on tuning prompts, and record the best one beside the model."""
    captions = prompts("train", count, _TUNING_SEED)
    with workers() as executor:
        scores = {
            scale: round(float(judge_model(executor, captions, Setting(steps, scale, model=folder)).score.mean()), 4)
            for scale in (1.5, 2.0, 3.0, 4.0)
        }
    best = max(scores, key=lambda scale: scores[scale])
    write_defaults({**read_defaults(folder), "default_guidance": best}, folder)
    return {"prompts": count, "steps": steps, "scores": scores, "best": best}


def tune(folder: Path) -> None:
    """Choose a model's guidance, and record how the choice was made."""
    save_figures({_PREFIX[folder] + "guidance_sweep": tune_guidance(folder)})


def evaluate(count: int = 512, novel: int = 192) -> Figures:
    """All figures of the model card; also merged into ``models/evaluation.json``.

    Args:
        count: held-out prompts for the 50-step score.
        novel: prompts with never-trained combinations, likewise.
    """
    with workers() as executor:
        for folder in (UNET_FOLDER, DIT_FOLDER):
            _evaluate_model(executor, folder, count, novel)
        save_figures({"judge": judge_on_renders(*_models(UNET_FOLDER), 400)})
    figures: Figures = json.loads(RESULTS.read_text())
    return figures


def _evaluate_model(executor: Executor, folder: Path, count: int, novel: int) -> None:
    defaults, prefix = read_defaults(folder), _PREFIX[folder]
    chosen = Setting(_FULL_STEPS, defaults["default_guidance"], model=folder)
    save_figures({prefix + "defaults": dict(defaults)})
    save_figures({prefix + "model_heldout": summary(judge_model(executor, prompts("heldout", count), chosen))})
    save_figures({prefix + "model_novel": summary(judge_model(executor, prompts("novel", novel), chosen))})


def save_figures(figures: Figures) -> None:
    """Merge figures into ``models/evaluation.json``."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**before, **figures}, indent=1) + "\n")
