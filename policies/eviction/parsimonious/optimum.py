"""How often the offline optimum would have faulted so far, counted as the requests come."""

from collections import OrderedDict


class OptimumCounter:
    """Counts the page faults of Belady's algorithm on the requests seen so far.

    A page last requested at p and requested again now is a hit of the optimum if and only if, at every time between,
    fewer than k - 1 others are being kept over that time already (k - 1, as the page requested then has a place of
    its own). Whether that is so is the maximum over a range, then one is added to the range: a segment tree over a
    sliding window of time does both in O(log window).

    Intervals longer than the window count as faults, so beyond it the count is an upper bound.
    """

    def __init__(self, k: int, window: int = 1 << 16) -> None:
        """Count for a cache of `k` pages; `window` requests are remembered (rounded up to a power of two)."""
        if k < 1 or window < 2:
            raise ValueError(f"k must be at least 1 and window at least 2, got {k} and {window}")
        self.k = k
        self.faults = 0
        self._size = 1 << (window - 1).bit_length()
        # _most[i] is the maximum over the slots below node i, _plus[i] what was added to all of them (included).
        self._most = [0] * (2 * self._size)
        self._plus = [0] * (2 * self._size)
        self._last: OrderedDict[int, int] = OrderedDict()
        self._now = 0

    def request(self, page: int) -> bool:
        """Count a request; return whether the optimum faults on it."""
        now, before = self._now, self._last.pop(page, None)
        self._now += 1
        self._last[page] = now
        self._forget(now)
        self._set_zero(now % self._size)
        hit = before is not None and now - before < self._size and self._keep(before + 1, now)
        self.faults += not hit
        return not hit

    def _forget(self, now: int) -> None:
        oldest = next(iter(self._last))
        if now - self._last[oldest] >= self._size:
            del self._last[oldest]

    def _keep(self, start: int, end: int) -> bool:
        """Keep one more page over times [start, end) if there is room throughout; return whether there is."""
        first, last = start % self._size, end % self._size
        parts = [(first, last)] if first <= last else [(first, self._size), (0, last)]
        if start == end:
            return True
        if any(self._maximum(low, high) >= self.k - 1 for low, high in parts):
            return False
        for low, high in parts:
            self._add(low, high)
        return True

    def _maximum(self, low: int, high: int) -> int:
        return self._walk(1, 0, self._size, low, high)

    def _walk(self, node: int, left: int, right: int, low: int, high: int) -> int:
        if low >= right or high <= left:
            return 0
        if low <= left and right <= high:
            return self._most[node]
        middle = (left + right) // 2
        inner = max(self._walk(2 * node, left, middle, low, high), self._walk(2 * node + 1, middle, right, low, high))
        return inner + self._plus[node]

    def _add(self, low: int, high: int) -> None:
        """Add one to slots [low, high): bottom up over the nodes that cover them, then repair their ancestors."""
        left, right = low + self._size, high + self._size
        while left < right:
            if left & 1:
                self._lift(left)
                left += 1
            if right & 1:
                right -= 1
                self._lift(right)
            left, right = left // 2, right // 2
        if low < high:
            self._repair(low + self._size)
            self._repair(high - 1 + self._size)

    def _lift(self, node: int) -> None:
        self._most[node] += 1
        self._plus[node] += 1

    def _repair(self, leaf: int) -> None:
        node = leaf // 2
        while node:
            self._most[node] = max(self._most[2 * node], self._most[2 * node + 1]) + self._plus[node]
            node //= 2

    def _set_zero(self, slot: int) -> None:
        """Give a slot to the present: nobody is kept over it yet."""
        leaf = slot + self._size
        above, node = 0, leaf // 2
        while node:
            above += self._plus[node]
            node //= 2
        if self._most[leaf] + above:
            self._most[leaf] = -above
            self._repair(leaf)
