from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_tables import LatencyTable, Row, parse_table
from latency_tables.formats import FORMATS, yaml_format
from latency_tables.formats.yaml_format import decode, encode
from supernet.errors import TableError

Document = dict[str, Any]


@pytest.fixture
def document(table: LatencyTable) -> Document:
    data: Document = json.loads(table.render("json"))
    data["rows"] = data["rows"][:4]
    return data


def refusal(data: bytes, format: str = "json") -> str:
    with pytest.raises(TableError) as caught:
        parse_table(data, format)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500
    return str(caught.value)


def test_formats_are_spellings_of_the_same_document(table: LatencyTable, document: Document) -> None:
    for format in FORMATS:
        assert parse_table(table.render(format), format) == table
    assert parse_table(json.dumps(document).encode(), "yaml") == parse_table(json.dumps(document).encode(), "json")


def test_a_document_holds_what_its_readers_expect(document: Document) -> None:
    assert list(document) == ["format", "version", "unit", "device", "space", "num_classes", "provenance", "rows"]
    assert document["provenance"]["date"] == "2026-11-21"
    assert list(document["rows"][0]) == ["layer", "median_ms", "spread_ms", "count"]


def change(path: str, value: Any) -> Callable[[Document], None]:
    def apply(document: Document) -> None:
        *parents, last = path.split(".")
        place: Any = document
        for name in parents:
            place = place[int(name) if name.isdigit() else name]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return apply


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (change("extra", 1), "extra is not a known field"),
        (change("unit", "us"), "unit is 'us': input should be 'ms'"),
        (change("unit", ...), "unit is missing"),
        (change("format", "csv"), "format is 'csv': input should be 'onceforall-latency-table'"),
        (change("version", 2), "version is 2: input should be 1"),
        (change("device", "Pixel 6"), "device is 'Pixel 6': value error, device name 'Pixel 6'; allowed: 1 to 64"),
        (change("num_classes", True), "num_classes is True: input should be a valid integer"),
        (change("num_classes", 10.0), "num_classes is 10.0: input should be a valid integer"),
        (change("provenance.date", "21.11.2026"), "provenance.date is '21.11.2026': value error, a date is written"),
        (change("provenance.date", "2026-02-30"), "provenance.date is '2026-02-30'"),
        (change("provenance.threads", ...), "provenance.threads is missing"),
        (change("provenance.clock", "1 GHz"), "provenance.clock is not a known field"),
        (change("rows", []), "rows is empty; at least one is needed; mend"),
        (change("rows", {}), "rows is dict of 0: input should be a valid list"),
        (change("rows.1.median_ms", -1.0), "row 1 '{layer}', median_ms is -1.0: input should be greater than 0"),
        (change("rows.1.median_ms", 0), "row 1 '{layer}', median_ms is 0: input should be greater than 0"),
        (change("rows.1.median_ms", math.nan), "row 1 '{layer}', median_ms is nan: input should be a finite number"),
        (change("rows.1.median_ms", math.inf), "row 1 '{layer}', median_ms is inf: input should be"),
        (change("rows.1.median_ms", "1"), "row 1 '{layer}', median_ms is '1': input should be a valid number"),
        (change("rows.1.median_ms", None), "row 1 '{layer}', median_ms is None"),
        (change("rows.1.spread_ms", -0.1), "row 1 '{layer}', spread_ms is -0.1"),
        (change("rows.1.count", 0), "row 1 '{layer}', count is 0"),
        (change("rows.1.count", ...), "row 1 '{layer}', count is missing"),
        (change("rows.1.mean", 1), "row 1 '{layer}', mean is not a known field"),
        (change("rows.1.layer", ...), "row 1, layer is missing"),
        (change("rows.1.layer", "two\nlines"), "layer is 'two\\nlines': string should match"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place_and_the_value(
    document: Document, mutate: Callable[[Document], None], message: str
) -> None:
    layer = document["rows"][1]["layer"]
    mutate(document)
    data = json.dumps(document).encode()
    assert message.format(layer=layer) in refusal(data)
    if "NaN" not in data.decode() and "Infinity" not in data.decode():
        assert message.format(layer=layer) in refusal(data, "yaml")


@pytest.mark.parametrize(
    "name", ["runtime", "precision", "memory_format", "threads", "batch", "date", "repeats", "warmup"]
)
def test_what_is_not_known_is_null_and_never_left_out(document: Document, name: str) -> None:
    document["provenance"][name] = None
    data = json.dumps(document).encode()
    assert getattr(parse_table(data, "json").provenance, name) is None
    assert parse_table(data, "yaml") == parse_table(data, "json")
    del document["provenance"][name]
    assert f"provenance.{name} is missing" in refusal(json.dumps(document).encode())


def test_the_statistic_of_the_rows_is_the_median_unless_the_file_says_mean(
    table: LatencyTable, document: Document
) -> None:
    assert "statistic" not in document["provenance"]
    assert parse_table(json.dumps(document).encode(), "json").provenance.statistic == "median"
    means = replace(table, provenance=replace(table.provenance, statistic="mean"))
    assert means.digest != table.digest
    for format in FORMATS:
        assert parse_table(means.render(format), format) == means
    document["provenance"]["statistic"] = "mode"
    assert "provenance.statistic is 'mode': input should be 'median' or 'mean'" in refusal(
        json.dumps(document).encode()
    )


def test_a_table_that_is_too_large_for_its_format_is_not_written(table: LatencyTable) -> None:
    """It could not be read again."""
    large = replace(table, rows={f"{'x' * 150} {number}": Row(1.0, 0.1, 3) for number in range(8000)})
    assert parse_table(large.render("json"), "json") == large
    with pytest.raises(TableError, match=r"\d+ bytes of yaml; allowed: at most 1048576; write JSON"):
        large.render("yaml")


def test_a_key_that_stands_twice_among_very_many_is_found_quickly() -> None:
    """Counting each of them took minutes."""
    started = time.process_time()
    fields = ",".join(f'"{number}":0' for number in [*range(200_000), 199_999])
    assert "key '199999' stands twice in one object" in refusal(f"{{{fields}}}".encode())
    assert time.process_time() - started < 5


def test_a_repeated_row_is_refused_with_both_places(document: Document) -> None:
    document["rows"].append(document["rows"][0])
    assert f"row 4 {document['rows'][0]['layer']!r} repeats row 0" in refusal(json.dumps(document).encode())


def test_five_faults_are_told_and_the_rest_counted(document: Document) -> None:
    for row in document["rows"]:
        row["median_ms"] = -1
        row["count"] = 0
    message = refusal(json.dumps(document).encode())
    assert message.count("input should be") == 5
    assert message.endswith("; and 3 more; mend them and load it again")


def test_rows_are_capped_before_they_are_read(document: Document) -> None:
    document["rows"] = [0] * 20_001
    assert refusal(json.dumps(document).encode()) == (
        "latency table: 20001 rows; allowed: at most 20000; split it by resolution"
    )


@pytest.mark.parametrize(("format", "limit"), [("json", 4 * 2**20), ("yaml", 2**20)])
def test_size_is_capped_before_anything_is_parsed(format: str, limit: int) -> None:
    assert f"{limit + 1} bytes of {format}; allowed: at most {limit}" in refusal(b" " * (limit + 1), format)


@pytest.mark.parametrize("format", ["ofa", "JSON", "pickle", ""])
def test_an_unknown_format_lists_the_known_ones(format: str) -> None:
    assert refusal(b"{}", format) == f"unknown table format {format!r}; allowed: json, yaml, csv"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON ('utf-8' codec"),
        (b"[]", "expected an object with named fields, got list"),
        (b"null", "expected an object with named fields, got NoneType"),
        (b'{"rows": [], "rows": []}', "key 'rows' stands twice in one object"),
        (b"[" * 100_000, "JSON nested too deeply"),
        (b'{"num_classes": ' + b"9" * 5000 + b"}", "not JSON (Exceeds the limit"),
    ],
)
def test_what_is_not_json_is_refused(data: bytes, message: str) -> None:
    assert message in refusal(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe\x00", "not readable as YAML"),
        (b"a: [", "not readable as YAML"),
        (b"a: 1\n--- \nb: 2", "not readable as YAML"),
        (b"a: &x 1\nb: *x", "an alias (*) in line 2; write the value out"),
        (b"a: &x {b: 1}\nc: {<<: *x}", "an alias (*) in line 2"),
        (b"rows: 1\nrows: 2", "key 'rows' stands twice, again in line 2"),
        (b"? [a]\n: 1", "a key that is no plain word in line 1"),
        (
            b"a: !!python/object/apply:os.system [ls]",
            "a tag (tag:yaml.org,2002:python/object/apply:os.system) in line 1",
        ),
        (b"a: !!int ''", "a tag (tag:yaml.org,2002:int) in line 1; leave it out"),
        (b"[" * 20_000, "YAML nested too deeply"),
        (b"- 1", "expected an object with named fields, got list"),
        (b"a: " + b"9" * 5000, "not readable as YAML (Exceeds the limit"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(data: bytes, message: str) -> None:
    assert message in refusal(data, "yaml")


def test_yaml_values_are_capped_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_format, "MAX_NODES", 1000)
    assert "(more than 1000 values and keys)" in refusal(b"[" + b"a," * 1000 + b"]", "yaml")
    assert "got list" in refusal(b"[" + b"a," * 999 + b"]", "yaml")


@pytest.mark.parametrize("ending", [".e", ".", "x", "ex"])
def test_yaml_digits_without_end_are_read_in_linear_time(ending: str) -> None:
    """The time grew with the square of their number: 12 seconds for 20 kB."""
    started = time.process_time()
    assert type(decode(b"a: " + b"1" * 200_000 + ending.encode())["a"]) is (float if ending == "." else str)
    assert time.process_time() - started < 5


def test_yaml_words_mean_what_json_would_say() -> None:
    text = (
        b"{a: no, b: 1e3, c: 2026-11-21, d: 1:30, e: 0x10, f: 1_000, g: ~, h: null, i: true, j: -3, k: .5, l: 010, m: }"
    )
    assert decode(text) == {
        **{"a": "no", "b": 1000.0, "c": "2026-11-21", "d": "1:30", "e": "0x10", "f": "1_000", "g": "~"},
        **{"h": None, "i": True, "j": -3, "k": 0.5, "l": 10.0, "m": None},
    }


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    plain_data | st.sampled_from(["", "1e3", "no", "null", "1:30", "2026-11-21", "0", "-.5", ".inf", "~", "*a", "!x"])
)
def test_yaml_reads_back_what_it_wrote(data: Any) -> None:
    read = decode(encode(data))
    assert read == data
    assert type(read) is type(data)


@settings(max_examples=100)
@given(
    st.text(alphabet="ab:*&!-[]{}? \n'\"<>|#%@,1.e~", max_size=30) | st.text(max_size=20),
    st.sampled_from(list(FORMATS)),
)
def test_any_text_is_refused_as_a_table_error(text: str, format: str) -> None:
    refusal(text.encode("utf-8", "surrogatepass"), format)


def test_our_yaml_is_the_same_to_other_readers(table: LatencyTable) -> None:
    assert yaml.safe_load(table.render("yaml"))["rows"] == json.loads(table.render("json"))["rows"]


def test_refusals_never_repeat_a_whole_upload(document: Document) -> None:
    document["space"] = "x" * 100_000
    document["y" * 100_000] = ["z" * 100_000]
    document["device"] = ["z" * 100_000]
    assert re.search(r"device is list of 1", refusal(json.dumps(document).encode()))
