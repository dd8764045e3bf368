"""Several processes that measure subnets of one run together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_truth import true_accuracy

from latency_tables import macs
from search import Evaluation, collect_evaluations
from search.evaluations import FILE, _assign, plan_subnets
from supernet import SubnetConfig
from supernet.errors import CheckpointError
from supernet.spaces import SearchSpace


@dataclass
class Thread:
    """One of several threads that act as `Processes` do: they meet to add numbers up."""

    rank: int
    count: int
    meeting: threading.Barrier
    desk: dict[int, Any]

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        self.desk[self.rank] = values
        self.meeting.wait()
        total = np.sum([self.desk[rank] for rank in range(self.count)], axis=0).tolist()
        self.meeting.wait()
        return total

    def by_first(self, action: Callable[[], None]) -> None:
        error: Exception | None = None
        if self.first:
            try:
                action()
            except Exception as caught:
                error = caught
        (failed,) = self.sum(float(error is not None))
        if error is not None:
            raise error
        if failed:
            raise SystemExit(2)


@dataclass
class Evaluators:
    """Counts correct answers by the oracle; each thread stops when it has measured so many."""

    space: SearchSpace
    stop_after: int | None = None
    done: dict[int, list[SubnetConfig]] = field(default_factory=dict)

    def of(self, rank: int) -> Callable[[SubnetConfig], Evaluation]:
        mine = self.done.setdefault(rank, [])

        def evaluate(config: SubnetConfig) -> Evaluation:
            if len(mine) == self.stop_after:
                raise Stopped
            mine.append(config)
            correct = round(1000 * true_accuracy(self.space, self.space.encode([config]))[0])
            return Evaluation(config, correct, 1000, 0.0, (correct - 400, 400) if correct % 2 else None)

        return evaluate


class Stopped(BaseException):
    """Stands for the end of all processes."""


def collect(
    run: Path, space: SearchSpace, evaluators: Evaluators, count: int, threads: int = 3, front_share: float = 0.0
) -> list[Any]:
    """What each of the threads got: evaluations, or what it ended with."""
    run.mkdir(exist_ok=True)
    (run / "manifest.json").write_text(json.dumps({"weights": {"sha256": "aa"}, "images": {"sha256": "bb"}}))
    meeting, desk, results = threading.Barrier(threads), {}, [None] * threads

    def work(rank: int) -> None:
        here: Any = Thread(rank, threads, meeting, desk)
        try:
            results[rank] = collect_evaluations(
                run, evaluators.of(rank), space=space, count=count, seed=4, front_share=front_share, processes=here
            )
        except BaseException as error:
            results[rank] = error
            if not isinstance(error, SystemExit | CheckpointError):
                meeting.abort()

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return results


def lines(run: Path) -> list[dict[str, Any]]:
    """The file's lines without the seconds, which differ from run to run."""
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (run / FILE).read_text().splitlines()
    ]


def test_three_processes_write_what_one_writes(tiny: SearchSpace, tmp_path: Path) -> None:
    shared, alone = Evaluators(tiny), Evaluators(tiny)
    results = collect(tmp_path / "shared", tiny, shared, 40)
    (whole,) = collect(tmp_path / "alone", tiny, alone, 40, threads=1)
    assert lines(tmp_path / "shared") == lines(tmp_path / "alone")
    assert [len(done) for done in shared.done.values()] == [pytest.approx(40 / 3, abs=4)] * 3
    assert sum(map(len, shared.done.values())) == 40  # nothing twice
    for found in results:  # every process knows all
        assert [replace(one, seconds=0.0) for one in found] == [replace(one, seconds=0.0) for one in whole]
        assert all(one.seconds > 0 for one in found)


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_and_resumed_with_another_number_of_processes_gives_the_same_lines(
    tiny: SearchSpace, tmp_path: Path, threads: int
) -> None:
    stopped = collect(tmp_path / "a", tiny, Evaluators(tiny, stop_after=6), 40)
    assert any(isinstance(error, Stopped) for error in stopped)
    kept = len(lines(tmp_path / "a")) - 1
    assert kept in (0, 12, 24)  # whole rounds; how many depends on whether the first thread had written the last one
    rest = Evaluators(tiny)
    collect(tmp_path / "a", tiny, rest, 40, threads=threads)
    assert sum(map(len, rest.done.values())) == 40 - kept
    collect(tmp_path / "b", tiny, Evaluators(tiny), 40, threads=1)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_a_file_that_is_refused_ends_all_processes(tiny: SearchSpace, tmp_path: Path) -> None:
    collect(tmp_path, tiny, Evaluators(tiny), 4)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes().replace(b'"aa"', b'"cc"'))
    results = collect(tmp_path, tiny, Evaluators(tiny), 4)
    assert isinstance(results[0], CheckpointError)
    assert [type(other) for other in results[1:]] == [SystemExit, SystemExit]


def test_the_work_of_a_round_is_split_by_macs(tiny: SearchSpace) -> None:
    configs = plan_subnets(tiny, count=16, seed=0)
    ranks = _assign(tiny, configs, 4)
    loads = [
        sum(macs(tiny.layers(config)) for config, mine in zip(configs, ranks, strict=True) if mine == rank)
        for rank in range(4)
    ]
    assert max(loads) < 1.15 * sum(loads) / 4
    assert _assign(tiny, configs, 1) == [0] * 16


def _start(run: Path, *torchrun: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *torchrun, "service.cli", "predictor", str(run), "--count", "30", "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


@pytest.mark.long
def test_two_processes_under_torchrun_are_killed_and_go_on_to_what_one_measures(tiny_run: Path, tmp_path: Path) -> None:
    two = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
    for name in ("one", "two"):
        shutil.copytree(tiny_run, tmp_path / name)
        (tmp_path / name / FILE).unlink()
    process = _start(tmp_path / "two", *two)
    deadline = time.monotonic() + 120
    while not (tmp_path / "two" / FILE).exists() or len((tmp_path / "two" / FILE).read_bytes().splitlines()) < 10:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = [
        int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and _parent(path) == process.pid
    ]
    assert len(children) == 2
    for pid in (*children, process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    kept = (tmp_path / "two" / FILE).read_bytes()
    process = _start(tmp_path / "two", *two)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    report = json.loads(output)  # one document: the other process is silent
    assert report["evaluated"] == 30
    assert (tmp_path / "two" / FILE).read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "predictor", str(tmp_path / "one"), "--count", "30", "--json"],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert lines(tmp_path / "one") == lines(tmp_path / "two")
    assert json.loads(done.stdout)["scores"] == report["scores"]


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return None
