"""The artefact store: files named by the digest of their content, written once, never changed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from service.domain import StoredFile, is_digest
from supernet.errors import CheckpointError, ConfigError, StorageError, writing
from supernet.files import sha256_file

CHUNK = 1 << 20


class ArtifactStore(ABC):
    """Files by the SHA-256 of their content. Keys are made from digests only, never from anything a user wrote."""

    @abstractmethod
    def put_file(self, path: Path, *, name: str) -> StoredFile:
        """Store the content of a file that nobody writes any more; storing the same content twice is one file.

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
            CheckpointError: no such file.
        """

    @abstractmethod
    def has(self, sha256: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def digests(self) -> Iterator[str]:
        """Digests of all files, in no order."""

    @abstractmethod
    def delete(self, sha256: str) -> None:
        """Remove a file; nothing happens when it is not there."""

    def read(self, sha256: str) -> bytes:
        """The whole content."""
        return b"".join(self.chunks(sha256))

    def copy_to(self, sha256: str, target: Path) -> None:
        """Write the content to `target` and check it against the digest.

        Raises:
            CheckpointError: no such file, or its content has been altered.
            StorageError: `target` cannot be written.
        """
        hasher = hashlib.sha256()
        with writing(target), target.open("wb") as file:
            for chunk in self.chunks(sha256):
                hasher.update(chunk)
                file.write(chunk)
        if hasher.hexdigest() != sha256:
            raise CheckpointError(
                f"the stored file {sha256} has SHA-256 {hasher.hexdigest()}: it was altered on the disk; restore it"
                " from a copy, or register the run again"
            )


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
        return self._size(sha256) is not None

    def chunks(self, sha256: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ArtifactStore.chunks`."""
        size = self._size(sha256)
        if size is None:
            raise CheckpointError(f"the stored file {sha256} is gone from the artefact store; restore it from a copy")
        stop = size if end is None else min(end, size)
        while start < stop:
            here = min(start + CHUNK, stop)
            yield bytes(obstore.get_range(self._store, _key(sha256), start=start, end=here))
            start = here

    def delete(self, sha256: str) -> None:
        """See `ArtifactStore.delete`."""
        try:
            obstore.delete(self._store, _key(sha256))
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot delete the stored file {sha256}: {_first_line(error)}; try again") from error

    def digests(self) -> Iterator[str]:
        """See `ArtifactStore.digests`."""
        for page in obstore.list(self._store, prefix="sha256"):
            for item in page:
                name = item["path"].rpartition("/")[2]
                if is_digest(name):
                    yield name

    def _size(self, sha256: str) -> int | None:
        try:
            return obstore.head(self._store, _key(sha256))["size"]
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot read the artefact store: {_first_line(error)}; try again") from error

    def _put(self, content: Path | bytes, file: StoredFile) -> StoredFile:
        # A name is a digest, so what is there already is the same; asking first saves the upload, and `create` (a local
        # hard link) keeps two writers from mixing their bytes. Servers of buckets replace a file in one step.
        if self._size(file.sha256) == file.size_bytes:
            return file
        mode: Literal["create", "overwrite"] = "create" if isinstance(self._store, LocalStore) else "overwrite"
        try:
            obstore.put(self._store, _key(file.sha256), content, mode=mode)
        except AlreadyExistsError:
            pass
        except (BaseError, OSError) as error:
            raise StorageError(
                f"cannot store {file.name!r} ({file.size_bytes} bytes): {_first_line(error)}; free some space, then"
                " try again"
            ) from error
        return file


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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _key(sha256: str) -> str:
    if not is_digest(sha256):
        raise ValueError(f"not a SHA-256 digest: {sha256!r}")
    return f"sha256/{sha256[:2]}/{sha256}"
