"""The artefact store: files named by the digest of their content, written once, never changed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from service.domain import StoredFile, is_digest
from service.errors import BackendError, DamagedError
from supernet.errors import ConfigError, OnceForAllError, writing
from supernet.files import sha256_file

if TYPE_CHECKING:
    from obstore import ObjectMeta

CHUNK = 1 << 20


@dataclass(frozen=True)
class StoredEntry:
    """A file as the store lists it.

    Attributes:
        sha256: its name.
        size_bytes: its length.
        modified: when it was written, with a time zone.
    """

    sha256: str
    size_bytes: int
    modified: datetime


class ArtifactStore(ABC):
    """Files by the SHA-256 of their content. Keys are made from digests only, never from anything a user wrote."""

    @abstractmethod
    def put_file(self, path: Path, *, name: str) -> StoredFile:
        """Store the content of a file that nobody writes any more; storing the same content twice is one file.

        What is there under its name is read and, where it was altered, replaced.

        Raises:
            StorageError: the disk is full or the store cannot be written.
        """

    @abstractmethod
    def put_bytes(self, data: bytes, *, name: str) -> StoredFile:
        """`put_file` for content that is in memory."""

    @abstractmethod
    def chunks(self, sha256: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to `end` (not included), in pieces.

        Raises:
            DamagedError: no such file.
            StorageError: the store cannot be reached.
        """

    @abstractmethod
    def has(self, sha256: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def size_bytes(self, sha256: str) -> int | None:
        """Length of a file; None where there is no such file."""

    @abstractmethod
    def entries(self) -> Iterator[StoredEntry]:
        """All files, in no order."""

    @abstractmethod
    def remove_unfinished(self, before: datetime, *, dry_run: bool = False) -> int:
        """Remove what writers that were killed left half written, last touched before a moment.

        Args:
            before: with a time zone.
            dry_run: whether to count only.

        Returns:
            Number of temporary files. A bucket shows none: let a rule of its own end unfinished uploads there.
        """

    @abstractmethod
    def fingerprint(self, sha256: str) -> str:
        """What changes when somebody writes the file again (on a disk: inode, time of the change, size), not a digest.

        Raises:
            DamagedError: no such file.
        """

    @abstractmethod
    def digests(self) -> Iterator[str]:
        """Digests of all files, in no order."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Remove a file; nothing happens when it is not there."""

    @abstractmethod
    def check(self) -> None:
        """Write a small file beside the stored ones, and remove it again.

        Raises:
            StorageError: the store cannot be reached or written.
        """

    def is_whole(self, sha256: str) -> bool:
        """Whether the content is what its name says; so is a file that is not there any more."""
        hasher = hashlib.sha256()
        try:
            for chunk in self.chunks(sha256):
                hasher.update(chunk)
        except OnceForAllError:
            if self.has(sha256):
                raise
            return True
        return hasher.hexdigest() == sha256

    def read(self, sha256: str) -> bytes:
        """The whole content.

        Raises:
            DamagedError: no such file, or its content has been altered.
        """
        content = b"".join(self.chunks(sha256))
        _check(sha256, hashlib.sha256(content).hexdigest())
        return content

    def copy_to(self, sha256: str, target: Path) -> None:
        """Write the content to `target` and check it against the digest.

        Raises:
            DamagedError: no such file, or its content has been altered.
            StorageError: `target` cannot be written.
        """
        hasher = hashlib.sha256()
        with writing(target), target.open("wb") as file:
            for chunk in self.chunks(sha256):
                hasher.update(chunk)
                file.write(chunk)
        _check(sha256, hasher.hexdigest())


class ObjectArtifacts(ArtifactStore):
    """Artefacts in a local folder, or in a bucket of an S3-compatible server.

    Args:
        store: obstore's.
    """

    def __init__(self, store: LocalStore | S3Store) -> None:
        self._store = store

    def put_file(self, path: Path, *, name: str) -> StoredFile:
        """See `ArtifactStore.put_file`."""
        return self._put(path, stored_file(path, name=name))

    def put_bytes(self, data: bytes, *, name: str) -> StoredFile:
        """See `ArtifactStore.put_bytes`."""
        return self._put(data, StoredFile(name, hashlib.sha256(data).hexdigest(), len(data)))

    def has(self, sha256: str) -> bool:
        """See `ArtifactStore.has`."""
        return self.size_bytes(sha256) is not None

    def size_bytes(self, sha256: str) -> int | None:
        """See `ArtifactStore.size_bytes`."""
        meta = self._head(sha256)
        return None if meta is None else meta["size"]

    def chunks(self, sha256: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ArtifactStore.chunks`."""
        size = self.size_bytes(sha256)
        if size is None:
            raise _gone(sha256)
        stop = size if end is None else min(end, size)
        while start < stop:
            here = min(start + CHUNK, stop)
            yield self._range(sha256, start, here)
            start = here

    def _range(self, sha256: str, start: int, end: int) -> bytes:
        try:
            return bytes(obstore.get_range(self._store, _key(sha256), start=start, end=end))
        except FileNotFoundError:  # it was deleted since somebody looked
            raise _gone(sha256) from None
        except (BaseError, OSError) as error:
            raise self._refusal(f"cannot read the stored file {sha256}", error) from error

    def fingerprint(self, sha256: str) -> str:
        """See `ArtifactStore.fingerprint`."""
        meta = self._head(sha256)
        if meta is None:
            raise _gone(sha256)
        return f"{meta['e_tag']} {meta['last_modified']} {meta['size']}"

    def delete(self, sha256: str) -> None:
        """See `ArtifactStore.delete`."""
        try:
            obstore.delete(self._store, _key(sha256))
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise self._refusal(f"cannot delete the stored file {sha256}", error) from error

    def check(self) -> None:
        """See `ArtifactStore.check`."""
        key = f"probes/{socket.gethostname()[:40]}-{os.getpid()}"  # one to a process, so that few are ever left behind
        try:
            obstore.put(self._store, key, b"probe", mode="overwrite")
            obstore.delete(self._store, key)
        except (BaseError, OSError) as error:
            step = "free some space, or see to its address and keys"
            raise self._refusal("cannot write to the artefact store", error, step) from error

    def digests(self) -> Iterator[str]:
        """See `ArtifactStore.digests`."""
        return (entry.sha256 for entry in self.entries())

    def entries(self) -> Iterator[StoredEntry]:
        """See `ArtifactStore.entries`."""
        try:
            for page in obstore.list(self._store, prefix="sha256"):
                for item in page:
                    name = item["path"].rpartition("/")[2]
                    if is_digest(name):
                        yield StoredEntry(name, item["size"], item["last_modified"])
        except (BaseError, OSError) as error:
            raise self._refusal("cannot list the artefact store", error) from error

    def remove_unfinished(self, before: datetime, *, dry_run: bool = False) -> int:
        """See `ArtifactStore.remove_unfinished`."""
        if not isinstance(self._store, LocalStore) or self._store.prefix is None:
            return 0
        count = 0
        for path in Path(self._store.prefix).rglob("*#*"):  # obstore writes to such a name, then renames
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime < before.timestamp():
                    count += 1
                    if not dry_run:
                        path.unlink()
        return count

    def _head(self, sha256: str) -> ObjectMeta | None:
        try:
            return obstore.head(self._store, _key(sha256))
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._refusal("cannot read the artefact store", error) from error

    def _put(self, content: Path | bytes, file: StoredFile) -> StoredFile:
        # What is there already is the same, unless a disk or somebody altered it: reading it costs no more than the
        # upload. `create` (a local hard link) keeps two writers from mixing their bytes; folders and buckets replace a
        # file in one step.
        known = self.size_bytes(file.sha256)
        if known == file.size_bytes and self.is_whole(file.sha256) and self.has(file.sha256):
            return file
        heals = known is not None
        mode: Literal["create", "overwrite"] = (
            "create" if isinstance(self._store, LocalStore) and not heals else "overwrite"
        )
        try:
            obstore.put(self._store, _key(file.sha256), content, mode=mode)
        except AlreadyExistsError:
            pass
        except (BaseError, OSError) as error:
            what = f"cannot store {file.name!r} ({file.size_bytes} bytes)"
            raise self._refusal(what, error, "free some space, then try again") from error
        return file

    def _refusal(self, what: str, error: Exception, step: str = "try again") -> BackendError:
        reason = str(error).splitlines()[0]  # it names hosts and folders
        return BackendError(f"{what}: {reason}; {step}", f"{what}; {step}; the operator finds the reason in the log")


def open_artifacts(url: str) -> ObjectArtifacts:
    """The artefact store at a URL.

    Args:
        url: ``file:///absolute/folder`` (made when absent), or ``s3://bucket/prefix``: then the server, region and keys
            come from the usual AWS_* variables.

    Raises:
        ConfigError: another kind of URL.
        StorageError: the folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        return ObjectArtifacts(S3Store(parts.netloc, prefix=parts.path.strip("/") or None))
    if parts.scheme != "file" or parts.netloc:
        raise ConfigError(
            f"artefact store {url!r} is of no known kind; allowed: file:///absolute/folder, s3://bucket/prefix"
        )
    folder = Path(unquote(parts.path))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return ObjectArtifacts(LocalStore(folder))


def stored_file(path: Path, *, name: str) -> StoredFile:
    """What `put_file` would return."""
    return StoredFile(name, sha256_file(path), path.stat().st_size)


def _check(sha256: str, found: str) -> None:
    if found != sha256:
        raise DamagedError(
            f"the stored file {sha256} has SHA-256 {found}: it was altered on the disk; bring it back with:"
            " onceforall storage repair BACKUP, or register the run again"
        )


def _gone(sha256: str) -> DamagedError:
    return DamagedError(
        f"the stored file {sha256} is gone from the artefact store; bring it back with: onceforall storage repair"
        " BACKUP, or register the run again"
    )


def _key(sha256: str) -> str:
    if not is_digest(sha256):
        raise ValueError(f"not a SHA-256 digest: {sha256!r}")
    return f"sha256/{sha256[:2]}/{sha256}"
