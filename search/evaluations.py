"""Measure many subnets, one JSON line each as soon as it is known, so that a killed process loses one at most.

evaluations.jsonl: a header that binds the file to the supernet's weights and images, then one line a subnet:
``{"config": {...}, "digest": "...", "correct": 812, "total": 1000, "seconds": 0.41}``.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, ConfigError, RunBusyError, writing
from supernet.files import read_json
from supernet.spaces import SearchSpace

FORMAT = "onceforall.evaluations/1"
FILE = "evaluations.jsonl"
_DRAWN_AT_ONCE = 256  # fixed, so that a plan of 200 subnets is the beginning of a plan of 1,000


@dataclass(frozen=True)
class Evaluation:
    """One subnet's measured accuracy.

    Attributes:
        config: the subnet, calibrated before it was measured.
        correct: images classified correctly.
        total: images.
        seconds: how long the measurement took; filled in by `collect_evaluations`.
    """

    config: SubnetConfig
    correct: int
    total: int
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Share of correct answers, in [0, 1]."""
        return self.correct / self.total


def collect_evaluations(
    run: Path | str,
    evaluate: Callable[[SubnetConfig], Evaluation],
    *,
    space: SearchSpace,
    count: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Evaluation]:
    """Measure `count` different subnets, or those of them that the run's file lacks.

    Args:
        run: the run folder; its manifest names the weights and images, its `evaluations.jsonl` is continued.
        evaluate: measures one subnet.
        space: the run's search space.
        count: number of subnets: the largest, the smallest, then random ones.
        seed: which random ones; with the same seed a smaller count gives the beginning of a larger one.
        progress: called as (measured, count) at the start and after each subnet.

    Returns:
        The evaluations of the plan in its order, whether measured now or before.

    Raises:
        ConfigError: `count` is below 2, or more than the space has.
        CheckpointError: the file belongs to other weights or images, or is damaged.
        RunBusyError: another process is measuring for the same run.
        StorageError: the file cannot be written.
    """
    plan = plan_subnets(space, count=count, seed=seed)
    path = Path(run) / FILE
    header = _header(Path(run), space)
    with _opened(path) as file:
        done = _resume(path, file, header)
        if progress:
            progress(sum(config.digest in done for config in plan), count)
        for config in plan:
            if config.digest in done:
                continue
            start = time.perf_counter()
            found = evaluate(config)
            found = replace(found, seconds=round(time.perf_counter() - start, 4))
            if found.config != config or not 0 <= found.correct <= found.total or found.total < 1:
                raise ConfigError(f"evaluating {config.to_json()} gave {found}; expected that subnet's own counts")
            _append(path, file, _to_line(found))
            done[config.digest] = found
            if progress:
                progress(sum(other.digest in done for other in plan), count)
    return [done[config.digest] for config in plan]


def read_evaluations(run: Path | str, *, space: SearchSpace) -> list[Evaluation]:
    """All evaluations that the run's file holds, in the order of measurement; none if there is no file.

    Raises:
        CheckpointError: the file belongs to other weights or images, or is damaged.
    """
    path = Path(run) / FILE
    if not path.exists():
        return []
    done, _ = _parse(path, path.read_bytes(), _header(Path(run), space))
    return list(done.values())


def plan_subnets(space: SearchSpace, *, count: int, seed: int) -> list[SubnetConfig]:
    """The subnets to measure: the largest, the smallest, then different random ones, uniform gene by gene.

    Raises:
        ConfigError: `count` is below 2, or more than the space has.
    """
    if not 2 <= count <= space.cardinality:
        raise ConfigError(f"count is {count}; allowed for {space.name!r}: 2 to {space.cardinality} subnets")
    rng = np.random.default_rng(seed)
    plan = dict.fromkeys([space.largest(), space.smallest()])
    while len(plan) < count:
        plan |= dict.fromkeys(space.decode(space.sample_genotypes(rng, _DRAWN_AT_ONCE)))
    return list(plan)[:count]


def _header(run: Path, space: SearchSpace) -> dict[str, Any]:
    manifest = read_json(run / "manifest.json")
    try:
        weights, images = manifest["weights"]["sha256"], manifest["images"]["sha256"]
    except (KeyError, TypeError):
        raise CheckpointError(
            f"the manifest in {str(run)!r} names no weights or images; "
            f"finish the training first: onceforall train --resume {run}"
        ) from None
    return {"format": FORMAT, "space": space.name, "weights_sha256": weights, "images_sha256": images}


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with writing(path):
        file = path.open("a+b", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusyError(
                f"another process is measuring subnets into {str(path)!r}; wait for it to end, or stop it"
            ) from None
        yield file  # closing it releases the lock


def _resume(path: Path, file: BinaryIO, header: dict[str, Any]) -> dict[str, Evaluation]:
    """What the file holds; cut a torn last line off, and begin an empty file with the header."""
    file.seek(0)
    data = file.read()
    done, whole = _parse(path, data, header)
    with writing(path):
        if whole < len(data):
            file.truncate(whole)
    if not whole:
        _append(path, file, json.dumps(header, sort_keys=True))
    return done


def _parse(path: Path, data: bytes, header: dict[str, Any]) -> tuple[dict[str, Evaluation], int]:
    """Evaluations by digest, and the length of the whole lines; what follows the last newline was torn by a kill."""
    whole = data.rfind(b"\n") + 1
    lines = data[:whole].splitlines()
    done: dict[str, Evaluation] = {}
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if number == 1:
                _check_header(path, value, header)
                continue
            found = Evaluation(
                SubnetConfig.from_dict(value["config"]), value["correct"], value["total"], value["seconds"]
            )
            if found.config.digest != value["digest"] or not 0 <= found.correct <= found.total or found.total < 1:
                raise ValueError("the digest or the counts do not fit")
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"line {number} of {str(path)!r} is damaged ({error}); "
                "delete that line, then run the same command again"
            ) from None
        done[found.config.digest] = found
    return done, whole


def _check_header(path: Path, found: Any, expected: dict[str, Any]) -> None:
    if found == expected:
        return
    names = [name for name in expected if not isinstance(found, dict) or found.get(name) != expected[name]]
    raise CheckpointError(
        f"{str(path)!r} was measured with another {', '.join(names)}; "
        "move the file away to measure again, or restore the run that it belongs to"
    )


def _to_line(found: Evaluation) -> str:
    return json.dumps(
        {
            "config": found.config.to_dict(),
            "digest": found.config.digest,
            "correct": found.correct,
            "total": found.total,
            "seconds": found.seconds,
        },
        sort_keys=True,
    )


def _append(path: Path, file: BinaryIO, line: str) -> None:
    with writing(path):
        data = line.encode() + b"\n"
        while data:  # an unbuffered write may take only a part
            data = data[file.write(data) :]
        os.fsync(file.fileno())
