"""`onceforall tables`: look into latency tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, print_json, print_table

tables = typer.Typer(help="Look into latency tables.", no_args_is_help=True)


@tables.callback()
def _group() -> None:
    """Look into latency tables."""


@tables.command()
def show(path: Annotated[Path, typer.Argument(help="Latency table (.json or .yaml).")], as_json: Json = False) -> None:
    """Show a table's origin, coverage, outliers and rows."""
    from latency_tables import LatencyTable, outliers
    from supernet.spaces import get_space

    table = LatencyTable.load(path)
    coverage = table.coverage(get_space(table.space).with_num_classes(table.num_classes))
    odd = [str(outlier) for outlier in outliers(table)]
    if as_json:
        print_json(
            {
                "device": table.device,
                "space": table.space,
                "num_classes": table.num_classes,
                "digest": table.digest,
                "provenance": vars(table.provenance)
                if hasattr(table.provenance, "__dict__")
                else str(table.provenance),
                "missing": list(coverage.missing),
                "outliers": odd,
                "rows": {
                    key: {"median_ms": row.median_ms, "spread_ms": row.spread_ms} for key, row in table.rows.items()
                },
            }
        )
        return
    print_table(
        f"{table.device}: {len(table.rows)} layers of {table.space}",
        ["layer", "median ms", "spread ms", "timings"],
        [[key, f"{row.median_ms:.4f}", f"{row.spread_ms:.4f}", str(row.count)] for key, row in table.rows.items()],
    )
    typer.echo(f"{table.provenance}")
    typer.echo(f"missing rows: {', '.join(coverage.missing) or 'none'}\noutliers: {'; '.join(odd) or 'none'}")
