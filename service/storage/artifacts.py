"""The artefact store: files named by the digest of their content, written once, never changed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from service.domain import StoredFile, is_digest
from supernet.errors import CheckpointError, StorageError, writing
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


class LocalArtifacts(ArtifactStore):
    """Artefacts in a local folder.

    Args:
        folder: made when absent.
    """

    def __init__(self, folder: Path) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._store = LocalStore(folder)

    def put_file(self, path: Path, *, name: str) -> StoredFile:
        """See `ArtifactStore.put_file`."""
        return self._put(path, StoredFile(name, sha256_file(path), path.stat().st_size))

    def put_bytes(self, data: bytes, *, name: str) -> StoredFile:
        """See `ArtifactStore.put_bytes`."""
        return self._put(data, StoredFile(name, hashlib.sha256(data).hexdigest(), len(data)))

    def chunks(self, sha256: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See `ArtifactStore.chunks`."""
        key = _key(sha256)
        try:
            size = obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            raise CheckpointError(
                f"the stored file {sha256} is gone from the artefact store; restore it from a copy"
            ) from None
        stop = size if end is None else min(end, size)
        while start < stop:
            here = min(start + CHUNK, stop)
            yield bytes(obstore.get_range(self._store, key, start=start, end=here))
            start = here

    def delete(self, sha256: str) -> None:
        """See `ArtifactStore.delete`."""
        try:
            obstore.delete(self._store, _key(sha256))
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise StorageError(f"cannot delete the stored file {sha256}: {_first_line(error)}; try again") from error

    def _put(self, content: Path | bytes, file: StoredFile) -> StoredFile:
        try:
            obstore.put(self._store, _key(file.sha256), content, mode="create")
        except AlreadyExistsError:
            pass
        except (BaseError, OSError) as error:
            raise StorageError(
                f"cannot store {file.name!r} ({file.size_bytes} bytes): {_first_line(error)}; free some space, then"
                " try again"
            ) from error
        return file


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _key(sha256: str) -> str:
    if not is_digest(sha256):
        raise ValueError(f"not a SHA-256 digest: {sha256!r}")
    return f"sha256/{sha256[:2]}/{sha256}"
