from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from obstore.store import LocalStore

from service.api import downloads, problems
from service.api.downloads import Checked, file_response
from service.domain import StoredFile
from service.errors import DamagedError
from service.storage.artifacts import ObjectArtifacts

LARGE = os.urandom(downloads._AT_ONCE_BYTES + 3 * (1 << 20) + 17)
SMALL = b"a small file"


class Shelf:
    """Two stored files, and an application that sends them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.artifacts = ObjectArtifacts(LocalStore(folder))
        self.files = {name: self.artifacts.put_bytes(data, name=name) for name, data in contents().items()}
        checked = Checked(most=2)
        app = FastAPI()
        problems.install(app)

        @app.api_route("/{name}", methods=["GET", "HEAD"])
        def get(request: Request, name: str) -> Response:
            return file_response(request, self.artifacts, self.files[name], "application/octet-stream", checked)

        self.http = TestClient(app, raise_server_exceptions=False)

    def path(self, name: str) -> Path:
        sha256 = self.files[name].sha256
        return self.folder / "sha256" / sha256[:2] / sha256

    def damage(self, name: str, *, at: int) -> None:
        """Alter one byte, as a disk or a hand does: the size stays."""
        with self.path(name).open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))


def contents() -> dict[str, bytes]:
    return {"small": SMALL, "large": LARGE}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "store")
    with shelf.http:
        yield shelf


@pytest.mark.parametrize("name", contents())
def test_the_etag_and_the_digest_are_the_contents_sha256(shelf: Shelf, name: str) -> None:
    answer = shelf.http.get(f"/{name}")
    assert answer.content == contents()[name]
    digest = hashlib.sha256(answer.content).digest()
    assert answer.headers["etag"] == f'"{digest.hex()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("name", contents())
def test_ranges_are_cut_out_and_several_are_the_whole(shelf: Shelf, name: str) -> None:
    whole, size = contents()[name], len(contents()[name])
    for header, part in (("bytes=0-0", whole[:1]), ("bytes=3-", whole[3:]), ("bytes=-4", whole[-4:])):
        answer = shelf.http.get(f"/{name}", headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, part), header
    for header in ("bytes=0-1,3-4", "bytes=x", "lines=1-2", "bytes=5-2", "bytes=-"):
        answer = shelf.http.get(f"/{name}", headers={"Range": header})
        assert (answer.status_code, answer.content) == (200, whole), header
    for header in (f"bytes={size}-", "bytes=-0"):
        answer = shelf.http.get(f"/{name}", headers={"Range": header})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{size}")


def test_if_range_sends_the_whole_unless_it_is_the_strong_etag(shelf: Shelf) -> None:
    etag = shelf.http.get("/small").headers["etag"]
    assert shelf.http.get("/small", headers={"Range": "bytes=0-1", "If-Range": etag}).content == SMALL[:2]
    for other in ('"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = shelf.http.get("/small", headers={"Range": "bytes=0-1", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, SMALL), other


def test_what_a_client_has_already_is_a_304_with_head_too(shelf: Shelf) -> None:
    etag = shelf.http.get("/small").headers["etag"]
    for method in ("GET", "HEAD"):
        answer = shelf.http.request(method, "/small", headers={"If-None-Match": etag, "Range": "bytes=0-1"})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    head = shelf.http.head("/large")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(LARGE)))


@pytest.mark.parametrize("name", contents())
def test_a_file_that_was_altered_on_the_disk_is_a_500_never_wrong_bytes(shelf: Shelf, name: str) -> None:
    assert shelf.http.get(f"/{name}", headers={"Range": "bytes=0-1"}).status_code == 206
    shelf.damage(name, at=5)
    for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-1"})):
        answer = shelf.http.request(method, f"/{name}", headers=headers)
        assert answer.status_code == 500, (method, headers)
        assert answer.headers["content-type"] == "application/problem+json"
    problem = shelf.http.get(f"/{name}").json()
    assert problem["type"] == "urn:onceforall:problem:damaged"
    assert "was altered" in problem["detail"]
    shelf.damage(name, at=5)  # back again
    assert shelf.http.get(f"/{name}").content == contents()[name]


def test_a_file_that_is_cut_or_gone_is_a_500(shelf: Shelf) -> None:
    shelf.path("large").write_bytes(LARGE[:-1])
    assert shelf.http.get("/large").status_code == 500
    shelf.path("small").unlink()
    assert shelf.http.get("/small").json()["type"] == "urn:onceforall:problem:damaged"


def test_a_file_that_rots_unnoticed_breaks_the_answer_off_before_its_end(shelf: Shelf) -> None:
    """Rot changes no time stamp: the file passes for checked, and the check while it is sent must find it."""
    checked = Checked()
    file = shelf.files["large"]
    checked.check(shelf.artifacts, file.sha256)
    before = shelf.path("large").stat()
    shelf.damage("large", at=len(LARGE) - 1)
    os.utime(shelf.path("large"), ns=(before.st_atime_ns, before.st_mtime_ns))
    checked.check(shelf.artifacts, file.sha256)  # nothing tells
    sent = bytearray()
    pieces = downloads._remembered(shelf.artifacts, file.sha256, checked)
    with pytest.raises(DamagedError, match="was altered in the artefact store"):
        sent.extend(byte for piece in pieces for byte in piece)
    assert len(sent) < file.size_bytes  # so the client sees that the answer is not whole
    with pytest.raises(DamagedError):
        checked.check(shelf.artifacts, file.sha256)  # it is read again from now on


def test_a_file_is_read_again_only_after_it_was_written_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    inner = shelf.artifacts.chunks
    monkeypatch.setattr(shelf.artifacts, "chunks", lambda sha256, **span: reads.append(sha256) or inner(sha256, **span))
    checked, file = Checked(), shelf.files["small"]
    for _ in range(3):
        checked.check(shelf.artifacts, file.sha256)
    assert len(reads) == 1
    os.utime(shelf.path("small"), ns=(1, 1))
    checked.check(shelf.artifacts, file.sha256)
    assert len(reads) == 2


def test_an_empty_file_is_sent_whole(shelf: Shelf) -> None:
    shelf.files["empty"] = shelf.artifacts.put_bytes(b"", name="empty")
    answer = shelf.http.get("/empty")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert shelf.files["empty"] == StoredFile("empty", hashlib.sha256(b"").hexdigest(), 0)


def test_the_service_breaks_no_download_of_a_subnet(url: str, tmp_path: Path) -> None:
    from service.client import Client

    with Client(url) as client:
        subnet = client.request_subnet("noise", "macs<=2.9M")
        paths = client.download(subnet["id"], tmp_path)
        assert {path.name for path in paths} == {"subnet.safetensors", "config.json", "card.json"}
        weights = next(file for file in subnet["files"] if file["format"] == "safetensors")
        assert httpx.head(url + weights["url"]).headers["etag"] == f'"{weights["sha256"]}"'
