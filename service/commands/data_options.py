"""Options of the commands that read images, and what they say about files that they left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

DataRoot = Annotated[Path | None, typer.Option(help="Where the data set's files are.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch absent files into --data-root.")]
Stream = Annotated[
    bool | None,
    typer.Option(
        help="A folder: decode it while it is used, or hold it in memory.  [default: stream above 2 GiB]",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="A folder: processes that decode.  [default: one a core, up to 16]", show_default=False),
]
SkipCorrupt = Annotated[
    bool, typer.Option("--skip-corrupt", help="A folder: check every file first, and leave out unreadable ones.")
]


def named_files(what: str, names: Sequence[str]) -> str:
    """How many unreadable files were treated so, and the first of them."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what} {len(names)} unreadable file(s): {', '.join(map(repr, names[:5]))}{more}"
