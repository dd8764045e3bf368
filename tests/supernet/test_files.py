from __future__ import annotations

import resource
import stat
from pathlib import Path

import pytest

from supernet.errors import CheckpointError, StorageError
from supernet.files import atomic_path, read_json, write_bytes, write_json


def test_a_file_is_replaced_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_bytes(target, b"old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_folders_are_made_and_others_may_read_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "deep" / "down.json", {"x": 1})
    assert read_json(tmp_path / "deep" / "down.json") == {"x": 1}
    assert stat.S_IMODE((tmp_path / "deep" / "down.json").stat().st_mode) & stat.S_IRUSR


def test_nan_never_reaches_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write '.*file/a\.txt': File exists; free some space or choose"):
        write_bytes(tmp_path / "file" / "a.txt", b"x")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            write_bytes(tmp_path / "a.bin", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.json' is not readable JSON"):
        read_json(tmp_path / "a.json")


def test_absent_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.json' does not exist; check the path"):
        read_json(tmp_path / "a.json")
