"""Matching by a profiled table, with the divergence gate behind it."""

from policies.matching.ranking import TableMatching
from policies.matching.table import ThresholdTable
from policies.matching.veto import KINDS


class GatedTableMatching(TableMatching):
    """Similarity proposes by a profiled table; the engine's divergence gate disposes.

    Looks at every candidate, so that holes in the first do not matter, and proposes first what promises to save most:
    steps saved times the chance that the gate lets it pass. What promises nothing is not proposed. Only states with a
    stored prediction qualify: without one the gate has nothing to compare.
    """

    def __init__(self, table: ThresholdTable, *, max_attempts: int = 3, veto: frozenset[str] = KINDS) -> None:
        """Match by `table`, proposing at most `max_attempts` states; `veto`: kinds of words (`veto.KINDS`).

        Raises:
            ValueError: no kind of veto has such a name.
        """
        super().__init__(
            rows=table.rows,
            max_attempts=max_attempts,
            needs_prediction=True,
            veto=veto,
            judged_at=table.judged_at,
            step_share=table.step_share,
        )
