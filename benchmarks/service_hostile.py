"""Is every hostile input refused by a 4xx within 2 s and in less than 300 MB more memory?

Command: python -m benchmarks.service_hostile   (about 2 minutes)
Result:  benchmarks/results/service_hostile.json, printed as a table.

One service in a process of its own on a new temporary folder; attacks one after another. For each: the status, the
seconds from the last byte that was needed to the answer (of many requests, to the slowest one), and by how much the
resident memory of the service and its child processes grew at most (sampled every 5 ms; the job host, which does what
earlier requests asked for, is left out). A connection that the service closes without an answer has the status "hung
up", which only those attacks may have that go on sending after they were refused: the service closes then, and an
answer that it sent may be lost with the connection. Slow clients are given their time first (`body_timeout_s` is 1 s
here, 10 s by default; headers have 10 s): `seconds` counts from there. After each attack /healthz must answer within a
second.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import selectors
import shutil
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx

from benchmarks.service_process import Memory, Service, machine, make_run, make_table, service
from service.client import Client
from service.protocol import HEAD_TIMEOUT_S
from service.runs import PARTS
from supernet.files import write_json

RESULT = Path(__file__).parent / "results" / "service_hostile.json"
BODY_S = 1.0
MOST_S, MOST_MB = 2.0, 300.0
JSON = {"Content-Type": "application/json"}
HUNG_UP = "hung up"
Status = int | str
Found = tuple[list[Status], float]
"""Statuses of the answers (`HUNG_UP`: there was none), and seconds to the slowest."""


@dataclass(frozen=True)
class Target:
    """What is attacked.

    Attributes:
        service: the service.
        http: a client of it.
        run: a sound training run, to be spoilt.
        folder: for files.
    """

    service: Service
    http: httpx.Client
    run: Path
    folder: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="part of the attacks' names")
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        here = stack.enter_context(service(folder / "data", body_timeout_s=BODY_S, max_active_jobs=8))
        http = stack.enter_context(httpx.Client(base_url=here.url, timeout=120))
        target = Target(here, http, make_run(folder / "run"), folder)
        with Client(here.url) as client:
            client.register_run(target.run, "noise")
            client.create_device("bench")
        for name, attack in ATTACKS.items():
            if chosen.only not in name:
                continue
            with Memory(here.pid) as memory:
                statuses, seconds = attack(target)
                time.sleep(0.05)
            begin = time.monotonic()
            well = http.get("/healthz").status_code == 200 and time.monotonic() - begin < 1
            allowed = {*ALLOWED.get(name, range(400, 500)), *([HUNG_UP] if name in MAY_BE_CUT else ())}
            refused = bool(statuses) and allowed.issuperset(statuses)
            rows[name] = {
                "statuses": sorted(set(statuses), key=str),
                "seconds": round(seconds, 3),
                "memory_mb": round(memory.grown / 1e6, 1),
                "well_afterwards": well,
                "held": refused and seconds <= MOST_S and memory.grown / 1e6 <= MOST_MB and well,
            }
            print(
                f"{name:52} {rows[name]['statuses']!s:20} {seconds:7.2f} s {memory.grown / 1e6:7.1f} MB"
                f"  {'held' if rows[name]['held'] else 'NOT HELD'}",
                flush=True,
            )
    result = {"machine": machine(), "bars": {"seconds": MOST_S, "memory_mb": MOST_MB}, "attacks": rows}
    write_json(chosen.out, result)
    failed = [name for name, row in rows.items() if not row["held"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} held" + (f"; not: {', '.join(failed)}" if failed else ""))
    sys.exit(bool(failed))


# -- bodies -----------------------------------------------------------------------------------------------------------


def timed(send: Callable[[], httpx.Response]) -> Found:
    begin = time.monotonic()
    status = send().status_code
    return [status], time.monotonic() - begin


def table(content: bytes, kind: str) -> Callable[[Target], Found]:
    def attack(target: Target) -> Found:
        headers = {"Content-Type": kind}
        return timed(lambda: target.http.post("/api/v1/devices/bench/latency-tables", content=content, headers=headers))

    return attack


def asked(content: bytes) -> Callable[[Target], Found]:
    return lambda target: timed(lambda: target.http.post("/api/v1/subnet-requests", content=content, headers=JSON))


def limit(value: str) -> bytes:
    return b'{"supernet": "noise", "constraints": [{"metric": "macs", "max": %s}]}' % value.encode()


def yaml_bomb(width: int = 10, depth: int = 9) -> bytes:
    lines = ["a0: &a0 [x]"] + [
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, depth)
    ]
    return "\n".join(lines).encode()


def changed_table(**changes: Any) -> bytes:
    return json.dumps(json.loads(make_table().render("json")) | changes).encode()


def endless(target: Target) -> Found:
    def body() -> Iterator[bytes]:
        for _ in range(64 << 10):
            yield b" " * 65536  # 4 GiB, if it were read

    begin = time.monotonic()
    status: Status
    try:
        status = target.http.post("/api/v1/subnet-requests", content=body(), headers=JSON).status_code
    except httpx.HTTPError:
        status = HUNG_UP
    return [status], time.monotonic() - begin


def compressed(target: Target) -> Found:
    content = gzip.compress(b" " * (64 << 20))
    headers = JSON | {"Content-Encoding": "gzip"}
    return timed(lambda: target.http.post("/api/v1/subnet-requests", content=content, headers=headers))


# -- runs -------------------------------------------------------------------------------------------------------------


def run(spoil: Callable[[Path], None]) -> Callable[[Target], Found]:
    """Upload a run that `spoil` has changed; its manifest agrees, as somebody with bad intentions would see to."""

    def attack(target: Target) -> Found:
        folder = Path(shutil.copytree(target.run, target.folder / "spoilt"))
        try:
            spoil(folder)
            with ExitStack() as stack:
                files = {part: stack.enter_context((folder / path).open("rb")) for part, path in PARTS.items()}
                return timed(lambda: target.http.post("/api/v1/supernets", data={"name": "spoilt"}, files=files))
        finally:
            shutil.rmtree(folder)

    return attack


def weights(content: Callable[[bytes], bytes]) -> Callable[[Target], Found]:
    def spoil(folder: Path) -> None:
        path = folder / PARTS["weights"]
        path.write_bytes(content(path.read_bytes()))
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["weights"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return run(spoil)


def tensor_file(header: dict[str, Any] | bytes, data: bytes = b"") -> Callable[[bytes], bytes]:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda _old: struct.pack("<Q", len(text)) + text + data


def renamed(name: str) -> Callable[[bytes], bytes]:
    def change(old: bytes) -> bytes:
        (length,) = struct.unpack("<Q", old[:8])
        header = json.loads(old[8 : 8 + length])
        first = next(key for key in header if key != "__metadata__")
        text = json.dumps({name if key == first else key: value for key, value in header.items()}).encode()
        return struct.pack("<Q", len(text)) + text + old[8 + length :]

    return change


def not_a_number(old: bytes) -> bytes:
    return old[:-4] + b"\x00\x00\xc0\x7f"


def pickled(_old: bytes) -> bytes:
    import torch

    with tempfile.NamedTemporaryFile() as file:
        torch.save({"x": torch.zeros(1).expand(1 << 34)}, file.name)  # 64 GiB by its header, 1 kB by its bytes
        return Path(file.name).read_bytes()


def manifest(text: str) -> Callable[[Target], Found]:
    return run(lambda folder: (folder / "manifest.json").write_text(text) and None)


def manifest_with(**changes: Any) -> Callable[[Target], Found]:
    def spoil(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return run(spoil)


def many_parts(target: Target) -> Found:
    files = [(f"part{number}", (f"../../{number}", b"x")) for number in range(5000)]
    return timed(lambda: target.http.post("/api/v1/supernets", files=files))


def long_part_head(target: Target) -> Found:
    content = b'--x\r\nContent-Disposition: form-data; name="' + b"n" * (8 << 20) + b'"\r\n\r\nx\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return timed(lambda: target.http.post("/api/v1/supernets", content=content, headers=headers))


# -- connections ------------------------------------------------------------------------------------------------------


def connect(target: Target) -> socket.socket:
    host, port = target.service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def hear(connection: socket.socket) -> Status:
    """The status of the answer."""
    received = b""
    with suppress(OSError):
        while piece := connection.recv(65536):
            received += piece
    return status_in(received)


def status_in(received: bytes) -> Status:
    return int(received.split()[1]) if received.startswith(b"HTTP/1.1 ") else HUNG_UP


def hear_all(sent: dict[socket.socket, float]) -> Found:
    """The statuses of many answers, each connection with the time at which its request was sent."""
    received = dict.fromkeys(sent, b"")
    slowest = 0.0
    with selectors.DefaultSelector() as selector:
        for connection in sent:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(timeout=60):
                connection = cast(socket.socket, key.fileobj)
                try:
                    piece = connection.recv(65536)
                except OSError:
                    piece = b""
                received[connection] += piece
                if not piece:
                    selector.unregister(connection)
                    slowest = max(slowest, time.monotonic() - sent[connection])
    return [status_in(answer) for answer in received.values()], slowest


def raw(content: bytes, *, patience_s: float = 0.0) -> Callable[[Target], Found]:
    def attack(target: Target) -> Found:
        with closing(connect(target)) as connection:
            begin = time.monotonic()
            with suppress(OSError):
                connection.sendall(content)
            status = hear(connection)
            return [status], time.monotonic() - begin - patience_s

    return attack


def poured(start: bytes, piece: bytes, size: int) -> Callable[[Target], Found]:
    """`size` bytes of `piece` after `start`, or as many as the service takes."""
    return raw(start + piece * (size // len(piece)))


def posted(*lines: str) -> bytes:
    first = "POST /api/v1/devices HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"
    return "\r\n".join([*first, *lines, "", ""]).encode()


def many_slow(target: Target) -> Found:
    """A hundred clients whose bodies never come, and one that behaves."""
    held = [connect(target) for _ in range(100)]
    try:
        for connection in held:
            connection.sendall(posted("Content-Length: 100") + b"{")
        begin = time.monotonic()
        assert target.http.get("/api/v1/devices").status_code == 200
        served = time.monotonic() - begin
        statuses = [hear(connection) for connection in held]
        return statuses, max(served, time.monotonic() - begin - BODY_S)
    finally:
        for connection in held:
            connection.close()


def request_flood(target: Target) -> Found:
    """A thousand connections at once that ask for what is expensive."""
    held = [connect(target) for _ in range(1000)]
    try:
        content = limit("3000000")
        lines = "POST /api/v1/subnet-requests HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"
        text = "\r\n".join([*lines, f"Content-Length: {len(content)}", "Connection: close", "", ""]).encode() + content
        sent = {}
        for connection in held:
            connection.sendall(text)
            sent[connection] = time.monotonic()
        return hear_all(sent)
    finally:
        for connection in held:
            connection.close()


def job_flood(target: Target) -> Found:
    """More jobs than may wait; those that are refused count, and the slowest of all answers."""
    refused: list[Status] = []
    slowest = 0.0
    jobs = []
    for number in range(16):
        begin = time.monotonic()
        answer = target.http.post("/api/v1/subnet-requests", content=limit(str(4e6 + number)), headers=JSON)
        slowest = max(slowest, time.monotonic() - begin)
        if answer.status_code == 202:
            jobs.append(answer.json()["id"])
        else:
            refused.append(answer.status_code)
    for job in jobs:
        target.http.post(f"/api/v1/jobs/{job}/cancel")
    return refused, slowest


def path(text: str) -> Callable[[Target], Found]:
    return raw(f"GET {text} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())


HUGE = {"x": {"dtype": "F32", "shape": [1 << 34], "data_offsets": [0, 1 << 36]}}
MANY = {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(200_000)}
ATTACKS: dict[str, Callable[[Target], Found]] = {
    "limit: NaN": asked(limit("NaN")),
    "limit: 1e400": asked(limit("1e400")),
    "limit: 100,000 digits": asked(limit("9" * 100_000)),
    "JSON: 100,000 nested lists": asked(b"[" * 100_000),
    "JSON: lone surrogate": asked(b'{"supernet": "\\ud800", "constraints": [{"metric": "macs", "max": 3}]}'),
    "JSON: 10,000 limits": asked(b'{"supernet": "noise", "constraints": [' + b'{"a":1},' * 10_000 + b"{}]}"),
    "JSON: 16 limits, 100 kB of unknown names": asked(limit('3, "' + "x" * 100_000 + '": 1')),
    "body: 4 GiB, chunked": endless,
    "body: 4 GiB declared": raw(posted(f"Content-Length: {4 << 30}")),
    "body: gzip of 64 MiB": compressed,
    "body: declared twice, differently": raw(posted("Content-Length: 5", "Content-Length: 6") + b"{}   "),
    "YAML: alias bomb": table(yaml_bomb(), "application/yaml"),
    "YAML: 100,000 nested lists": table(b"[" * 100_000, "application/yaml"),
    "YAML: a key twice": table(b"format: a\nformat: b\n", "application/yaml"),
    "YAML: a number of 500,000 digits": table(b"version: " + b"9" * 500_000, "application/yaml"),
    "YAML: a python object": table(b"!!python/object/apply:os.system ['true']", "application/yaml"),
    "YAML: recursive": table(b"&a [*a]", "application/yaml"),
    "YAML: 1 MiB of rows": table(b"rows:\n" + b"- {layer: x, median_ms: 1}\n" * 38_000, "application/yaml"),
    "YAML: over 1 MiB": table(b"a" * ((1 << 20) + 1), "application/yaml"),
    "CSV: a million lines": table(b"a,1\n" * 1_000_000, "text/csv"),
    "CSV: a million columns": table(b"," * 1_000_000, "text/csv"),
    "CSV: a cell of 4 MB": table(b'"' + b"x" * 4_000_000 + b'"', "text/csv"),
    "table: a NaN": table(changed_table(rows=[{"layer": "x", "median_ms": float("nan")}]), "application/json"),
    "table: 4 MiB of unknown rows": table(
        changed_table(rows=[{"layer": f"x{n}", "median_ms": 1.0, "spread_ms": 0.1, "count": 9} for n in range(55_000)]),
        "application/json",
    ),
    "table: 10^9 classes": table(changed_table(num_classes=10**9), "application/json"),
    "weights: 64 GiB tensor": weights(tensor_file(HUGE)),
    "weights: 200,000 tensors": weights(tensor_file(MANY)),
    "weights: header of 64 MiB": weights(tensor_file(b" " * (64 << 20))),
    "weights: header of 2^63 bytes": weights(lambda _old: struct.pack("<Q", 1 << 63) + b"{}"),
    "weights: header of nested lists": weights(tensor_file(b"[" * 1_000_000)),
    "weights: name ../../etc/x": weights(renamed("../../etc/x")),
    "weights: NaN": weights(not_a_number),
    "weights: a pickle of 64 GiB": weights(pickled),
    "manifest: 10^9 classes": manifest_with(num_classes=10**9),
    "manifest: 100,000 classes": manifest_with(num_classes=100_000),
    "manifest: NaN": manifest('{"a": NaN}'),
    "manifest: 500,000 nested lists": manifest("[" * 500_000),
    "manifest: 2 MiB": manifest(" " * (2 << 20)),
    "multipart: 5,000 files called ../../n": many_parts,
    "multipart: a name of 8 MiB": long_part_head,
    "path: ../../": path("/static/../../../etc/passwd"),
    "path: %2e%2e": path("/static/%2e%2e/%2e%2e/settings.py"),
    "path: %2f in an id": path("/api/v1/subnets/..%2f..%2fservice.sqlite/download"),
    "path: 60 kB": path("/api/v1/devices/" + "a" * 60_000),
    "query: cursor that is no cursor": path("/api/v1/subnets?cursor=" + "A" * 999),
    "headers: 100 MB": poured(b"GET /healthz HTTP/1.1\r\n", b"X-A: " + b"a" * 8000 + b"\r\n", 100 << 20),
    "headers: one of 100 MB": poured(b"GET /healthz HTTP/1.1\r\nX-A: ", b"a" * 65536, 100 << 20),
    "trailers: 100 MB": poured(
        posted("Transfer-Encoding: chunked") + b"1\r\n{\r\n0\r\n", b"X-T: " + b"t" * 8000 + b"\r\n", 100 << 20
    ),
    "chunks: 100 MB of extensions": poured(
        posted("Transfer-Encoding: chunked"), b"1;" + b"e" * 8000 + b"\r\n{\r\n", 100 << 20
    ),
    "not HTTP": raw(b"\x16\x03\x01" + b"\xff" * 1000),
    "Host of another site": raw(b"GET / HTTP/1.1\r\nHost: rebound.example\r\nConnection: close\r\n\r\n"),
    "Origin of another site": raw(
        posted("Origin: https://elsewhere.example", "Content-Length: 2", "Connection: close") + b"{}"
    ),
    "slow: headers that never end": raw(b"GET / HTTP/1.1\r\nHost:", patience_s=HEAD_TIMEOUT_S),
    "slow: a body that never comes": raw(posted("Content-Length: 100") + b"{", patience_s=BODY_S),
    "slow: a hundred of them": many_slow,
    "flood: more jobs than may wait": job_flood,
    "flood: a thousand requests at once": request_flood,
}
ALLOWED = {"flood: a thousand requests at once": (200, 202, 429)}
"""Attacks of which some requests are good ones: what may be answered."""
MAY_BE_CUT = (
    "body: 4 GiB, chunked",
    "headers: 100 MB",
    "headers: one of 100 MB",
    "trailers: 100 MB",
    "chunks: 100 MB of extensions",
)
"""Attacks that go on sending after they were refused: the service closes the connection (413 and 431), and the answer
can be lost with it; trailers and extensions come when an application has the request, which is cut then."""


if __name__ == "__main__":
    main()
