"""Parsimonious caching: Follower and Robust, its optimum counter, a learned reuse predictor, and an evaluation."""

from policies.eviction.parsimonious.evaluation import Row, noise_table
from policies.eviction.parsimonious.follow import GROWTHS, FollowAndRobust, Predictor
from policies.eviction.parsimonious.optimum import OptimumCounter
from policies.eviction.parsimonious.policy import Parsimonious
from policies.eviction.parsimonious.reuse import ReusePredictor

__all__ = [
    "GROWTHS",
    "FollowAndRobust",
    "OptimumCounter",
    "Parsimonious",
    "Predictor",
    "ReusePredictor",
    "Row",
    "noise_table",
]
