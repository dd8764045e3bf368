from __future__ import annotations

import re

import httpx
import pytest

from service.client import Client


def test_the_page_shows_predicted_and_measured_figures_apart_with_download_links(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=3M, latency_ms@bench<=2")
    page = httpx.get(url)
    assert page.status_code == 200
    row = page.text.partition(f'<tr id="subnet-{subnet["id"]}">')[2].partition("</tr>")[0]
    assert f"{100 * subnet['predicted']['accuracy']:.2f} %" in row
    assert f"{100 * subnet['measured']['accuracy']:.2f} %" in row
    assert f"{subnet['measured']['correct']} of {subnet['measured']['total']} images" in row
    assert "latency_ms@bench" in row
    for file in subnet["files"]:
        assert f'href="{file["url"]}"' in row
        assert httpx.get(url + file["url"]).status_code == 200
    assert row.strip() in httpx.get(f"{url}/fragments/subnets").text
    assert 'data-metric="latency_ms" data-device="bench"' in page.text
    assert "noise (mobilenet_v3_tiny, 10 classes)" in page.text


def test_what_users_wrote_is_escaped(client: Client, url: str) -> None:
    client.create_device("escaped", hardware="<script>alert(1)</script>")
    assert "<script>alert" not in httpx.get(url).text


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/healthz", "/static/app.js", "/api/v1/nothing", "/api/v1/openapi.json"]
)
def test_every_answer_forbids_inline_scripts_and_sniffing(url: str, path: str) -> None:
    answer = httpx.get(url + path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_have_no_inline_script_or_style_and_load_nothing_from_elsewhere(url: str, path: str) -> None:
    text = httpx.get(url + path).text
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert re.findall(r"\son\w+=|\sstyle=|<style|javascript:", text) == []
    for target in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert target.startswith("/")
        assert httpx.get(url + target).status_code == 200


def test_the_list_of_endpoints_names_all_of_them(url: str) -> None:
    schema = httpx.get(f"{url}/api/v1/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    text = httpx.get(f"{url}/docs").text
    for path, methods in schema["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}" in text
    assert "note10" in str(schema["components"]["schemas"]["SubnetRequestIn"]["examples"])
