from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from service import exports
from service.answers import Kind
from service.client import Client, ServiceError
from service.context import Context
from service.domain import JobState
from service.errors import FaultsError
from service.settings import Settings
from service.storage import jobs, retention
from service.storage.database import Database
from supernet.export import relative_error
from supernet.onnx_network import OnnxNetwork
from supernet.subnet_file import load_subnet


def formats_of(subnet: dict[str, list[dict[str, str]]]) -> set[str]:
    return {file["format"] for file in subnet["files"]}


def test_a_request_for_formats_is_answered_when_they_are_there(client: Client, url: str, tmp_path: Path) -> None:
    subnet = client.request_subnet("noise", "macs<=2.71M", formats=["onnx", "pt2"])
    assert formats_of(subnet) == {"safetensors", "config", "card", "onnx", "pt2"}
    client.download(subnet["id"], tmp_path)
    network = load_subnet(tmp_path)
    side = network.resolution
    images = torch.rand(3, 3, side, side)  # any number of images at once
    program = torch.export.load(tmp_path / "subnet.pt2").module()
    with torch.inference_mode():
        expected = network(images)
        assert relative_error(OnnxNetwork(tmp_path / "subnet.onnx")(images), expected) < 1e-4
        assert relative_error(program(images), expected) < 1e-4
    again = client.ask("noise", "macs<=2.71M", formats=["pt2", "onnx", "safetensors"])
    assert again["subnet"] == subnet
    assert client.ask("noise", "macs<=2.71M")["id"] == again["id"]  # formats do not decide which subnet it is


def test_formats_asked_for_while_the_subnet_is_just_finished_are_made_by_a_job_of_their_own(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = client.request_subnet("noise", "macs<=2.74M")
    find, looked = Kind.find, []

    def a_moment_late(kind: Kind[Any], context: Context, request_id: str, formats: Collection[str] = ()) -> Any:
        found = find(kind, context, request_id, formats)
        looked.append(found)
        if len(looked) > 1:
            return found
        return replace(found, subnet=None, job=replace(found.job, state=JobState.RUNNING))

    monkeypatch.setattr(Kind, "find", a_moment_late)
    answer = client.ask("noise", "macs<=2.74M", formats=["onnx"])
    assert answer["subnet"]["id"] == done["id"]
    assert answer["job"]["kind"] == exports.EXPORT_SUBNET
    assert "onnx" in formats_of(client.request_subnet("noise", "macs<=2.74M", formats=["onnx"]))


def test_a_format_of_a_known_subnet_is_made_by_one_more_job_and_kept(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=2.72M")
    assert "onnx" not in formats_of(subnet)
    answer = client.ask("noise", "macs<=2.72M", formats=["onnx"])
    assert answer["subnet"]["id"] == subnet["id"]
    assert answer["job"]["kind"] == exports.EXPORT_SUBNET
    made = client.request_subnet("noise", "macs<=2.72M", formats=["onnx"])
    assert "onnx" in formats_of(made)
    assert client.job(answer["job"]["id"])["result"]["files"] == {
        "onnx": next(file["sha256"] for file in made["files"] if file["format"] == "onnx")
    }
    waited = httpx.post(
        f"{url}/api/v1/subnet-requests",
        json={"supernet": "noise", "constraints": [{"metric": "macs", "max": 2.72e6}], "formats": ["pt2"]},
        headers={"Prefer": "wait=30"},
        timeout=120,
    )
    assert waited.status_code == 200
    assert "pt2" in formats_of(waited.json()["subnet"])


def test_formats_of_a_subnet_that_was_forgotten_are_made_anew(client: Client, settings: Settings) -> None:
    budget = "macs<=2.74M"  # that no other test asks for
    first = client.request_subnet("noise", budget)
    assert "pt2" in formats_of(client.request_subnet("noise", budget, formats=["pt2"]))
    database = Database(f"sqlite:///{settings.data_dir / 'service.sqlite'}")
    with database.session() as session:
        assert retention.delete_subnet(session, first["id"])
        job_id = exports.job_ids(first["id"])[1]
        known = jobs.get(session, job_id)
        assert (known is not None, known and known.state) == (True, "succeeded")  # as earlier versions left it
    database.close()
    client.request_subnet("noise", budget)
    assert "pt2" in formats_of(client.request_subnet("noise", budget, formats=["pt2"]))


def test_a_download_makes_the_format_once_however_many_ask(client: Client, url: str) -> None:
    subnet = client.request_subnet("noise", "macs<=2.73M")
    address = f"{url}/api/v1/subnets/{subnet['id']}/download?format=onnx"
    at_once = httpx.get(address, headers={"Prefer": "wait=0"})
    assert (at_once.status_code, at_once.json()["kind"]) == (202, "export_subnet")
    assert at_once.headers["location"] == f"/api/v1/jobs/{at_once.json()['id']}"
    assert int(at_once.headers["retry-after"]) >= 1
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: httpx.get(address, headers={"Prefer": "wait=30"}, timeout=120), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert sum(job["kind"] == "export_subnet" and job["id"] == at_once.json()["id"] for job in client.list_jobs()) == 1
    file = next(file for file in client.subnet(subnet["id"])["files"] if file["format"] == "onnx")
    assert answers[0].headers["etag"] == f'"{file["sha256"]}"'
    assert client.subnet(subnet["id"])["card"] == subnet["card"]


def test_an_unknown_format_is_refused_and_named(url: str, client: Client) -> None:
    with pytest.raises(ServiceError, match="'safetensors', 'onnx' or 'pt2'"):
        client.ask("noise", "macs<=3M", formats=["pickle"])
    subnet = client.request_subnet("noise", "macs<=2.73M")
    assert httpx.get(f"{url}/api/v1/subnets/{subnet['id']}/download?format=pickle").status_code == 422


def test_a_service_without_onnx_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda _name: None)
    exports.require(["safetensors", "pt2"], "body.formats")
    with pytest.raises(FaultsError, match=r"format 'onnx' needs a package .* pip install 'onceforall\[onnx\]'"):
        exports.require(["onnx"], "body.formats")
