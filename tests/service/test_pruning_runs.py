"""Pruning over HTTP: a network in, a smaller one out, among the subnets; equal runs are one; bad values are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torchvision.models import squeezenet1_1
from typer.testing import CliRunner

from latency_tables import macs
from pruning import UnitLatencies, ZeroInvariantGroups, load_compact, load_plan
from pruning.compact_modules import apply_plan
from service.cli import app
from service.client import Client, ServiceError
from service.folder import forget_pruning_folders, pruning_folder
from service.pruning_runs import OPTIONS
from service.pruning_spec import METHODS, Architecture, Inputs, PruningSpec
from service.pruning_work import require_reachable
from service.settings import Settings
from supernet import get_space
from supernet.errors import OnceForAllError
from supernet.subnet_file import load_subnet
from supernet.tensors import load_into, load_tensors, save_tensors

SPACE = get_space("mobilenet_v3_tiny")
SMALLEST = SPACE.smallest().to_dict()
LEAST = macs(SPACE.layers(SPACE.smallest()))
HALF = [{"metric": "macs", "max": 0.5, "relative": True}]
QUICK = {"epochs": 1, "batch_size": 32}
NOBODY = "0" * 64


def file_of(network: dict[str, Any], format: str) -> dict[str, Any]:
    return next(file for file in network["files"] if file["format"] == format)


@pytest.fixture(scope="module")
def source(url: str) -> dict[str, Any]:
    """A stored subnet."""
    with Client(url) as client:
        return client.request_subnet("noise", "macs<=1.31M")


@pytest.fixture(scope="module")
def body(source: dict[str, Any]) -> dict[str, Any]:
    return {"method": "oto", "source": {"subnet": source["id"]}, "constraints": HALF, **QUICK}


@pytest.fixture(scope="module")
def pruned(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The network that the other tests look at."""
    seen: list[tuple[str, float]] = []
    with Client(url) as client:
        found = client.prune(body, on_progress=lambda stage, done: seen.append((stage, done)))
    assert [done for _, done in seen] == sorted(done for _, done in seen)
    assert {"training and pruning: epoch 1 of 1", "done"} <= {stage for stage, _ in seen}
    return found


def test_a_stored_subnet_is_pruned_to_the_target_and_its_card_says_what_was_reached(
    source: dict[str, Any], pruned: dict[str, Any], client: Client
) -> None:
    card, measured = pruned["card"], pruned["measured"]
    dense = card["dense"]
    assert dense["macs"] == source["measured"]["macs"]
    assert dense["params"] == source["measured"]["params"]
    assert dense["accuracy"] == source["measured"]["accuracy"]  # on the same held-out images
    assert measured["macs"] == card["reached"]["macs"] <= 0.5 * dense["macs"]
    assert measured["params"] < dense["params"]
    assert measured["size_bytes"] < dense["size_bytes"]
    for figures in (dense, measured):
        low, high = figures["accuracy_interval"]
        assert low < figures["accuracy"] == figures["correct"] / figures["total"] < high
        assert figures["latency_here_ms"] > 0
    assert (card["method"], card["source"]["subnet"]) == ("oto", source["id"])
    assert (card["data"]["name"], card["labels"]) == ("run-images", "the dense network's own answers")
    assert card["equality"]["largest_error"] < 1e-4 < card["equality"]["signal"]
    assert card["sha256"]["weights.safetensors"] == file_of(pruned, "safetensors")["sha256"]
    assert (pruned["pruned"], pruned["predicted"]["accuracy"]) == (True, None)
    assert pruned["supernet"] == source["supernet"]
    run = client.pruning_run(pruned["request"])
    assert (run["subnet"], run["subnet_id"]) == (pruned, pruned["id"])


def test_its_files_compute_what_the_card_says_with_and_without_the_networks_code(
    source: dict[str, Any], pruned: dict[str, Any], client: Client, url: str, tmp_path: Path
) -> None:
    wrong = httpx.get(f"{url}/api/v1/subnets/{pruned['id']}/download?format=config")
    assert wrong.status_code == 422
    assert "this one has no file 'config'; allowed: safetensors, plan, pt2, card, onnx" in wrong.json()["detail"]
    client.download(pruned["id"], tmp_path / "pruned")
    client.download(source["id"], tmp_path / "source")
    names = {path.name for path in (tmp_path / "pruned").iterdir()}
    assert names == {"weights.safetensors", "plan.json", "model.pt2", "card.json"}
    assert json.loads((tmp_path / "pruned" / "card.json").read_text()) == pruned["card"]
    plan, dense = load_plan(tmp_path / "pruned"), load_subnet(tmp_path / "source")
    compact = apply_plan(dense, plan)
    load_into(compact, load_tensors(tmp_path / "pruned" / "weights.safetensors"), "the weights")
    assert sum(parameter.numel() for parameter in compact.parameters()) == pruned["measured"]["params"] == plan.params
    images = torch.rand(3, 3, dense.resolution, dense.resolution)
    with torch.inference_mode():
        expected = compact.eval()(images)
        assert torch.allclose(load_compact(tmp_path / "pruned")(images), expected, atol=1e-5)


def test_equal_runs_are_one_run_one_job_and_one_network(
    body: dict[str, Any], pruned: dict[str, Any], client: Client, url: str
) -> None:
    jobs = len(list(client.list_jobs()))
    again = httpx.post(
        f"{url}/api/v1/pruning-runs",
        json={**body, "seed": 0, "formats": ["safetensors", "pt2"]},
        headers={"Idempotency-Key": "one", "Prefer": "wait=5"},
    )
    assert again.status_code == 200
    assert (again.json()["subnet"], len(list(client.list_jobs()))) == (pruned, jobs)
    other = httpx.post(f"{url}/api/v1/pruning-runs", json={**body, "seed": 1}, headers={"Idempotency-Key": "one"})
    assert other.status_code == 422
    assert "was used for another request" in other.json()["faults"][0]["message"]


def test_a_pruned_network_is_among_the_subnets_and_can_be_told_from_them(
    pruned: dict[str, Any], client: Client
) -> None:
    def ids(**filters: str) -> set[str]:
        return {each["id"] for each in client.list_subnets(**filters)}

    assert pruned["id"] in ids() & ids(supernet="noise") & ids(pruned="true") & ids(sort="-accuracy")
    assert pruned["id"] not in ids(pruned="false") | ids(sort="-predicted_accuracy") | ids(device="bench")
    assert ids(pruned="true") | ids(pruned="false") == ids()
    assert all(each["pruned"] for each in client.list_subnets(pruned="true", sort="macs"))
    brief = next(each for each in client.list_subnets(pruned="true") if each["id"] == pruned["id"])
    assert brief.items() <= pruned.items()


@pytest.mark.long
def test_onnx_is_made_when_it_is_asked_for_and_computes_the_same(
    pruned: dict[str, Any], client: Client, url: str, tmp_path: Path
) -> None:
    import onnxruntime

    address, waiting = f"{url}/api/v1/subnets/{pruned['id']}/download?format=onnx", {"Prefer": "wait=30"}
    while (answer := httpx.get(address, headers=waiting, timeout=120)).status_code == 202:
        assert answer.json()["state"] in ("queued", "running")
    session = onnxruntime.InferenceSession(answer.content, providers=["CPUExecutionProvider"])
    client.download(pruned["id"], tmp_path)
    side = pruned["config"]["resolution"]
    images = torch.rand(5, 3, side, side)  # any number of them
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.inference_mode():
        assert torch.allclose(torch.from_numpy(found), load_compact(tmp_path)(images), atol=1e-4)


def test_runs_are_listed_by_method_and_source(
    source: dict[str, Any], pruned: dict[str, Any], client: Client, url: str
) -> None:
    listed = list(client.list_pruning_runs(source=source["id"]))
    assert [run["id"] for run in listed] == [pruned["request"]]
    assert listed[0]["job"]["state"] == "succeeded"
    assert "card" not in str(listed[0].keys())
    assert list(client.list_pruning_runs(source=source["id"], method="auto-compress")) == []
    first = httpx.get(f"{url}/api/v1/pruning-runs?limit=1").json()
    assert len(first["items"]) == 1
    assert httpx.get(f"{url}/api/v1/pruning-runs?cursor=abc").status_code == 422
    assert httpx.get(f"{url}/api/v1/pruning-runs/{NOBODY}").status_code == 404
    assert httpx.get(f"{url}/api/v1/subnet-requests/{pruned['request']}").status_code == 404


def test_the_pages_show_a_pruned_network_beside_the_dense_one(
    source: dict[str, Any], pruned: dict[str, Any], url: str
) -> None:
    page = httpx.get(f"{url}/subnets/{pruned['id']}").text
    assert f"Pruned network <code>{pruned['id'][:10]}" in page
    assert "Only Train Once" in page
    assert "Dense</th>" in page
    assert "MACs ≤\N{NO-BREAK SPACE}50\N{NO-BREAK SPACE}% of the dense network" in page
    assert "model.onnx" in page
    for query, there in (
        ("", True),
        ("?kind=pruned", True),
        ("?kind=cut", False),
        ("?sort=-predicted_accuracy", False),
    ):
        listed = httpx.get(f"{url}/subnets{query}")
        assert (listed.status_code, f"/subnets/{pruned['id']}" in listed.text) == (200, there), query
    beside = httpx.get(f"{url}/subnets/compare?id={pruned['id']}&id={source['id']}")
    assert beside.status_code == 200
    jobs = httpx.get(f"{url}/jobs").text
    assert f"Pruning of subnet {source['id'][:10]} by oto" in jobs
    assert f"/subnets/{pruned['id']}" in jobs


def test_a_long_run_keeps_nobody_waiting_and_ends_when_it_is_cancelled(
    source: dict[str, Any], client: Client, settings: Settings
) -> None:
    run = client.ask_pruning({"method": "oto", "source": {"subnet": source["id"]}, "sparsity": 0.3, "epochs": 100})
    folder = pruning_folder(settings.cache_dir, run["id"])
    events = client.follow(run["id"])
    assert any(job["stage"].startswith("training and pruning: epoch") for job in events)
    client.request_subnet("noise", "macs<=1.32M")
    assert client.job(run["id"])["state"] == "running"
    with pytest.raises(ServiceError, match="has waiting or running jobs"):
        client.delete_supernet("noise")
    assert client.cancel(run["id"])["state"] == "cancelled"
    assert list(events)[-1]["state"] == "cancelled"
    assert client.pruning_run(run["id"])["subnet"] is None
    assert folder.is_dir()  # asked for again, it goes on
    assert forget_pruning_folders(settings.cache_dir, lambda _: False, older_than_s=3600) == 0
    assert forget_pruning_folders(settings.cache_dir, lambda run_id: run_id == run["id"], older_than_s=-1) == 0
    assert forget_pruning_folders(settings.cache_dir, lambda _: False, older_than_s=-1) == 1
    assert not folder.exists()


OTO: dict[str, Any] = {"method": "oto", "source": {"supernet": "noise", "config": SMALLEST}, "constraints": HALF}
NETWORK: dict[str, Any] = {"architecture": "squeezenet1_1"}
TABLE = {"format": "onceforall-unit-latencies", "version": 1, "device": "cpu", "whole_ms": 1.0, "rows": {"x": [[1, 2]]}}


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"method": "magic"}, "body.method", "'oto' or 'auto-compress'"),
        (
            {"source": {}},
            "body.source",
            "allowed: an object with subnet, with supernet and config, or with architecture",
        ),
        ({"source": {"subnet": "x"}}, "body.source.subnet.subnet", "should match pattern"),
        ({"source": {"subnet": NOBODY}}, "body.source.subnet", "see /api/v1/subnets for those that exist"),
        ({"source": {"supernet": "nobody", "config": SMALLEST}}, "body.source.supernet", "no supernet 'nobody'"),
        ({"source": {"supernet": "noise", "config": {"space": "x"}}}, "body.source.config", "is missing"),
        ({"source": {"supernet": "noise", "config": {**SMALLEST, "depths": 1}}}, "body.source.config", "depths"),
        (
            {"source": {"supernet": "noise", "config": get_space("proxyless_w1.3").smallest().to_dict()}},
            "body.source.config",
            "a subnet of 'proxyless_w1.3'; supernet 'noise' is of 'mobilenet_v3_tiny'",
        ),
        (
            {"source": {"supernet": "noise", "config": {**SMALLEST, "resolution": 17}}},
            "body.source.config",
            "resolution",
        ),
        ({"source": NETWORK | {"weights": NOBODY}, "data": "digits"}, "body.source.weights", "POST the file to"),
        (
            {"source": NETWORK | {"resolution": 512}, "data": "digits"},
            "body.source.resolution",
            "allowed here: 8 to 256",
        ),
        ({"source": NETWORK, "data": "digits", "method": "auto-compress"}, "body.source.weights", "would be untrained"),
        ({"source": NETWORK}, "body.data", "an architecture has no data of its own; allowed: digits"),
        (
            {"source": NETWORK | {"num_classes": 7}, "data": "digits"},
            "body.data",
            "has 10 classes, the network 7 outputs",
        ),
        ({"data": "/etc"}, "body.data", "should match pattern"),
        ({"data": "imagenet"}, "body.data", "allowed: digits, run-images; the operator adds others"),
        ({"constraints": []}, "body.constraints", "there is no target"),
        ({"constraints": [{"metric": "macs", "max": 0}]}, "body.constraints.0.max", "greater than 0"),
        ({"constraints": [{"metric": "size_bytes", "max": 9}]}, "body.constraints.size_bytes", "limit one of these"),
        ({"constraints": [{"metric": "macs", "max": 2, "relative": True}]}, "body.constraints.macs", "at most 1"),
        (
            {"constraints": [{"metric": "latency_ms", "device": "bench", "max": 1}]},
            "body.constraints.latency_ms@bench",
            "onceforall prune latencies --device bench",
        ),
        ({"sparsity": 1.5}, "body.sparsity", "less than 1"),
        ({"sparsity": 0.5, "method": "auto-compress"}, "body.sparsity", "for the method oto alone"),
        ({"epochs": 10_000}, "body.epochs", "10000; allowed here: 1 to 100"),
        ({"auto_compress": {"blocks": 2}}, "body.auto_compress", "blocks would change nothing with oto"),
        ({"latencies": {**TABLE, "whole_ms": -1}}, "body.latencies.whole_ms", "greater than 0"),
        ({"formats": ["pickle"]}, "body.formats.0", "'safetensors', 'onnx' or 'pt2'"),
        ({"checkpoint": "x.pt"}, "body.checkpoint", "Extra inputs"),
    ],
)
def test_bad_values_are_refused_by_name_before_anything_is_opened(
    url: str, changes: dict[str, Any], where: str, message: str
) -> None:
    answer = httpx.post(f"{url}/api/v1/pruning-runs", json=OTO | changes)
    assert answer.status_code == 422, answer.text
    faults = answer.json()["faults"]
    assert [fault for fault in faults if fault["where"] == where and message in fault["message"]], faults


def test_a_target_out_of_reach_is_refused_before_the_run_is_taken(client: Client) -> None:
    runs = len(list(client.list_pruning_runs()))
    with pytest.raises(ServiceError, match=r"macs<=0\.1% is out of reach: with all units pruned that may be") as far:
        client.ask_pruning(OTO | {"constraints": [{"metric": "macs", "max": 0.001, "relative": True}]})
    assert (far.value.status, far.value.problem["type"]) == (409, "urn:onceforall:problem:infeasible-budget")
    assert len(list(client.list_pruning_runs())) == runs


def spec(**changes: Any) -> PruningSpec:
    given = {
        "method": "oto",
        "source": Architecture("squeezenet1_1", 10, 32, None),
        "sparsity": None,
        "options": OPTIONS,
    }
    limits = ({"metric": "params", "device": None, "max": 100},)
    usual = {"data": "digits", "budget": limits, "latencies": None, "epochs": 1, "batch_size": 8, "learning_rate": 0.1}
    return PruningSpec(**{**given, **usual, "seed": 0, **changes})


def test_what_only_the_opened_network_shows_is_named(tmp_path: Path) -> None:
    def refusal(wanted: PruningSpec, inputs: Inputs = Inputs(), most_params: int = 10**9) -> str:  # noqa: B008
        with pytest.raises(OnceForAllError) as error:
            require_reachable(wanted, inputs, most_params=most_params)
        return f"{type(error.value).__name__}: {error.value}"

    for method in METHODS:
        assert refusal(spec(method=method)).startswith("InfeasibleBudgetError: "), method
        met = refusal(spec(method=method, budget=({"metric": "macs", "device": None, "max": 1e9},)))
        assert "ConfigError: target macs<=1000000000: the network meets it already, with macs" in met
    assert "parameters; allowed here: 1000; choose a smaller one" in refusal(spec(), most_params=1000)
    unknown = refusal(spec(source=Architecture("resnet19", 10, 32, None)))
    assert "ConfigError: unknown architecture 'resnet19'; allowed: alexnet" in unknown
    save_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(3)})
    misfit = refusal(spec(), Inputs(weights=tmp_path / "weights.safetensors"))
    assert misfit.startswith("CheckpointError: ")
    assert "does not fit the network: features.0.weight is missing" in misfit
    table = UnitLatencies("cpu", 1.0, {"features.0.weight": ((3, 1.0),)}).to_dict()
    on_cpu = ({"metric": "latency_ms", "device": "cpu", "max": 0.5},)
    assert "target latency_ms@cpu<=0.5ms is out of reach" in refusal(spec(budget=on_cpu, latencies=table))


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
def test_a_limit_on_a_latency_is_met_by_the_table_that_comes_with_it(
    method: str, source: dict[str, Any], client: Client, tmp_path: Path
) -> None:
    """The table is of the downloaded subnet's sets; its times are made up, to be exact."""
    client.download(source["id"], tmp_path / "source")
    dense = load_subnet(tmp_path / "source")
    groups = ZeroInvariantGroups(dense, torch.randn(2, 3, dense.resolution, dense.resolution))
    each = 8.0 / len(groups.sets)  # ms that a set takes with all its units, of 10 in all
    rows = {own.name: ((1, 10 - each * (1 - 1 / own.units)), (own.units, 10.0)) for own in groups.sets if own.units > 1}
    table = UnitLatencies("bench", 10.0, rows)
    limits = [{"metric": "latency_ms", "device": "bench", "max": 0.6, "relative": True}]
    quick = {"blocks": 1, "proposals": 0, "purify_proposals": 0}
    options = {"auto_compress": quick} if method == "auto-compress" else {}
    body = {"method": method, "source": {"subnet": source["id"]}, "constraints": limits, "latencies": table.to_dict()}
    network = client.prune(body | QUICK | options)
    reached = network["card"]["reached"]["latency_ms@bench"]
    client.download(network["id"], tmp_path / "pruned")
    plan = load_plan(tmp_path / "pruned")
    assert reached <= 6.0
    assert {one["proposals"] for one in network["card"].get("rounds", [])} <= {1}  # experience is judged, nothing else
    saved = [10 - np.interp(plan.units[name], *zip(*rows, strict=True)) for name, rows in table.rows.items()]
    assert reached == pytest.approx(10 - sum(saved))
    assert network["measured"]["params"] == plan.params


def test_weights_are_safetensors_or_refused(client: Client, url: str, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "pickle.pt")
    with pytest.raises(ServiceError, match=r"weights\.safetensors: it is truncated"):
        client.upload_weights(tmp_path / "pickle.pt")
    assert httpx.post(f"{url}/api/v1/weights", json={}).status_code == 415


@pytest.mark.long
def test_a_torchvision_classifier_is_pruned_from_uploaded_weights_by_the_command(
    url: str, client: Client, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    save_tensors(tmp_path / "w.safetensors", squeezenet1_1(num_classes=10).state_dict())
    options = ["--server", url, "--target", "params=70%", "--data", "digits", "--weights", tmp_path / "w.safetensors"]
    more = ["--epochs", "1", "--batch-size", "256", "--out", tmp_path / "out", "--json"]
    done = CliRunner().invoke(app, ["prune", "request", "squeezenet1_1", *map(str, options), *map(str, more)])
    assert done.exit_code == 0, done.output
    told, _ = json.JSONDecoder().raw_decode(done.stdout, done.stdout.index("{\n"))
    card = told["subnet"]["card"]
    assert card["measured"]["params"] <= 0.7 * card["dense"]["params"]
    assert card["measured"]["test"]["total"] > 0
    assert card["source"]["weights"] == client.upload_weights(tmp_path / "w.safetensors")  # the same file has one name
    assert (told["subnet"]["supernet"], told["subnet"]["space"]) == ("", "")
    assert load_compact(tmp_path / "out")(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.long
def test_a_budget_below_the_smallest_subnet_comes_with_an_offer_that_meets_it(client: Client, url: str) -> None:
    limit = round(0.8 * LEAST)
    with pytest.raises(ServiceError, match="or prune the nearest one further") as error:
        client.ask("noise", f"macs<={limit}")
    offer = error.value.problem["offer"]
    assert error.value.status == 409
    assert offer["url"] == "/api/v1/pruning-runs"
    assert offer["body"]["source"] == {"supernet": "noise", "config": error.value.problem["nearest"]["config"]}
    assert (offer["body"]["data"], offer["note"]) == ("run-images", f"prunes the nearest subnet to macs <= {limit}")
    quick = {"proposals": 2, "blocks": 1, "purify_proposals": 0}
    network = client.prune(offer["body"] | QUICK | {"auto_compress": quick})
    assert network["measured"]["macs"] <= limit
    assert network["card"]["rounds"][-1]["error"] < 1e-4
    told = CliRunner().invoke(app, ["request", "--server", url, "--supernet", "noise", "--budget", f"macs<={limit}"])
    assert "repeat this command with --prune, which prunes the nearest subnet" in str(told.exception)


def test_an_offer_translates_what_pruning_cannot_count_and_is_not_made_where_it_cannot_help(client: Client) -> None:
    def problem(budget: str) -> dict[str, Any]:
        with pytest.raises(ServiceError) as error:
            client.ask("noise", budget)
        return error.value.problem

    found = problem("latency_ms@bench<=0.15, macs<=100M")
    (limit,) = found["offer"]["body"]["constraints"]
    share = 0.15 / found["nearest"]["costs"]["latency_ms@bench"]
    assert limit == {"metric": "macs", "max": int(share * found["nearest"]["costs"]["macs"])}
    assert "estimates latency_ms@bench by macs" in found["offer"]["note"]
    assert "offer" not in problem("macs<=1K")
    assert "offer" not in problem("peak_memory_bytes<=1kB")
