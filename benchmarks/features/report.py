"""From tallies to figures: ratios within one run, and the fastest system that keeps the judge's score."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from benchmarks.facts import mean_interval, ratio_interval
from benchmarks.features.lab import Tally
from benchmarks.features.systems import FULL, System
from policies.features.methods import knobs

BOUND = 0.99
# What the screening lets through to be measured again, and how many.
MARGIN, FINALISTS = 0.98, 6
Tallies = Mapping[System, Tally]
Report = dict[str, Any]


def figures(system: System, tallies: Tallies, reference: System) -> Report:
    """Return one system's figures.

    Args:
        system: which.
        tallies: of the run.
        reference: what speed and score are compared with.
    """
    own, plain, whole = tallies[system], tallies[system.plain], tallies[reference]
    chosen = system.features
    share, evaluations = float(np.mean(own.share)), float(np.mean(own.evaluations))
    return {
        "system": system.name,
        "solver": system.solver,
        "steps": system.steps,
        "entry": system.entry,
        "policy": None if chosen is None else chosen.policy,
        "strength": None if chosen is None else chosen.strength,
        "resume_warmup": None if chosen is None else chosen.resume_warmup,
        "knobs": {} if chosen is None else knobs(chosen),
        "reason": own.reason,
        "pictures": len(own.score),
        "compute_share": share,
        "flops_ratio": float(np.mean(whole.evaluations)) * float(np.mean(whole.share)) / (share * evaluations),
        "speedup": ratio_interval(whole.seconds, own.seconds),
        "denoise_speedup": float(np.sum(whole.denoising) / np.sum(own.denoising)),
        "speedup_over_plain": ratio_interval(plain.seconds, own.seconds),
        "score": mean_interval(own.scores),
        "score_ratio": ratio_interval(own.scores, whole.scores),
        "score_over_plain": ratio_interval(own.scores, plain.scores),
        "psnr": _spread(own.psnr),
        "ssim": _spread(own.ssim),
    }


def _spread(values: list[float]) -> dict[str, float]:
    """Mean, 5th percentile and worst of the pictures' own values."""
    return {"mean": float(np.mean(values)), "p5": float(np.percentile(values, 5)), "worst": float(np.min(values))}


def table(tallies: Tallies, reference: System) -> list[Report]:
    """Return the figures of all systems."""
    return [figures(system, tallies, reference) for system in tallies]


def finalists(tallies: Tallies, reference: System, among: Iterable[System]) -> list[System]:
    """Return the fastest systems that a first look does not rule out."""
    rows = [(figures(system, tallies, reference), system) for system in among if system in tallies]
    good = [(row["speedup"]["value"], system) for row, system in rows if row["score_ratio"]["value"] >= MARGIN]
    good.sort(key=lambda pair: -pair[0])
    return [system for _, system in good[:FINALISTS]]


def best(tallies: Tallies, reference: System, among: Iterable[System]) -> Report | None:
    """Return the figures of the fastest system with at least 99 % of the reference's score; None if there is none."""
    rows = [figures(system, tallies, reference) for system in among]
    good = [row for row in rows if row["score_ratio"]["value"] >= BOUND]
    return max(good, key=lambda row: row["speedup"]["value"], default=None)


def multiplied(tallies: Tallies, systems: Iterable[System], feature_speedups: Mapping[str, float]) -> list[Report]:
    """Tell whether the savings of resuming and of feature caching multiply.

    Args:
        tallies: of resumed runs and a full one.
        systems: resumed ones with feature caching.
        feature_speedups: wall-clock ratio of each policy alone, in full runs.
    """
    full, rows = System(), []
    for system in systems:
        chosen = system.features
        if chosen is None or chosen.policy not in feature_speedups:
            continue
        resumed = float(np.sum(tallies[full].seconds) / np.sum(tallies[system.plain].seconds))
        both = float(np.sum(tallies[full].seconds) / np.sum(tallies[system].seconds))
        alone = feature_speedups[chosen.policy]
        rows.append(
            {
                "system": system.name,
                "entry": system.entry,
                "policy": chosen.policy,
                "resume_warmup": chosen.resume_warmup,
                "resume_alone": resumed,
                "features_alone": alone,
                "both": both,
                "both_over_product": both / (resumed * alone),
                "compute_share_of_the_rest": float(np.mean(tallies[system].share)),
                "compute_share_of_all": float(np.mean(tallies[system].share)) * (FULL - system.entry) / FULL,
                "score_over_resumed": ratio_interval(tallies[system].scores, tallies[system.plain].scores),
                "psnr": _spread(tallies[system].psnr),
            }
        )
    return rows
