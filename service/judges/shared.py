"""One judge for all who need it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.judges.base import Judge
from service.judges.loading import load_judge


class SharedJudge:
    """A judge that is loaded when it is first needed, and used by one thread at a time.

    Its libraries take seconds to load, so not at the start, and never in the event loop. One at a time, because
    what explains a judge hooks into its network.

    Args:
        name: see `load_judge`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._judge: Judge | None = None

    @contextmanager
    def lent(self) -> Iterator[Judge]:
        """Lend the judge; waits for whoever has it.

        Raises:
            JudgeError: there is no such judge, or it cannot be loaded.
        """
        with self._lock:
            if self._judge is None:
                self._judge = load_judge(self.name)
            yield self._judge
