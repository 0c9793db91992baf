"""Judges: how well does a picture show what its prompt asks for?"""

from service.judges.base import Judge, JudgeError
from service.judges.loading import load_judge, shipped_judge
from service.judges.shared import SharedJudge

__all__ = ["Judge", "JudgeError", "SharedJudge", "load_judge", "shipped_judge"]
