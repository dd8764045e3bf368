"""Stored files as answers: strong ETag, 304, one range, HEAD; nothing that the digest does not vouch for.

A file on a disk can rot or be written over. It is read to the end and compared with its digest before its first byte is
sent, again whenever somebody writes it, and once more while it is sent as a whole: its last piece is held back until
the digest is right. A client gets a problem document, or a connection that breaks, never wrong bytes that look well.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator

import structlog
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from service.api.problems import problem
from service.domain import StoredFile
from service.errors import DamagedError
from service.storage.artifacts import ArtifactStore

_log = structlog.get_logger(__name__)
BINARY = "application/octet-stream"
"""The media type of files that come by ranges; documents come whole, since a piece of JSON is no JSON."""
_AT_ONCE_BYTES = 2 << 20
"""Files up to this size are read whole, checked, and sent as one piece."""


class Checked:
    """Files that were found to be what their digests say, by fingerprint. Safe to share between threads.

    Args:
        most: number of files that are remembered.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._fingerprints: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, artifacts: ArtifactStore, sha256: str) -> None:
        """Read a file unless it was read since it was last written.

        Raises:
            DamagedError: it is gone, or was altered.
        """
        fingerprint = artifacts.fingerprint(sha256)
        with self._lock:
            if self._fingerprints.get(sha256) == fingerprint:
                return
        for _ in vouched(artifacts, sha256):
            pass
        with self._lock:
            self._fingerprints[sha256] = fingerprint
            while len(self._fingerprints) > self._most:
                self._fingerprints.popitem(last=False)

    def forget(self, sha256: str) -> None:
        """Read the file the next time."""
        with self._lock:
            self._fingerprints.pop(sha256, None)


def file_response(
    request: Request, artifacts: ArtifactStore, file: StoredFile, media_type: str, checked: Checked
) -> Response:
    """Answer GET or HEAD with a stored file. The ETag is the file's SHA-256, so a copy can be checked with it.

    Of several ranges, and of a document, none is taken, and the whole file sent, as RFC 9110 (section 14.2) allows.

    Args:
        request: with its conditions.
        artifacts: where the file is.
        file: the file.
        media_type: of its content.
        checked: files that were found sound.
    """
    headers = representation_headers(file.sha256) | {
        "Content-Disposition": f'attachment; filename="{file.name}"',
        "Accept-Ranges": "bytes" if media_type == BINARY else "none",
    }
    if matches(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, file.size_bytes, 200
    wanted = request.headers.get("range") if media_type == BINARY else None
    # If-Range compares strongly (RFC 9110, section 13.1.5): a weak tag or a date never matches, and the whole is sent
    if wanted is not None and request.headers.get("if-range", headers["ETag"]) == headers["ETag"]:
        span = _span(wanted, file.size_bytes)
        if span is not None and span[0] >= span[1]:
            detail = f"range {wanted[:80]!r} lies outside of the file's {file.size_bytes} bytes"
            return problem(416, "range", detail, headers={"Content-Range": f"bytes */{file.size_bytes}"})
        if span is not None:
            (start, end), status = span, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    try:
        if request.method == "HEAD":
            checked.check(artifacts, file.sha256)
            headers["Content-Length"] = str(end - start)
            return Response(status_code=status, headers=headers, media_type=media_type)
        if status == 200 and file.size_bytes <= _AT_ONCE_BYTES:
            return Response(b"".join(vouched(artifacts, file.sha256)), headers=headers, media_type=media_type)
        checked.check(artifacts, file.sha256)
    except DamagedError as error:
        _log.error("artefact_damaged", sha256=file.sha256, error=str(error))
        raise
    headers["Content-Length"] = str(end - start)
    if status == 200:
        chunks = _remembered(artifacts, file.sha256, checked)
    else:
        chunks = artifacts.chunks(file.sha256, start=start, end=end)
    return StreamingResponse(chunks, status, headers=headers, media_type=media_type)


def representation_headers(sha256: str) -> dict[str, str]:
    """ETag, Repr-Digest and Cache-Control of content that never changes under its address."""
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    return {
        "ETag": f'"{sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private, max-age=31536000, immutable",
    }


def matches(header: str | None, etag: str) -> bool:
    """If-None-Match compares weakly (RFC 9110, section 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))


def vouched(artifacts: ArtifactStore, sha256: str) -> Iterator[bytes]:
    """A file's pieces; the last one only when all of them have the digest.

    Raises:
        DamagedError: the file is gone, or was altered.
    """
    hasher = hashlib.sha256()
    held = None
    for chunk in artifacts.chunks(sha256):
        hasher.update(chunk)
        if held is not None:
            yield held
        held = chunk
    if hasher.hexdigest() != sha256:
        raise DamagedError(
            f"the stored file {sha256} has SHA-256 {hasher.hexdigest()}: it was altered in the artefact store; restore"
            " it from a copy"
        )
    if held is not None:
        yield held


def _remembered(artifacts: ArtifactStore, sha256: str, checked: Checked) -> Iterator[bytes]:
    try:
        yield from vouched(artifacts, sha256)
    except DamagedError:  # the answer has begun: all that is left is to break it off, and to know better next time
        checked.forget(sha256)
        raise


def _span(header: str, size: int) -> tuple[int, int] | None:
    """One range as (start, end not included); None where the header is to be ignored (RFC 9110, section 14.2)."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return max(size - int(match[2]), 0), size
    end = size if match[2] == "" else min(int(match[2]) + 1, size)
    if match[2] != "" and int(match[2]) < int(match[1]):
        return None
    return int(match[1]), end
