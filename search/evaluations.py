"""Measure many subnets, one JSON line each as soon as it is known, so that a killed process loses one at most.

Several processes share the work in rounds: each takes subnets of about equal MACs in sum, the first writes all lines
of the round in the plan's order. So the file holds the same lines as one process would have written, and a kill loses a
round at most.

evaluations.jsonl: a header that binds the file to the supernet's weights and images, then one line a subnet:
``{"config": {...}, "digest": "...", "correct": 812, "total": 1000, "correct_by_half": [402, 410], "seconds": 0.41}``
(files from before the halves were counted have none).
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from latency_tables import macs
from supernet.arch import SubnetConfig
from supernet.errors import CheckpointError, ConfigError, RunBusyError, writing
from supernet.files import read_json
from supernet.spaces import SearchSpace

if TYPE_CHECKING:
    from supernet.training.processes import Processes

FORMAT = "onceforall.evaluations/1"
FILE = "evaluations.jsonl"
_BATCHES = 4
_PER_PROCESS = 4  # subnets a round: several, so that their costs even out
_DRAWN_AT_ONCE = 256  # fixed, so that a plan of 200 subnets is the beginning of a plan of 1,000


@dataclass(frozen=True)
class Evaluation:
    """One subnet's measured accuracy.

    Attributes:
        config: the subnet, calibrated before it was measured.
        correct: images classified correctly.
        total: images.
        seconds: how long the measurement took; filled in by `collect_evaluations`.
        correct_by_half: `correct` of the images of even and of odd number, from which `tau_with_truth` tells how
            much of the subnets' differences is chance; None: not counted.
    """

    config: SubnetConfig
    correct: int
    total: int
    seconds: float = 0.0
    correct_by_half: tuple[int, int] | None = None

    @property
    def accuracy_by_half(self) -> tuple[float, float] | None:
        """Share of correct answers in each half, in [0, 1]; None: not counted, or a single image."""
        if self.correct_by_half is None or self.total < 2:
            return None
        first, second = self.correct_by_half
        return first / ((self.total + 1) // 2), second / (self.total // 2)

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
    front_share: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
    processes: Processes | None = None,
) -> list[Evaluation]:
    """Measure `count` different subnets, or those of them that the run's file lacks.

    Args:
        run: the run folder; its manifest names the weights and images, its `evaluations.jsonl` is continued.
        evaluate: measures one subnet.
        space: the run's search space.
        count: number of subnets: the largest, the smallest, then random ones.
        seed: which random ones; with the same seed a smaller count gives the beginning of a larger one.
        front_share: share of them that are not random but near the front of accuracy and MACs that the others, and the
            earlier ones of these, predict; they are proposed in a few batches, the same ones when a run is resumed.
        progress: called as (measured, count) at the start and after each subnet (each round, where there are several
            processes).
        processes: those that call this together, with equal arguments; None: this one alone. Only the first one
            reads and writes the file.

    Returns:
        The evaluations of the plan in its order, whether measured now or before, in every process.

    Raises:
        ConfigError: `count` is below 2, or more than the space has; `front_share` leaves too few random subnets.
        CheckpointError: the file belongs to other weights or images, or is damaged.
        RunBusyError: another process is measuring for the same run.
        StorageError: the file cannot be written.
    """
    near_front = _count_near_front(count, front_share)
    plan = plan_subnets(space, count=count, seed=seed)[: count - near_front]
    here = processes or _alone()
    path = Path(run) / FILE
    file: BinaryIO | None = None
    stored: dict[str, Evaluation] = {}
    done: dict[str, Evaluation] = {}

    def open_file() -> None:
        nonlocal file
        header = _header(Path(run), space)
        file = opened.enter_context(_opened(path))
        stored.update(_resume(path, file, header))

    def complete(wanted: Sequence[SubnetConfig]) -> None:
        done.update(_shared(here, wanted, stored))
        if progress:
            progress(len(done), count)
        left = [config for config in wanted if config.digest not in done]
        per_round = 1 if here.count == 1 else _PER_PROCESS * here.count
        for start in range(0, len(left), per_round):
            together = left[start : start + per_round]
            ranks = _assign(space, together, here.count)
            mine = [config for config, rank in zip(together, ranks, strict=True) if rank == here.rank]
            measured = _shared(here, together, {config.digest: _measure(evaluate, config) for config in mine})
            if file is not None:
                _append(path, file, [_to_line(found) for found in measured.values()])
            done.update(measured)
            if progress:
                progress(len(done), count)

    with ExitStack() as opened:
        here.by_first(open_file)
        complete(plan)
        for size in _batches(near_front):
            more = _proposed(here, space, [done[config.digest] for config in plan], size, seed)
            plan += more
            complete(more)
    return [done[config.digest] for config in plan]


def _count_near_front(count: int, share: float) -> int:
    from search.predictors.fitting import FEWEST

    if not 0 <= share < 1:
        raise ConfigError(f"front_share is {share}; allowed: 0 to below 1, for example 0.5")
    near_front = round(share * count)
    if near_front and count - near_front < FEWEST:
        raise ConfigError(
            f"front_share {share} of {count} leaves {count - near_front} random subnets; at least {FEWEST} are needed "
            "to predict the front; measure more, or take a smaller share"
        )
    return near_front


def _batches(near_front: int) -> list[int]:
    """Sizes of the batches that are proposed one after the other."""
    return [len(part) for part in np.array_split(np.arange(near_front), _BATCHES) if len(part)]


def _proposed(
    here: Processes, space: SearchSpace, known: Sequence[Evaluation], size: int, seed: int
) -> list[SubnetConfig]:
    """The next subnets near the front; the first process decides, as the last bit of a fit may differ by machine."""
    from search.active import propose_near_front

    rows = np.zeros((size, len(space.dimensions)))

    def propose() -> None:
        configs, accuracies = [found.config for found in known], [found.accuracy for found in known]
        rows[:] = space.encode(propose_near_front(space, configs, accuracies, count=size, seed=seed))

    here.by_first(propose)
    return space.decode(np.array(here.sum(*rows.ravel().tolist()), dtype=np.int8).reshape(rows.shape))


def _alone() -> Processes:
    from supernet.training.processes import Processes  # with torch, which reading evaluations does not need

    return Processes()


def _measure(evaluate: Callable[[SubnetConfig], Evaluation], config: SubnetConfig) -> Evaluation:
    start = time.perf_counter()
    found = evaluate(config)
    found = replace(found, seconds=round(time.perf_counter() - start, 4))
    if found.config != config or not _is_possible(found):
        raise ConfigError(f"evaluating {config.to_json()} gave {found}; expected that subnet's own counts")
    return found


def _is_possible(found: Evaluation) -> bool:
    if not 0 <= found.correct <= found.total or found.total < 1:
        return False
    if found.correct_by_half is None:
        return True
    first, second = found.correct_by_half
    sizes = (found.total + 1) // 2, found.total // 2
    return 0 <= first <= sizes[0] and 0 <= second <= sizes[1] and first + second == found.correct


def _assign(space: SearchSpace, configs: Sequence[SubnetConfig], count: int) -> list[int]:
    """Which of `count` processes measures each subnet: the costliest first, each to the one with the least to do."""
    if count == 1:
        return [0] * len(configs)
    costs = [macs(space.layers(config)) for config in configs]
    loads, ranks = [0] * count, [0] * len(configs)
    for number in sorted(range(len(configs)), key=lambda number: -costs[number]):
        rank = loads.index(min(loads))
        ranks[number] = rank
        loads[rank] += costs[number]
    return ranks


def _shared(here: Processes, configs: Sequence[SubnetConfig], known: Mapping[str, Evaluation]) -> dict[str, Evaluation]:
    """What any process knows of these subnets, in their order; each is known to one process at most."""
    fields = len(_to_numbers(None))
    numbers = here.sum(*(number for config in configs for number in _to_numbers(known.get(config.digest))))
    found = {}
    for place, config in enumerate(configs):
        evaluation = _from_numbers(config, numbers[fields * place : fields * (place + 1)])
        if evaluation is not None:
            found[config.digest] = evaluation
    return found


def _to_numbers(found: Evaluation | None) -> list[float]:
    if found is None:
        return [0.0] * 5
    return [
        found.total,
        found.correct,
        found.seconds,
        found.correct_by_half is not None,
        (found.correct_by_half or [0])[0],
    ]


def _from_numbers(config: SubnetConfig, numbers: Sequence[float]) -> Evaluation | None:
    total, correct, seconds, has_halves, half = numbers
    halves = (int(half), int(correct - half)) if has_halves else None
    return Evaluation(config, int(correct), int(total), seconds, halves) if total else None


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
        _append(path, file, [json.dumps(header, sort_keys=True)])
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
            if not isinstance(value, dict):
                raise ValueError(f"a {type(value).__name__} instead of an object")
            halves = value.get("correct_by_half")
            found = Evaluation(
                SubnetConfig.from_dict(value["config"]),
                value["correct"],
                value["total"],
                value["seconds"],
                None if halves is None else tuple(halves),
            )
            counts = (found.correct, found.total, *(found.correct_by_half or ()))
            are_numbers = all(type(count) is int for count in counts) and type(found.seconds) in (int, float)
            if not are_numbers or not _is_possible(found):
                raise ValueError("the counts do not fit")
            if found.config.digest != value["digest"]:
                raise ValueError("the digest does not fit")
            if done and found.total != (others := next(iter(done.values())).total):
                raise ValueError(f"measured on {found.total} images, the others on {others}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
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
    line: dict[str, Any] = {
        "config": found.config.to_dict(),
        "digest": found.config.digest,
        "correct": found.correct,
        "total": found.total,
        "seconds": found.seconds,
    }
    if found.correct_by_half is not None:
        line["correct_by_half"] = list(found.correct_by_half)
    return json.dumps(line, sort_keys=True)


def _append(path: Path, file: BinaryIO, lines: Sequence[str]) -> None:
    with writing(path):
        data = "".join(line + "\n" for line in lines).encode()
        while data:  # an unbuffered write may take only a part
            data = data[file.write(data) :]
        os.fsync(file.fileno())
