"""Opens an uploaded run the way a job will, in a process of its own: `python -m service.verify FOLDER MEMORY_BYTES`.

Exit status 0: all is well; 3: a fault of the run, described on standard output.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from service.attached import end_with_parent, lifeline
from service.jobs.children import child_environment
from supernet.errors import CheckpointError, OnceForAllError

_TIMEOUT_S = 120


def verify_run(folder: Path, *, memory_bytes: int) -> None:
    """Open a run in a child process with limited memory, because only torch knows whether the weights fit.

    Raises:
        CheckpointError: the run does not open; the message says why.
    """
    command = [sys.executable, "-m", "service.verify", str(folder), str(memory_bytes)]
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
        raise CheckpointError(f"the run took more than {_TIMEOUT_S} s to open; upload a smaller one") from None
    if done.returncode == 3:
        raise CheckpointError(done.stdout.strip().replace(f"{folder}/", ""))
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1][:200]
        raise CheckpointError(f"the run cannot be opened (status {done.returncode}: {last}); make it again")


def main(folder: Path, memory_bytes: int) -> int:
    """Open weights, images and predictor; print what is wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    from search import AccuracyPredictor
    from supernet.runs import RunFolder

    try:
        run = RunFolder(folder)
        run.load_supernet()
        run.images()
        AccuracyPredictor.load(run.predictor_path, space=run.space)
    except OnceForAllError as error:
        print(error)
        return 3
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
