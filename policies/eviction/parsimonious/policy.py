"""F&R as an eviction policy: a page is the bundle of states that answers one need."""

from collections import OrderedDict
from collections.abc import Container
from typing import ClassVar

from policies.eviction.base import EvictionPolicy, Item, Key
from policies.eviction.parsimonious.follow import GROWTHS, FollowAndRobust, Growth, Predictor
from policies.eviction.parsimonious.reuse import ReusePredictor

_DRIFT = 0.25
_STATES_PER_QUERY = 256


class Parsimonious(EvictionPolicy):
    """Evicts pages that F&R's virtual cache does not hold, whoever left it first; in a page, the shallowest state.

    The store follows the virtual cache lazily: only when room is needed. Storing a page's first state is a request
    of the page, and so is using any of its states. k, the pages that fit, is what is held when room is needed for
    the first time; when that has changed by a quarter, the algorithm starts anew.

    alpha is 1.25 by default, more patient with a mildly wrong predictor than the paper's 1, whose proven bound it
    loosens accordingly. A query costs time in proportion to k; large caches space them out.
    """

    name: ClassVar[str] = "parsimonious"

    def __init__(
        self,
        budget: int,
        *,
        predictor: Predictor | None = None,
        growth: Growth = GROWTHS["square"],
        alpha: float = 1.25,
        spacing: int | None = None,
        seed: int = 0,
    ) -> None:
        """See `EvictionPolicy`.

        Args:
            budget: bytes the store may hold.
            predictor: of the next request of a page; None = a `ReusePredictor` that learns as it goes.
            growth: see `FollowAndRobust`.
            alpha: see `FollowAndRobust`.
            spacing: see `FollowAndRobust`; None = 1 in small caches, and more in proportion to k.
            seed: see `FollowAndRobust`.
        """
        super().__init__(budget)
        self._predictor: Predictor = predictor if predictor is not None else ReusePredictor()
        self._growth, self._alpha, self._spacing, self._seed = growth, alpha, spacing, seed
        self._pages: OrderedDict[int, dict[Key, float]] = OrderedDict()  # least recently requested first
        self._page_of: dict[Key, int] = {}
        self._loose: OrderedDict[int, None] = OrderedDict()  # held, and not in the virtual cache
        self._core: FollowAndRobust | None = None
        self._earlier_queries = 0
        self._stored_last: int | None = None

    @property
    def queries(self) -> int:
        """How often the predictor was asked."""
        return self._earlier_queries + (self._core.queries if self._core else 0)

    @property
    def mode(self) -> str:
        """What F&R is doing: "filling", "follower" or "robust"."""
        return self._core.mode if self._core else "filling"

    def add(self, key: Key, item: Item, uses: int = 0) -> None:
        """See `EvictionPolicy.add`."""
        if key in self._page_of:
            return
        self._page_of[key] = item.page
        known = item.page in self._pages
        self._pages.setdefault(item.page, {})[key] = item.skip
        if not known or self._stored_last != item.page:  # the states of one run come in a row
            self._request(item.page)
        self._stored_last = item.page

    def use(self, key: Key) -> None:
        """See `EvictionPolicy.use`."""
        page = self._page_of.get(key)
        if page is not None:
            self._stored_last = None
            self._request(page)

    def _request(self, page: int) -> None:
        self._predictor.observe(page)
        self._pages.move_to_end(page)
        if self._core is None:
            return
        self._core.request(page)
        for other, inside in self._core.changes:
            if inside:
                self._loose.pop(other, None)
            elif other in self._pages:
                self._loose[other] = None
        self._core.changes.clear()
        if page in self._loose:
            self._loose.move_to_end(page)

    def remove(self, key: Key) -> None:
        """See `EvictionPolicy.remove`."""
        page = self._page_of.pop(key, None)
        if page is None:
            return
        del self._pages[page][key]
        if not self._pages[page]:
            del self._pages[page]
            self._loose.pop(page, None)

    def victim(self, spared: Container[Key] = frozenset()) -> Key | None:
        """See `EvictionPolicy.victim`."""
        self._fit()
        for pages in (self._loose, self._pages):
            for page in pages:
                free = [(skip, key) for key, skip in self._pages[page].items() if key not in spared]
                if free:
                    return min(free)[1]
        return None

    def _fit(self) -> None:
        """Start F&R when the store is full for the first time, and anew when what fits has changed much."""
        held = len(self._pages)
        if held == 0 or (self._core and abs(held - self._core.k) <= max(1, _DRIFT * self._core.k)):
            return
        self._earlier_queries = self.queries
        spacing = self._spacing or 1 + held // _STATES_PER_QUERY
        settings = {"alpha": self._alpha, "spacing": spacing, "seed": self._seed}
        core = self._core = FollowAndRobust(held, self._predictor, growth=self._growth, **settings)  # type: ignore[arg-type]
        for page in self._pages:
            core.request(page)
        core.changes.clear()
        self._loose.clear()

    def __len__(self) -> int:
        """See `EvictionPolicy.__len__`."""
        return len(self._page_of)

    def __contains__(self, key: object) -> bool:
        """See `EvictionPolicy.__contains__`."""
        return key in self._page_of
