from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from latency_tables import macs, params
from service.client import Client, ServiceError
from supernet import SubnetConfig, get_space
from supernet.subnet_file import load_subnet

SPACE = get_space("mobilenet_v3_tiny")


def test_a_budget_becomes_a_downloadable_subnet_that_meets_it(client: Client, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    request = client.request_subnet(
        "noise", "macs<=3M, latency_ms@bench<=2", on_progress=lambda stage, fraction: seen.append((stage, fraction))
    )
    subnet = request["subnet"]
    config = SubnetConfig.from_dict(subnet["config"])
    assert macs(SPACE.layers(config)) == subnet["predicted"]["macs"] == subnet["measured"]["macs"] <= 3e6
    assert params(SPACE.layers(config)) == subnet["measured"]["params"]
    assert subnet["predicted"]["latency_ms"]["bench"] <= 2
    assert subnet["measured"]["latency_ms"] == {}  # the table is not of this machine
    assert 0 <= subnet["measured"]["accuracy"] <= 1
    assert subnet["measured"]["total"] == 200
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)
    assert seen[-1] == ("done", 1.0)
    paths = client.download(subnet["id"], tmp_path)
    assert sorted(path.name for path in paths) == ["card.json", "config.json", "subnet.safetensors"]
    net = load_subnet(tmp_path)
    assert net.config == config
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, config.resolution, config.resolution)).shape == (1, 10)
    assert json.loads((tmp_path / "card.json").read_text()) == subnet["card"]
