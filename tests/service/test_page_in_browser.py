"""The pages in a real Chromium: what a person does there, with a mouse, with a keyboard, with a screen reader."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import PATIENCE_MS, Witness, launched, opened, sync_api
from small_service import make_table, serving, small_settings

from latency_tables import LatencyTable
from service.client import Client
from service.keys import Scope, new_key
from service.storage import keys as rows
from service.storage.database import Database

expect = sync_api.expect
expect.set_options(timeout=PATIENCE_MS)
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")

PAGES = ["/", "/subnets", "/tables", "/jobs", "/docs"]
BUDGETS = ("macs<=3M, latency_ms@bench<=2", "macs<=2M, latency_ms@bench<=3", "macs<=2.5M", "latency_ms@bench<=1.2")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, data_folder: Path, browser: Any) -> Iterator[str]:
    """A service with two devices and four subnets, for this module alone: its tests upload tables."""
    folder = tmp_path_factory.mktemp("browsed")
    shutil.copytree(data_folder, folder / "data")
    with serving(small_settings(folder / "data")) as address, Client(address) as client:
        for device, scale in (("bench", 1.0), ("half", 0.5)):
            client.create_device(device, hardware="a formula", runtime="formula")
            make_table(device, scale=scale).save(folder / f"{device}.json")
            client.upload_table(device, folder / f"{device}.json")
        for budget in BUDGETS:
            client.request_subnet("noise", budget)
        yield address


@pytest.fixture
def client(site: str) -> Iterator[Client]:
    with Client(site) as client:
        yield client


@pytest.fixture
def seen(browser: Any, site: str) -> Iterator[tuple[Any, Witness]]:
    with opened(browser, site) as found:
        yield found


@pytest.fixture
def page(seen: tuple[Any, Witness]) -> Any:
    return seen[0]


@pytest.fixture
def witness(seen: tuple[Any, Witness]) -> Witness:
    return seen[1]


def limit(page: Any, number: int) -> Any:
    return page.locator("#limits .limit").nth(number)


def set_limit(page: Any, number: int, metric: str, value: str, unit: str | None = None) -> None:
    row = limit(page, number)
    row.get_by_label("Metric").select_option(metric)
    row.get_by_label("At most").fill(value)
    if unit is not None:
        row.get_by_label("Unit").select_option(unit)


def ready(page: Any, path: str = "/") -> None:
    """Open a page and wait for its picture, if it has one."""
    page.goto(path)
    if path == "/":
        expect(page.locator("#picture svg .point").first).to_be_visible()


def test_a_subnet_is_asked_for_watched_and_downloaded(page: Any, client: Client) -> None:
    ready(page)
    assert page.get_by_label("Supernet").input_value() == client._call("GET", "/supernets/noise")["id"]
    page.evaluate("""() => {
      window.said = [];
      new MutationObserver(() => window.said.push(document.getElementById("status").textContent))
        .observe(document.getElementById("status"), { childList: true, characterData: true, subtree: true });
    }""")
    set_limit(page, 0, "latency_ms@bench", "1.9")
    set_limit(page, 1, "macs", "2.8")
    page.get_by_text("Search", exact=True).click()
    page.get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Find subnet").click()
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_be_visible()
    expect(answer).to_be_focused()
    expect(page.get_by_role("status").first).to_have_text("Done.")
    assert page.evaluate("window.said")[0] == "Asking …"
    stages = page.evaluate("window.said")
    assert len(set(stages)) > 2, stages  # what it was doing in between
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    subnet = client.request_subnet("noise", "latency_ms@bench<=1.9, macs<=2.8M", seed=3)
    expect(answer.get_by_role("heading", level=2).first).to_contain_text(subnet["id"][:10])
    measured = answer.get_by_role("row", name="Accuracy", exact=False).first
    expect(measured).to_contain_text(f"{100 * subnet['measured']['accuracy']:.2f} %")
    for file in subnet["files"]:
        with page.expect_download() as download:
            answer.get_by_role("link", name=file["name"]).click()
        assert download.value.suggested_filename == file["name"]
        assert hashlib.sha256(download.value.path().read_bytes()).hexdigest() == file["sha256"]


def test_a_format_is_made_when_somebody_asks_for_it(page: Any, client: Client) -> None:
    subnet = client.request_subnet("noise", BUDGETS[-1])["id"]
    ready(page, f"/subnets/{subnet}")
    link = page.get_by_role("listitem").filter(has_text="subnet.onnx")
    with page.expect_download() as download:
        link.get_by_role("link").click()
        expect(link.get_by_role("status")).to_have_text("is made")
    assert download.value.suggested_filename == "subnet.onnx"
    found = hashlib.sha256(download.value.path().read_bytes()).hexdigest()
    files = client._call("GET", f"/subnets/{subnet}")["files"]
    assert found in [file["sha256"] for file in files if file["format"] == "onnx"]
    page.reload()
    expect(page.get_by_role("link", name="subnet.onnx")).not_to_have_attribute("data-make", "")


def test_an_infeasible_budget_is_explained_and_the_nearest_subnet_can_be_asked_for(page: Any, witness: Witness) -> None:
    witness.refused = {409}
    ready(page)
    set_limit(page, 0, "macs", "10")
    set_limit(page, 1, "latency_ms@bench", "0.1")
    page.get_by_role("button", name="Find subnet").click()
    answer = page.get_by_role("region", name="Answer")
    expect(answer.get_by_role("alert")).to_contain_text("No subnet meets this budget")
    expect(answer.get_by_role("alert")).to_contain_text("Latency on bench ≤ 0.1 ms is the tightest limit")
    expect(answer).to_contain_text("The nearest subnet")
    expect(answer).to_contain_text("% over")
    expect(answer.get_by_role("heading", name="Smaller than any subnet")).to_be_visible()
    expect(answer.get_by_role("button", name="Prune it further")).to_be_enabled()
    answer.get_by_role("button", name="Ask for the nearest").click()
    expect(answer.get_by_role("heading", name="Download")).to_be_visible()
    assert float(limit(page, 1).get_by_label("At most").input_value()) > 0.1


@pytest.mark.long
def test_the_offer_to_prune_further_is_taken_and_leads_to_the_pruned_network(page: Any, witness: Witness) -> None:
    def hurried(route: Any) -> None:
        quick = {"epochs": 1, "batch_size": 32, "auto_compress": {"proposals": 2, "blocks": 1, "purify_proposals": 0}}
        route.continue_(post_data=json.dumps(route.request.post_data_json | quick))

    page.route("**/api/v1/pruning-runs", hurried)
    witness.refused = {409}
    ready(page)
    set_limit(page, 0, "macs", "0.5")
    page.get_by_role("button", name="Find subnet").click()
    answer = page.get_by_role("region", name="Answer")
    answer.get_by_role("button", name="Prune it further").click()
    expect(answer.get_by_role("heading", level=2).first).to_contain_text("Your pruned network")
    figures = answer.get_by_role("region", name="Figures before and after pruning")
    expect(figures.get_by_role("columnheader", name="Dense")).to_be_visible()
    expect(answer).to_contain_text("AutoCompress")
    answer.get_by_role("heading", level=2).first.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Pruned network")


def test_a_limit_that_is_no_number_is_told_at_its_row_and_nothing_is_sent(page: Any) -> None:
    ready(page)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method))
    limit(page, 0).get_by_label("At most").fill("fast")
    page.get_by_role("button", name="Find subnet").click()
    field = limit(page, 0).get_by_label("At most")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(limit(page, 0)).to_contain_text("fast is not a number above 0")
    assert "POST" not in sent


def test_limits_are_shares_percentiles_and_bytes_too(page: Any) -> None:
    ready(page)
    set_limit(page, 0, "latency_ms@bench", "2.5", "ms, 95 % of runs")
    set_limit(page, 1, "macs", "25", "% of the largest")
    page.get_by_role("button", name="Add a limit").click()
    set_limit(page, 2, "peak_memory_bytes", "100", "kB")
    with page.expect_request("**/api/v1/subnet-requests") as request:
        page.get_by_role("button", name="Find subnet").click()
    assert json.loads(request.value.post_data)["constraints"] == [
        {"metric": "latency_ms", "device": "bench", "max": 2.5, "quantile": 0.95},
        {"metric": "macs", "max": 0.25, "relative": True},
        {"metric": "peak_memory_bytes", "max": 100_000},
    ]
    expect(page.get_by_role("region", name="Answer").get_by_role("heading", name="Download")).to_be_visible()


def test_a_point_of_the_front_is_picked_by_keyboard_alone_and_its_subnet_downloaded(page: Any, client: Client) -> None:
    ready(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#picture') !== null"):
            break
    focused = page.locator(":focus")
    assert focused.get_attribute("role") == "radio"
    names = []
    for _ in range(page.locator("#picture .point").count()):
        names.append(page.locator(":focus").get_attribute("aria-label"))
        page.keyboard.press("ArrowRight")
        expect(page.locator(":focus")).to_have_attribute("aria-checked", "true")
    assert len(set(names)) > 2
    assert page.locator(":focus").get_attribute("aria-label") == names[0]  # round and round
    page.keyboard.press("End")
    costs = [float(name.rpartition("Latency on bench ")[2].split(" ")[0]) for name in names]
    assert costs == sorted(costs)
    while "stored" not in (page.locator(":focus").get_attribute("aria-label") or ""):
        page.keyboard.press("ArrowLeft")
    picked = page.get_by_role("region", name="Picked point")
    expect(picked.get_by_role("heading")).to_contain_text("Stored subnet")
    page.keyboard.press("Tab")
    expect(picked.get_by_role("link").first).to_be_focused()
    page.keyboard.press("Tab")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    digest = hashlib.sha256(download.value.path().read_bytes()).hexdigest()
    assert digest in {file["sha256"] for subnet in client.list_subnets() for file in subnet["files"]}


def test_a_point_that_nobody_made_yet_is_asked_for_from_the_picture(page: Any, client: Client) -> None:
    ready(page)
    expect(page.locator("#picture figcaption")).to_contain_text("front, predicted")
    before = {subnet["id"] for subnet in client.list_subnets()}
    unmade = page.locator("#picture .point.front:not([aria-label$=stored])")
    place = unmade.nth(unmade.count() // 2).locator(".mark").bounding_box()
    page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    picked = page.get_by_role("region", name="Picked point")
    picked.get_by_role("button", name="Ask for").click()
    expect(page.get_by_role("region", name="Answer").get_by_role("heading", name="Download")).to_be_visible()
    made = [subnet for subnet in client.list_subnets() if subnet["id"] not in before]
    assert [limit["metric"] for subnet in made for limit in subnet["budget"]] == ["latency_ms"]
    asked = float(limit(page, 0).get_by_label("At most").input_value())
    assert made[0]["predicted"]["latency_ms"]["bench"] <= asked == made[0]["budget"][0]["max"]


def test_the_table_beside_the_picture_has_its_points_and_picks_them(page: Any) -> None:
    ready(page)
    page.get_by_text("The same as a table").click()
    buttons = page.locator("#front-data").get_by_role("button")
    labels = page.locator("#picture .point").evaluate_all("nodes => nodes.map(node => node.getAttribute('aria-label'))")
    assert sorted(f"Pick {label}" for label in labels) == sorted(
        buttons.evaluate_all("nodes => nodes.map(node => node.getAttribute('aria-label'))")
    )
    buttons.nth(1).click()
    chosen = page.locator("#picture .point[aria-checked=true]")
    assert f"Pick {chosen.get_attribute('aria-label')}" == buttons.nth(1).get_attribute("aria-label")


def test_the_cost_of_the_picture_can_be_another(page: Any) -> None:
    ready(page)
    page.locator("#axis").select_option("macs")
    expect(page.locator("#picture .axis-name").first).to_have_text("MACs, millions")
    expect(page.locator("#picture .point").first).to_have_attribute("aria-label", re.compile(r"MACs [\d.]+ [kM]"))


def test_a_table_with_missing_rows_is_reported_before_it_is_stored(page: Any, client: Client, tmp_path: Path) -> None:
    make_table("bench", scale=1.1, drop=7).save(tmp_path / "part.json")
    before = len(client._call("GET", "/devices/bench/latency-tables")["items"])
    ready(page, "/tables")
    page.locator("#upload").get_by_label("Device").select_option("bench")
    page.locator("#upload").get_by_label("File").set_input_files(tmp_path / "part.json")
    page.get_by_role("button", name="Check").click()
    report = page.get_by_role("region", name="Report on the table")
    expect(report).to_contain_text("7 layers of mobilenet_v3_tiny without a latency")
    expect(report).to_be_focused()
    missing = client.upload_table("bench", tmp_path / "part.json", dry_run=True)["missing"]
    assert report.locator("details li").all_text_contents()[:7] == missing
    assert len(client._call("GET", "/devices/bench/latency-tables")["items"]) == before
    report.get_by_role("button", name=f"Store as version {before + 1}").click()
    expect(report).to_contain_text(f"Stored as version {before + 1} of bench.")
    newest = client._call("GET", "/devices/bench/latency-tables")["items"][0]
    assert newest["missing"] == missing
    expect(page.locator(f"#table-{newest['id']}")).to_contain_text("7 missing")
    page.get_by_role("button", name="Check").click()
    expect(report).to_contain_text("stored already")


def test_doubtful_rows_of_a_table_are_reported(page: Any, tmp_path: Path) -> None:
    table = make_table("bench", scale=1.2)
    key = max(table.rows, key=lambda layer: table.rows[layer].median_ms)
    odd = {**table.rows, key: type(table.rows[key])(table.rows[key].median_ms / 40, 0.0, 9)}
    LatencyTable(table.device, table.space, table.num_classes, odd, table.provenance).save(tmp_path / "odd.json")
    ready(page, "/tables")
    page.locator("#upload").get_by_label("Device").select_option("bench")
    page.locator("#upload").get_by_label("File").set_input_files(tmp_path / "odd.json")
    page.get_by_role("button", name="Check").click()
    report = page.get_by_role("region", name="Report on the table")
    expect(report.get_by_text("Complete: every layer")).to_be_visible()
    expect(report).to_contain_text("is too fast")


def test_a_file_that_is_no_table_is_refused_with_its_faults(page: Any, witness: Witness, tmp_path: Path) -> None:
    witness.refused = {422}
    (tmp_path / "broken.json").write_text('{"device": "bench"}')
    ready(page, "/tables")
    page.locator("#upload").get_by_label("File").set_input_files(tmp_path / "broken.json")
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("region", name="Report on the table").get_by_role("alert")).to_contain_text("latency table")


def test_a_device_is_described_and_can_be_chosen_at_once(page: Any, client: Client) -> None:
    ready(page, "/tables")
    form = page.locator("#device")
    form.get_by_label("Name").fill("new-phone")
    form.get_by_label("Hardware").fill("a phone")
    form.get_by_label("Threads").fill("4")
    form.get_by_role("button", name="Add").click()
    expect(form.get_by_role("status")).to_contain_text("new-phone is described")
    assert client._call("GET", "/devices/new-phone")["threads"] == 4
    assert page.locator("#upload").get_by_label("Device").input_value() == "new-phone"


def test_two_tables_are_compared_in_pictures_whose_points_lead_to_their_rows(page: Any) -> None:
    ready(page, "/tables")
    page.get_by_role("radio", name="bench version 1 as the first").check()
    page.get_by_role("radio", name="half version 1 as the second").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("bench v1 and half v1")
    layers = page.locator("figure[data-table=layers]")
    expect(layers.locator(".point")).to_have_count(len(make_table().rows))
    layers.locator(".point").nth(5).focus()
    page.keyboard.press("ArrowRight")
    row = page.locator("#layers tr.chosen")
    expect(row).to_have_count(1)
    assert (layers.locator("[aria-checked=true]").get_attribute("aria-label") or "").startswith(
        row.get_by_role("rowheader").inner_text()
    )


def test_subnets_are_filtered_sorted_chosen_and_compared(page: Any, client: Client) -> None:
    ready(page, "/subnets")
    form = page.get_by_role("form", name="Filters")
    form.get_by_label("Device").select_option("bench")
    form.get_by_label("MACs ≤, millions").fill("3")
    form.get_by_label("Order").select_option("MACs, least first")
    form.get_by_role("button", name="Show").click()
    expected = [subnet["id"] for subnet in client.list_subnets(device="bench", sort="macs", **{"macs.lte": 3e6})]
    rows = page.locator("tbody tr")
    assert rows.evaluate_all("rows => rows.map(row => row.id)") == [f"subnet-{one}" for one in expected]
    expect(page.get_by_role("columnheader", name="MACs")).to_have_attribute("aria-sort", "ascending")
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_disabled()
    page.get_by_role("checkbox").nth(0).check()
    page.get_by_role("checkbox").nth(1).check()
    expect(page.get_by_text("2 subnets chosen.")).to_be_visible()
    page.get_by_role("link", name="Accuracy").first.click()  # the choice outlives another order
    expect(page.get_by_text("2 subnets chosen")).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("2 subnets side by side")
    for subnet in expected[:2]:
        expect(page.get_by_role("columnheader", name=subnet[:10])).to_be_visible()


def test_a_running_job_is_watched_and_cancelled(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, data_folder: Path
) -> None:
    folder = Path(shutil.copytree(data_folder, tmp_path_factory.mktemp("cancelled") / "data"))
    with (
        serving(small_settings(folder, search_generations=200_000)) as address,
        Client(address) as client,
        opened(browser, address) as (page, _),
    ):
        page.goto("/jobs")
        expect(page.get_by_text("No job yet.")).to_be_visible()
        first, second = (client.ask("noise", budget)["id"] for budget in ("macs<=3M", "macs<=2M"))
        row, waiting = page.locator(f"#job-{first}"), page.locator(f"#job-{second}")
        expect(row.get_by_text("running", exact=True)).to_be_visible()  # without a reload
        expect(row.locator("[data-part=stage]")).to_have_text("searching")
        expect(waiting.get_by_text("queued", exact=True).first).to_be_visible()
        row.get_by_role("button", name=f"Cancel job {first[:10]}").click()
        expect(row.get_by_text("cancelled", exact=True).first).to_be_visible()
        expect(page.locator("#news")).to_contain_text("cancelled")
        assert client.job(first)["state"] == "cancelled"
        expect(waiting.get_by_text("running", exact=True)).to_be_visible()
        page.goto("/")
        set_limit(page, 0, "macs", "2.2")
        page.get_by_role("button", name="Find subnet").click()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("status").first).to_have_text("Cancelled.")
        asked = [job["state"] for job in client._call("GET", "/jobs")["items"] if job["kind"] == "make_subnet"]
        assert asked == ["cancelled", "running", "cancelled"]
        client.cancel(second)


@pytest.fixture
def guarded(tmp_path: Path, data_folder: Path) -> Iterator[tuple[str, Callable[..., str]]]:
    """A service that asks for keys, and what makes one of given scopes."""
    settings = small_settings(Path(shutil.copytree(data_folder, tmp_path / "data")), host="0.0.0.0")

    def make(*scopes: Scope) -> str:
        text, key = new_key("a person", scopes)
        with Database(settings.resolved_database_url).session() as session:
            rows.add(session, key)
        return text

    with serving(settings) as address:
        yield address.replace("0.0.0.0", "127.0.0.1"), make


def test_where_keys_are_needed_the_browser_asks_for_one_and_everything_works_with_it(
    browser: Any, guarded: tuple[str, Callable[..., str]]
) -> None:
    address, make = guarded
    for path, headers, scheme in (
        ("/subnets", {}, "Basic"),
        ("/api/v1/subnets", {"Sec-Fetch-Site": "same-origin"}, "Basic"),
        ("/api/v1/subnets", {}, "Bearer"),  # programs know what to do
    ):
        answer = httpx.get(address + path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"].split()[0]) == (401, scheme)
    key = make(Scope.READ, Scope.REQUEST)
    with opened(browser, address, http_credentials={"username": "me", "password": key}) as (page, _):
        page.goto("/")
        expect(page.locator("#key")).to_contain_text(key.split("_")[1])
        set_limit(page, 0, "macs", "2.5")
        page.get_by_role("button", name="Find subnet").click()
        link = page.get_by_role("region", name="Answer").get_by_role("link").first
        expect(link).to_be_visible()
        deep = link.get_attribute("href")
    with opened(browser, address, http_credentials={"username": "me", "password": key}) as (page, _):
        page.goto(deep)  # the first page, so that the browser has to be asked once more for what lies elsewhere
        with page.expect_download() as download:
            page.get_by_role("link", name="card.json").click()
        assert json.loads(download.value.path().read_text())["measured"]["total"] == 200
    with opened(browser, address, http_credentials={"username": "me", "password": make(Scope.READ)}) as (page, witness):
        witness.refused = {403}
        page.goto("/")
        set_limit(page, 0, "macs", "2")
        page.get_by_role("button", name="Find subnet").click()
        expect(page.get_by_role("region", name="Answer").get_by_role("alert")).to_contain_text(
            "needs the scope request"
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [*PAGES, "subnet", "compare subnets", "compare tables", "refused"])
def test_no_page_has_a_serious_fault_of_accessibility(
    browser: Any, site: str, client: Client, path: str, scheme: str
) -> None:
    ids = [subnet["id"] for subnet in client.list_subnets()]
    tables = [client._call("GET", f"/devices/{name}/latency-tables")["items"][-1]["id"] for name in ("bench", "half")]
    target = {
        "subnet": f"/subnets/{ids[0]}",
        "compare subnets": f"/subnets/compare?id={ids[0]}&id={ids[1]}",
        "compare tables": f"/tables/compare?a={tables[0]}&b={tables[1]}",
        "refused": "/subnets?cursor=nonsense",
    }.get(path, path)
    with opened(browser, site, color_scheme=scheme) as (page, witness):
        witness.refused = {409, 422}
        ready(page, target)
        if path == "/":
            page.locator("#picture .point").nth(1).press("Space")
            page.get_by_text("The same as a table").click()
            limit(page, 1).get_by_label("At most").fill("nothing")
            page.get_by_role("button", name="Find subnet").click()
            expect(limit(page, 1).get_by_text("not a number")).to_be_visible()
            set_limit(page, 0, "latency_ms@bench", "0.01")
            limit(page, 1).get_by_label("At most").fill("")
            page.get_by_role("button", name="Find subnet").click()
            expect(page.get_by_role("region", name="Answer")).to_be_visible()
        found = axe.Axe().run(page).response["violations"]
        assert [
            (fault["id"], [node["html"] for node in fault["nodes"]])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ] == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        level = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) / 3
        assert (level > 200) == (scheme == "light")


@pytest.mark.parametrize("path", [*PAGES, "subnet", "compare subnets", "compare tables"])
def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Any, site: str, client: Client, path: str) -> None:
    ids = [subnet["id"] for subnet in client.list_subnets()]
    tables = [client._call("GET", f"/devices/{name}/latency-tables")["items"][-1]["id"] for name in ("bench", "half")]
    target = {
        "subnet": f"/subnets/{ids[0]}",
        "compare subnets": f"/subnets/compare?id={ids[0]}&id={ids[1]}",
        "compare tables": f"/tables/compare?a={tables[0]}&b={tables[1]}",
    }.get(path, path)
    with opened(browser, site, viewport={"width": 360, "height": 740}) as (page, _):
        ready(page, target)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for name in ("Ask", "Subnets", "Latency tables", "Jobs", "API"):
            expect(
                page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True)
            ).to_be_in_viewport()


def test_the_first_tab_stop_skips_to_the_content(page: Any) -> None:
    ready(page, "/subnets")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_lists_need_no_javascript(browser: Any, site: str, client: Client) -> None:
    with opened(browser, site, java_script_enabled=False) as (page, _):
        page.goto("/subnets")
        page.get_by_role("checkbox").nth(0).check()
        page.get_by_role("checkbox").nth(1).check()
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("2 subnets side by side")
        page.goto("/jobs")
        expect(page.locator("tbody tr").filter(has_text="Subnet of noise")).not_to_have_count(0)
        page.goto("/tables")
        expect(page.get_by_role("row", name="bench").first).to_be_visible()
