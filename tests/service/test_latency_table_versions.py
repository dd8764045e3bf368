from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from small_service import SPACE, make_table

from latency_tables.formats import ofa_yaml
from service.client import Client, ServiceError
from service.settings import Settings


def save(folder: Path, table: Any) -> Path:
    path = folder / f"{table.device}.json"
    table.save(path)
    return path


def ofa_folder(folder: Path, *resolutions: int) -> Path:
    """Tables as the ofa package has them, of a device that computes in no time to speak of."""
    folder.mkdir()
    for resolution in resolutions:
        rows = {name: {"count": 9, "mean": 0.25, "std": 0.01} for name in ofa_yaml._known()[resolution]}
        (folder / f"{resolution}_lookup_table.yaml").write_text(yaml.safe_dump(rows))
    return folder


def test_tables_of_the_ofa_package_become_one_table_with_its_missing_rows(client: Client, tmp_path: Path) -> None:
    client.create_device("phone")
    folder = ofa_folder(tmp_path / "phone", 160, 176)
    report = client.upload_table("phone", folder, dry_run=True)
    assert (report["stored"], report["space"], report["complete"]) == (False, "mobilenet_v3_w1.2", False)
    table = client.upload_table("phone", folder)
    assert (table["stored"], table["version"], table["format"]) == (True, 1, "json")
    assert 0 < table["coverage"] < 1
    assert table["missing"] == report["missing"]
    assert client.upload_table("phone", folder)["stored"] is False
    assert client.table(table["id"])["provenance"]["statistic"] == "mean"


def test_files_that_are_not_the_packages_are_refused(url: str, client: Client, tmp_path: Path) -> None:
    client.create_device("phone")
    address = f"{url}/api/v1/devices/phone/latency-tables"
    for name, message in (
        ("table.yaml", "no table of the ofa package is called 'table.yaml'"),
        ("../../160_lookup_table.yaml", "no table of the ofa package is called"),
        ("161_lookup_table.yaml", "161 is no resolution of mobilenet_v3_w1.2"),
    ):
        answer = httpx.post(address, files={"file": (name, b"{}")})
        assert answer.status_code == 422, name
        assert message in answer.json()["detail"]
    twice = [("file", ("160_lookup_table.yaml", b"{}"))] * 2
    assert "different names" in httpx.post(address, files=twice).json()["detail"]
    assert httpx.post(address, files={"other": ("160_lookup_table.yaml", b"{}")}).status_code == 422
    many = [("file", (f"{number}_lookup_table.yaml", b"{}")) for number in range(17)]
    assert 400 <= httpx.post(address, files=many).status_code < 500


def test_a_table_that_priced_nothing_is_deleted_and_its_file_too(
    client: Client, tmp_path: Path, settings: Settings
) -> None:
    client.create_device("brief")
    table = client.upload_table("brief", save(tmp_path, make_table("brief", scale=3)))
    stored = set((settings.data_dir / "artifacts").rglob("*/*/*"))
    for _ in range(2):
        client.delete_table(table["id"])  # gone is gone
    with pytest.raises(ServiceError, match="no latency table"):
        client.table(table["id"])
    assert list(client.list_tables("brief")) == []
    assert len(stored - set((settings.data_dir / "artifacts").rglob("*/*/*"))) == 1
    assert client.upload_table("brief", tmp_path / "brief.json")["id"] == table["id"]


def test_a_table_that_priced_a_request_stays_unless_rows_are_missing(client: Client, tmp_path: Path) -> None:
    client.create_device("used")
    table = client.upload_table("used", save(tmp_path, make_table("used")))
    job = client.ask("noise", "latency_ms@used<=2.5")["id"]
    with pytest.raises(ServiceError, match="requests or fronts were priced with table") as error:
        client.delete_table(table["id"])
    assert error.value.status == 409
    client.cancel(job)
    holes = client.upload_table("used", save(tmp_path, make_table("used", drop=2)))
    assert holes["complete"] is False
    client.delete_table(holes["id"])
    assert [each["id"] for each in client.list_tables("used")] == [table["id"]]


def test_an_estimate_by_the_client_is_the_tables(client: Client) -> None:
    table = next(client.list_tables("bench"))
    items = client.estimate(table["id"], [SPACE.largest(), SPACE.smallest().to_dict()])
    assert [item["latency_ms"] for item in items] == pytest.approx(
        [make_table().estimate_ms(SPACE, config) for config in (SPACE.largest(), SPACE.smallest())]
    )
