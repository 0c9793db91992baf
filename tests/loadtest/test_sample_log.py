import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import loadtest
from loadtest.prompt_log import read_prompt_log

FOLDER = Path(loadtest.__file__).parent
SAMPLE = FOLDER / "sample_log.jsonl"


def test_sample_log_looks_like_real_sessions() -> None:
    rows = read_prompt_log(SAMPLE)
    assert len(rows) >= 360
    kinds = Counter((row.kind or "").split("-")[0] for row in rows)
    assert set(kinds) == {"new", "retry", "wording", "edit", "return", "gallery"}
    assert all(count >= 15 for count in kinds.values())
    assert len({row.user for row in rows}) >= 15
    repeats = 1 - len({row.prompt for row in rows}) / len(rows)
    assert 0.15 < repeats < 0.5
    assert 0.02 < sum(row.seed is not None for row in rows) / len(rows) < 0.3


def test_sample_log_has_bursts() -> None:
    times = [row.time or 0.0 for row in read_prompt_log(SAMPLE)]
    minutes = Counter(int(time // 60) for time in times)
    assert max(minutes.values()) > 1.8 * len(times) / (times[-1] / 60)
    assert all(earlier <= later for earlier, later in pairwise(times))


def test_sample_log_tells_a_judge_what_to_expect() -> None:
    rows = [json.loads(line) for line in SAMPLE.read_text().splitlines()]
    assert all(row["expects"]["count"] in ("1", "2") and "a.shape" in row["expects"] for row in rows)


def test_sample_log_is_what_its_command_makes() -> None:
    command = "loadtest.sample_log --seed 20261123 --requests 400 --minutes 20"
    assert f"python -m {command} > loadtest/sample_log.jsonl" in (FOLDER / "sample_log.py").read_text()
    made = subprocess.run([sys.executable, "-m", *command.split()], capture_output=True, check=True, text=True)
    assert made.stdout == SAMPLE.read_text()


def test_replay_does_not_load_the_training_room() -> None:
    code = (
        "import sys, loadtest.prompt_log, loadtest.report, loadtest.picture_check;"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('training', 'torch', 'service')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
