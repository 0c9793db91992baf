"""Verdicts as HTTP headers: `Cache-Status` (RFC 9211), `X-Headstart-Cache`, feature caching and the stage times."""

from collections import Counter
from collections.abc import Sequence

from service.generator import Picture
from service.types import FeatureVerdict, Verdict, VerdictKind

FORWARDED = {VerdictKind.MISS: "miss", VerdictKind.BYPASS: "bypass", VerdictKind.REFRESH: "request"}


def headers_of(pictures: Sequence[Picture], total_seconds: float) -> dict[str, str]:
    """Return the headers of an answer with these pictures; several share one summary."""
    one = pictures[0]
    status = _status(one.verdict, stored=one.stored) if len(pictures) == 1 else _summary(pictures)
    return {
        "Cache-Status": f"headstart; {status}",
        "X-Headstart-Cache": ", ".join(picture.verdict.kind.value for picture in pictures),
        "X-Headstart-Generation": ", ".join(picture.generation for picture in pictures),
        "X-Headstart-Feature-Cache": ", ".join(_features(picture.verdict.features) for picture in pictures),
        "X-Queue-Time": _seconds(max(picture.queue_seconds for picture in pictures)),
        "X-Denoise-Time": _seconds(sum(picture.denoise_seconds for picture in pictures)),
        "X-Decode-Time": _seconds(sum(picture.decode_seconds for picture in pictures)),
        "X-Total-Time": _seconds(total_seconds),
    }


def cache_label(pictures: Sequence[Picture]) -> str:
    """Return the metrics label of an answer: its verdict, or "MIXED"."""
    kinds = {picture.verdict.kind.value for picture in pictures}
    return kinds.pop() if len(kinds) == 1 else "MIXED"


def _status(verdict: Verdict, *, stored: bool) -> str:
    if verdict.kind is VerdictKind.EXACT:
        return 'hit; detail="exact"'
    kept = "; stored" if stored else ""
    if verdict.kind is VerdictKind.APPROX:
        if verdict.hidden:
            return f'hit{kept}; detail="approximate"'
        similarity = f"; sim={verdict.similarity:.3f}" if verdict.similarity is not None else ""
        return f'hit{kept}; detail="approximate{similarity}; k={verdict.skipped}/{verdict.steps}"'
    return f'fwd={FORWARDED[verdict.kind]}{kept}; detail="{verdict.reason}"'


def _features(features: FeatureVerdict) -> str:
    strength = "" if features.strength is None else f";strength={features.strength:g}"
    compute = "" if features.compute_share is None else f";compute={features.compute_share:.3f}"
    return f"{features.policy}{strength}{compute}"


def _summary(pictures: Sequence[Picture]) -> str:
    kinds = Counter(picture.verdict.kind for picture in pictures)
    hits = kinds[VerdictKind.EXACT] + kinds[VerdictKind.APPROX]
    counts = "; ".join(f"{kind.value.lower()}={count}" for kind, count in sorted(kinds.items()))
    return f'{"hit" if hits else "fwd=miss"}; detail="n={len(pictures)}; {counts}"'


def _seconds(value: float) -> str:
    return f"{value:.6f}"
