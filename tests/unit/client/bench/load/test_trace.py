from pathlib import Path

import pytest
from qllm.client.bench.errors import BadTrace
from qllm.client.bench.load.trace import Trace, TraceRow, read_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_times_count_from_the_first_request(tmp_path: Path) -> None:
    text = "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
    trace = read_trace(write(tmp_path, HEADER + text))
    assert [row.at_s for row in trace.rows] == pytest.approx([0.0, 0.052], abs=1e-6)
    assert [(row.num_prompt_tokens, row.num_output_tokens) for row in trace.rows] == [(4808, 10), (3180, 8)]


@pytest.mark.parametrize(
    "times",
    [
        ("2024-05-10 00:00:00.5+00:00", "2024-05-10 00:00:02+00:00"),
        ("2024-05-10T00:00:00.5", "2024-05-10T00:00:02"),
        ("100.5", "102"),
    ],
)
def test_dates_with_and_without_zone_and_plain_seconds_are_read(tmp_path: Path, times: tuple[str, str]) -> None:
    trace = read_trace(write(tmp_path, HEADER + "".join(f"{time},1,1\n" for time in times)))
    assert [row.at_s for row in trace.rows] == pytest.approx([0.0, 1.5])


def test_rows_are_put_in_the_order_of_their_times(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, HEADER + "5,1,1\n3,2,1\n4,3,1\n"))
    assert [(row.at_s, row.num_prompt_tokens) for row in trace.rows] == [(0.0, 2), (1.0, 3), (2.0, 1)]


def test_columns_may_stand_in_any_order_and_among_others(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, "\ufeffGeneratedTokens,Model,TIMESTAMP,ContextTokens\n7,x,1,9\n"))
    assert trace.rows == (TraceRow(0.0, 9, 7),)


def test_a_request_that_generated_nothing_counts_as_one_token(tmp_path: Path) -> None:
    assert read_trace(write(tmp_path, HEADER + "1,9,0\n")).rows[0].num_output_tokens == 1


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        (HEADER + "1,5,5\nyesterday,5,5\n", ":3:", "TIMESTAMP is 'yesterday'"),
        (HEADER + "nan,5,5\n", ":2:", "TIMESTAMP is 'nan'"),
        (HEADER + "1,0,5\n", ":2:", "ContextTokens is '0'; allowed is a whole number of at least 1"),
        (HEADER + "1,5,-1\n", ":2:", "GeneratedTokens is '-1'; allowed is a whole number of at least 0"),
        (HEADER + "1,5.5,1\n", ":2:", "ContextTokens is '5.5'"),
        (HEADER + "1,5\n", ":2:", "GeneratedTokens is None"),
        ("TIMESTAMP,ContextTokens\n1,5\n", ":1:", "lacks the column GeneratedTokens"),
        ("", ":1:", "lacks the column TIMESTAMP"),
        (HEADER, ":", "has no rows"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, text: str, where: str, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(BadTrace) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}{where}")
    assert why in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match=r"nowhere\.csv"):
        read_trace(tmp_path / "nowhere.csv")
    (tmp_path / "trace.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTrace, match=r"trace\.csv"):
        read_trace(tmp_path / "trace.csv")


def test_a_repetition_begins_one_mean_pause_after_the_last_request() -> None:
    assert Trace.of([TraceRow(4.0, 1, 1), TraceRow(0.0, 1, 1), TraceRow(1.0, 1, 1)]).period_s == 6.0
