import gzip
import json
from pathlib import Path

import pytest

from loadtest.prompt_log import LogRow, PromptLogError, read_prompt_log


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_only_prompts_reads_like_diffusiondb(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'idx,prompt\n0,"a ball, red"\n1,"two\nlines"\n2,plain\n')
    assert [row.prompt for row in read_prompt_log(path)] == ["a ball, red", "two\nlines", "plain"]
    assert read_prompt_log(path)[0] == LogRow(line=2, prompt="a ball, red")


def test_header_may_be_in_any_case_and_tabs_work(tmp_path: Path) -> None:
    path = write(tmp_path / "log.tsv", "Prompt\tCategory\nbond\tAbstract\n")
    assert read_prompt_log(path) == [LogRow(line=2, prompt="bond")]


def test_jsonl_carries_users_seeds_and_kinds(tmp_path: Path) -> None:
    line = {"time": 5, "user": "u1", "kind": "retry", "prompt": "a ball", "seed": 7, "other": [1]}
    path = write(tmp_path / "log.jsonl", json.dumps(line) + "\n\n")
    assert read_prompt_log(path) == [LogRow(line=1, prompt="a ball", time=0.0, user="u1", seed=7, kind="retry")]


def test_times_become_relative_and_ordered(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "time,prompt\n30.5,late\n10,early\n")
    assert [(row.prompt, row.time) for row in read_prompt_log(path)] == [("early", 0.0), ("late", 20.5)]


def test_dates_are_times_too(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "timestamp,prompt\n2022-08-20T10:00:00,a\n2022-08-20T10:00:02.5Z,b\n")
    assert [row.time for row in read_prompt_log(path)] == [0.0, 2.5]


def test_gzip_bom_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress("\ufeffprompt\na\nb\nc\n".encode()))
    assert [row.prompt for row in read_prompt_log(path, limit=2)] == ["a", "b"]


def test_seed_column_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "prompt,Noise\na,3\nb,\n")
    assert [row.seed for row in read_prompt_log(path, seed_column="Noise")] == [3, None]
    assert [row.seed for row in read_prompt_log(path)] == [None, None]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "idx,words\n0,x\n", "a.csv:1: column 'prompt' is missing from the header"),
        ("a.csv", "prompt\nx\n \n", "a.csv:3: column 'prompt' is missing or empty"),
        ("a.csv", "prompt,time\nx,soon\n", "a.csv:2: column 'time' is neither seconds nor a date: 'soon'"),
        ("a.csv", "prompt,time\nx,nan\n", "a.csv:2: column 'time' is neither seconds nor a date: 'nan'"),
        ("a.csv", "prompt,time\nx,1\ny,\n", "a.csv:3: column 'time' is missing, though other rows have a time"),
        ("a.csv", "prompt,seed\nx,-1\n", "a.csv:2: column 'seed' is not a whole number from 0 to 2^63 - 1: '-1'"),
        ("a.csv", "prompt,seed\nx,9223372036854775808\n", "a.csv:2: column 'seed' is not a whole number"),
        ("a.csv", 'prompt\n"open\n', "is not CSV"),
        ("a.csv", "prompt\nx,y\n", "a.csv:2: has more cells than the header"),
        ("a.csv", "prompt\n", "holds no prompts"),
        ("a.jsonl", '{"prompt": "x"}\n{', "a.jsonl:2: is not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: is not a JSON object"),
        ("a.jsonl", '{"prompt": 3}\n', "a.jsonl:1: column 'prompt' is missing or empty"),
        ("a.txt", "x\n", "unknown kind of log"),
    ],
)
def test_bad_logs_name_file_line_and_column(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(PromptLogError) as caught:
        read_prompt_log(write(tmp_path / name, text))
    assert complaint in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.csv.gz").write_bytes(b"not gzip")
    (tmp_path / "latin.csv").write_bytes(b"prompt\n\xff\xfe\xff\n")
    for name in ("absent.csv", "broken.csv.gz", "latin.csv"):
        with pytest.raises(PromptLogError, match="cannot be read"):
            read_prompt_log(tmp_path / name)


def test_reads_the_service_s_own_log_if_it_holds_prompts(tmp_path: Path) -> None:
    line = '{"time": "2026-11-01T00:00:0%d+00:00", "level": "info", "logger": "service", "message": "%s"%s}\n'
    text = (
        line % (0, "ready", "")
        + line % (1, "picture", ', "prompt": "a cat"')
        + line % (3, "picture", ', "prompt": "b"')
    )
    rows = read_prompt_log(write(tmp_path / "service.log", text))
    assert [(row.line, row.prompt, row.time) for row in rows] == [(2, "a cat", 0.0), (3, "b", 2.0)]
    with pytest.raises(PromptLogError, match="written without HEADSTART_LOG_PROMPTS"):
        read_prompt_log(write(tmp_path / "private.log", line % (1, "picture", "")))


def test_rows_without_a_prompt_can_be_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "idx,prompt\n0,\n1,a cat\n")
    assert [row.prompt for row in read_prompt_log(path, skip_empty=True)] == ["a cat"]


def test_reads_diffusiondb_style_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from datetime import UTC, datetime

    from pyarrow import parquet

    moments = [datetime(2022, 8, 7, 22, 57, second, tzinfo=UTC) for second in (5, 0)]
    table = pyarrow.table(
        {"image_name": ["a.png", "b.png"], "prompt": ["late", "early"], "user_name": ["u", "v"],
         "seed": pyarrow.array([7, 8], pyarrow.uint32()), "timestamp": moments}
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "metadata.parquet")
    rows = read_prompt_log(tmp_path / "metadata.parquet")
    assert [(row.prompt, row.seed, row.user, row.time) for row in rows] == [
        ("early", 8, "v", 0.0),
        ("late", 7, "u", 5.0),
    ]
    with pytest.raises(PromptLogError, match="is not Parquet"):
        read_prompt_log(write(tmp_path / "bad.parquet", "no"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PromptLogError, match=r"pip install 'headstart\[parquet\]'"):
        read_prompt_log(write(tmp_path / "a.parquet", ""))
