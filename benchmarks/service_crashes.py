"""Does the service lose, double or forget anything when it, its job host or a job's process is killed under load?

Command: python -m benchmarks.service_crashes --database sqlite
         python -m benchmarks.service_crashes --database postgresql
         python -m benchmarks.service_crashes --failover
Result:  benchmarks/results/service_crashes_{sqlite,postgresql,failover}.json

The first two: four clients ask for subnets that nobody asked for yet and upload new latency tables, one after another;
at 50 random moments one of three is ended by SIGKILL, in turn: the whole service, its job host, the process of a job.
Ended services are started again. Then every request that was accepted must end with a subnet whose files have the
digests that its record says, or with a failure that says why; every table that was answered must be there and have its
digest; no answer may be a 5xx (what got no answer at all counts as status 0); and what is stored must be what the rows
name: no file and no row too many, no request with two subnets. "postgresql" keeps the artefacts in a bucket of a real
S3 server; what a killed API process had announced to store is swept after an hour there, in this benchmark at once.

"failover": two API processes and two workers on PostgreSQL and S3; one worker is killed while it runs a job. The time
until the other one works on that job, ten times.

The supernet is small and was never trained, so that a job takes less than a second: the more of them run, the more
moments are tried. Nothing is tuned; the seed chooses moments and budgets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "service"))

from collections.abc import Iterator

import httpx
from servers import new_bucket, new_database, postgres, s3
from small_service import make_run, make_table
from sqlalchemy import select

from service.client import Client, ServiceError
from service.domain import is_digest
from service.settings import Settings
from service.storage import jobs, staging, subnets
from service.storage.artifacts import open_artifacts
from service.storage.database import Database
from service.storage.models import JobRow, RequestRow, StagedFileRow, SubnetRow
from supernet.files import write_json

RESULTS = Path(__file__).parent / "results"
CLIENTS = 4
VICTIMS = ("service", "job host", "job process")
SMALL = {"search_population": 40, "search_generations": 20, "job_threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql"])
    parser.add_argument("--failover", action="store_true")
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.failover == (arguments.database is not None):
        parser.error("give --database, or --failover")
    name = arguments.database or "failover"
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        places: dict[str, str] = {}
        if name != "sqlite":
            places["database_url"] = new_database(stack.enter_context(postgres(durable=True)))
            server = stack.enter_context(s3())
            os.environ.update(server.environment)
            places["artifact_url"] = new_bucket(server)
        run = make_run(Path(folder) / "run")
        if name == "failover":
            result = failover(Path(folder), run, places)
        else:
            result = crashes(Path(folder), run, places, arguments.moments, random.Random(arguments.seed))
    result |= {"machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()}}
    write_json(RESULTS / f"service_crashes_{name}.json", result)
    print(json.dumps(result, indent=1))
    if result["faults"]:
        sys.exit("some requirement is not met")


def crashes(folder: Path, run: Path, places: dict[str, str], moments: int, rng: random.Random) -> dict[str, Any]:
    """Kill at random moments under load, then count."""
    service = Service(folder / "data", places)
    service.start()
    with Client(service.url) as client:
        client.register_run(run, "noise")
        client.create_device("bench")
    load = Load(service, folder, rng.randrange(1 << 30))
    load.start()
    killed = dict.fromkeys(VICTIMS, 0)
    started = time.monotonic()
    for moment in range(moments):
        time.sleep(rng.uniform(0.2, 3.0))
        victim = VICTIMS[moment % len(VICTIMS)]
        killed[victim] += service.kill(victim)
    load.stop()
    faults = []
    with Client(service.url) as client:
        ends = wait_for_ends(client, sorted(load.accepted))
        faults += ends.pop("faults")
        for request in ends.pop("succeeded"):
            subnet = client._call("GET", f"/subnet-requests/{request}")["subnet"]
            if subnet is None:
                faults.append(f"request {request[:12]} succeeded without a subnet")
                continue
            client.download(subnet["id"], folder / "out")  # refuses other digests
        faults += lost_tables(service.url, load.tables)
    faults += [f"{count} answers were a {status}" for status, count in load.refusals.items() if status >= 500]
    service.stop()
    service.start()  # an orderly start sweeps what the last kills left
    service.stop()
    settings = service.settings
    swept = sweep(settings) if settings.database_url else 0
    faults += inventory(settings)
    leftovers = [path.name for kind in ("upload", "run", "subnet") for path in settings.cache_dir.glob(f"{kind}-*")]
    faults += [f"a temporary folder is left: {name}" for name in leftovers]
    if settings.artifact_url is None:
        files = (path.name for path in (folder / "data" / "artifacts").rglob("*") if path.is_file())
        faults += [f"a half written file is left: {name}" for name in files if not is_digest(name)]
    return {
        "killed": killed,
        "seconds": round(time.monotonic() - started, 1),
        "accepted": len(load.accepted),
        "tables": len(load.tables),
        "files_swept_at_the_end": swept,
        "refused_or_unanswered": {str(status): count for status, count in sorted(load.refusals.items())},
        "ends": ends,
        "faults": faults,
    }


def failover(folder: Path, run: Path, places: dict[str, str]) -> dict[str, Any]:
    """Time from the death of a worker to its job's next attempt elsewhere."""
    endless = {"search_population": 100, "search_generations": 1_000_000, "job_workers": 1}
    moved_s: list[float] = []
    with ExitStack() as stack:
        apis = [Service(folder / f"api{number}", places | {"job_workers": 0} | endless_api()) for number in range(2)]
        for api in apis:
            api.start()
            stack.callback(api.stop)
        first, second = (stack.enter_context(Client(api.url)) for api in apis)
        first.register_run(run, "noise")
        workers = [stack.enter_context(worker(folder / f"w{number}", places | endless)) for number in range(2)]
        for attempt in range(10):
            job_id = first.ask("noise", f"macs<={4_000_000 + attempt}")["id"]
            await_stage(second, job_id, "searching")
            victim = next(w for w in workers if str(w.pid) in executor_of(places["database_url"], job_id))
            victim.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            while (job := second.job(job_id))["attempts"] < 2 or job["stage"] != "searching":
                time.sleep(0.02)
            moved_s.append(round(time.monotonic() - killed, 2))
            first.cancel(job_id)
            workers.remove(victim)
            workers.append(stack.enter_context(worker(folder / f"w{attempt + 2}", places | endless)))
    faults = [f"a job moved after {seconds} s; allowed: 15 s" for seconds in moved_s if seconds > 15]
    return {"moved_s": moved_s, "median_s": median(moved_s), "most_s": max(moved_s), "faults": faults}


def endless_api() -> dict[str, Any]:
    return {"search_population": 100, "search_generations": 1_000_000}


class Service:
    """`onceforall serve` in a process of its own, on a port that stays the same."""

    def __init__(self, data_dir: Path, values: dict[str, Any], *, small: bool = True) -> None:
        self.settings = Settings(data_dir=data_dir, port=0, **((SMALL if small else {}) | values))
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        port = self.url.rpartition(":")[2] or "0"
        variables = {
            f"ONCEFORALL_{name.upper()}": str(value)
            for name, value in self.settings.model_dump(exclude_defaults=True, exclude={"port"}).items()
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--port", port],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("serving at "):
            raise RuntimeError(f"the service did not start: {line!r}")
        self.url = line.split()[2].rstrip(",")

    def stop(self) -> None:
        """End it in order."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout=60)

    def kill(self, victim: str) -> bool:
        """SIGKILL the service (and start it again), its job host, or that one's process; whether there was one."""
        assert self.process is not None
        if victim == "service":
            self.process.kill()
            self.process.wait()
            self.start()
            return True
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # it may just have been killed and not be there again
            hosts = children_of(self.process.pid)
            pids = hosts if victim == "job host" else [child for host in hosts for child in children_of(host)]
            with suppress(ProcessLookupError, IndexError):
                os.kill(pids[0], signal.SIGKILL)
                return True
            time.sleep(0.05)
        return False


class Load:
    """Clients that ask for new subnets, one after another, each waiting for its answer's acceptance only.

    Attributes:
        accepted: requests that were answered.
        tables: tables that were answered, and their content.
        refusals: HTTP status -> answers; 0: there was none.
    """

    def __init__(self, service: Service, folder: Path, seed: int) -> None:
        self.accepted: set[str] = set()
        self.tables: dict[str, bytes] = {}
        self.refusals: dict[int, int] = {}
        self._folder = folder
        self._service = service
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, args=(random.Random(seed + number),)) for number in range(CLIENTS)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, after the answers under way."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, rng: random.Random) -> None:
        while not self._stopping.is_set():
            try:
                with Client(self._service.url, timeout_s=10, busy_s=0) as client:
                    request = client.ask("noise", f"macs<={rng.randrange(3_000_000, 9_000_000)}")
                    with self._lock:
                        self.accepted.add(request["id"])
                    path = self._folder / f"{threading.get_ident()}.json"
                    make_table(scale=rng.uniform(0.5, 2)).save(path)
                    table = client.upload_table("bench", path)
                with self._lock:
                    self.tables[table["id"]] = path.read_bytes()
            except ServiceError as error:
                with self._lock:
                    self.refusals[error.status] = self.refusals.get(error.status, 0) + 1
            self._stopping.wait(rng.uniform(0.2, 1.5))


def wait_for_ends(client: Client, requests: list[str]) -> dict[str, Any]:
    """Wait until every job has ended."""
    found: dict[str, Any] = {"succeeded": [], "failed": 0, "messages": [], "faults": []}
    for request in requests:
        job = client.job(request)
        waited = time.monotonic()
        while job["state"] in ("queued", "running"):
            if time.monotonic() - waited > 300:
                found["faults"].append(f"job {request[:12]} is still {job['state']} after 300 s")
                break
            time.sleep(0.1)
            job = client.job(request)
        if job["state"] == "succeeded":
            found["succeeded"].append(request)
        elif job["state"] == "failed" and (job["error"] or {}).get("message"):
            found["failed"] += 1
            found["messages"].append(job["error"]["message"])
        else:
            found["faults"].append(f"job {request[:12]} ended as {job['state']} without a reason")
    return found | {"succeeded_count": len(found["succeeded"])}


def lost_tables(url: str, tables: dict[str, bytes]) -> list[str]:
    """Tables that were answered and are not there as they were sent."""
    faults = []
    with httpx.Client(base_url=f"{url}/api/v1/latency-tables/", timeout=60) as http:
        for table_id, content in tables.items():
            found = http.get(f"{table_id}/content")
            if found.status_code != 200 or found.content != content:
                faults.append(f"table {table_id[:12]} was answered and is a {found.status_code}, or another one")
    return faults


def sweep(settings: Settings) -> int:
    """Remove what killed API processes had announced; number of files."""
    database = Database(settings.resolved_database_url)
    found = staging.sweep(database, open_artifacts(settings.resolved_artifact_url), older_than_s=0)
    database.close()
    return found


def inventory(settings: Settings) -> list[str]:
    """Where rows and files disagree."""
    database = Database(settings.resolved_database_url)
    artifacts = open_artifacts(settings.resolved_artifact_url)
    faults = []
    with database.session() as session:
        named, stored = staging.in_use(session), set(artifacts.digests())
        faults += [f"file {digest[:12]} is stored and no row names it" for digest in stored - named]
        faults += [f"file {digest[:12]} is named by a row and not stored" for digest in named - stored]
        staged = session.scalars(select(StagedFileRow.sha256)).all()
        faults += [f"file {digest[:12]} is still noted as on its way" for digest in staged]
        if active := jobs.count_active(session):
            faults.append(f"{active} jobs have not ended")
        rows = session.execute(select(SubnetRow.id, SubnetRow.request_id)).all()
        if len({request for _, request in rows}) != len(rows):
            faults.append("a request has two subnets")
        answered = dict(session.execute(select(RequestRow.id, RequestRow.subnet_id)).all())  # type: ignore[arg-type]
        for subnet_id, request_id in rows:
            if answered.get(request_id) != subnet_id:
                faults.append(f"subnet {subnet_id[:12]} answers no request")
            for digest in (file.sha256 for file in subnets.get_subnet(session, subnet_id).files.values()):  # type: ignore[union-attr]
                if digest not in stored:
                    faults.append(f"subnet {subnet_id[:12]} lacks the file {digest[:12]}")
        orphans = set(session.scalars(select(JobRow.id))) - set(answered)
        faults += [f"job {job[:12]} has no request" for job in orphans]
    database.close()
    return faults


@contextmanager
def worker(data_dir: Path, values: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """`onceforall worker`, once it takes jobs."""
    variables = {f"ONCEFORALL_{name.upper()}": str(value) for name, value in values.items()}
    command = [sys.executable, "-m", "service.cli", "worker", "--data-dir", str(data_dir)]
    with subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline().startswith("working as "):
                raise RuntimeError("the worker did not start")
            yield process
        finally:
            process.kill()


def await_stage(client: Client, job_id: str, stage: str) -> None:
    while client.job(job_id)["stage"] != stage:
        time.sleep(0.02)


def executor_of(database_url: str, job_id: str) -> str:
    """Id of the host that runs a job; it holds the process's number."""
    database = Database(database_url)
    with database.session() as session:
        found = session.scalar(select(JobRow.executor).where(JobRow.id == job_id))
    database.close()
    return f"-{found}-"


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    main()
