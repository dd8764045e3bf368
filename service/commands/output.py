"""What commands print: results on standard output (text or JSON), progress on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

Threads = Annotated[
    int, typer.Option(min=0, max=1024, help="CPU threads; 0: as many as torch takes. Small networks gain little.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def prepare_torch(threads: int) -> None:
    """Make torch ready for the networks that a command runs, for the rest of the process.

    Args:
        threads: torch's threads; 0: leave its own choice. Results can differ in the last bit.
    """
    import torch

    from supernet.memory import keep_freed_memory

    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)


def usable_device(name: str) -> str:
    """The device that --device names: cpu, cuda, or auto, which is cuda where there is one.

    Raises:
        ConfigError: another name, or there is no CUDA device here.
    """
    import torch

    from supernet.errors import ConfigError

    there = torch.cuda.is_available()
    if name not in ("cpu", "cuda", "auto") or (name == "cuda" and not there):
        usable = ["cpu", "cuda", "auto"] if there else ["cpu", "auto"]
        raise ConfigError(f"--device is {name!r}; usable here: {', '.join(usable)}")
    return ("cuda" if there else "cpu") if name == "auto" else name


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table for people; the first column to the left, the others to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    Console(width=None if console.is_terminal else 160).print(table)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function (done, total) that moves a bar with the time left, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task: list[TaskID] = []

    def show(done: int, total: int) -> None:
        if not task:  # not before the work has begun, so that a refusal is one line
            progress.start()
            task.append(progress.add_task(what))
        progress.update(task[0], completed=done, total=total)

    try:
        yield show
    finally:
        progress.stop()


def percent(share: float) -> str:
    """An accuracy as people read it."""
    return f"{100 * share:.2f} %"


def millions(count: float) -> str:
    """MACs or parameters as people read them."""
    return f"{count / 1e6:.3f} M"
