"""When a picture is visibly worse than another: the one comparison that every count of bad hits is made of.

What is counted differs, on purpose. `headstart calibrate matching` can afford two full runs of a prompt: a hit is bad
when it is visibly below a full run, and the bad-hit rate is how much more often that happens to hits than to a second
full run (`service.calibrate.matching.fit.excess_of`). The shadow audit draws one full run in service, from the hit's
own starting noise: a hit is bad when visibly below it, good when visibly above, and the rate is bad less good
(`policies.matching.audit.outcome_of`). Both are 0 where hits are as good as full runs, whatever the luck of the draw;
but a single hit need not be bad in both, and hits that are better *and* worse than full runs more often than chance
have a rate in calibration and none in the audit.
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-9


@overload
def visibly_below(score: float, other: float, loss: float) -> bool: ...


@overload
def visibly_below(score: NDArray[np.float64], other: NDArray[np.float64], loss: float) -> NDArray[np.bool_]: ...


def visibly_below(
    score: float | NDArray[np.float64], other: float | NDArray[np.float64], loss: float
) -> bool | NDArray[np.bool_]:
    """Return whether a judge's score lies so far below another that a user sees it; of arrays, one by one.

    Args:
        score: of one picture.
        other: of the other.
        loss: that a user sees; exactly that much is not seen, however it was rounded.
    """
    return other - score > loss + _ROUNDING
