"""What `headstart simulate` does once its options are read."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from loadtest.prompt_log import read_prompt_log
from loadtest.simulator.embeddings import Embed, EmbeddingCache
from loadtest.simulator.matching import PAPER, Matching, fixed, load_matching
from loadtest.simulator.neighbours import Neighbours, find_neighbours
from loadtest.simulator.replay import Ground, Replay
from loadtest.simulator.setup import Admission, Setup, SetupError, States, modm, nirvana
from loadtest.simulator.study import (
    Advice,
    Maker,
    Row,
    Size,
    ceiling,
    compare,
    make_ground,
    named,
    oracle,
    recommend,
    unbounded,
)
from loadtest.simulator.workload import Workload, distinct_prompts, workload_of
from policies.eviction import POLICIES

UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "b": 1}


@dataclass(frozen=True)
class Options:
    """The options of `headstart simulate`, as given."""

    log: Path
    out: Path
    embeddings: Path
    policies: str = "all"
    sizes: str = "1%,2%,5%,10%,20%,50%"
    table: str = "paper"
    admission: Admission = "partial"
    candidates: int = 8
    max_depth: int = 3
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    state_bytes: int = 32 * 1024
    form: str = "trajectory"
    steps: int = 50
    step_seconds: float = 1.0
    warm_up: float = 0.0
    honour_seeds: bool = False
    seed_column: str = "seed"
    limit: int | None = None
    baselines: bool = True
    quiet: bool = False


@dataclass
class Result:
    """What a simulation found.

    Attributes:
        rows: one per set-up, policy and size.
        advice: what to use, chosen among the rows of the set-up that was asked for.
        facts: about log and set-up.
        limit: share of the steps that no cache can exceed.
        all_states: bytes that the sizes in percent are shares of.
    """

    rows: list[Row]
    advice: Advice
    facts: dict[str, Any]
    limit: float
    all_states: int
    skips: tuple[float, ...] = field(default=())


def run_simulation(options: Options, embed: Embed, digest: str, say: Callable[[str], None]) -> Result:
    """Simulate, and write `report.json`, `report.md` and the pictures to the folder.

    Args:
        options: as given on the command line.
        embed: texts to unit vectors.
        digest: of the embedder: what its cached vectors are filed under.
        say: prints a line.

    Raises:
        PromptLogError, MatchingError, SetupError: an option or the log cannot be used.
    """
    setup = setup_of(options)
    policies = policies_of(options.policies)
    parse_sizes(options.sizes, 1)  # say what is wrong before the long part
    rows = read_prompt_log(options.log, seed_column=options.seed_column, limit=options.limit, skip_empty=True)
    vectors = EmbeddingCache(options.embeddings, digest).vectors(distinct_prompts(rows), embed, quiet=options.quiet)
    workload = workload_of(options.log.name, rows, vectors)
    near = find_neighbours(workload, floor=max(setup.matching.floor, 0.05), quiet=options.quiet)
    result = study(options, setup, policies, workload, near)
    write(result, options.out)
    say(table_of(result))
    say(f"\nRecommended: {advice_line(result)}\nWritten to {options.out}: report.json, report.md, saved.png, mix.png")
    return result


def setup_of(options: Options) -> Setup:
    """Read the rules from the options."""
    if options.form not in ("trajectory", "final"):
        raise SetupError(f"states are kept as trajectory or final, not {options.form!r}")
    if not 0.0 <= options.warm_up < 1.0:
        raise SetupError(f"the warm-up is a share of the log in [0, 1), not {options.warm_up:g}")
    if options.steps < 1 or options.step_seconds <= 0:
        raise SetupError("steps and seconds per step must be positive")
    states = States(options.levels, options.state_bytes, "final" if options.form == "final" else "trajectory")
    return Setup(
        "headstart",
        matching_of(options.table, options.levels),
        states,
        options.candidates,
        options.admission,
        options.max_depth,
        options.honour_seeds,
    )


def matching_of(table: str, levels: Sequence[float]) -> Matching:
    """Read a matching: `paper`, a similarity such as `0.9`, or a file."""
    if table == "paper":
        return PAPER
    try:
        threshold = float(table)
    except ValueError:
        return load_matching(Path(table))
    return fixed(threshold, levels)


def policies_of(text: str) -> list[str]:
    """Read names separated by commas; `all` are those the service knows."""
    names = sorted(POLICIES) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in POLICIES]
    if unknown:
        raise SetupError(f"unknown eviction policy {unknown[0]!r}; known: {', '.join(sorted(POLICIES))}")
    return names


def parse_sizes(text: str, all_states: int) -> list[Size]:
    """Read sizes separated by commas: `5%` of all states, or `64MiB`."""
    return [_size(part.strip(), all_states) for part in text.split(",")]


def _size(text: str, all_states: int) -> Size:
    unit = next((unit for unit in ("%", *UNITS) if text.lower().endswith(unit)), "")
    try:
        number = float(text[: len(text) - len(unit)])
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise SetupError(f"a cache size is a share such as 5% or a size such as 64MiB, not {text!r}")
    if unit == "%":
        return Size(max(1, int(all_states * number / 100)), number / 100)
    return Size(int(number * UNITS[unit]) if unit else int(number))


def study(options: Options, setup: Setup, policies: Sequence[str], workload: Workload, near: Neighbours) -> Result:
    """Replay all that was asked for, the baselines and the oracle."""

    def ground_of(rules: Setup) -> Ground:
        return make_ground(workload, near, rules, step_seconds=options.step_seconds, steps=options.steps)

    ground = ground_of(setup)
    free = unbounded(ground)
    all_states = max(free.final_bytes, setup.states.nbytes)
    sizes = parse_sizes(options.sizes, all_states)
    since = int(options.warm_up * len(workload))

    def rows_of(on: Ground, makers: dict[str, Maker], kept: Replay | None = None) -> list[Row]:
        found = compare(on, makers, sizes, since=since, free=kept, quiet=options.quiet)
        return [row for row, _ in found]

    own = rows_of(ground, {name: named(name) for name in policies}, free)
    rows = own + rows_of(ground, {"oracle": oracle(ground, free)}, free)
    if options.baselines:
        seeded = options.honour_seeds
        rows += rows_of(
            ground_of(replace(nirvana(PAPER, setup.states), honour_seeds=seeded)), {"lcbfu": named("lcbfu")}
        )
        rows += rows_of(ground_of(replace(modm(PAPER, setup.states), honour_seeds=seeded)), {"fifo": named("fifo")})
    limit = float(ceiling(ground)[since:].mean())
    return Result(
        rows, recommend(own), _facts(options, setup, ground, free, since), limit, all_states, setup.states.skips
    )


def _facts(options: Options, setup: Setup, ground: Ground, free: Replay, since: int) -> dict[str, Any]:
    return {
        "log": ground.workload.name,
        "requests": len(ground.workload),
        "distinct_texts": len(ground.workload.vectors),
        "reported_from_request": since,
        "exact_neighbours": ground.near.exact,
        "table": setup.matching.name,
        "admission": setup.admission,
        "candidates": setup.candidates,
        "levels": list(setup.states.skips),
        "state_bytes": setup.states.nbytes,
        "form": setup.states.form,
        "steps": options.steps,
        "step_seconds": options.step_seconds,
        "saved_without_bound": float(free.saved[since:].mean()),
        "gate": "not simulated: every proposed resume counts as accepted",
    }


def advice_line(result: Result) -> str:
    """The recommendation in a sentence."""
    row = result.advice.row
    return f"policy {row.policy}, {_bytes(row.budget)}: {result.advice.reason}."


def table_of(result: Result) -> str:
    """The comparison as Markdown."""
    skips = result.skips
    head = ["set-up", "policy", "size", "of all", "steps saved", "95 %", "device seconds", "exact"]
    head += [f"K = {skip:.0%}" for skip in skips] + ["miss", "regret", "lost", "evictions"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in result.rows:
        share = "–" if row.share is None else f"{row.share:.0%}"
        cells = [row.setup, row.policy, _bytes(row.budget), share, f"{row.saved:.1%}"]
        cells += ["–" if row.low != row.low else f"{row.low:.1%} – {row.high:.1%}", f"{row.saved_seconds:.0f}"]
        cells += [f"{value:.1%}" for value in (row.exact, *row.levels, row.misses, row.regret, row.lost)]
        lines.append("| " + " | ".join([*cells, str(row.evictions)]) + " |")
    return "\n".join(lines)


def write(result: Result, folder: Path) -> None:
    """Write report and pictures."""
    # Imported here: the table alone needs no plotting library.
    from loadtest.simulator.plots import draw_mix, draw_saved

    folder.mkdir(parents=True, exist_ok=True)
    report = {
        **result.facts,
        "all_states_bytes": result.all_states,
        "no_cache_can_save_more_than": result.limit,
        "recommended": {"policy": result.advice.row.policy, "bytes": result.advice.row.budget,
                        "reason": result.advice.reason},
        "rows": [asdict(row) for row in result.rows],
    }  # fmt: skip
    text = json.dumps(_finite(report), indent=1, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", "utf-8")
    facts = "\n".join(f"- {name}: {value}" for name, value in result.facts.items())
    (folder / "report.md").write_text(
        f"{facts}\n\n{table_of(result)}\n\nRecommended: {advice_line(result)}\n", "utf-8"
    )
    draw_saved(result.rows, folder / "saved.png", limit=result.limit)
    at = result.advice.row.budget
    draw_mix([row for row in result.rows if row.budget == at], result.skips, folder / "mix.png")


def _finite(value: Any) -> Any:
    """Replace what JSON has no number for: an interval of too few requests."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _bytes(count: int) -> str:
    unit = next((unit for unit in ("TiB", "GiB", "MiB", "KiB") if count >= UNITS[unit.lower()]), "B")
    return f"{count / UNITS[unit.lower()]:.3g} {unit}"
