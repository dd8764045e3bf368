"""A small client of the HTTP API, for scripts, the command line and tests."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from io import IOBase
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from latency_tables import Budget
from latency_tables.formats import ofa_yaml
from service.api import API
from service.domain import is_digest
from service.runs import PARTS
from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, OnceForAllError, TableError
from supernet.files import atomic_path, sha256_file

_FORMATS = {
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".csv": "text/csv",
}
Json = dict[str, Any]
_PATIENCE_S = 60.0
_RETRY_S = 1.0


class ServiceError(OnceForAllError):
    """The service refused, failed, or cannot be reached.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        problem: the problem document; empty when there was none.
    """

    def __init__(self, message: str, status: int = 0, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem or {})


class Client:
    """Talks to one service; close it, or use it in a `with` block.

    Args:
        url: of the service, such as ``http://127.0.0.1:8000``.
        key: of the service, where it needs one; None: that of the variable ONCEFORALL_KEY, if it is set.
        timeout_s: seconds to wait for an answer.
        busy_s: seconds within which what a busy service refuses (429) is sent again, after the time that it names; 0:
            never.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 120.0, busy_s: float = _PATIENCE_S
    ) -> None:
        self.url = url.rstrip("/")
        self._busy_s = busy_s
        key = os.environ.get("ONCEFORALL_KEY") if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ServiceError(f"{url[:80]!r} is no address of a service, or the key is none ({error})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def register_run(self, path: str | Path, name: str) -> Json:
        """Upload a finished training run; the answer is the supernet.

        Raises:
            CheckpointError: files are absent from the folder.
            ServiceError: the service refuses it.
        """
        folder = Path(path)
        missing = [part for part in PARTS.values() if not (folder / part).is_file()]
        if missing:
            raise CheckpointError(
                f"the run {str(folder)!r} lacks {', '.join(missing)}; finish it with:"
                " onceforall train, onceforall predictor"
            )
        with ExitStack() as stack:
            files = {
                part: (Path(name).name, stack.enter_context((folder / name).open("rb"))) for part, name in PARTS.items()
            }
            return self._call("POST", "/supernets", data={"name": name}, files=files)

    def create_device(
        self,
        name: str,
        *,
        hardware: str = "not described",
        runtime: str = "torch-eager",
        precision: str = "fp32",
        threads: int = 1,
        batch: int = 1,
    ) -> Json:
        """Describe a device; doing so twice in the same words is fine."""
        body = {"hardware": hardware, "runtime": runtime, "precision": precision, "threads": threads, "batch": batch}
        return self._call("POST", "/devices", json={"name": name, **body})

    def list_devices(self) -> Iterator[Json]:
        """All devices by name."""
        return self._listed("/devices")

    def upload_table(self, device: str, path: str | Path, *, dry_run: bool = False) -> Json:
        """Upload a latency table as the device's next version; the answer states its coverage.

        Args:
            device: name of the device.
            path: .json, .yaml or .csv; or a folder (or file) of MIT's ofa package.
            dry_run: report only.

        Raises:
            TableError: the file cannot be read.
            ServiceError: the service refuses it.
        """
        path = Path(path)
        address, params = f"/devices/{device}/latency-tables", {"dry_run": str(dry_run).lower()}
        if ofa_yaml.is_for(path):
            paths = sorted(path.glob("*_lookup_table.y*ml")) if path.is_dir() else [path]
            files = [("file", (one.name, _read(one, device))) for one in paths]
            return self._call("POST", address, params=params, files=files)
        media_type = _FORMATS.get(path.suffix.lower())
        if media_type is None:
            raise ServiceError(
                f"{str(path)!r} is no latency table; allowed endings: {', '.join(_FORMATS)}; make such a file with:"
                " onceforall tables convert"
            )
        content = _read(path, device)
        return self._call("POST", address, params=params, content=content, headers={"Content-Type": media_type})

    def list_tables(self, device: str) -> Iterator[Json]:
        """A device's latency tables, newest first."""
        return self._listed(f"/devices/{device}/latency-tables")

    def table(self, table_id: str) -> Json:
        """A latency table: its version, rows, missing rows and provenance."""
        return self._call("GET", f"/latency-tables/{table_id}")

    def delete_table(self, table_id: str) -> None:
        """Remove a latency table that has missing rows or that no request was priced with."""
        self._call("DELETE", f"/latency-tables/{table_id}")

    def estimate(self, table_id: str, configs: Sequence[Mapping[str, Any] | SubnetConfig]) -> list[Json]:
        """Latencies of given subnets by a table, ms, each with its layers' shares."""
        subnets = [config.to_dict() if isinstance(config, SubnetConfig) else dict(config) for config in configs]
        items: list[Json] = self._call("POST", f"/latency-tables/{table_id}/estimate", json={"subnets": subnets})[
            "items"
        ]
        return items

    def ask(
        self,
        supernet: str,
        budget: Budget | str,
        *,
        seed: int = 0,
        formats: Sequence[str] = (),
        wait_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Ask for the best subnet within a budget: the request, with its `job` and, if known, `subnet`.

        Args:
            supernet: its name or id.
            budget: for example ``"macs<=3M, latency_ms@note10<=20"``.
            seed: of the search.
            formats: ``onnx`` and ``pt2``, besides safetensors.
            wait_s: seconds that the service may wait for the job before it answers; None: not at all.
            idempotency_key: the service refuses to take it for another request.

        Raises:
            ServiceError: refused; status 409 where the budget is infeasible: `problem` has `tightest` and `nearest`,
                and where pruning may help `offer`, whose `body` `ask_pruning` takes.
        """
        limits = (Budget.parse(budget) if isinstance(budget, str) else budget).to_dict()
        body = {"supernet": supernet, "constraints": limits, "seed": seed, "formats": list(formats)}
        return self._order("/subnet-requests", body, wait_s, idempotency_key)

    def request_subnet(
        self,
        supernet: str,
        budget: Budget | str,
        *,
        seed: int = 0,
        formats: Sequence[str] = (),
        on_progress: Callable[[str, float], None] | None = None,
    ) -> Json:
        """Ask for the best subnet within a budget and wait for it, and for the formats.

        Args:
            supernet: its name or id.
            budget: for example ``"macs<=3M, latency_ms@note10<=20"``.
            seed: of the search.
            formats: ``onnx`` and ``pt2``, besides safetensors.
            on_progress: called as (stage, fraction in [0, 1]) while waiting.

        Returns:
            The subnet: `id`, `config`, `predicted`, `measured`, `card`, `files`.

        Raises:
            ServiceError: as `ask`; or the job failed or was cancelled.
        """
        return self._made(
            "/subnet-requests", lambda: self.ask(supernet, budget, seed=seed, formats=formats), formats, on_progress
        )

    def upload_weights(self, path: str | Path) -> str:
        """Upload a safetensors file of weights; returns what pruning runs call it. Unused, it goes after an hour.

        Raises:
            CheckpointError: there is no such file.
            ServiceError: the service refuses it.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{str(path)!r} does not exist; check the path")
        with path.open("rb") as file:
            found = self._call("POST", "/weights", content=file, headers={"Content-Type": "application/octet-stream"})
        return str(found["sha256"])

    def ask_pruning(
        self, body: Mapping[str, Any], *, wait_s: int | None = None, idempotency_key: str | None = None
    ) -> Json:
        """Ask for a network to be pruned: the run, with its `job` and, if known, `subnet`: the pruned network.

        Args:
            body: as POST /pruning-runs takes it: `method`, `source`, `data`, `constraints` or `sparsity`, `epochs`,
                and so on; or the `body` of the offer that comes with an infeasible budget.
            wait_s: as for `ask`.
            idempotency_key: as for `ask`.

        Raises:
            ServiceError: refused; status 409 where the target is out of reach.
        """
        return self._order("/pruning-runs", body, wait_s, idempotency_key)

    def prune(self, body: Mapping[str, Any], *, on_progress: Callable[[str, float], None] | None = None) -> Json:
        """Ask for a network to be pruned, and wait for it and for its formats.

        Args:
            body: as for `ask_pruning`.
            on_progress: called as (stage, fraction in [0, 1]) while waiting.

        Returns:
            The pruned network: as a subnet, with `pruned` true and `predicted.accuracy` None.

        Raises:
            ServiceError: as `ask_pruning`; or the job failed or was cancelled.
        """
        return self._made("/pruning-runs", lambda: self.ask_pruning(body), body.get("formats", ()), on_progress)

    def pruning_run(self, run_id: str) -> Json:
        """A pruning run: its exact spec, its job, and the pruned network once it is there."""
        return self._call("GET", f"/pruning-runs/{run_id}")

    def list_pruning_runs(self, **filters: str) -> Iterator[Json]:
        """Pruning runs, newest first; `method` and `source` leave out the others."""
        return self._listed("/pruning-runs", **filters)

    def _order(self, path: str, body: Mapping[str, Any], wait_s: int | None, idempotency_key: str | None) -> Json:
        headers = {} if wait_s is None else {"Prefer": f"wait={wait_s}"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return self._call("POST", path, json=dict(body), headers=headers)

    def _made(
        self,
        path: str,
        ask: Callable[[], Json],
        formats: Sequence[str],
        on_progress: Callable[[str, float], None] | None,
    ) -> Json:
        """Wait for the network that a request becomes, and for its formats."""
        for _ in range(2):  # the second time for formats, where the job had begun without them
            request = ask()
            there = request["subnet"] and {file["format"] for file in request["subnet"]["files"]}
            if there and there.issuperset(formats):
                break
            for job in self.follow(request["job"]["id"]):
                if on_progress is not None:
                    on_progress(job["stage"], job["fraction"])
            if job["state"] != "succeeded":
                message = (job["error"] or {}).get("message", f"job {job['id'][:12]} was {job['state']}; ask again")
                raise ServiceError(message, problem=job["error"])
            request = self._call("GET", f"{path}/{request['id']}")
        subnet: Json | None = request["subnet"]
        there = {file["format"] for file in subnet["files"]} if subnet else set()
        lacking = sorted(set(formats) - there)
        if subnet is None or lacking:
            what = "the network" if subnet is None else " and ".join(lacking)
            raise ServiceError(
                f"the jobs of request {request['id'][:12]} succeeded without {what}, which was removed meanwhile or"
                " comes with another job; ask again"
            )
        return subnet

    def follow(self, job_id: str) -> Iterator[Json]:
        """The job at every change, until it has ended; goes on when a service that was restarted answers again.

        Raises:
            ServiceError: no such job; or no answer, for `_PATIENCE_S` where there were answers before.
        """
        last: Json | None = None
        silent_since: float | None = None
        while True:
            try:
                for job in self._events(job_id):
                    silent_since = None
                    if job != last:
                        last = job
                        yield job
                    if job["state"] not in ("queued", "running"):
                        return
                refusal = ServiceError(
                    f"{self.url} ended the events of job {job_id[:12]} before the job did; ask again"
                )
            except httpx.HTTPError as error:
                refusal = self._unreachable(error)
            except ServiceError as error:
                refusal = error
            now = time.monotonic()
            silent_since = silent_since or now
            if last is None or 0 < refusal.status < 500 or now - silent_since > _PATIENCE_S:
                raise refusal
            time.sleep(_RETRY_S)

    def _events(self, job_id: str) -> Iterator[Json]:
        with closing(self._answer("GET", f"{API}/jobs/{job_id}/events", stream=True)) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def job(self, job_id: str) -> Json:
        """A job."""
        return self._call("GET", f"/jobs/{job_id}")

    def cancel(self, job_id: str) -> Json:
        """End a job."""
        return self._call("POST", f"/jobs/{job_id}/cancel")

    def delete_supernet(self, supernet: str) -> None:
        """Forget a supernet (by name or id) and its files; its subnets stay."""
        self._call("DELETE", f"/supernets/{supernet}")

    def list_supernets(self) -> Iterator[Json]:
        """All supernets, newest first."""
        return self._listed("/supernets")

    def space(self, supernet: str) -> Json:
        """The elastic dimensions of a supernet."""
        return self._call("GET", f"/supernets/{supernet}/space")

    def list_jobs(self, **filters: str) -> Iterator[Json]:
        """Jobs, newest first; `state` leaves out the others."""
        return self._listed("/jobs", **filters)

    def list_subnets(self, **filters: str | float) -> Iterator[Json]:
        """All subnets that pass the filters, such as ``**{"macs.lte": 3e6, "sort": "-accuracy"}``, without cards."""
        return self._listed("/subnets", **filters)

    def subnet(self, subnet_id: str) -> Json:
        """A subnet, with its card."""
        return self._call("GET", f"/subnets/{subnet_id}")

    def front(
        self, supernet: str, *, device: str | None = None, metric: str | None = None, wait_s: float = 600.0
    ) -> Json:
        """The front of a supernet's predicted accuracy against a cost; `points` are its subnets, best first.

        Args:
            supernet: its name or id.
            device: whose latency it is about; None: a cost that depends on no device.
            metric: such as ``macs``; None: latency on the device, or MACs without one.
            wait_s: seconds to wait for the job that searches it.

        Raises:
            ServiceError: refused, the job failed, it took longer, or the front is not there although it succeeded.
        """
        chosen = {"supernet": supernet, "device": device, "metric": metric}
        params = {name: value for name, value in chosen.items() if value is not None}
        deadline = time.monotonic() + wait_s
        while True:
            left_s = max(deadline - time.monotonic(), 0.0)
            headers = {"Prefer": f"wait={min(math.ceil(left_s), 20)}"}
            response = self._send("GET", "/pareto-fronts", params=params, headers=headers, busy_s=left_s)
            found: Json = response.json()
            if found["points"] is not None:
                return found
            job = found["job"]
            if job["state"] in ("failed", "cancelled"):
                raise ServiceError((job["error"] or {}).get("message", f"job {job['id'][:12]} was {job['state']}"))
            if job["state"] == "succeeded":
                raise ServiceError(f"job {job['id'][:12]} succeeded, and its front is not there; ask again")
            pause_s = _pause_s(response)
            if time.monotonic() + pause_s > deadline:
                raise ServiceError(f"the front was not there after {wait_s:g} s; ask again later")
            time.sleep(pause_s)

    def version(self) -> Json:
        """Name and version of the service."""
        try:
            return dict(self._http.get("/version").raise_for_status().json())
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError(f"no service of ours answers at {self.url}: {error}; check the address") from error

    def download(self, subnet_id: str, folder: str | Path) -> list[Path]:
        """Write a subnet's files into `folder`, each whole and checked against its digest, or not at all.

        Raises:
            ServiceError: no such subnet, or the connection broke.
            CheckpointError: a file was altered on its way.
            StorageError: the folder cannot be written.
        """
        if not is_digest(subnet_id):
            raise ServiceError(f"{subnet_id!r} is no subnet's id; allowed: 64 hexadecimal digits; see list_subnets")
        paths = []
        for file in self._call("GET", f"/subnets/{subnet_id}")["files"]:
            path = Path(folder) / Path(file["name"]).name
            with atomic_path(path) as temporary:
                self._fetch(file["url"], temporary)
                if sha256_file(temporary) != file["sha256"]:
                    raise CheckpointError(f"{str(path)!r} was altered on its way; download it again")
            paths.append(path)
        return paths

    def _listed(self, path: str, **filters: str | float) -> Iterator[Json]:
        cursor: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={**filters, **cursor})
            yield from page["items"]
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def _fetch(self, url: str, path: Path) -> None:
        with closing(self._answer("GET", url, stream=True)) as response, path.open("wb") as file:
            try:
                for chunk in response.iter_bytes():
                    file.write(chunk)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error

    def _call(self, method: str, path: str, **options: Any) -> Json:
        response = self._send(method, path, **options)
        result: Json = response.json() if response.content else {}
        return result

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._answer(method, f"{API}{path}", **options)

    def _answer(
        self, method: str, url: str, *, stream: bool = False, busy_s: float = math.inf, **options: Any
    ) -> httpx.Response:
        """A good answer; what a busy service refuses is sent again. A body that is a file is sent from its start."""
        deadline = time.monotonic() + min(self._busy_s, busy_s)
        body = options.get("content")
        while True:
            try:
                if isinstance(body, IOBase):
                    body.seek(0)
                response = self._http.send(self._http.build_request(method, url, **options), stream=stream)
                if not response.is_error:
                    return response
                response.read()
            except httpx.HTTPError as error:
                raise self._unreachable(error) from error
            pause_s = _pause_s(response)
            if response.status_code != 429 or time.monotonic() + pause_s > deadline:
                raise _refusal(response)
            time.sleep(pause_s)

    def _unreachable(self, error: httpx.HTTPError) -> ServiceError:
        return ServiceError(
            f"no answer from {self.url}: {str(error) or type(error).__name__}; check the address,"
            " or start it with: onceforall serve"
        )


def _read(path: Path, device: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TableError(
            f"cannot read latency table {str(path)!r}: {error.strerror}; check the path, or measure one with:"
            f" onceforall profile RUN_FOLDER --device {device} --out FILE"
        ) from None


def _pause_s(response: httpx.Response) -> float:
    """Seconds after which the service wants to be asked again."""
    try:
        return max(float(response.headers["Retry-After"]), _RETRY_S)
    except (KeyError, ValueError):  # none, or a date
        return _RETRY_S


def _refusal(response: httpx.Response) -> ServiceError:
    try:
        problem = response.json()
        message = "; ".join(f"{fault['where']}: {fault['message']}" for fault in problem.get("faults", []))
        return ServiceError(message or problem["detail"], response.status_code, problem)
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServiceError(
            f"{response.request.url} answered {response.status_code} without a reason", response.status_code
        )
