"""How many known requests a second does one process answer, and how quickly are 100,000 stored subnets browsed?

Command: python -m benchmarks.service_load                         (needs `wrk`, from Debian's package of that name)
         python -m benchmarks.service_load --database postgresql   (about 4 minutes each)
Result:  benchmarks/results/service_load.json, service_load_postgresql.json; printed as a table.

One service (`service.server`, one uvicorn process) on a new temporary folder, with a small supernet that was never
trained, one device and its table. The database is SQLite in that folder, or a PostgreSQL of its own whose commits wait
for the disk. `wrk` runs on the same machine, 2 threads, 32 connections; seed 0 everywhere.

- known request: POST of a budget whose subnet is there, to its 200 with the whole subnet, with few stored subnets and
  with 100,000. The answer of the first request is compared with the last one's.
- browse: GET /subnets, 50 items, with filters, sorts and a cursor from the middle; 32 connections for `known`, and one
  at a time for the time that one answer takes. The subnets are copies of a real one with random figures.
- metrics: GET /metrics with 100,000 stored subnets, one at a time.
- baseline: GET /healthz, which touches no database: what the server and `wrk` leave on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "service"))

import httpx
import numpy as np
from servers import new_database, postgres
from sqlalchemy import text

from benchmarks.service_process import machine, make_run, make_table, service
from service.client import Client
from service.domain import digest_of, utc_now
from service.storage.database import Database
from supernet.files import write_json

RESULTS = Path(__file__).parent / "results"
CONNECTIONS, STORED = 32, 100_000
BUDGET = "macs<=3M, latency_ms@bench<=2"
BROWSE = {
    "newest first": "",
    "by accuracy": "sort=-accuracy",
    "by accuracy, with a limit on MACs": "sort=-accuracy&macs.lte=3000000",
    "by accuracy, with a rare limit on MACs": "sort=-accuracy&macs.lte=1050000",
    "by MACs, accuracy at least": "sort=macs&accuracy.gte=0.8",
    "by params": "sort=params",
    "of one supernet by accuracy": "sort=-accuracy&supernet=noise",
    "of one device": "device=bench",
    "by latency": "sort=latency_ms&device=bench",
    "by latency, two limits": "sort=latency_ms&device=bench&latency_ms.lte=20&macs.lte=5000000",
    "by accuracy, latency at most": "sort=-accuracy&device=bench&latency_ms.lte=3",
    "by accuracy, latency at most, rare": "sort=-accuracy&device=bench&latency_ms.lte=0.06",
    "by predicted accuracy, latency and params": (
        "sort=-predicted_accuracy&device=bench&latency_ms.lte=10&params.lte=300000"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30, help="of each run of wrk on the known request")
    parser.add_argument("--browse-seconds", type=int, default=5)
    parser.add_argument("--stored", type=int, default=STORED, help="subnets that are stored")
    parser.add_argument("--repeats", type=int, default=100, help="answers that are timed one at a time")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; install it with: apt-get install wrk")
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        folder, places = Path(stack.enter_context(tempfile.TemporaryDirectory())), {}
        database_url = f"sqlite:///{folder / 'data' / 'service.sqlite'}"
        if chosen.database == "postgresql":
            places["database_url"] = database_url = new_database(stack.enter_context(postgres(durable=True)))
        running = stack.enter_context(service(folder / "data", **places))
        url, key = running.url, {"supernet": "noise"}
        with Client(url) as client:
            prepare(client, folder)
            body = key | {"constraints": limits(client), "seed": 0}
            before = post(url, body)
            baseline = wrk(f"{url}/healthz", chosen.browse_seconds, folder)
            few = wrk(f"{url}/api/v1/subnet-requests", chosen.seconds, folder, body)
            fill(Database(database_url), chosen.stored, before["subnet"])
            many = wrk(f"{url}/api/v1/subnet-requests", chosen.seconds, folder, body)
            unchanged = post(url, body) == before
            browse = {name: browsed(url, query, chosen, folder) for name, query in BROWSE.items()}
            metrics = timed([f"{url}/metrics"], chosen.repeats)
    result = {
        "machine": machine() | {"load_before": load_before},
        "database": chosen.database,
        "connections": CONNECTIONS,
        "seconds": chosen.seconds,
        "stored": chosen.stored,
        "baseline": baseline,
        "known_request": {"few_stored": few, "many_stored": many, "answer_unchanged": unchanged},
        "browse": browse,
        "metrics": metrics,
    }
    suffix = "" if chosen.database == "sqlite" else f"_{chosen.database}"
    write_json(chosen.out or RESULTS / f"service_load{suffix}.json", result)
    show(result)


def prepare(client: Client, folder: Path) -> None:
    """A supernet, a device, its table, and one subnet."""
    run = make_run(folder / "run")
    client.register_run(run, "noise")
    client.create_device("bench", hardware="a formula", runtime="formula")
    make_table().save(folder / "bench.json")
    client.upload_table("bench", folder / "bench.json")
    client.request_subnet("noise", BUDGET)


def limits(client: Client) -> list[dict[str, Any]]:
    asked: dict[str, Any] = client.ask("noise", BUDGET)
    return [{name: limit[name] for name in limit if limit[name] is not None} for limit in asked["spec"]["budget"]]


def fill(database: Database, count: int, example: dict[str, Any]) -> None:
    """Store copies of a subnet with random figures, by plain SQL: as jobs leave them, without their hour of work."""
    rng = np.random.default_rng(0)
    started = utc_now()[:-12]
    figures = zip(
        (digest_of({"copy": number}) for number in range(count)),
        (digest_of({"request": number}) for number in range(count)),
        np.round(rng.random(count), 4).tolist(),
        rng.random(count).tolist(),
        rng.integers(1_000_000, 9_000_000, count).tolist(),
        rng.integers(50_000, 900_000, count).tolist(),
        rng.uniform(0.05, 40, count).tolist(),
        (f"{started}{number:06d}+00:00" for number in range(count)),
        strict=True,
    )
    names = ("id", "request_id", "accuracy", "predicted_accuracy", "macs", "params", "latency", "created_at")
    rows = [dict(zip(names, row, strict=True)) | {"example": example["id"]} for row in figures]
    kept = "supernet_id, space, config, config_digest, card, files"
    given = "accuracy, predicted_accuracy, macs, params, created_at"
    values = ":accuracy, :predicted_accuracy, :macs, :params, :created_at"
    for start in range(0, count, 5000):  # the service writes its signs of life in between
        part = rows[start : start + 5000]
        with database.session() as session:
            session.execute(
                text(
                    f"insert into subnets (id, request_id, {given}, {kept})"
                    f" select :id, :request_id, {values}, {kept} from subnets where id = :example"
                ),
                part,
            )
            session.execute(
                text(
                    f"insert into subnet_latencies (subnet_id, device, predicted_ms, measured_ms, {given}, supernet_id)"
                    f" select :id, 'bench', :latency, null, {values}, supernet_id from subnets where id = :example"
                ),
                part,
            )
    if not database.is_sqlite:
        with database.session() as session:
            session.execute(text("analyze"))  # as PostgreSQL does by itself within a minute


def browsed(url: str, query: str, chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One at a time, the second page too, then many at a time."""
    address = f"{url}/api/v1/subnets?{query}"
    with httpx.Client() as http:
        first = http.get(address).raise_for_status().json()
        pages = [address]
        if first["next_cursor"] is not None:
            pages.append(str(httpx.URL(address).copy_merge_params({"cursor": first["next_cursor"]})))
    return {
        "items": len(first["items"]),
        "alone": timed(pages, chosen.repeats),
        "together": wrk(address, chosen.browse_seconds, folder),
    }


def timed(addresses: list[str], repeats: int) -> dict[str, float]:
    """Milliseconds of one answer, one at a time, the addresses in turn."""
    times = []
    with httpx.Client() as http:
        for number in range(repeats):
            started = time.perf_counter()
            http.get(addresses[number % len(addresses)]).raise_for_status()
            times.append(1e3 * (time.perf_counter() - started))
    return {name: float(np.percentile(times, share)) for name, share in (("p50_ms", 50), ("p99_ms", 99))}


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(f"{url}/api/v1/subnet-requests", json=body).raise_for_status().json()
    return answer


def wrk(url: str, seconds: int, folder: Path, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Requests a second, latencies and errors of one run."""
    command = ["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", url]
    script = folder / "script.lua"
    request = (
        ""
        if body is None
        else f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = {json.dumps(json.dumps(body))}
"""
    )
    script.write_text(
        request
        + """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %f %f %f %f\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max))
end
"""
    )
    done = subprocess.run([*command, "-s", str(script)], capture_output=True, text=True, check=True)
    match = re.search(r"RESULT (.*)", done.stdout)
    assert match is not None, done.stdout
    count, microseconds, errors, *latencies = map(float, match[1].split())
    return {
        "requests_per_s": count / (microseconds / 1e6),
        "errors": int(errors),
        **{name: value / 1e3 for name, value in zip(("p50_ms", "p95_ms", "p99_ms", "max_ms"), latencies, strict=True)},
    }


def show(result: dict[str, Any]) -> None:
    rows = {
        "GET /healthz": result["baseline"],
        "known request, few stored": result["known_request"]["few_stored"],
        f"known request, {result['stored']:,} stored": result["known_request"]["many_stored"],
        **{f"browse {name}": found["together"] for name, found in result["browse"].items()},
    }
    print(f"{'32 connections':58}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for name, row in rows.items():
        print(f"{name:58}{row['requests_per_s']:9.0f}{row['p50_ms']:9.1f}{row['p99_ms']:9.1f}{row['errors']:8}")
    print(f"{'one at a time':58}{'items':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for name, found in result["browse"].items():
        print(f"browse {name:51}{found['items']:9}{found['alone']['p50_ms']:9.1f}{found['alone']['p99_ms']:9.1f}")
    print(f"{'GET /metrics':58}{'':9}{result['metrics']['p50_ms']:9.1f}{result['metrics']['p99_ms']:9.1f}")


if __name__ == "__main__":
    main()
