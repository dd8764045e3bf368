from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from supernet.memory import keep_freed_memory, share_arenas

FAULTS = """
import resource, sys, torch
from supernet.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
step = lambda: [torch.ones(2_000_000) for _ in range(20)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_kept_for_the_next_tensor() -> None:
    """Five steps of twenty tensors of 8 MB, all freed after each: by default they get fresh pages every time.

    A system that is short of memory may take kept pages back meanwhile, so the least of three turns counts.
    """

    def faults(way: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, way], check=True, capture_output=True).stdout)

    default = faults("default")
    assert any(faults("keep") < 0.2 * default for _ in range(3))


def test_it_is_refused_quietly_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()


ARENAS = """
import ctypes, sys, threading
from supernet.memory import share_arenas
assert share_arenas() is True
held, ready, end = [], threading.Barrier(13), threading.Event()

def allocate():
    held.append(bytearray(50_000))
    ready.wait()
    end.wait()

for _ in range(12):
    threading.Thread(target=allocate, daemon=True).start()
ready.wait()
libc = ctypes.CDLL(None)
libc.malloc_stats()
end.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_threads_share_two_arenas() -> None:
    done = subprocess.run([sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True)
    assert 1 <= done.stderr.count("Arena ") <= 2


def test_arenas_stay_as_they_are_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    assert not share_arenas()
