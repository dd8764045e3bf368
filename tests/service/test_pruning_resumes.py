"""Pruning runs that are killed: the child, then the whole service; what comes out is what an undisturbed run gives."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from small_service import serving, small_settings
from test_jobs import children_of, descendants_of, service_process, wait_for_end_of

from service.client import Client
from supernet import get_space

CONFIG = get_space("mobilenet_v3_tiny").smallest().to_dict()
OTO: dict[str, Any] = {"method": "oto", "epochs": 60}
AUTO_COMPRESS: dict[str, Any] = {
    "method": "auto-compress",
    "epochs": 8,
    "auto_compress": {"proposals": 40, "blocks": 8, "purify_proposals": 20},
}
LIMITS = [{"metric": "params", "max": 0.5, "relative": True}]


def digest_of(network: dict[str, Any], format: str) -> str:
    return next(file["sha256"] for file in network["files"] if file["format"] == format)


def wait_for_share(client: Client, run_id: str, share: float) -> None:
    """Until the run is so far, in its present attempt."""
    for job in client.follow(run_id):
        assert job["state"] in ("queued", "running"), job
        if job["state"] == "running" and job["fraction"] >= share:
            return
    raise AssertionError("it ended before that")


def job_child(service: int) -> int:
    """The process of the long job: the youngest child of the job host, which was made for it."""
    (host,) = children_of(service)
    return max(children_of(host))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", [OTO, AUTO_COMPRESS])
def test_killed_at_any_moment_a_run_goes_on_to_the_same_network(
    how: dict[str, Any], tmp_path: Path, data_folder: Path
) -> None:
    body = {**how, "source": {"supernet": "noise", "config": CONFIG}, "constraints": LIMITS, "batch_size": 16}
    shutil.copytree(data_folder, tmp_path / "data")
    shutil.copytree(data_folder, tmp_path / "undisturbed")
    with service_process(tmp_path / "data") as (process, url), Client(url, timeout_s=600) as client:
        run_id = client.ask_pruning(body)["id"]
        wait_for_share(client, run_id, 0.2)
        os.kill(job_child(process.pid), signal.SIGKILL)  # the child that prunes
        for job in client.follow(run_id):
            if job["attempts"] == 2 and job["fraction"] >= 0.3:
                break
        processes = descendants_of(process.pid)
        process.send_signal(signal.SIGKILL)  # the service, and its job host with it
        process.wait()
    wait_for_end_of(processes)
    with service_process(tmp_path / "data") as (process, url), Client(url, timeout_s=600) as client:
        stages = [(job["stage"], job["fraction"], job["state"]) for job in client.follow(run_id)]
        assert stages[-1][2] == "succeeded", stages
        disturbed = client.pruning_run(run_id)["subnet"]
        assert not list((tmp_path / "data" / "cache").glob("pruning-*"))
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    with serving(small_settings(tmp_path / "undisturbed")) as url, Client(url, timeout_s=600) as client:
        network = client.prune(body)
    assert network["id"] == disturbed["id"]
    for format in ("safetensors", "plan"):
        assert digest_of(network, format) == digest_of(disturbed, format)
    assert network["measured"]["correct"] == disturbed["measured"]["correct"]
