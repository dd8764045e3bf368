"""`onceforall profile`: measure every layer of a space on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, print_json, progress_bar


def profile(
    space: Annotated[str, typer.Argument(help="Search space, or the folder of a trained run (its space and classes).")],
    device: Annotated[str, typer.Option(help="What budgets will call this machine.")] = "this-cpu",
    out: Annotated[Path | None, typer.Option(help="File to write (.json or .yaml).  [default: DEVICE.json]")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads during the measurement.")] = 1,
    batch: Annotated[int, typer.Option(help="Images a forward pass.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed rounds over all layers.")] = 30,
    warmup: Annotated[int, typer.Option(help="Rounds before them.")] = 3,
    as_json: Json = False,
) -> None:
    """Write this machine's latency table: the median and spread of every layer that a subnet can need."""
    from latency_tables import profile_space
    from latency_tables.table import format_of
    from supernet.files import require_writable
    from supernet.runs import MANIFEST, RunFolder
    from supernet.spaces import get_space

    path = out or Path(f"{device}.json")
    format_of(path)
    require_writable(path)
    is_run = (Path(space) / MANIFEST).is_file()
    chosen = RunFolder(space).space if is_run else get_space(space)
    with progress_bar("timing layers") as progress:
        table = profile_space(
            chosen,
            device=device,
            threads=threads,
            batch=batch,
            repeats=repeats,
            warmup=warmup,
            progress=progress,
        )
    table.save(path)
    smallest, largest = (table.estimate_ms(chosen, config) for config in (chosen.smallest(), chosen.largest()))
    if as_json:
        print_json(
            {
                "file": str(path),
                "device": device,
                "space": chosen.name,
                "rows": len(table.rows),
                "digest": table.digest,
                "smallest_ms": smallest,
                "largest_ms": largest,
            }
        )
        return
    typer.echo(f"{len(table.rows)} layers of {chosen.name} on {device!r}, {threads} thread(s), batch {batch} -> {path}")
    typer.echo(f"estimates: smallest subnet {smallest:.3f} ms, largest {largest:.3f} ms")
