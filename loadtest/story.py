"""What a load test's report tells, in which order: blocks that become HTML and Markdown."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import median

from loadtest import plots
from loadtest.blocks import Block, Figure, Heading, Paragraph, Table, Tiles
from loadtest.figures import jain, percentile, spent_of
from loadtest.outcomes import Comeback, Outcome, comebacks_of
from loadtest.report import Report, Run, compare_rows
from loadtest.timeline import width_for

NOTHING = "–"


def tell(report: Report) -> list[Block]:
    """Return the report's blocks."""
    opening = _validity(report)
    report = replace(report, runs=[run for run in report.runs if run.outcomes])  # a run that never began has no plots
    if not report.runs:
        return [*opening, Paragraph("No request came to an end: there are no figures.")]
    return [
        *opening,
        _tiles(report),
        *_latency(report),
        *_goodput(report),
        *_cache(report),
        *_control(report),
        *_retries(report),
        *_tenants(report),
        *_errors(report),
        *_generator(report),
        *_setup(report),
    ]


def _validity(report: Report) -> list[Block]:
    if report.valid:
        loop = "Open loop: every request was sent when it was due, whatever the service did."
        closed = (
            "Closed loop: clients waited for their answers, so a slow service was asked less. Latencies flatter it."
        )
        return [Paragraph(loop if report.open_loop else closed, warning=not report.open_loop)]
    faults = "; ".join(report.faults)
    return [Paragraph(f"NOT VALID. These figures say nothing about the service: {faults}.", warning=True)]


def _tiles(report: Report) -> Tiles:
    run, control = report.runs[0].summary, report.control
    other = None if control is None else control.summary
    tiles = [
        ("latency p99", f"{run.latency_p99:.2f} s", f"p50 {run.latency_p50:.2f} s, p95 {run.latency_p95:.2f} s"),
        ("hits", f"{run.hit_share:.0%}", _counts(run.verdicts)),
        ("GPU seconds saved", _measured_saving(report), f"by the answers {_number(run.saved_gpu_seconds)} s"),
        ("failed", str(run.failures), f"of {run.requests}"),
    ]
    if run.goodput is not None and run.attainment is not None:
        remark = f"{run.attainment:.0%} within the SLO"
        if other is not None and other.attainment is not None:
            remark += f"; uncached {other.attainment:.0%}"
        tiles.insert(0, ("goodput", f"{run.goodput:.2f} /s", remark))
    return Tiles(tuple(tiles))


def _measured_saving(report: Report) -> str:
    """The device time that the control run took more, over the requests answered in both; else what answers say."""
    if report.control is not None:
        cached, uncached = ({one.number: one for one in run.outcomes if one.answered} for run in report.runs[:2])
        both = cached.keys() & uncached.keys()
        spent = [spent_of([run[number] for number in both]) for run in (cached, uncached)]
        if spent[0] is not None and spent[1]:
            return f"{1 - spent[0] / spent[1]:.0%}"
    share = report.runs[0].summary.gpu_saved_share
    return NOTHING if share is None else f"{share:.0%}"


def _latency(report: Report) -> list[Block]:
    caption = (
        "Latency of every request, from the moment it was due (points, by verdict; log scale), with p50, p95 and p99"
        " of each piece of time. Crosses are failures. A piece with few requests has its slowest one as p99."
    )
    blocks: list[Block] = [Heading("Latency from the intended start")]
    blocks.append(Figure("latency", plots.latency_over_time(report), caption))
    spread = "Share of all requests answered within a time; a curve that ends below 100 % had failures."
    blocks.append(Figure("spread", plots.latency_spread(report), spread))
    return blocks


def _goodput(report: Report) -> list[Block]:
    if not report.slo.known:
        return []
    caption = "Requests due per second (bars), and those of them that were answered within the SLO (lines)."
    blocks: list[Block] = [Heading("Goodput"), Figure("goodput", plots.goodput_over_time(report), caption)]
    if report.slo.seconds is not None:
        return [*blocks, Paragraph(f"The SLO is {report.slo.seconds:g} s for every request.")]
    factor = report.slo.factor
    blocks.append(
        Paragraph(f"The SLO is {factor:g} × the time that the same work takes alone, measured just before the run.")
    )
    rows = []
    for asked, times in report.standalone.items():
        figures = (min(times), median(times), max(times), factor * median(times))
        rows.append((asked, str(len(times)), *(f"{value:.3f}" for value in figures)))
    blocks.append(Table(("work", "sent alone", "min, s", "median, s", "max, s", "SLO, s"), tuple(rows)))
    shaky = [asked for asked, times in report.standalone.items() if max(times) > 2 * min(times)]
    if shaky:
        text = "Times alone differ by more than a factor of two: the service was busy otherwise. The SLO is unsure."
        blocks.append(Paragraph(text, warning=True))
    return blocks


def _cache(report: Report) -> list[Block]:
    run = report.runs[0]
    width = width_for(max(one.intended for one in run.outcomes))
    caption = "What the cache made of the requests of each piece of time."
    blocks: list[Block] = [Heading("The cache"), Figure("mix", plots.mix_over_time(run, width), caption)]
    entries = report.facts.get("entries_before")
    if entries is not None:
        blocks.append(Paragraph(f"The cache held {entries} entries before the run."))
    blocks += [_verdicts(run), _reasons(run)]
    spent = run.summary.spent_gpu_seconds
    if spent is not None or run.summary.saved_gpu_seconds:
        text = "Device seconds of the answers so far, and what the answers say was saved."
        blocks.append(Figure("gpu", plots.gpu_seconds(report), text))
    return blocks


def _verdicts(run: Run) -> Table:
    rows = []
    for name in run.summary.verdicts:
        chosen = [one for one in run.outcomes if one.answered and one.verdict == name]
        status = Counter(one.cache_status or "no header" for one in chosen)
        skipped = sum(one.skipped / one.steps for one in chosen if one.steps) / len(chosen)
        cells = [f"{len(chosen) / len(run.outcomes):.1%}", f"{skipped:.3f}", *_percentiles(chosen)]
        rows.append((name, str(len(chosen)), *cells, _number(spent_of(chosen)), _counts(status)))
    head = ("verdict", "requests", "share", "mean K/N", "p50, s", "p95, s", "GPU s", "Cache-Status")
    return Table(head, tuple(rows))


def _reasons(run: Run) -> Table:
    counts = Counter((one.verdict or NOTHING, one.reason or NOTHING) for one in run.outcomes if one.answered)
    rows = tuple((verdict, reason, str(count)) for (verdict, reason), count in sorted(counts.items()))
    return Table(("verdict", "reason", "requests"), rows)


def _control(report: Report) -> list[Block]:
    control = report.control
    if control is None:
        return []
    rows = compare_rows(asdict(report.runs[0].summary), asdict(control.summary))
    text = "The same requests at the same times, with the cache mode off: it is neither read nor written."
    table = Table(("", report.runs[0].name, control.name, "ratio"), tuple((a, b, c, d) for a, b, c, d in rows))
    return [Heading("Beside the uncached control run"), Paragraph(text), table]


def _retries(report: Report) -> list[Block]:
    rows, points = [], []
    for run in report.runs:
        backs = [back for one in run.outcomes for back in comebacks_of(one)]
        honoured = [back for back in backs if back.honoured]
        early = [back for back in backs if not back.honoured]
        refused = [refusal for one in run.outcomes for refusal in one.refusals]
        promised = [refusal.retry_after for refusal in refused if refusal.retry_after is not None]
        cells = (str(len(refused)), str(len(promised)), f"{median(promised):.1f}" if promised else NOTHING)
        rows.append((run.name, *cells, str(len(honoured)), _accepted(honoured), str(len(early)), _accepted(early)))
        points += [(back.promised, back.accepted) for back in honoured]
    if not any(row[1] != "0" for row in rows):
        return []
    text = "Refused means 429 or 503. A Retry-After is true if a client that waits as told is let in when it is back."
    head = ("run", "refused", "with Retry-After", "median, s", "came back", "let in", "came early", "let in")
    blocks: list[Block] = [Heading("Retry-After"), Paragraph(text), Table(head, tuple(rows))]
    if points:
        caption = "Comebacks that waited as they were told, by the time they were told."
        blocks.append(Figure("retry-after", plots.comebacks(points), caption))
    return blocks


def _accepted(backs: Sequence[Comeback]) -> str:
    return f"{sum(back.accepted for back in backs) / len(backs):.0%}" if backs else NOTHING


def _tenants(report: Report) -> list[Block]:
    run = report.runs[0]
    names = sorted({one.tenant for one in run.outcomes if one.tenant is not None})
    if not names:
        return []
    rows, shares = [], []
    for name in names:
        own = [one for one in run.outcomes if one.tenant == name]
        answered = [one for one in own if one.answered]
        kept = sum(report.slo.kept(one) for one in own) / len(own) if report.slo.known else len(answered) / len(own)
        shares.append(kept)
        gpu = _number(spent_of(answered))
        rows.append((name, str(len(own)), f"{kept:.1%}", *_percentiles(answered), gpu, str(len(own) - len(answered))))
    good = "within the SLO" if report.slo.known else "answered"
    fairness = jain(shares)
    text = (
        "No tenant got anything."
        if fairness is None
        else f"Jain's index of the shares {good}: {fairness:.3f} (1 = all alike)."
    )
    head = ("tenant", "requests", good, "p50, s", "p95, s", "GPU s", "failed")
    return [Heading("Tenants"), Table(head, tuple(rows)), Paragraph(text)]


def _errors(report: Report) -> list[Block]:
    rows = [(run.name, error, str(count)) for run in report.runs for error, count in run.summary.errors.items()]
    if not rows:
        return [Heading("Errors"), Paragraph("None: every request was answered with a sound picture.")]
    return [Heading("Errors"), Table(("run", "what the client saw", "requests"), tuple(rows))]


def _generator(report: Report) -> list[Block]:
    rows = []
    for run in report.runs:
        own = run.generator
        figures = (own.lateness_p50, own.lateness_p99, own.lateness_max, own.stall_p99, own.stall_max, own.limit)
        rows.append((run.name, *(f"{value:.4f}" for value in figures), "yes" if own.valid else "no"))
    text = "How late the load generator itself was, in seconds. A run is not valid if a p99 is above the limit."
    head = ("run", "late p50", "late p99", "late max", "stall p99", "stall max", "limit", "valid")
    return [Heading("The load generator"), Paragraph(text), Table(head, tuple(rows))]


def _setup(report: Report) -> list[Block]:
    facts = [(name.replace("_", " "), str(value)) for name, value in report.facts.items()]
    options = [
        (f"--{name.replace('_', '-')}", NOTHING if value in ("", None) else str(value))
        for name, value in report.options.items()
    ]
    return [Heading("How it was made"), Table(("option", "value"), (*facts, *options))]


def _percentiles(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    latencies = [one.latency for one in outcomes]
    if not latencies:
        return NOTHING, NOTHING
    return f"{percentile(latencies, 50):.3f}", f"{percentile(latencies, 95):.3f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or NOTHING


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"
