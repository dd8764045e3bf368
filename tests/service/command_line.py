"""`onceforall` as a user meets it: each command in a process of its own, with its exit status and both streams.

Such a process is forked from one that has imported the large libraries and nothing of ours: importing torch anew takes
longer than most commands that the tests run.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

_FORKING = """
import json, os, runpy, sys
import sklearn.linear_model, sklearn.neural_network, torch
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        for number, (path, mode) in enumerate(((os.devnull, 0), (order["out"], 1), (order["errors"], 1))):
            os.dup2(os.open(path, mode), number)
        sys.path[:] = order["path"]
        sys.modules.update(dict.fromkeys(order["without"]))
        sys.argv = ["onceforall", *order["arguments"]]
        runpy.run_module("service.cli", run_name="__main__", alter_sys=True)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def onceforall(
    *arguments: object, cwd: Path | None = None, without: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Args:
        arguments: after the program's name.
        cwd: the folder where it runs; None: this process's.
        without: packages that seem not to be installed there.
    """
    forking = _forking()
    assert forking.stdin is not None
    assert forking.stdout is not None
    words = [str(argument) for argument in arguments]
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as errors:
        order = {
            "arguments": words,
            "folder": str(cwd or Path.cwd()),
            "environment": os.environ | {"COLUMNS": "200"},
            "path": [str(Path.cwd()), *sys.path],
            "without": without,
            "out": out.name,
            "errors": errors.name,
        }
        try:
            forking.stdin.write(json.dumps(order) + "\n")
            forking.stdin.flush()
            status = int(forking.stdout.readline())
        except BaseException:  # the test's time is up, or it is interrupted: the next command has a new process
            os.killpg(forking.pid, signal.SIGKILL)
            _forking.cache_clear()
            raise
        return subprocess.CompletedProcess(words, status, out.read(), errors.read())


def refusal(*arguments: object, cwd: Path | None = None, without: tuple[str, ...] = ()) -> str:
    """What a refused command says: one line on standard error, status 2."""
    done = onceforall(*arguments, cwd=cwd, without=without)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@cache
def _forking() -> subprocess.Popen[str]:
    """It ends with this process, which closes its standard input."""
    command = [sys.executable, "-c", _FORKING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]
    atexit.register(process.communicate)
    return process
