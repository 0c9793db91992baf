"""One forward in which every row walks through the layers it has to, and joins the others where it has skipped some.

A row that reuses a span of layers leaves the batch before it and comes back behind it; rows that compute it go on
among themselves. So a mixed batch runs each layer once, on the rows that need it, whatever site each row caches at.
All distances of one boundary reach the host in one transfer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from policies.features.base import BlockStack, CacheLayer, Decision, Indicator, Site, SubLayer, UNetSkip
from service.engine.features.backbone import Backbone, Inputs, Stream, SubLayerCall, relative_change
from service.engine.features.predicting import Missing, predict_missing
from service.engine.features.profile import Profile
from service.engine.features.run import Key, Lane


def has_inner_site(lane: Lane | None) -> bool:
    """Tell whether a row caches anything inside the network."""
    kinds = UNetSkip | BlockStack | SubLayer
    return lane is not None and any(isinstance(layer.site, kinds) for layer in lane.run.recipe.layers)


def walk_cached(backbone: Backbone, inputs: Inputs, lanes: Sequence[Lane | None], profile: Profile) -> Tensor:
    """Run a denoiser with feature caching.

    Args:
        backbone: the denoiser, taken apart.
        inputs: of R rows.
        lanes: per row its job's feature caching; None = plain.
        profile: costs of the layers.

    Returns:
        What the denoiser's own forward returns, [R, ...].
    """
    return _Walk(backbone, inputs, lanes, profile).run()


@dataclass
class _Span:
    """A row's span of layers: whose, the layer of its recipe, where it ends, and the row's hidden states before."""

    lane: Lane
    layer: CacheLayer
    end: int
    before: tuple[Tensor, ...] = ()

    @property
    def key(self) -> Key:
        return self.lane.run.key(self.lane.branch)

    @property
    def missing(self) -> Missing:
        return Missing(self.lane.run, self.layer, self.key)


class _Walk:
    """One forward under way; `_rows` are the rows that `_stream` holds, in order."""

    def __init__(self, backbone: Backbone, inputs: Inputs, lanes: Sequence[Lane | None], profile: Profile) -> None:
        self._backbone = backbone
        self._lanes = lanes
        self._profile = profile
        self._stream = backbone.enter(inputs)
        self._first = Stream(self._stream.hidden, self._stream.context, self._stream.shared)
        self._rows = list(range(len(lanes)))
        self._starts: dict[int, list[tuple[int, _Span]]] = {}
        self._walking: dict[int, _Span] = {}
        self._parked: dict[int, dict[int, _Span]] = {}
        self._spent = [profile.outside] * len(lanes)
        self._parts = any(lane is not None and lane.run.recipe.at(SubLayer) for lane in lanes)
        self._copied: dict[tuple[int, ...], Tensor] = {}
        self._find_spans()

    def run(self) -> Tensor:
        for boundary in range(self._backbone.layers + 1):
            self._finish_spans(boundary)
            self._rejoin(boundary)
            self._depart(boundary)
            if boundary < self._backbone.layers and self._rows:
                self._layer(boundary)
        for lane, spent in zip(self._lanes, self._spent, strict=True):
            if lane is not None:
                lane.run.spend(spent, self._profile.whole)
        return self._backbone.leave(self._stream)

    def _find_spans(self) -> None:
        for row, lane in enumerate(self._lanes):
            if lane is None:
                continue
            layer = lane.run.recipe.at(UNetSkip) or lane.run.recipe.at(BlockStack)
            if layer is not None and isinstance(layer.site, UNetSkip | BlockStack):
                start, end = self._backbone.span(layer.site)
                self._starts.setdefault(start, []).append((row, _Span(lane, layer, end)))

    def _depart(self, boundary: int) -> None:
        """Let rows decide on the span that starts here; those that reuse it leave the batch."""
        starting = self._starts.get(boundary, [])
        if not starting:
            return
        self._decide(starting)
        leaving = set()
        for row, span in starting:
            if self._backbone.adds:
                place = self._rows.index(row)
                span.before = tuple(tensor[place] for tensor in self._stream.hidden)
            decision = span.lane.run.plan(span.layer)
            span.lane.run.note(span.layer.site, decision)
            if decision is Decision.REUSE:
                leaving.add(row)
                self._parked.setdefault(span.end, {})[row] = span
            else:
                self._walking[row] = span
        if leaving:
            self._keep([row for row in self._rows if row not in leaving])

    def _decide(self, starting: list[tuple[int, _Span]]) -> None:
        probing: dict[Indicator, list[tuple[int, _Span]]] = {}
        for row, span in starting:
            span.lane.run.plan(span.layer)
            indicator = span.layer.policy.indicator
            if indicator is not None:
                probing.setdefault(indicator, []).append((row, span))
        for indicator, rows in probing.items():
            self._probe(indicator, rows)

    def _probe(self, kind: Indicator, starting: list[tuple[int, _Span]]) -> None:
        """Measure an indicator on some rows, let them decide, and keep what the next evaluation compares with."""
        rows, spans = [row for row, _ in starting], [span for _, span in starting]
        first = self._first if len(rows) == len(self._lanes) else self._first.take(self._places(rows))
        now = self._backbone.indicator(kind, first, self._taken(rows))
        asked = any(span.lane.run.plan(span.layer) is Decision.PROBE for span in spans)
        distances = _distances(spans, now) if asked else [math.inf] * len(spans)
        for span, indicator in zip(spans, now, strict=True):
            run = span.lane.run
            if run.plan(span.layer) is Decision.PROBE:
                # Both halves of a guided pair go the same way: the farther one decides, NaN before any number.
                own = [far for other, far in zip(spans, distances, strict=True) if other.lane.run is run]
                run.decide(span.layer, math.nan if any(map(math.isnan, own)) else max(own))
            if span.layer.policy.reference == "previous" or run.plan(span.layer) is Decision.COMPUTE:
                run.see(span.layer.site, span.key, indicator.clone())

    def _finish_spans(self, boundary: int) -> None:
        """Remember what the rows that walked a span ending here have computed."""
        done = [(row, span) for row, span in self._walking.items() if span.end == boundary]
        if not done:
            return
        spans = [span for _, span in done]
        after = self._taken([row for row, _ in done]).hidden
        features = self._backbone.feature(_stacked(spans), after)
        _measure_change([span.missing for span in spans], features)
        for (row, span), feature in zip(done, features, strict=True):
            span.lane.run.remember(span.layer.site, span.key, feature.clone())
            del self._walking[row]

    def _rejoin(self, boundary: int) -> None:
        """Bring back the rows that have skipped a span ending here, with what its predictor makes of it."""
        returning = self._parked.pop(boundary, {})
        if not returning:
            return
        hidden, rows = self._stream.hidden if self._rows else (), list(self._rows)
        for site in {span.layer.site for span in returning.values()}:
            back = {row: span for row, span in returning.items() if span.layer.site == site}
            spans = list(back.values())
            predicted = predict_missing([span.missing for span in spans], self._backbone.channel_axis)
            restored = self._backbone.restore(_stacked(spans), predicted)
            hidden = tuple(torch.cat(pair) for pair in zip(hidden, restored, strict=True)) if hidden else restored
            rows += back
        order = sorted(range(len(rows)), key=rows.__getitem__)
        self._stream.hidden = tuple(self._picked(tensor, order) for tensor in hidden)
        self._set_rows(sorted(rows))

    def _keep(self, rows: list[int]) -> None:
        places = [self._rows.index(row) for row in rows]
        self._stream.hidden = tuple(self._picked(tensor, places) for tensor in self._stream.hidden)
        self._set_rows(rows)

    def _set_rows(self, rows: list[int]) -> None:
        self._rows = rows
        context = self._first.context
        self._stream.context = {name: self._picked(tensor, rows) for name, tensor in context.items()}

    def _layer(self, index: int) -> None:
        if self._parts:
            for number, call in enumerate(self._backbone.sublayers(index)):
                self._sublayer(index, number, call)
            return
        self._backbone.layer(index, self._stream)
        for row in self._rows:
            self._spent[row] += self._profile.layers[index]

    def _sublayer(self, index: int, number: int, call: SubLayerCall) -> None:
        """Run one sub-layer on the rows that compute it, and put the others' remembered values beside theirs."""
        found = {row: self._part(row, SubLayer(call.kind), index) for row in self._rows}
        parts = {row: part for row, part in found.items() if part is not None}
        reusing = [row for row, part in parts.items() if part.decision is Decision.REUSE]
        computing = [row for row in self._rows if row not in reusing]
        value = None
        if computing:
            value = call.value(self._taken(computing) if reusing else self._stream)
            kept = {row: parts[row] for row in computing if row in parts}
            self._keep_values(kept, computing, value, speaks=index == self._profile.middle(call.kind))
        if reusing:
            predicted = predict_missing([parts[row].missing for row in reusing], -1)
            rows = [*computing, *reusing]
            value = predicted if value is None else torch.cat([value, predicted])
            value = self._picked(value, [rows.index(row) for row in self._rows])
        if value is not None:
            call.add(self._stream, value)
        for row in computing:
            self._spent[row] += self._profile.parts[index][number]

    def _part(self, row: int, site: Site, index: int) -> "_Part | None":
        lane = self._lanes[row]
        if lane is None:
            return None
        layer = next((layer for layer in lane.run.recipe.layers if layer.site == site), None)
        if layer is None:
            return None
        decision = lane.run.plan(layer)
        # Inside a sub-layer there is nothing cheaper to look at.
        decision = Decision.COMPUTE if decision is Decision.PROBE else decision
        lane.run.note(site, decision)
        return _Part(lane, layer, lane.run.key(lane.branch, index), decision)

    def _keep_values(self, parts: "dict[int, _Part]", computing: list[int], value: Tensor, *, speaks: bool) -> None:
        if not parts:
            return
        values = self._picked(value, [computing.index(row) for row in parts])
        if speaks:
            # One block speaks for all, as in AdaCache (Kahatapitiya et al. 2024, arXiv 2411.02397).
            _measure_change([part.missing for part in parts.values()], values)
        for part, kept in zip(parts.values(), values, strict=True):
            part.lane.run.remember(part.layer.site, part.key, kept.clone())

    def _taken(self, rows: list[int]) -> Stream:
        if rows == self._rows:
            return self._stream
        return self._stream.take(self._places([self._rows.index(row) for row in rows]))

    def _picked(self, tensor: Tensor, places: list[int]) -> Tensor:
        """Return some rows of a tensor, itself where they are all of them in order."""
        return tensor if places == list(range(len(tensor))) else tensor[self._places(places)]

    def _places(self, places: list[int]) -> Tensor:
        """Return row numbers on the device; every copy there waits, so each list of them is copied once a forward."""
        key = tuple(places)
        if key not in self._copied:
            self._copied[key] = torch.tensor(places, dtype=torch.long, device=self._first.hidden[0].device)
        return self._copied[key]


@dataclass(frozen=True)
class _Part:
    """One row's sub-layer of one block."""

    lane: Lane
    layer: CacheLayer
    key: Key
    decision: Decision

    @property
    def missing(self) -> Missing:
        return Missing(self.lane.run, self.layer, self.key)


def _distances(spans: Sequence[_Span], now: Tensor) -> list[float]:
    """Return how far each row's indicator is from what it is compared with; infinite where there is nothing yet."""
    before = [span.lane.run.reference(span.layer.site, span.key) for span in spans]
    filled = torch.stack([row if old is None else old for row, old in zip(now, before, strict=True)])
    changes = relative_change(now, filled).tolist()
    return [math.inf if old is None else change for old, change in zip(before, changes, strict=True)]


def _measure_change(rows: Sequence[Missing], values: Tensor) -> None:
    """Tell the runs whose policies ask for it how much a tensor differs from the one computed before."""
    wanted = [(place, row) for place, row in enumerate(rows) if row.layer.policy.measures_change and row.history]
    if not wanted:
        return
    now = torch.stack([values[place] for place, _ in wanted])
    before = torch.stack([row.history[0].value for _, row in wanted])
    for (_, row), change in zip(wanted, relative_change(now, before).tolist(), strict=True):
        row.run.changed(row.layer.site, change)


def _stacked(spans: Sequence[_Span]) -> list[Tensor]:
    """Return the hidden states before the spans, one batch per stream; nothing where they are not kept."""
    return [torch.stack(tensors) for tensors in zip(*(span.before for span in spans), strict=True)]
