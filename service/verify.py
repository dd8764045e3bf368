"""Opens what somebody uploaded or named the way a job will, in a process of its own, because only torch can.

`python -m service.verify run FOLDER MEMORY_BYTES` opens a run, `python -m service.verify pruning FILE MEMORY_BYTES`
what a pruning run starts from. Exit status 0: all is well; 3: a fault, as JSON on standard output.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from service.attached import end_with_parent, lifeline
from service.jobs.children import child_environment
from service.pruning_spec import Inputs, PruningSpec
from service.settings import Settings
from supernet import errors
from supernet.errors import CheckpointError, OnceForAllError

_TIMEOUT_S = 120


def verify_run(folder: Path, *, memory_bytes: int) -> None:
    """Open a run in a child process with limited memory, because only torch knows whether the weights fit.

    Raises:
        CheckpointError: the run does not open; the message says why.
    """
    try:
        _in_child("run", folder, memory_bytes, "the run")
    except OnceForAllError as error:
        raise CheckpointError(str(error).replace(f"{folder}/", "")) from None


def verify_pruning(spec: PruningSpec, inputs: Inputs, folder: Path, settings: Settings) -> None:
    """Open what a pruning run starts from, and see whether its target can be met.

    Args:
        spec: of the run.
        inputs: what it starts from.
        folder: for a file that tells the child what to do.
        settings: of the service.

    Raises:
        ConfigError, CheckpointError, TableError: the network cannot be opened, is too large, meets the target already,
            or a table is of another one.
        InfeasibleBudgetError: the target is out of reach.
    """
    task = {"spec": spec.to_dict(), "inputs": inputs.to_dict(), "most_params": settings.prune_max_params}
    path = folder / "task.json"
    path.write_text(json.dumps(task))
    try:
        _in_child("pruning", path, settings.job_memory_bytes, "the network")
    except OnceForAllError as error:  # a user is told nothing about the host's folders
        raise type(error)(str(error).replace(f"{folder}/", "").replace(f"{settings.cache_dir}/", "")) from None


def _in_child(what: str, path: Path, memory_bytes: int, name: str) -> None:
    command = [sys.executable, "-m", "service.verify", what, str(path), str(memory_bytes)]
    try:
        with lifeline() as stdin:
            done = subprocess.run(
                command,
                stdin=stdin,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                env=child_environment(1),
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"{name} took more than {_TIMEOUT_S} s to open; choose a smaller one") from None
    if done.returncode == 3:
        fault = json.loads(done.stdout.splitlines()[-1])
        raise getattr(errors, fault["kind"], CheckpointError)(fault["message"])
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1][:200]
        raise CheckpointError(f"{name} cannot be opened (status {done.returncode}: {last}); make it again")


def _open_run(folder: Path) -> None:
    """Open weights, images and predictor."""
    from search import AccuracyPredictor
    from supernet.runs import RunFolder

    run = RunFolder(folder)
    run.load_supernet()
    run.images()
    AccuracyPredictor.load(run.predictor_path, space=run.space)


def _open_pruning(path: Path) -> None:
    """Open the network, count it, and hold the target against what can go of it."""
    from service.pruning_work import require_reachable

    task: dict[str, Any] = json.loads(path.read_text())
    require_reachable(
        PruningSpec.from_dict(task["spec"]), Inputs.from_dict(task["inputs"]), most_params=task["most_params"]
    )


def main(what: str, path: Path, memory_bytes: int) -> int:
    """Do it; print what is wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        (_open_run if what == "run" else _open_pruning)(path)
    except OnceForAllError as error:
        print(json.dumps({"kind": type(error).__name__, "message": str(error)}))
        return 3
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
