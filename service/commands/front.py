"""`onceforall front`: the best subnets for every budget at once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, percent, print_json, print_table, progress_bar
from service.commands.searched import (
    Checkpoint,
    PredictorPath,
    Run,
    Tables,
    read_predictor,
    read_tables,
    tell_not_searched,
)

_SHOWN = 10


class Method(StrEnum):
    """How to search for a front."""

    CELLS = "cells"
    NSGA2 = "nsga2"


def front(
    run: Run,
    metric: Annotated[list[str], typer.Option(help="Cost that the front is about, such as macs; repeat for up to 3.")],
    table: Tables = None,
    predictor: PredictorPath = None,
    method: Annotated[
        Method, typer.Option(help="cells: each part of the range breeds with the next; nsga2: NSGA-II, the usual one.")
    ] = Method.CELLS,
    population: Annotated[int, typer.Option(help="Subnets a generation.")] = 2000,
    generations: Annotated[int, typer.Option(help="Generations after the first.")] = 450,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    out: Annotated[Path, typer.Option(help="File to write the front to; search answers budgets from it.")] = Path(
        "front.json"
    ),
    picture: Annotated[Path | None, typer.Option(help="Picture to draw (.svg or .png); needs matplotlib.")] = None,
    check: Annotated[int, typer.Option(min=0, help="Budgets to search for one by one, to state the gap.")] = 3,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Find the front of predicted accuracy against costs, and keep it: any budget is then a look-up."""
    from search import NSGA2, EvolutionarySearch, FrontSearch
    from search.front_search import gaps
    from search.pareto import require_drawable
    from supernet.files import require_writable

    require_writable(out)
    if picture is not None:
        require_drawable(picture)
    fitted, read = read_predictor(run, predictor), read_tables(table)
    finder = NSGA2 if method is Method.NSGA2 else FrontSearch
    engine = finder(
        fitted.space, fitted, read, metrics=metric, population=population, generations=generations, seed=seed
    )
    tell_not_searched(engine.not_searched)
    with progress_bar("generations") as progress:
        found = engine.run(progress, checkpoint=checkpoint)
    found = found.with_details(gaps=gaps(found, EvolutionarySearch(fitted.space, fitted, read, seed=seed), check))
    found.save(out)
    if picture is not None:
        found.draw(picture)
    if as_json:
        print_json(
            {
                "front": str(out),
                "subnets": len(found),
                "metrics": list(found.metrics),
                "details": dict(found.details),
                "range": {name: [float(found.costs[name].min()), float(found.costs[name].max())] for name in metric},
            }
        )
        return
    places = sorted({round(i * (len(found) - 1) / (_SHOWN - 1)) for i in range(_SHOWN)}, reverse=True)
    shown = [found.candidate(number) for number in places]
    print_table(
        f"{len(found)} subnets on the front, {found.details['scored']} scored",
        [*metric, "predicted accuracy"],
        [[*(f"{one.costs[name]:,.4g}" for name in metric), percent(one.predicted_accuracy)] for one in shown],
    )
    if checked := found.details["gaps"]:
        worst = max(checked, key=lambda one: float(one["gap"]))
        typer.echo(
            f"{check} searches for one budget each, {worst['scored']} subnets scored: at most "
            f"{100 * max(0.0, worst['gap']):.3f} points better than the front ({worst['budget']})"
        )
    typer.echo(f"saved -> {out}")
    typer.echo(f'next: onceforall search {run} --front {out} --budget "{metric[0]}<=…"')
