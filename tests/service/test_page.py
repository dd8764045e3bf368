"""The pages as the server sends them: what works without JavaScript."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from types import ModuleType
from urllib.parse import urlencode

import httpx
import pytest
from small_service import make_table

from service.client import Client
from service.web import job_views, subnet_views, words

PAGES = ["/", "/subnets", "/tables", "/jobs", "/docs"]


def row_of(text: str, row_id: str) -> str:
    """The table row of that id, its white space evened out."""
    return " ".join(unescape(text.partition(f'<tr id="{row_id}"')[2].partition("</tr>")[0]).split())


def test_the_list_shows_predicted_and_measured_figures_apart_with_download_links(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=3M, latency_ms@bench<=2")
    page = httpx.get(f"{url}/subnets")
    assert page.status_code == 200
    row = row_of(page.text, f"subnet-{subnet['id']}")
    groups = [part.partition("<td")[2] for part in re.split(r'(?=<td class="(?:number )?group")', row)]
    predicted, measured, counted = (re.sub(r"<[^>]+>", " ", group) for group in groups[1:4])
    assert words.percent(subnet["predicted"]["accuracy"]) in predicted
    assert words.figure(subnet["predicted"]["latency_ms"]["bench"], "latency_ms") in predicted
    assert words.percent(subnet["measured"]["accuracy"]) in measured
    assert words.percent(subnet["measured"]["standard_error"]) in measured
    assert words.figure(subnet["measured"]["macs"], "macs") in counted
    assert "Latency on bench ≤ 2 ms" in row
    assert "MACs ≤ 3 M" in row
    for file in subnet["files"]:
        assert f'href="{file["url"]}"' in row
        assert httpx.get(url + file["url"]).status_code == 200


def test_a_subnet_has_a_page_of_its_own(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=3M, latency_ms@bench<=2")
    text = unescape(httpx.get(f"{url}/subnets/{subnet['id']}").text)
    measured = subnet["measured"]
    low, high = (words.percent(end) for end in measured["accuracy_interval"])
    assert f"95 %: {low} to {high}, {measured['correct']} of {measured['total']} images" in text
    assert f"{subnet['config']['resolution']} px" in text
    assert subnet["id"] in text
    missing = httpx.get(f"{url}/subnets/{'0' * 64}")
    assert missing.status_code == 404
    assert missing.headers["content-type"].startswith("text/html")
    assert "no subnet" in unescape(missing.text)


def test_filters_and_order_are_those_of_the_api(client: Client, url: str) -> None:
    for budget in ("macs<=3M, latency_ms@bench<=2", "macs<=2M", "macs<=2.5M, latency_ms@bench<=2"):
        client.request_subnet("noise", budget)
    priced = {"device": "bench", "sort": "latency_ms"}
    typed_and_asked: list[tuple[dict[str, str], dict[str, str | float]]] = [
        ({"max_macs": "2.2"}, {"macs.lte": 2.2e6}),
        ({"max_macs": "2,2", "sort": "macs"}, {"macs.lte": 2.2e6, "sort": "macs"}),
        (priced | {"max_latency": "2"}, priced | {"latency_ms.lte": 2}),
        ({"supernet": "noise", "min_predicted": "1"}, {"supernet": "noise", "predicted_accuracy.gte": 0.01}),
    ]
    for typed, asked in typed_and_asked:
        page = httpx.get(f"{url}/subnets", params=typed).text
        assert (
            re.findall(r'<tr id="subnet-(\w+)"', page) == [found["id"] for found in client.list_subnets(**asked)][:25]
        )
    nothing = httpx.get(f"{url}/subnets", params={"min_accuracy": "99.99"}).text
    assert "No stored subnet passes these filters" in nothing


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"max_macs": "three"}, "'three' is not a number above 0; such as 2.5"),
        ({"max_params": "-1"}, "'-1' is not a number above 0"),
        ({"min_accuracy": "nan"}, "'nan' is not a number above 0"),
        ({"max_latency": "2"}, "choose the device too"),
        ({"sort": "latency_ms"}, "choose the device too"),
        ({"sort": "size"}, "no order 'size'"),
    ],
)
def test_a_filter_that_is_not_possible_is_told_at_its_field_and_the_list_is_shown(
    url: str, query: dict[str, str], message: str
) -> None:
    page = httpx.get(f"{url}/subnets", params=query)
    field = next(iter(query))
    assert page.status_code == 200
    assert message in unescape(page.text)
    assert f'aria-describedby="fault-{field}"' in page.text


@pytest.mark.parametrize(("path", "views", "row"), [("/subnets", subnet_views, "subnet"), ("/jobs", job_views, "job")])
def test_long_lists_come_page_by_page_and_keep_their_filters(
    client: Client, url: str, monkeypatch: pytest.MonkeyPatch, path: str, views: ModuleType, row: str
) -> None:
    for budget in ("macs<=3M, latency_ms@bench<=2", "macs<=2M", "macs<=2.5M, latency_ms@bench<=2"):
        client.request_subnet("noise", budget)
    filters = {"/subnets": {"max_macs": "9", "sort": "macs"}, "/jobs": {"state": "succeeded"}}[path]
    whole = re.findall(rf'<tr id="{row}-(\w+)"', httpx.get(url + path, params=filters).text)
    monkeypatch.setattr(views, "PAGE_SIZE", 1)  # the service runs in this process
    link, found = f"{path}?{urlencode(filters)}", []
    while link:
        text = httpx.get(url + link).text
        found += re.findall(rf'<tr id="{row}-(\w+)"', text)
        link = unescape("".join(re.findall(r'href="([^"]+)" rel="next"', text)))
        assert all(f"{name}={value}" in link for name, value in filters.items()) or not link
    assert len(found) >= 3
    assert found == whole


def test_a_cursor_of_another_list_is_refused_by_a_page(url: str) -> None:
    for path in ("/subnets", "/jobs", "/tables"):
        page = httpx.get(f"{url}{path}", params={"cursor": "nonsense"})
        assert page.status_code == 422
        assert "is not one of this list" in unescape(page.text)


def test_subnets_are_compared_side_by_side(client: Client, url: str) -> None:
    first = client.request_subnet("noise", "macs<=3M, latency_ms@bench<=2")
    second = client.request_subnet("noise", "macs<=2M")
    page = httpx.get(f"{url}/subnets/compare", params={"id": [first["id"], second["id"]]})
    text = unescape(page.text)
    assert page.status_code == 200
    assert text.index(first["id"][:10]) < text.index(second["id"][:10])
    groups = re.findall(r'<th scope="rowgroup"[^>]*>([^<]+)<', text)
    assert groups == ["Predicted", "Measured", "Architecture", "Where it comes from"]
    row = text.partition("MACs</th>")[2].partition("</tr>")[0]
    assert re.findall(r"<strong>([^<]+)<", row) == [words.figure(second["measured"]["macs"], "macs")]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_only_two_to_four_subnets_are_compared(url: str, count: int) -> None:
    page = httpx.get(f"{url}/subnets/compare", params={"id": [f"{number:064x}" for number in range(count)]})
    assert page.status_code == 422
    assert "choose 2 to 4" in page.text


def test_the_page_of_jobs_says_what_each_was_asked_for_and_what_came_of_it(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=3M, latency_ms@bench<=2")
    page = httpx.get(f"{url}/jobs").text
    row = row_of(page, f"job-{subnet['request']}")
    assert "Subnet of noise" in row
    assert "Latency on bench ≤ 2 ms" in row
    assert f'href="/subnets/{subnet["id"]}"' in row
    assert 'data-state="succeeded"' in row
    failed = httpx.get(f"{url}/jobs", params={"state": "failed"}).text
    assert f"job-{subnet['request']}" not in failed


def test_a_page_without_javascript_can_cancel_a_job(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=3M, latency_ms@bench<=2")
    answer = httpx.post(f"{url}/jobs/{subnet['request']}/cancel")
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs")
    assert client.job(subnet["request"])["state"] == "succeeded"  # one that has ended stays as it is
    assert httpx.post(f"{url}/jobs/{'0' * 64}/cancel").status_code == 404
    stranger = httpx.post(f"{url}/jobs/{subnet['request']}/cancel", headers={"Origin": "http://elsewhere.example"})
    assert stranger.status_code == 403


def test_tables_are_listed_and_compared_layer_by_layer(client: Client, url: str, tmp_path: Path) -> None:
    client.create_device("half")
    make_table("half", scale=0.5).save(tmp_path / "half.json")
    client.upload_table("half", tmp_path / "half.json")
    tables = {
        name: client._call("GET", f"/devices/{name}/latency-tables")["items"][0]["id"] for name in ("bench", "half")
    }
    listed = httpx.get(f"{url}/tables").text
    assert all(f'id="table-{table}"' in listed for table in tables.values())
    page = httpx.get(f"{url}/tables/compare", params={"a": tables["bench"], "b": tables["half"]})
    facts = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page.text))
    assert facts["Common layers"] == str(len(make_table().rows))
    assert facts["Median ratio of layers"] == facts["Median ratio of subnets"] == "0.500"
    assert facts["Rank correlation of layers"] == facts["Rank correlation of subnets"] == "1.000"
    pairs = [(float(x), float(y)) for x, y in re.findall(r'data-x="([\d.e-]+)" data-y="([\d.e-]+)"', page.text)]
    assert len(pairs) > len(make_table().rows)  # subnets too
    assert all(y == pytest.approx(x / 2) for x, y in pairs)
    strange = httpx.get(f"{url}/tables/compare", params={"a": tables["bench"], "b": "f" * 64})
    assert strange.status_code == 404
    assert "no latency table" in strange.text


def test_what_users_wrote_is_escaped(client: Client, url: str) -> None:
    client.create_device("escaped", hardware="<script>alert(1)</script>")
    for path in ("/", "/tables", "/subnets?device=<script>alert(1)</script>&max_macs=<script>alert(1)</script>"):
        assert "<script>alert" not in httpx.get(url + path).text


@pytest.mark.parametrize(
    "path", [*PAGES, "/healthz", "/static/ask.js", "/api/v1/nothing", "/api/v1/openapi.json", "/subnets/nothing"]
)
def test_every_answer_forbids_inline_scripts_and_sniffing(url: str, path: str) -> None:
    answer = httpx.get(url + path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
def test_pages_have_no_inline_script_or_style_and_load_nothing_from_elsewhere(url: str, path: str) -> None:
    text = httpx.get(url + path).text
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style|javascript:", text) == []
    for target in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert target.startswith(("/", "#"))
        if target.startswith("/"):
            assert httpx.get(url + unescape(target)).status_code == 200


def test_the_list_of_endpoints_names_all_of_them(url: str) -> None:
    schema = httpx.get(f"{url}/api/v1/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    text = re.sub(r"<[^>]+>", "", httpx.get(f"{url}/docs").text)
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text
    assert "note10" in str(schema["components"]["schemas"]["SubnetRequestIn"]["examples"])


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (1.5, "latency_ms", "1.500 ms"),
        (0.09648, "latency_ms@note10", "0.09648 ms"),
        (123.4, "latency_ms", "123.4 ms"),
        (3_068_000, "macs", "3.068 M"),
        (999_999, "params", "1000 k"),
        (595_200_000, "macs", "595.2 M"),
        (848_400, "size_bytes", "848.4 kB"),
        (841, "size_bytes", "841 B"),
        (None, "macs", "–"),
    ],
)
def test_figures_have_four_digits_and_a_unit(value: float | None, metric: str, text: str) -> None:
    assert words.figure(value, metric) == text


def test_a_limit_reads_as_it_was_typed() -> None:
    def limit(metric: str, most: float, **more: object) -> str:
        return words.limit({"metric": metric, "device": None, "max": most} | more).replace("\xa0", " ")

    assert limit("macs", 3e6) == "MACs ≤ 3 M"
    assert limit("latency_ms", 1.87, device="note10") == "Latency on note10 ≤ 1.87 ms"
    assert limit("latency_ms", 20, device="note10", quantile=0.95) == "Latency on note10 ≤ 20 ms in 95 % of runs"
    assert limit("macs", 0.6, relative=True) == "MACs ≤ 60 % of the largest"
    assert limit("size_bytes", 500_000) == "Size of the weights ≤ 500 kB"


def test_a_value_a_block_is_written_by_stage() -> None:
    assert words.by_stage([2, 3], [3, 5, 3, 3, 5, 5, 7, 3]) == "3 5 · 5 5 7"
    assert words.by_stage([2, 1, 2], [0.2, 0.25]) == "0.2 0.25"
