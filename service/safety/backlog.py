"""Whether a checker will keep up with the engine."""

import math
from collections.abc import Sequence


def seconds_until_room(ready: Sequence[float], busy: float, each: float, patience: float) -> float:
    """Return after how many seconds no picture would wait too long for its verdict; 0 = none would, as it is.

    Args:
        ready: when each picture comes to the checker, in seconds from now.
        busy: when the verdict it is at will be there.
        each: seconds of a verdict.
        patience: longest time from a picture's coming to its verdict.
    """
    ends, free, longest = [], busy, 0.0
    for at in sorted(ready):
        free = max(free, at) + each
        ends.append(free)
        longest = max(longest, free - at)
    if longest <= patience or each <= 0:
        return 0.0
    fewer = math.ceil((longest - patience) / each)
    return ends[min(fewer, len(ends)) - 1]
