"""Judges: how well does a picture show what its prompt asks for?"""

from service.judges.base import Judge, JudgeError
from service.judges.loading import load_judge, shipped_judge

__all__ = ["Judge", "JudgeError", "load_judge", "shipped_judge"]
