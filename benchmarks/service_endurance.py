"""Is the memory flat over 10,000 requests, and is what is stored whole when connections are cut?

Command: python -m benchmarks.service_endurance   (about 7 minutes on two busy cores; a bar that is missed is an error)
Result:  benchmarks/results/service_endurance.json

"memory": `onceforall serve` in its own processes; 8 clients send mixed requests (known budgets, browsing with filters,
whole and ranged downloads, the page, event streams of ended jobs, tables to try out, metrics, and as many that are
refused: unknown ids, values that are not allowed, broken JSON, a wrong Host). The resident memory of the API process,
and of its job host with the children, is read every 100 requests. The first 2000 warm it up and are left out: threads,
pools and caches have a size that is reached once. Slope: least squares over the rest. Bar: less than 4 MiB for every
10,000 requests, and at the end at most 5 % more than after the warm-up (medians of 1000 requests).

"cuts": 200 clients at the same time, half of which cut their connection at a random byte, by a reset or in peace:
latency tables and supernets go up, subnets come down. Bar: every download that was not cut has its digest, every upload
that was answered by 201 can be read back with its digest; of the others there is everything or nothing; no file without
a row, no row without its file, no note, no temporary file, and nothing in the system's temporary folder.

The supernet is small and was never trained; the seed chooses what is cut where.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "service"))

import httpx
import numpy as np
from processes import ServiceProcess, service_process
from small_service import make_run, make_table
from sqlalchemy import func, select

from service.client import Client, ServiceError
from service.retention import take_stock
from service.runs import PARTS
from service.settings import Settings
from service.storage.artifacts import open_artifacts
from service.storage.database import Database
from service.storage.models import StagedFileRow
from supernet.files import write_json

RESULT = Path(__file__).parent / "results" / "service_endurance.json"
WARM_UP, EVERY, CLIENTS = 2000, 100, 8
MOST_SLOPE_BYTES = 4 << 20
"""Growth that is allowed for 10,000 requests: what the allocator and the pages of SQLite's cache move about."""
MOST_GROWTH = 0.05
MUST_BE_NOTHING = (
    "downloads_with_a_wrong_digest",
    "uploads_that_cannot_be_read_back",
    "failures_of_whole_ones",
    "lines_of_errors_in_the_log",
    "missing",
    "altered",
    "orphans",
    "notes",
    "temporary",
    "in_the_temporary_folder",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--parallel", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        place = Path(folder)
        run = make_run(place / "run")
        (place / "tmp").mkdir()
        environment = {"TMPDIR": str(place / "tmp")}
        with service_process(place / "data", environment=environment, log_level="warning") as service:
            subnets = prepare(service, run, place)
            memory = measure_memory(service, subnets, arguments.requests, arguments.seed)
            cuts = measure_cuts(service, subnets, run, place, arguments.parallel, arguments.seed)
            service.stop()
            cuts["lines_of_errors_in_the_log"] = sum(line["level"] == "error" for line in service.lines())
        cuts |= stock(place)
    result = {
        "command": " ".join(["python -m benchmarks.service_endurance", *sys.argv[1:]]),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "load_1min": os.getloadavg()[0],
        "seed": arguments.seed,
        "memory": memory,
        "cuts": cuts,
    }
    write_json(arguments.out, result)
    print(json.dumps(result, indent=2))
    faults = misses(memory, cuts)
    if faults:
        sys.exit("missed: " + "; ".join(faults))


def misses(memory: dict[str, Any], cuts: dict[str, Any]) -> list[str]:
    """The bars that were missed."""
    faults = []
    for what in ("api", "job_host_and_children"):
        if memory[what]["slope_bytes_per_10000_requests"] > MOST_SLOPE_BYTES:
            faults.append(f"{what}: {memory[what]['slope_bytes_per_10000_requests']:.0f} bytes per 10,000 requests")
        if memory[what]["growth"] > MOST_GROWTH:
            faults.append(f"{what}: {memory[what]['growth']:.1%} more at the end")
    faults += [f"answers {status}" for status in memory["statuses"] if int(status) >= 500]
    return faults + [f"{name}: {cuts[name]}" for name in MUST_BE_NOTHING if cuts[name]]


def prepare(service: ServiceProcess, run: Path, place: Path) -> list[dict[str, Any]]:
    """A supernet, a device with a table, and three subnets."""
    with Client(service.url) as client:
        client.register_run(run, "noise")
        client.create_device("bench")
        make_table().save(place / "bench.json")
        client.upload_table("bench", place / "bench.json")
        return [client.request_subnet("noise", f"macs<={limit}M") for limit in (4, 5, 6)]


def measure_memory(service: ServiceProcess, subnets: list[dict[str, Any]], total: int, seed: int) -> dict[str, Any]:
    """Resident memory while mixed requests are answered."""
    table = Path(tempfile.gettempdir()) / f"endurance-{os.getpid()}.json"
    make_table(scale=2.0).save(table)
    content = table.read_bytes()
    table.unlink()
    ids = [subnet["id"] for subnet in subnets]
    jobs = [subnet["request"] for subnet in subnets]
    budgets = [{"supernet": "noise", "constraints": subnet["budget"]} for subnet in subnets]
    api = "/api/v1"

    def one(client: httpx.Client, rng: random.Random) -> int:
        number = rng.randrange(3)
        download = f"{api}/subnets/{ids[number]}/download"
        kinds: list[Callable[[], httpx.Response]] = [
            lambda: client.post(f"{api}/subnet-requests", json=budgets[number]),
            lambda: client.get(f"{api}/subnets", params={"sort": "-accuracy", "macs.lte": 10**7, "limit": 50}),
            lambda: client.get(f"{api}/subnets/{ids[number]}"),
            lambda: client.get(download, params={"format": "safetensors"}),
            lambda: client.get(download, headers={"Range": f"bytes={rng.randrange(1000)}-"}),
            lambda: client.head(download),
            lambda: client.get(f"{api}/jobs/{jobs[number]}/events"),
            lambda: client.get(f"{api}/jobs", params={"limit": 10}),
            lambda: client.get("/"),
            lambda: client.get("/metrics"),
            lambda: client.get("/readyz"),
            lambda: client.get(f"{api}/supernets/noise/space"),
            lambda: client.post(
                f"{api}/devices/bench/latency-tables?dry_run=true",
                content=content,
                headers={"Content-Type": "application/json"},
            ),
            lambda: client.get(f"{api}/subnets/{rng.randrange(16**64):064x}"),
            lambda: client.get(f"/nowhere/{rng.random()}"),
            lambda: client.post(f"{api}/subnet-requests", json=budgets[number] | {"seed": f"x{rng.random()}"}),
            lambda: client.post(
                f"{api}/subnet-requests", content=b"{" * 1000, headers={"Content-Type": "application/json"}
            ),
            lambda: client.get(f"{api}/jobs", headers={"Host": f"host{rng.random()}"}),
            lambda: client.get(f"{api}/subnets", params={"cursor": f"{rng.random()}"}),
        ]
        return rng.choice(kinds)().status_code

    counter, lock, samples = iter(range(total)), threading.Lock(), []
    statuses: Counter[str] = Counter()

    def work(worker: int) -> None:
        rng = random.Random(seed * 1000 + worker)
        with httpx.Client(base_url=service.url, timeout=300, trust_env=False) as client:
            while True:
                with lock:
                    number = next(counter, None)
                    if number is None:
                        return
                    if number % EVERY == 0:
                        samples.append((number, *resident_bytes(service.process.pid)))
                status = one(client, rng)
                with lock:
                    statuses[str(status)] += 1

    begin = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))
    samples.append((total, *resident_bytes(service.process.pid)))
    seconds = time.monotonic() - begin
    found = np.array(samples, dtype=float)
    found = found[found[:, 0] >= min(WARM_UP, total // 2)]
    return {
        "requests": total,
        "requests_per_s": total / seconds,
        "statuses": dict(sorted(statuses.items())),
        "api": trend(found[:, 0], found[:, 1]),
        "job_host_and_children": trend(found[:, 0], found[:, 2]),
        "samples": [[int(value) for value in sample] for sample in samples[::5]],
    }


def trend(requests: np.ndarray, sizes: np.ndarray) -> dict[str, float]:
    """How resident memory changes with requests."""
    slope = float(np.polyfit(requests, sizes, 1)[0])
    tenth = max(len(sizes) // 8, 1)
    first, last = float(np.median(sizes[:tenth])), float(np.median(sizes[-tenth:]))
    return {
        "slope_bytes_per_10000_requests": slope * 10_000,
        "bytes_after_warm_up": first,
        "bytes_at_the_end": last,
        "growth": last / first - 1,
    }


def resident_bytes(pid: int) -> tuple[int, int]:
    """Resident memory of a process, and of all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    below, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found} - below
        below |= found
    return resident(pid), sum(resident(child) for child in below - {pid})


def resident(pid: int) -> int:
    """Resident memory of one process in bytes; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def measure_cuts(
    service: ServiceProcess, subnets: list[dict[str, Any]], run: Path, place: Path, parallel: int, seed: int
) -> dict[str, Any]:
    """Uploads and downloads at the same time, half of them cut."""
    rng = random.Random(seed)
    host, port = service.url.removeprefix("http://").split(":")
    files = [file for subnet in subnets for file in subnet["files"]]
    runs = [make_run(place / f"run-{number}", seed=100 + number) for number in range(3)]
    counts: Counter[str] = Counter()
    lock, barrier = threading.Lock(), threading.Barrier(parallel)
    uploaded: list[tuple[str, str]] = []

    def note(*what: str) -> None:
        with lock:
            counts.update(what)

    def table_body(number: int) -> tuple[str, bytes]:
        name = f"device-{number}"
        path = place / f"{name}.json"
        make_table(name, scale=1 + number / 1000).save(path)
        return name, path.read_bytes()

    def download(cut: bool, choose: random.Random) -> None:
        file = choose.choice(files)
        if cut:
            head = f"GET {file['url']} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
            send_and_cut((host, int(port)), head, len(head), choose, receive=choose.randrange(file["size_bytes"]))
            note("downloads cut")
            return
        answer = httpx.get(f"{service.url}{file['url']}", timeout=300, trust_env=False)
        good = hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        note("downloads whole", *([] if good else ["downloads with a wrong digest"]))

    def table(cut: bool, choose: random.Random, number: int) -> None:
        name, body = table_body(number)
        with Client(service.url, timeout_s=300) as client:
            client.create_device(name)
            if cut:
                lines = [f"POST /api/v1/devices/{name}/latency-tables HTTP/1.1", f"Host: {host}"]
                head = request_head([*lines, "Content-Type: application/json"], body)
                send_and_cut((host, int(port)), head + body, choose.randrange(1, len(head) + len(body) + 1), choose)
                note("tables cut")
                return
            table = client.upload_table(name, place / f"{name}.json")
        with lock:
            uploaded.append((table["content_url"], hashlib.sha256(body).hexdigest()))
        note("tables whole")

    def supernet(cut: bool, choose: random.Random, number: int) -> None:
        source = runs[number % len(runs)]
        if not cut:
            with Client(service.url, timeout_s=300) as client:
                client.register_run(source, f"whole-{number % len(runs)}")
            note("supernets whole")
            return
        body = multipart(source, f"cut-{number}")
        head = request_head(
            ["POST /api/v1/supernets HTTP/1.1", f"Host: {host}", "Content-Type: multipart/form-data; boundary=cut"],
            body,
        )
        send_and_cut((host, int(port)), head + body, choose.randrange(1, len(head) + len(body)), choose)
        note("supernets cut")

    def client(number: int) -> None:
        choose = random.Random(seed * 10_000 + number)
        cut = number % 2 == 0
        kind = "supernet" if number % 20 in (0, 2, 4, 19) else "table" if number % 4 < 2 else "download"
        if kind == "supernet" and not cut and number >= 20 * len(runs):
            kind = "download"  # each whole one is looked at for seconds by a process of its own
        barrier.wait(timeout=300)
        try:
            if kind == "download":
                download(cut, choose)
            else:
                (table if kind == "table" else supernet)(cut, choose, number)
        except (ServiceError, httpx.HTTPError, OSError) as error:
            note(f"{'cut' if cut else 'whole'} failed")
            print(f"{kind} {number}: {error}", file=sys.stderr)

    order = list(range(parallel))
    rng.shuffle(order)
    begin = time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        list(pool.map(client, order))
    seconds = time.monotonic() - begin
    wrong = 0
    for url, sha256 in uploaded:
        answer = httpx.get(f"{service.url}{url}", timeout=300, trust_env=False)
        wrong += hashlib.sha256(answer.content).hexdigest() != sha256
    return {
        "parallel": parallel,
        "seconds": seconds,
        "counts": dict(sorted(counts.items())),
        "downloads_with_a_wrong_digest": counts["downloads with a wrong digest"],
        "uploads_that_cannot_be_read_back": wrong,
        "failures_of_whole_ones": counts["whole failed"],
    }


def request_head(lines: list[str], body: bytes) -> bytes:
    """The first lines of a request with a body."""
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode()


def multipart(run: Path, name: str) -> bytes:
    """The body that registers a run."""
    parts = [b'--cut\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + name.encode()]
    for part, path in PARTS.items():
        head = f'--cut\r\nContent-Disposition: form-data; name="{part}"; filename="{Path(path).name}"\r\n\r\n'
        parts.append(head.encode() + (run / path).read_bytes())
    return b"\r\n".join([*parts, b"--cut--\r\n"])


def send_and_cut(address: tuple[str, int], content: bytes, count: int, choose: random.Random, receive: int = 0) -> None:
    """Send the first bytes, read some, then leave: by a reset in half of the cases."""
    with socket.create_connection(address, timeout=300) as connection:
        connection.sendall(content[:count])
        while receive > 0:
            piece = connection.recv(min(receive, 65536))
            if not piece:
                break
            receive -= len(piece)
        if choose.random() < 0.5:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        time.sleep(choose.random() * 0.2)


def stock(place: Path) -> dict[str, Any]:
    """What is left when the service has ended."""
    settings = Settings(data_dir=place / "data")
    database, artifacts = Database(settings.resolved_database_url), open_artifacts(settings.resolved_artifact_url)
    try:
        found = take_stock(database, artifacts, read=True)
        with database.session() as session:
            notes = session.scalar(select(func.count()).select_from(StagedFileRow)) or 0
    finally:
        database.close()
    temporary = [path for what in ("upload-*", "run-*", "subnet-*") for path in settings.cache_dir.glob(what)]
    temporary += [path for path in (place / "data").rglob("*") if "#" in path.name or path.name.endswith(".tmp")]
    return {
        "files": found.files,
        "missing": len(found.missing),
        "altered": len(found.altered or ()),
        "orphans": len(found.orphans),
        "notes": notes,
        "temporary": len(temporary),
        "in_the_temporary_folder": len(list((place / "tmp").iterdir())),
    }


if __name__ == "__main__":
    main()
