"""What the clients of a replay are: their keys, their patience, the pace they are set to."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.conductor import stretch_for
from loadtest.outcomes import Refusal
from loadtest.prompt_log import LogRow
from loadtest.schedule import Request
from loadtest.sending import Patience
from loadtest.tenants import read_tenants

TOLD, UNTOLD = Refusal(0.0, 0.1, 429, 7.0), Refusal(0.0, 0.1, 503, None)


@pytest.mark.parametrize(
    ("patience", "refusals", "pause"),
    [
        (Patience("never"), [TOLD], None),
        (Patience("honour", wait=2.0), [TOLD], 7.0),
        (Patience("honour", wait=2.0), [UNTOLD], 2.0),
        (Patience("ignore", wait=2.0), [TOLD], 2.0),
        (Patience("honour", attempts=2), [TOLD, TOLD], 7.0),
        (Patience("honour", attempts=2), [TOLD, TOLD, TOLD], None),
    ],
)
def test_patience(patience: Patience, refusals: list[Refusal], pause: float | None) -> None:
    patience.check()
    assert patience.pause(refusals) == pause


@pytest.mark.parametrize(
    "patience", [Patience("sometimes"), Patience("honour", attempts=0), Patience("ignore", wait=0)]
)
def test_bad_patience_is_named(patience: Patience) -> None:
    with pytest.raises(ValueError, match="--retr"):
        patience.check()


def test_keys_have_names_and_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("# ours\nacme hs_abc\n\nhs_def  # the second\n")
    tenants = read_tenants(file)
    assert [(one.name, one.key) for one in tenants] == [("acme", "hs_abc"), ("tenant-2", "hs_def")]
    assert "hs_" not in repr(tenants)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a secret too many\n", ":1: expected KEY"),
        ("ok\nsecrét\n", ":2: expected KEY"),
        ("# none\n", "holds no keys"),
    ],
)
def test_bad_keys_are_refused_without_showing_them(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_tenants(file)
    assert "secr" not in str(caught.value)


@given(st.lists(st.floats(0.01, 50), min_size=2, max_size=30), st.floats(0.05, 5))
def test_stretched_arrivals_bring_the_load_asked_for(gaps: list[float], load: float) -> None:
    alone = {"8x8, default steps": 0.5, "16x16, default steps": 2.0}
    sizes = ["8x8", "16x16"]
    schedule = [
        Request(number, LogRow(number, "p"), sum(gaps[:number]), size=sizes[number % 2])
        for number in range(len(gaps) + 1)
    ]
    seconds = (schedule[-1].due or 0.0) * stretch_for(schedule, alone, load)
    assert sum(alone[one.asked] for one in schedule) / seconds == pytest.approx(load)


def test_requests_that_are_all_due_at_once_stay_so() -> None:
    assert stretch_for([Request(0, LogRow(1, "p"), 0.0, size="8x8")], {"8x8, default steps": 1.0}, 0.5) == 1.0
