"""`onceforall search`: find the best subnet under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.output import Json, percent, print_json, progress_bar

if TYPE_CHECKING:
    from search import Candidate


def search(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run with a predictor.")],
    budget: Annotated[str, typer.Option(help='For example "macs<=3M, latency_ms@this-cpu<=2".')],
    table: Annotated[list[Path] | None, typer.Option(help="Latency table; repeat for more devices.")] = None,
    population: Annotated[int, typer.Option(help="Subnets a generation.")] = 100,
    generations: Annotated[int, typer.Option(help="Generations after the first.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write the subnet's config to (JSON).")] = None,
    as_json: Json = False,
) -> None:
    """Evolve subnets towards the greatest predicted accuracy within all limits of the budget."""
    from latency_tables import Budget, LatencyTable
    from search import AccuracyPredictor, EvolutionarySearch
    from supernet.errors import CheckpointError
    from supernet.files import write_json
    from supernet.runs import RunFolder

    limits = Budget.parse(budget)
    folder = RunFolder(run)
    tables = {loaded.device: loaded for loaded in map(LatencyTable.load, table or [])}
    if not folder.predictor_path.exists():
        raise CheckpointError(f"{str(run)!r} has no accuracy predictor; make one with: onceforall predictor {run}")
    predictor = AccuracyPredictor.load(folder.predictor_path, space=folder.space)
    engine = EvolutionarySearch(
        folder.space, predictor, tables, population=population, generations=generations, seed=seed
    )
    engine.check(limits)
    with progress_bar("generations") as progress:
        found = engine.run(limits, progress=progress)
    if as_json:
        print_json({"budget": str(limits), **found.to_dict()})
    else:
        _print(found)
    if out is not None:
        write_json(out, found.config.to_dict())
        typer.echo(f"next: onceforall extract {run} --subnet {out} --out FOLDER", err=True)


def _print(found: Candidate) -> None:
    typer.echo(f"predicted accuracy {percent(found.predicted_accuracy)}, {found.scored} subnets scored")
    for name, value in found.costs.items():
        typer.echo(f"  {name:<24} {value:,.4g}" if value < 1e4 else f"  {name:<24} {value:,.0f}")
    typer.echo(f"  {found.config.to_json()}")
