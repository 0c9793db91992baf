"""``python -m training``: make the shipped models from nothing, or one stage of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from training import card, denoiser, dit, evaluate, export, latents, pool, t5, text, unet, vae
from training.judge import training as judge_training
from training.loop import DIT_FOLDER, JUDGE_FOLDER, RUNS, UNET_FOLDER


def _scenes(options: argparse.Namespace) -> None:
    pool.build_pool(RUNS / "pool-train", 40, 1, "train")


def _vae(options: argparse.Namespace) -> None:
    vae.train_vae(options.vae_minutes)


def _text(options: argparse.Namespace) -> None:
    text.train_text(options.text_minutes)


def _judge(options: argparse.Namespace) -> None:
    judge_training.train_judge(options.judge_minutes)
    judge_training.export_judge(JUDGE_FOLDER)


def _t5(options: argparse.Namespace) -> None:
    t5.train_t5(options.t5_minutes)


def _unet(options: argparse.Namespace) -> None:
    with _fellow_workers("unet", options):
        denoiser.train(unet.UnetTrainer, options.unet_minutes, 21, options.rank, options.workers)


def _dit(options: argparse.Namespace) -> None:
    with _fellow_workers("dit", options):
        denoiser.train(dit.DitTrainer, options.dit_minutes, 22, options.rank, options.workers)


@contextmanager
def _fellow_workers(stage: str, options: argparse.Namespace) -> Iterator[None]:
    """Make the latents, and have the other workers of the stage run beside this one, if this is the first."""
    fellows: list[subprocess.Popen[bytes]] = []
    if options.rank == 0:
        latents.encode_pool(6000)
        (RUNS / "meeting").unlink(missing_ok=True)
        again = [sys.executable, "-m", "training", stage, "--workers", str(options.workers), "--rank"]
        fellows = [subprocess.Popen([*again, str(rank)]) for rank in range(1, options.workers)]
    yield
    for fellow in fellows:
        fellow.wait()


def _export(options: argparse.Namespace) -> None:
    export.export_unet()
    export.export_dit()


def _tune(options: argparse.Namespace) -> None:
    for folder in (UNET_FOLDER, DIT_FOLDER):
        evaluate.tune(folder)


def _evaluate(options: argparse.Namespace) -> None:
    figures = evaluate.evaluate(options.prompts, options.prompts // 4)
    if options.json:
        print(json.dumps(figures))
        return
    for name in ("model_heldout", "model_novel", "dit_model_heldout", "dit_model_novel"):
        print(name, figures[name]["score"], figures[name]["interval95"])


def _card(options: argparse.Namespace) -> None:
    card.write_card()


_STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "scenes": _scenes,
    "vae": _vae,
    "text": _text,
    "judge": _judge,
    "unet": _unet,
    "t5": _t5,
    "dit": _dit,
    "export": _export,
    "tune": _tune,
    "evaluate": _evaluate,
    "card": _card,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=["all", *_STAGES], default="all")
    parser.add_argument("--vae-minutes", type=float, default=18.0)
    parser.add_argument("--text-minutes", type=float, default=3.6)
    parser.add_argument("--judge-minutes", type=float, default=8.0)
    parser.add_argument("--unet-minutes", type=float, default=75.0)
    parser.add_argument("--t5-minutes", type=float, default=7.0)
    parser.add_argument("--dit-minutes", type=float, default=90.0)
    parser.add_argument("--prompts", type=int, default=512, help="held-out prompts to evaluate on")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument("--workers", type=int, default=2, help="processes that train one denoiser together")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object")
    return parser


def main() -> None:
    """Run one stage, or all of them; a stage that was interrupted goes on where it stopped."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    for name in _STAGES if options.stage == "all" else [options.stage]:
        _STAGES[name](options)


if __name__ == "__main__":
    main()
