from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.client import ServiceError
from supernet.subnet_file import load_subnet

runner = CliRunner()


def test_a_request_prints_the_subnet_and_downloads_it(url: str, tmp_path: Path) -> None:
    options = ["--server", url, "--supernet", "noise", "--budget", "macs<=2.61M, latency_ms@bench<=2"]
    done = runner.invoke(app, ["request", *options, "--formats", "onnx", "--out", str(tmp_path / "subnet")])
    assert done.exit_code == 0, done.output
    assert "accuracy" in done.stdout
    assert "bench: " in done.stdout
    assert {path.name for path in (tmp_path / "subnet").iterdir()} == {
        *("subnet.safetensors", "config.json", "card.json", "subnet.onnx")
    }
    network = load_subnet(tmp_path / "subnet")
    output = runner.invoke(app, ["request", *options, "--json"]).stdout
    told, _ = json.JSONDecoder().raw_decode(output, output.index("{\n"))  # the service of this process logs there too
    assert told["subnet"]["config"] == network.config.to_dict()
    assert told["files"] == []
    listed = runner.invoke(app, ["request", *options])
    assert "files: safetensors, config, card, onnx; download them with --out FOLDER" in listed.stdout


def test_a_refusal_is_told_in_the_services_words(url: str) -> None:
    def refusal(*options: str) -> str:
        return str(runner.invoke(app, ["request", "--server", url, *options]).exception)

    assert "no subnet of 'mobilenet_v3_tiny' meets the budget" in refusal("--supernet", "noise", "--budget", "macs<=1K")
    assert "no supernet 'nobody'" in refusal("--supernet", "nobody", "--budget", "macs<=3M")
    assert "pickle" in refusal("--supernet", "noise", "--budget", "macs<=3M", "--formats", "pickle")
    assert "holds no key of the form" in refusal("--supernet", "noise", "--budget", "macs<=3M", "--key", "x")


def test_no_service_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCEFORALL_SERVER", "http://127.0.0.1:9")
    found = runner.invoke(app, ["request", "--supernet", "noise", "--budget", "macs<=3M"]).exception
    assert isinstance(found, ServiceError)
    assert "no answer from http://127.0.0.1:9" in str(found)
