"""CSV tables: the same table as JSON, and everything that a spreadsheet or a script can get wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_tables import LatencyTable, Provenance, Row, parse_table
from latency_tables.formats.csv_format import MAX_BYTES
from supernet.errors import TableError

NOTHING_KNOWN = Provenance({}, None, {}, None, None, None, None, None, None, None)
FACTS = (
    *("format", "version", "unit", "device", "space", "num_classes", "provenance.hardware", "provenance.runtime"),
    *("provenance.runtime_versions", "provenance.precision", "provenance.memory_format", "provenance.threads"),
    *("provenance.batch", "provenance.date", "provenance.repeats", "provenance.warmup"),
)


def refusal(text: str | bytes) -> str:
    with pytest.raises(TableError) as caught:
        parse_table(text.encode() if isinstance(text, str) else text, "csv")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


@pytest.fixture
def text(table: LatencyTable) -> str:
    """Four rows of a table."""
    return replace(table, rows=dict(list(table.rows.items())[:4])).render("csv").decode()


def row_of(text: str, number: int) -> str:
    """A row's line."""
    return text.splitlines()[len(FACTS) + 1 + number]


def test_a_csv_file_is_lines_of_facts_then_one_line_a_layer(table: LatencyTable) -> None:
    lines = table.render("csv").decode().splitlines()
    assert lines[:4] == ["# format: onceforall-latency-table", "# version: 1", "# unit: ms", "# device: pixel6"]
    assert '# provenance.hardware: {"cpu": "formula", "cores": 2}' in lines
    assert "# provenance.threads: 1" in lines
    assert tuple(line[2:].partition(":")[0] for line in lines[: len(FACTS)]) == FACTS
    assert lines[len(FACTS)] == "layer,median_ms,spread_ms,count"
    assert len(lines) == len(FACTS) + 1 + len(table.rows)


def test_other_readers_of_csv_find_the_same_rows(table: LatencyTable) -> None:
    lines = [line for line in table.render("csv").decode().splitlines() if not line.startswith("#")]
    found = {row["layer"]: float(row["median_ms"]) for row in csv.DictReader(lines)}
    assert found == {key: row.median_ms for key, row in table.rows.items()}


def test_unknown_facts_are_null(table: LatencyTable) -> None:
    unknown = replace(table, provenance=replace(NOTHING_KNOWN, statistic="mean"))
    data = unknown.render("csv")
    assert b"# provenance.threads: null\n" in data
    assert b"# provenance.statistic: mean\n" in data
    assert parse_table(data, "csv") == unknown


words = st.text(st.characters(codec="utf-8", exclude_characters="\x7f", min_codepoint=32), min_size=1, max_size=12)
tricky = st.sampled_from(
    ["1", "-0.5", "1e3", "null", "true", "NaN", '"a"', "{}", "[1]", "a, b", " a ", "#x", "a: b", "\u2028", "\x85", "'"]
)
facts = st.dictionaries(words | tricky, words | tricky | st.integers(-(10**20), 10**20), max_size=3)
amounts = st.floats(min_value=1e-9, max_value=1e9)


@settings(max_examples=150, deadline=None)
@given(
    hardware=facts,
    runtime=words | tricky | st.none(),
    threads=st.none() | st.integers(1, 10**9),
    rows=st.dictionaries(words | tricky, st.builds(Row, amounts, amounts, st.integers(1, 10**9)), min_size=1),
)
def test_any_table_reads_back_equal(
    hardware: dict[str, str | int], runtime: str | None, threads: int | None, rows: dict[str, Row]
) -> None:
    provenance = replace(NOTHING_KNOWN, hardware=hardware, runtime=runtime, threads=threads)
    table = LatencyTable("phone", "mobilenet_v3_tiny", 10, rows, provenance)
    read = parse_table(table.render("csv"), "csv")
    assert read == table
    assert read.digest == table.digest == parse_table(table.render("json"), "json").digest


def test_spreadsheets_may_change_the_ends_of_lines_and_mark_the_encoding(text: str) -> None:
    saved = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    assert parse_table(saved, "csv") == parse_table(text.encode(), "csv")


def test_columns_may_stand_in_any_order(text: str) -> None:
    head, rows = text.splitlines()[: len(FACTS)], list(csv.DictReader(text.splitlines()[len(FACTS) :]))
    turned = io.StringIO()
    writer = csv.DictWriter(turned, ["count", "spread_ms", "layer", "median_ms"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    assert parse_table(("\n".join(head) + "\n" + turned.getvalue()).encode(), "csv") == parse_table(
        text.encode(), "csv"
    )


@pytest.mark.parametrize("columns", ["layer,median_ms", "layer,median_ms,spread_ms,count"])
def test_a_plain_csv_is_refused_with_all_that_it_does_not_say(columns: str) -> None:
    message = refusal(f"{columns}\nconv 1x1,{','.join('1' * columns.count(','))}\n")
    assert f"no line '# name: value' (null: not known) says {', '.join(FACTS)}" in message
    assert ("there is no column spread_ms, count" in message) == (columns == "layer,median_ms")


def replaced(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def cell(column: int, value: str) -> Callable[[str], str]:
    """Another value in the second row."""

    def change(text: str) -> str:
        cells = row_of(text, 1).split(",")
        cells[column] = value
        return text.replace(row_of(text, 1), ",".join(cells))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("# unit: ms", "# unit: us"), "unit is 'us': input should be 'ms'"),
        (replaced("# unit: ms\n", ""), "no line '# name: value' (null: not known) says unit;"),
        (replaced("# unit: ms", "# unit: ms\n# unit: ms"), "line 4 says 'unit' again"),
        (replaced("# unit: ms", "# measured by me"), "line 3 '# measured by me' is not '# name: value'"),
        (replaced("# unit: ms", "# unit: ms\n# owner: me"), "owner is not a known field"),
        (replaced("# unit: ms", "# unit: ms\n# rows: []"), "rows is not a known field"),
        (replaced("# unit: ms", "# unit: ms\n# provenance: {}"), "'provenance' and 'provenance.hardware' exclude"),
        (replaced("# device: pixel6", "# device: Pixel 6"), "device is 'Pixel 6': value error"),
        (replaced("threads: 1", "threads: two"), "provenance.threads is 'two': input should be a valid integer"),
        (replaced("threads: 1", "threads: 0"), "provenance.threads is 0: input should be greater than 0"),
        (replaced('{"cpu"', "{cpu"), "provenance.hardware is '{{cpu: "),
        (replaced("median_ms", "median_us"), "columns 'median_us' are not known; there is no column median_ms"),
        (replaced(",count", ",count,count"), "column count stands twice"),
        (replaced("layer,median_ms,spread_ms,count", "layer;median_ms;spread_ms;count"), "(separated by commas)"),
        (cell(1, "-1"), "row 1 '{layer}', median_ms is -1: input should be greater than 0"),
        (cell(1, "0"), "row 1 '{layer}', median_ms is 0: input should be greater than 0"),
        (cell(1, "nan"), "row 1 '{layer}', median_ms is 'nan': input should be a valid number"),
        (cell(1, "NaN"), "row 1 '{layer}', median_ms is 'NaN': input should be a valid number"),
        (cell(1, "1e999"), "row 1 '{layer}', median_ms is inf: input should be"),
        (cell(1, ""), "row 1 '{layer}', median_ms is missing"),
        (cell(1, "true"), "row 1 '{layer}', median_ms is True: input should be a valid number"),
        (cell(1, '"1,5"'), "row 1 '{layer}', median_ms is '1,5': input should be a valid number"),
        (cell(1, "1,5"), "row 1 '{layer}' has 5 cells, there are 4 columns"),
        (cell(3, "1.5"), "row 1 '{layer}', count is 1.5: input should be a valid integer"),
        (cell(3, '"1'), "not CSV (unexpected end of data)"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_the_value(
    text: str, change: Callable[[str], str], message: str
) -> None:
    layer = row_of(text, 1).partition(",")[0]
    assert message.format(layer=layer) in refusal(change(text))


def test_a_repeated_row_is_refused_with_both_places(text: str) -> None:
    layer = row_of(text, 1).partition(",")[0]
    assert f"row 4 {layer!r} repeats row 1" in refusal(text + row_of(text, 1) + "\n")


def test_rows_and_lines_are_capped_while_they_are_read(text: str) -> None:
    assert "more than 20000 rows; split it by resolution" in refusal(text + "x,1,1,1\n" * 20_000)
    assert "more than 200 lines above the column names" in refusal("# a: 1\n" * 1000)
    assert f"{MAX_BYTES + 1} bytes of csv; allowed: at most {MAX_BYTES}" in refusal(b"a" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [b"", b"\n\n", b"\xff\xfe", b'"', b"#", b"# : 1", b"\0", b"a" * 200_000, b"a," * 500_000, b"# a: " + b"[" * 10**6],
)
def test_what_is_no_table_is_refused(data: bytes) -> None:
    assert refusal(data)
