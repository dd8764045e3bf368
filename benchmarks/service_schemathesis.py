"""Does the service answer whatever schemathesis can think of as its OpenAPI document says, and never with a 5xx?

Command: python -m benchmarks.service_schemathesis --max-examples 100   (about 3 minutes on a quiet machine)
         python -m benchmarks.service_schemathesis --database postgresql
Result:  benchmarks/results/service_schemathesis{,_postgresql}.json; failures are printed with the requests that show
         them.

One service on a new temporary folder and SQLite, or an empty database of PostgreSQL, on all addresses, so that keys are
required, with a small supernet, a device, its table and one subnet; jobs run. All checks of schemathesis, all of its
phases, seed 0; then once more what is asked of one thing (`/subnets/{subnet}` and so on), but DELETE, with names of
what exists. One of its defaults is changed: `positive_data_acceptance` takes 422 and 416 too. A body that its schema
allows can still be refused, because the schema does not know which supernets exist, which layers a space has, or how
long a file is; any other refusal counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))

from servers import new_database, postgres

from benchmarks.service_process import machine, make_run, make_table, service
from service.client import Client
from service.keys import Scope, new_key
from service.settings import Settings
from service.storage import keys
from service.storage.database import Database
from supernet.files import write_json

RESULTS = Path(__file__).parent / "results"
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "416", "422", "429"]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--max-examples", type=int, default=100, help="of each operation and phase")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--include-path-regex", default="", help="fewer operations")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        places = {}
        if chosen.database == "postgresql":
            places["database_url"] = new_database(stack.enter_context(postgres()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = fuzz(folder, chosen.max_examples, chosen.seed, chosen.include_path_regex, **places)
    name = "service_schemathesis" + ("" if chosen.database == "sqlite" else f"_{chosen.database}")
    result = {"machine": machine(), "database": chosen.database, "max_examples": chosen.max_examples}
    write_json(chosen.out or RESULTS / f"{name}.json", result | {"seed": chosen.seed, **found})
    sys.exit(found["status"])


def fuzz(folder: Path, max_examples: int, seed: int, paths: str, **places: str) -> dict[str, Any]:
    """Start a service and let schemathesis at it, first without a hint, then with the names of what is there."""
    with service(folder / "data", host="0.0.0.0", front_population=20, front_generations=2, **places) as running:
        url = running.url.replace("0.0.0.0", "127.0.0.1")
        key = admin_key(Settings(data_dir=running.data, **places))  # type: ignore[arg-type]
        with Client(url, key=key) as client:
            client.register_run(make_run(folder / "run"), "cifar10")
            client.create_device("note10")
            make_table("note10").save(folder / "note10.json")
            table = client.upload_table("note10", folder / "note10.json")
            subnet = client.request_subnet("cifar10", "macs<=3M, latency_ms@note10<=20")
        names = {
            **{"supernet": "kept", "device": "note10", "table": table["id"], "subnet": subnet["id"]},
            **{"request": subnet["request"], "job": subnet["request"]},
        }
        named = CONFIGURATION + "\n[parameters]\n" + "".join(f'"path.{k}" = "{v}"\n' for k, v in names.items())
        runs = {"without a hint": run(folder, url, key, CONFIGURATION, max_examples, seed, selected(paths))}
        with Client(url, key=key) as client:  # the first run deletes supernets
            client.register_run(make_run(folder / "other", seed=1), "kept")
        selection = [*selected(paths or r"\{"), "--exclude-method", "DELETE"]
        runs["with names"] = run(folder, url, key, named, max_examples, seed, selection)
    log = (folder / "data.log").read_text().splitlines()
    answers = [json.loads(line) for line in log if line.startswith("{") and '"request"' in line]
    statuses: dict[str, int] = {}
    for line in answers:
        if line.get("event") == "request":
            statuses[str(line["status"])] = statuses.get(str(line["status"]), 0) + 1
    return {
        "status": max(found["status"] for found in runs.values()),
        "answers": dict(sorted(statuses.items())),
        "runs": runs,
    }


def run(
    folder: Path, url: str, key: str, configuration: str, max_examples: int, seed: int, selection: list[str]
) -> dict[str, Any]:
    """One run of schemathesis; its report where it found something."""
    file, report = folder / "schemathesis.toml", folder / "report.json"
    file.write_text(configuration)
    report.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(file)),
        *("run", f"{url}/api/v1/openapi.json", "--checks", "all", "--max-examples", str(max_examples)),
        *("--seed", str(seed), "--header", f"Authorization: Bearer {key}", "--suppress-health-check", "all"),
        *("--request-timeout", "120", "--report", "json", "--report-json-path", str(report)),
        *selection,
    ]
    begin = time.monotonic()
    status = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, check=False
    ).returncode
    return {
        "status": status,
        "seconds": round(time.monotonic() - begin),
        "report": json.loads(report.read_text()) if report.is_file() and status else None,
    }


def selected(paths: str) -> list[str]:
    return ["--include-path-regex", paths] if paths else []


def admin_key(settings: Settings) -> str:
    """A key that may do everything, as often as it likes."""
    text, key = new_key("schemathesis", [Scope.ADMIN], requests_per_minute=1_000_000, max_active_jobs=1000)
    database = Database(settings.resolved_database_url)
    with database.session() as session:
        keys.add(session, key)
    database.close()
    return text


if __name__ == "__main__":
    main()
