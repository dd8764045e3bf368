"""Stored files as answers: strong ETag, 304, ranges, HEAD."""

from __future__ import annotations

import base64
import re

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from service.api.problems import problem
from service.domain import StoredFile
from service.storage.artifacts import ArtifactStore


def file_response(request: Request, artifacts: ArtifactStore, file: StoredFile, media_type: str) -> Response:
    """Answer GET or HEAD with a stored file. The ETag is the file's SHA-256, so a copy can be checked with it."""
    etag = f'"{file.sha256}"'
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f'attachment; filename="{file.name}"',
        "Accept-Ranges": "bytes",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, file.size_bytes, 200
    wanted = request.headers.get("range")
    if wanted is not None and request.headers.get("if-range", etag) == etag:
        span = _span(wanted, file.size_bytes)
        if span is not None and span[0] >= span[1]:
            detail = f"range {wanted[:80]!r} lies outside of the file's {file.size_bytes} bytes"
            return problem(416, "range", detail, headers={"Content-Range": f"bytes */{file.size_bytes}"})
        if span is not None:
            (start, end), status = span, 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(
        artifacts.chunks(file.sha256, start=start, end=end), status, headers=headers, media_type=media_type
    )


def _matches(header: str | None, etag: str) -> bool:
    """If-None-Match compares weakly (RFC 9110, section 13.1.2)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))


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
