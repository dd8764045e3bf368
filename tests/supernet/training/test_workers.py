from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch

from supernet.errors import DataError
from supernet.training.workers import MOST_WORKERS, default_workers, in_workers, usable_cores


def _double(number: int) -> torch.Tensor:
    return torch.tensor([2 * number])


def _refuse_three(number: int) -> int:
    if number == 3:
        raise DataError("'three.jpg' is not readable")
    return number


def _die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def _process(number: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_the_tasks_order(workers: int) -> None:
    assert [int(result) for result in in_workers(_double, range(9), workers)] == list(range(0, 18, 2))


def test_the_work_is_done_by_other_processes() -> None:
    assert os.getpid() not in set(in_workers(_process, range(4), 2))
    assert set(in_workers(_process, range(4), 0)) == {os.getpid()}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_keeps_its_one_line_and_comes_at_its_place(workers: int) -> None:
    results = in_workers(_refuse_three, range(6), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^'three\.jpg' is not readable$"):
        next(results)


def test_a_process_that_dies_is_reported_with_what_to_do() -> None:
    with pytest.raises(
        DataError, match=r"a process that decodes images died .*; use fewer --workers, or give"
    ) as caught:
        list(in_workers(_die, range(3), 1))
    assert "\n" not in str(caught.value)


def test_processes_end_with_the_iterator_however_it_ends() -> None:
    """Without waiting: five seconds a process is what torch takes when the garbage collector ends them."""
    started = time.monotonic()
    for _ in range(3):
        results = in_workers(_refuse_three, range(100), 2)
        with pytest.raises(DataError):
            list(results)
        assert not multiprocessing.active_children()
        next(results := in_workers(_double, range(100), 2))
        results.close()  # type: ignore[attr-defined]
        assert not multiprocessing.active_children()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generator_is_neither_used_nor_moved(workers: int) -> None:
    before = torch.get_rng_state()
    list(in_workers(_double, range(3), workers))
    assert torch.equal(before, torch.get_rng_state())


def test_tasks_are_read_only_a_little_ahead() -> None:
    """So a list of a million batches costs nothing, and an abandoned epoch stops at once."""
    read = []

    def endless() -> Iterator[int]:
        while True:
            read.append(len(read))
            yield read[-1]

    results = in_workers(_double, endless(), 2)
    assert [int(next(results)) for _ in range(3)] == [0, 2, 4]
    results.close()  # type: ignore[attr-defined]
    assert len(read) < 20


def test_trainers_on_one_host_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert default_workers() == min(MOST_WORKERS, usable_cores())
    monkeypatch.setattr("supernet.training.workers.usable_cores", lambda: 96)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert default_workers() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "400")
    assert default_workers() == 1
