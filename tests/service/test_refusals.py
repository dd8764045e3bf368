from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_service import SPACE, make_table, serving, small_settings

from service.client import Client, ServiceError
from service.settings import Settings
from service.storage.artifacts import open_artifacts
from supernet.files import read_json, sha256_file, write_json

API = "/api/v1"


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url + API, timeout=60) as http:
        yield http


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["type"].startswith("urn:onceforall:problem:")
    assert problem["title"]
    assert problem["detail"]
    assert "\n" not in problem["detail"]
    return problem


# -- budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "where", "message"),
    [
        ('{"metric": "macs", "max": NaN}', "max", "finite number"),
        ('{"metric": "macs", "max": 1e400}', "max", "finite number"),
        ('{"metric": "macs", "max": -1}', "max", "greater than 0"),
        ('{"metric": "macs", "max": 0}', "max", "greater than 0"),
        ('{"metric": "macs", "max": "3M"}', "max", "valid number"),
        ('{"metric": "macs", "max": true}', "max", "valid number"),
        ('{"metric": "flops", "max": 3}', "metric", "'latency_ms', 'macs'"),
        ('{"metric": "macs", "max": 3, "min": 1}', "min", "Extra inputs"),
        ('{"metric": "macs"}', "max", "required"),
        ('{"metric": "latency_ms", "device": "../etc", "max": 3}', "device", "match pattern"),
        ('{"metric": "latency_ms", "max": 3}', "constraints", "device"),
        ('{"metric": "macs", "device": "bench", "max": 3}', "constraints", "device"),
        ('{"metric": "latency_ms", "device": "nobody", "max": 3}', "constraints", "no device 'nobody'"),
        ('{"metric": "macs", "max": 3}, {"metric": "macs", "max": 4}', "constraints", "more than one limit for macs"),
        ('{"metric": "macs", "max": 3, "quantile": 0.95}', "constraints", "leave the percentile out"),
        ('{"metric": "latency_ms", "device": "bench", "max": 3, "quantile": 95}', "quantile", "less than or equal to"),
        ('{"metric": "macs", "max": 0.5, "relative": "yes"}', "relative", "valid boolean"),
        ("", "constraints", "at least 1 item"),
    ],
)
def test_a_wrong_limit_is_refused_and_named(http: httpx.Client, limit: str, where: str, message: str) -> None:
    content = f'{{"supernet": "noise", "constraints": [{limit}]}}'
    answer = http.post("/subnet-requests", content=content, headers={"Content-Type": "application/json"})
    faults = problem_of(answer, 422)["faults"]
    assert any(where in fault["where"] and message in fault["message"] for fault in faults), faults


def test_every_fault_of_a_body_is_listed(http: httpx.Client) -> None:
    body = {"constraints": [{"metric": "macs", "max": -1}, {"metric": "what", "max": 1}], "seed": -1, "more": 1}
    faults = problem_of(http.post("/subnet-requests", json=body), 422)["faults"]
    assert {fault["where"] for fault in faults} == {
        "body.supernet",
        "body.constraints.0.max",
        "body.constraints.1.metric",
        "body.seed",
        "body.more",
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"supernet": ' + b"9" * 5000 + b"}",
        b'{"supernet": "noise", "constraints": [{"metric": "macs", "max": ' + b"9" * 400 + b"}]}",
        b'{"supernet": "\\ud800", "constraints": [{"metric": "macs", "max": 3000000}]}',
        b'{"supernet": "\\u0000", "constraints": [{"metric": "macs", "max": 3000000}]}',
    ],
)
def test_a_malformed_body_is_the_callers_fault(http: httpx.Client, content: bytes) -> None:
    answer = http.post("/subnet-requests", content=content, headers={"Content-Type": "application/json"})
    problem_of(answer, answer.status_code)
    assert answer.status_code in (400, 422)


def test_an_unknown_supernet_is_a_fault_of_the_body(http: httpx.Client) -> None:
    body = {"supernet": "nobody", "constraints": [{"metric": "macs", "max": 3e6}]}
    faults = problem_of(http.post("/subnet-requests", json=body), 422)["faults"]
    assert faults == [
        {"where": "body.supernet", "message": "no supernet 'nobody'; see /api/v1/supernets for those that exist"}
    ]


def test_other_kinds_of_body_are_refused(http: httpx.Client) -> None:
    for path in ("/subnet-requests", "/devices", "/supernets", "/devices/bench/latency-tables"):
        problem_of(http.post(path, content=b"x", headers={"Content-Type": "text/plain"}), 415)
        answer = http.post(path, content=b"x", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})
        assert "compressed" in problem_of(answer, 415)["detail"]


def test_a_body_over_the_cap_is_refused_while_it_streams(http: httpx.Client, settings: Settings) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(settings.max_body_bytes // 1024 + 64):
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    detail = f"allowed here: at most {settings.max_body_bytes} bytes"
    declared = http.post("/subnet-requests", content=b" " * (settings.max_body_bytes + 1), headers=headers)
    assert detail in problem_of(declared, 413)["detail"]
    assert detail in problem_of(http.post("/subnet-requests", content=endless(), headers=headers), 413)["detail"]


# -- paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/page.py",
        "/static/..%2f..%2fsettings.py",
        "/static//etc/passwd",
        "/api/v1/subnets/..%2f..%2fservice.sqlite/download",
        "/api/v1/subnets/%2e%2e/download",
        "/api/v1/latency-tables/..%2fx/content",
        "/api/v1/nothing",
        "/api/v1/devices/..%2f..",
    ],
)
def test_no_path_leads_out_of_what_is_served(url: str, path: str) -> None:
    answer = httpx.get(url + path)
    assert answer.status_code in (404, 422)
    problem_of(answer, answer.status_code)


@pytest.mark.parametrize(
    "path",
    ["/jobs/ID", "/jobs/ID/events", "/subnets/ID", "/subnets/ID/download", "/subnet-requests/ID", "/latency-tables/ID"],
)
def test_an_unknown_id_is_a_404_and_no_id_is_a_422(http: httpx.Client, path: str) -> None:
    assert (
        "see /api/v1/" in (detail := problem_of(http.get(path.replace("ID", "0" * 64)), 404)["detail"])
        or "POST" in detail
    )
    problem_of(http.get(path.replace("ID", "short")), 422)
    problem_of(http.get(path.replace("ID", "G" * 64)), 422)


def test_a_wrong_method_is_a_405(http: httpx.Client) -> None:
    problem_of(http.put("/devices"), 405)


def test_pages_of_other_sites_cannot_change_anything(http: httpx.Client) -> None:
    other = http.post("/devices", json={"name": "x"}, headers={"Origin": "https://elsewhere.example"})
    assert "https://elsewhere.example" in problem_of(other, 403)["detail"]
    refused = problem_of(http.get("/devices", headers={"Host": "rebound.example"}), 421)
    assert "the operator names others in ONCEFORALL_ALLOWED_HOSTS" in refused["detail"]


# -- devices and latency tables -------------------------------------------------------------------------------


def upload(
    http: httpx.Client, content: bytes, kind: str = "json", device: str = "bench", **query: str
) -> httpx.Response:
    path = f"/devices/{device}/latency-tables"
    media_type = "text/csv" if kind == "csv" else f"application/{kind}"
    return http.post(path, content=content, params=query, headers={"Content-Type": media_type})


def document(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(make_table().render("json"))
    return values | changes


def altered_row(**changes: Any) -> bytes:
    values = document()
    values["rows"][0] |= changes
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "JSON"),
        (b"{}", "missing"),
        (altered_row(median_ms=float("nan")), "median_ms"),
        (altered_row(median_ms=float("inf")), "median_ms"),
        (altered_row(median_ms=-1), "median_ms"),
        (altered_row(median_ms="1"), "median_ms"),
        (altered_row(more=1), "more"),
        (json.dumps(document(space="elsewhere")).encode(), "elsewhere"),
        (json.dumps(document(device="other")).encode(), "measured on 'other', not on 'bench'"),
        (json.dumps(document(unit="s")).encode(), "unit"),
        (json.dumps(document(rows=[])).encode(), "rows"),
        (json.dumps(document(rows=document()["rows"][:1] * 2)).encode(), "repeats row 0"),
    ],
)
def test_a_malformed_table_is_refused_and_not_stored(http: httpx.Client, content: bytes, message: str) -> None:
    before = http.get("/devices/bench/latency-tables").json()
    detail = problem_of(upload(http, content), 422)["detail"]
    assert message in detail
    assert http.get("/devices/bench/latency-tables").json() == before


def test_a_yaml_bomb_is_refused(http: httpx.Client) -> None:
    bomb = "a: &a [x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
    )
    assert "alias" in problem_of(upload(http, bomb.encode(), "yaml"), 422)["detail"]
    nested = b"[" * 100_000
    problem_of(upload(http, nested, "yaml"), 422)
    problem_of(upload(http, nested, "json"), 422)
    problem_of(upload(http, b"a" * (1 << 20) + b"a", "yaml"), 422)


def test_a_table_over_the_cap_is_a_413(http: httpx.Client, settings: Settings) -> None:
    problem_of(upload(http, b" " * (settings.max_table_bytes + 1)), 413)


def test_a_csv_table_is_the_same_table_and_comes_back_as_csv(
    http: httpx.Client, client: Client, tmp_path: Path
) -> None:
    http.post("/devices", json={"name": "sheet"})
    content = make_table("sheet").render("csv")
    answer = upload(http, content, "csv", device="sheet")
    assert (answer.status_code, answer.json()["format"], answer.json()["complete"]) == (201, "csv", True)
    assert upload(http, make_table("sheet").render("json"), device="sheet").json()["id"] == answer.json()["id"]
    (tmp_path / "sheet.csv").write_bytes(content)
    assert client.upload_table("sheet", tmp_path / "sheet.csv")["id"] == answer.json()["id"]
    again = http.get(answer.headers["location"].removeprefix(API) + "/content")
    assert again.content == content
    assert again.headers["content-type"].startswith("text/csv")
    assert again.headers["content-disposition"] == 'attachment; filename="sheet-v1.csv"'


def test_a_malformed_csv_table_is_refused(http: httpx.Client, settings: Settings) -> None:
    for content, message in (
        (b"layer,median_ms\na,1\n", "says format, version, unit, device, space"),
        (make_table().render("csv").replace(b"# unit: ms", b"# unit: s"), "unit is 's': input should be 'ms'"),
        (b"x,1\n" * (1 << 18), "no line '# name: value'"),
    ):
        assert message in problem_of(upload(http, content, "csv"), 422)["detail"]
    problem_of(upload(http, b" " * (settings.max_table_bytes + 1), "csv"), 413)


def test_a_table_that_does_not_know_its_threads_contradicts_no_device(http: httpx.Client) -> None:
    http.post("/devices", json={"name": "vague", "threads": 4})
    table = make_table("vague")
    assert (
        "threads is 1, the device has 4"
        in problem_of(upload(http, table.render("json"), device="vague"), 409)["detail"]
    )
    unknown = replace(table, provenance=replace(table.provenance, threads=None, batch=None))
    answer = upload(http, unknown.render("json"), device="vague")
    assert answer.status_code == 201
    assert answer.json()["provenance"]["threads"] is None


def test_a_table_with_missing_rows_is_stored_and_named_but_prices_nothing(http: httpx.Client) -> None:
    http.post("/devices", json={"name": "holes"})
    body = {"supernet": "noise", "constraints": [{"metric": "latency_ms", "device": "holes", "max": 3}]}
    without = problem_of(http.post("/subnet-requests", json=body), 422)["faults"][0]
    assert "no complete latency table of 'holes'" in without["message"]
    assert "it has none" in without["message"]
    assert "onceforall profile RUN_FOLDER --device holes --out FILE" in without["message"]
    answer = upload(http, make_table("holes", drop=3).render("json"), device="holes")
    assert answer.status_code == 201
    table = answer.json()
    assert (table["complete"], len(table["missing"]), table["version"]) == (False, 3, 1)
    assert table["coverage"] == pytest.approx(1 - 3 / len(SPACE.all_layers()))
    assert "lacks 3 rows" in problem_of(http.post("/subnet-requests", json=body), 422)["faults"][0]["message"]
    whole = upload(http, make_table("holes").render("yaml"), "yaml", device="holes")
    assert (whole.json()["version"], whole.json()["complete"], whole.json()["missing"]) == (2, True, [])
    assert http.post("/subnet-requests", json=body).status_code in (200, 202)
    upload(http, make_table("holes", drop=2).render("json"), device="holes")  # the newest complete one still counts
    assert http.post("/subnet-requests", json=body).status_code in (200, 202)


def test_a_dry_run_reports_and_stores_nothing(http: httpx.Client) -> None:
    http.post("/devices", json={"name": "dry"})
    answer = upload(http, make_table("dry", drop=1).render("json"), device="dry", dry_run="true")
    assert answer.status_code == 200
    assert (answer.json()["stored"], len(answer.json()["missing"])) == (False, 1)
    assert http.get("/devices/dry/latency-tables").json()["items"] == []


def test_doubtful_rows_are_reported(http: httpx.Client) -> None:
    http.post("/devices", json={"name": "odd"})
    values = json.loads(make_table("odd").render("json"))
    slow = next(i for i, row in enumerate(values["rows"]) if row["layer"].startswith("mbconv"))
    values["rows"][slow]["median_ms"] *= 1000
    answer = upload(http, json.dumps(values).encode(), device="odd", dry_run="true")
    assert any(values["rows"][slow]["layer"] in line for line in answer.json()["outliers"])


def test_the_same_table_is_one_version_and_comes_back_byte_by_byte(http: httpx.Client) -> None:
    http.post("/devices", json={"name": "twice"})
    content = make_table("twice", scale=2).render("json")
    first, second = (upload(http, content, device="twice") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"] == make_table("twice", scale=2).digest
    again = http.get(first.headers["location"].removeprefix(API) + "/content")
    assert again.content == content
    assert again.headers["content-disposition"] == 'attachment; filename="twice-v1.json"'


def test_an_estimate_is_the_sum_of_its_layers(http: httpx.Client) -> None:
    table = http.get("/devices/bench/latency-tables").json()["items"][-1]
    configs = [SPACE.smallest(), SPACE.largest()]
    body = {"subnets": [config.to_dict() for config in configs]}
    answer = http.post(f"/latency-tables/{table['id']}/estimate", json=body).json()
    for config, item in zip(configs, answer["items"], strict=True):
        assert item["latency_ms"] == pytest.approx(make_table().estimate_ms(SPACE, config))
        assert item["latency_ms"] == pytest.approx(sum(layer["latency_ms"] for layer in item["layers"]))
        assert [layer["layer"] for layer in item["layers"]] == [spec.key for spec in SPACE.layers(config)]
    wrong = {"subnets": [body["subnets"][0], body["subnets"][1] | {"resolution": 31}, {"space": 3}]}
    faults = problem_of(http.post(f"/latency-tables/{table['id']}/estimate", json=wrong), 422)["faults"]
    assert [fault["where"] for fault in faults] == ["body.subnets.1", "body.subnets.2"]
    assert "resolution is 31; allowed: 16, 20, 24, 28, 32" in faults[0]["message"]


def test_a_device_keeps_its_description(http: httpx.Client) -> None:
    body = {"name": "fixed", "hardware": "a", "threads": 2}
    assert http.post("/devices", json=body).status_code == 201
    assert http.post("/devices", json=body).status_code == 200
    assert "described otherwise" in problem_of(http.post("/devices", json=body | {"threads": 4}), 409)["detail"]
    mismatch = problem_of(upload(http, make_table("fixed").render("json"), device="fixed"), 409)["detail"]
    assert "threads is 1, the device has 2" in mismatch
    for name in ("", "Note10", "../x", "a" * 65, "a/b", "-a", "a\n"):
        problem_of(http.post("/devices", json={"name": name}), 422)
    assert [item["name"] for item in http.get("/devices").json()["items"]] == sorted(
        item["name"] for item in http.get("/devices").json()["items"]
    )


# -- runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "copy"))


def rewrite(folder: Path, file: str, **changes: Any) -> None:
    write_json(folder / file, read_json(folder / file) | changes)


def rewrite_tensors(folder: Path, change: Any) -> None:
    """Alter the weights and make the manifest agree, as somebody with bad intentions would."""
    path = folder / "supernet.safetensors"
    change(path)
    rewrite(folder, "manifest.json", weights={"file": path.name, "sha256": sha256_file(path)})


def with_header(path: Path, change: Any) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change(json.loads(data[8 : 8 + length]))
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def with_first(field: str, value: Any) -> Any:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        header[next(name for name in header if name != "__metadata__")][field] = value
        return header

    return lambda path: with_header(path, change)


def renamed(name: str) -> Any:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        first = next(key for key in header if key != "__metadata__")
        return {name if key == first else key: value for key, value in header.items()}

    return lambda path: with_header(path, change)


def with_nan(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"
    path.write_bytes(data)


WEIGHTS_FAULTS = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "truncated"),
    "empty": (lambda path: path.write_bytes(b""), "truncated"),
    "absurd header length": (lambda path: path.write_bytes(b"\xff" * 64), "truncated"),
    "appended": (lambda path: path.write_bytes(path.read_bytes() + b"xx"), "belong to no tensor"),
    "not finite": (with_nan, "not finite"),
    "a path as a name": (renamed("../../etc/passwd"), "tensor name '../../etc/passwd'"),
    "another name": (renamed("layers.other"), "layers.other is unknown"),
    "wrong type": (with_first("dtype", "F16"), "type, a shape and the offsets"),
    "unknown type": (with_first("dtype", "PICKLE"), "type, a shape and the offsets"),
    "huge shape": (with_first("shape", [2**47]), "type, a shape and the offsets"),
    "negative shape": (with_first("shape", [-1]), "type, a shape and the offsets"),
    "header is a list": (lambda path: with_header(path, lambda header: b"[]"), "not an object"),
    "header is no JSON": (lambda path: with_header(path, lambda header: b"{" * 100), "not JSON"),
    "a name twice": (lambda path: with_header(path, lambda header: b'{"a": 1, "a": 2}'), "occurs twice"),
    "too many tensors": (
        lambda path: with_header(path, lambda header: {f"t{i}": {} for i in range(20_001)}),
        "allowed: 1 to 20000",
    ),
    "a tensor of 64 GiB": (
        lambda path: with_header(
            path, lambda header: {"x": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}
        ),
        "truncated: tensor 'x' ends at byte 68719476736",
    ),
    "200,000 tensors": (
        lambda path: with_header(path, lambda header: {f"tensor{i}": {"dtype": "F32"} for i in range(200_000)}),
        "its header has",
    ),
    "a pickle": (lambda path: path.write_bytes(b"PK\x03\x04archive/data.pkl" * 100), "truncated"),
}


@pytest.mark.parametrize("fault", WEIGHTS_FAULTS)
def test_weights_that_are_not_sound_are_refused(client: Client, copy: Path, fault: str) -> None:
    change, message = WEIGHTS_FAULTS[fault]
    rewrite_tensors(copy, change)
    with pytest.raises(ServiceError) as error:
        client.register_run(copy, "bad")
    assert error.value.status == 422
    assert message in str(error.value)
    assert "supernet.safetensors" in str(error.value)


def test_weights_that_do_not_match_their_digest_are_refused(client: Client, copy: Path) -> None:
    path = copy / "supernet.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ServiceError, match=r"supernet\.safetensors has SHA-256 .* its description says"):
        client.register_run(copy, "bad")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("manifest.json", {"status": "training"}, "status is 'training'; allowed: complete"),
        ("manifest.json", {"space": "elsewhere"}, "unknown search space 'elsewhere'"),
        ("manifest.json", {"num_classes": 10**9}, "allowed: 2 to 100000"),
        ("manifest.json", {"num_classes": True}, "num_classes is True"),
        ("manifest.json", {"num_classes": 100_000}, "its classifier has the shape (10,), manifest.json says 100000"),
        ("manifest.json", {"weights": None}, "lacks a field"),
        ("predictor/predictor.json", {"space": "elsewhere"}, "the predictor was made for space 'elsewhere'"),
        (
            "predictor/predictor.json",
            {"details": {"weights_sha256": "a" * 64}},
            "the predictor was fitted for the weights aaaaaaaaaaaa..., the supernet has",
        ),
        ("predictor/predictor.json", {"details": None}, "lacks a field"),
    ],
)
def test_a_run_that_does_not_hold_together_is_refused(
    client: Client, copy: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    rewrite(copy, file, **changes)
    with pytest.raises(ServiceError) as error:
        client.register_run(copy, "bad")
    assert error.value.status == 422
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", '{"a": NaN}', '{"a": 1e999}', "[" * 50_000, "\x00"])
def test_a_manifest_that_is_no_json_object_is_refused(client: Client, copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(ServiceError, match=r"manifest\.json") as error:
        client.register_run(copy, "bad")
    assert error.value.status == 422


def test_nothing_of_a_refused_run_is_kept(client: Client, copy: Path, settings: Settings) -> None:
    before = sorted((settings.data_dir / "artifacts").rglob("*"))
    rewrite_tensors(copy, with_nan)
    with pytest.raises(ServiceError):
        client.register_run(copy, "bad")
    assert sorted((settings.data_dir / "artifacts").rglob("*")) == before
    assert not list(settings.cache_dir.glob("upload-*"))


def test_names_of_supernets_are_checked_and_unique(client: Client, run_folder: Path, copy: Path) -> None:
    known = client.register_run(run_folder, "noise")
    assert client._call("GET", "/supernets/noise") == client._call("GET", f"/supernets/{known['id']}") == known
    for name in ("", "../noise", "Noise", "a" * 65):
        with pytest.raises(ServiceError, match="is not a name") as error:
            client.register_run(run_folder, name)
        assert error.value.status == 422
    with pytest.raises(ServiceError, match="registered already, as 'noise'"):
        client.register_run(run_folder, "other")
    rewrite(copy, "manifest.json", seed=5)
    with pytest.raises(ServiceError, match="the name 'noise' belongs to another supernet") as error:
        client.register_run(copy, "noise")
    assert error.value.status == 409


def test_missing_and_strange_parts_are_named(http: httpx.Client) -> None:
    answer = http.post("/supernets", data={"name": "x"}, files={"manifest": b"{}"})
    wheres = {fault["where"] for fault in problem_of(answer, 422)["faults"]}
    assert wheres == {"body.weights", "body.images", "body.predictor", "body.predictor_weights"}
    answer = http.post("/supernets", data={"name": "x"}, files={"../../manifest": b"{}"})
    assert "unexpected '../../manifest'" in problem_of(answer, 422)["faults"][0]["message"]
    answer = http.post("/supernets", files=[("manifest", b"{}"), ("manifest", b"{}")])
    problem_of(answer, 422)
    answer = http.post("/supernets", files={f"part{i}": b"" for i in range(50)})
    problem_of(answer, answer.status_code)
    assert 400 <= answer.status_code < 500
    answer = http.post("/supernets", content=b"nonsense", headers={"Content-Type": "multipart/form-data; boundary=x"})
    problem_of(answer, answer.status_code)
    assert 400 <= answer.status_code < 500


def test_a_deleted_supernet_leaves_its_subnets_and_frees_its_files(data_copy: Path, copy: Path) -> None:
    settings = small_settings(data_copy)
    artifacts = open_artifacts(settings.resolved_artifact_url)
    before = set(artifacts.digests())
    rewrite(copy, "manifest.json", seed=7)
    with serving(settings) as url, Client(url) as client:
        supernet = client.register_run(copy, "brief")
        subnet = client.request_subnet("brief", "macs<=3M")
        client.delete_supernet("brief")
        with pytest.raises(ServiceError, match="no supernet 'brief'"):
            client.ask("brief", "macs<=3M")
        assert client._call("GET", f"/subnets/{subnet['id']}") == subnet
        assert set(artifacts.digests()) == before | {file["sha256"] for file in subnet["files"]}
        assert not (settings.cache_dir / supernet["id"]).exists()
        assert client.register_run(copy, "brief")["id"] == supernet["id"]
        assert client.request_subnet("brief", "macs<=3M") == subnet
