"""`onceforall search`: find the best subnet under a budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.output import Json, percent, print_json, progress_bar
from service.commands.searched import (
    Checkpoint,
    PredictorPath,
    Run,
    Tables,
    read_front,
    read_predictor,
    read_tables,
    refuse_idle,
    tell_not_searched,
)

if TYPE_CHECKING:
    from search import AccuracyPredictor, Candidate

_COVERAGE = 0.9


def search(
    context: typer.Context,
    run: Run,
    budget: Annotated[
        str,
        typer.Option(
            help='For example "macs<=3M, latency_ms@this-cpu<=2"; "macs<=60%": of the largest subnet that is searched.'
        ),
    ],
    table: Tables = None,
    predictor: PredictorPath = None,
    front: Annotated[Path | None, typer.Option(help="Look the answer up on this front instead of searching.")] = None,
    population: Annotated[int, typer.Option(help="Subnets a generation.")] = 100,
    generations: Annotated[int, typer.Option(help="Generations after the first.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File to write the subnet's config to (JSON).")] = None,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Evolve subnets towards the greatest predicted accuracy within all limits of the budget."""
    from latency_tables import Budget
    from search import EvolutionarySearch, NoSubnetError
    from supernet.files import write_json

    limits = Budget.parse(budget)
    if front is not None:
        refuse_idle(context, ("population", "generations", "seed", "checkpoint"), because="with --front")
        kept, fitted = read_front(front, run, predictor, table)
        searched = {name: kept.details.get(name) for name in ("resolutions", "not_searched")}
        tell_not_searched(searched["not_searched"] or {})
        found = kept.look_up(limits)
    else:
        fitted = read_predictor(run, predictor)
        engine = EvolutionarySearch(
            fitted.space, fitted, read_tables(table), population=population, generations=generations, seed=seed
        )
        searched = {"resolutions": engine.resolutions, "not_searched": engine.not_searched}
        tell_not_searched(engine.not_searched)
        try:
            engine.check(limits)
        except NoSubnetError as error:
            if as_json:
                print_json({"budget": str(limits), "error": str(error), **error.to_dict(), **searched})
            else:
                typer.echo("the nearest subnet, which does not meet the budget:")
                _print(error.nearest, None)
            raise
        with progress_bar("generations") as progress:
            found = engine.run(limits, progress, checkpoint=checkpoint)
    interval = _interval(fitted, found)
    if as_json:
        print_json({"budget": str(limits), **found.to_dict(), "interval": interval, **searched})
    else:
        _print(found, interval)
    if out is not None:
        write_json(out, found.config.to_dict())
        typer.echo(f"next: onceforall extract {run} --subnet {out} --out FOLDER", err=True)


def _interval(fitted: AccuracyPredictor | None, found: Candidate) -> dict[str, float] | None:
    """Where the subnet's evaluation will lie, were it drawn as the measured ones were; None where nothing tells it."""
    if fitted is None or fitted.residuals is None:
        return None
    low, high = fitted.interval([found.config], coverage=_COVERAGE)
    return {"coverage": _COVERAGE, "low": float(low[0]), "high": float(high[0])}


def _print(found: Candidate, interval: Mapping[str, float] | None) -> None:
    scored = f", {found.scored} subnets scored" if found.scored > 1 else ""
    typer.echo(f"predicted accuracy {percent(found.predicted_accuracy)}{scored}")
    if interval is not None:
        typer.echo(
            f"  {100 * interval['coverage']:.0f} % interval {percent(interval['low'])} to {percent(interval['high'])}, "
            "by the predictor's errors on subnets that were not picked for their prediction"
        )
    for name, value in found.costs.items():
        typer.echo(f"  {name:<24} {value:,.4g}" if value < 1e4 else f"  {name:<24} {value:,.0f}")
    typer.echo(f"  {found.config.to_json()}")
