"""How good and how fast are our searches beside the reference's own, and beside random search?

Command: python -m benchmarks.search_quality --predictor FOLDER/acc_predictor.pth --tables FOLDER/note10
         (one thread; needs the development extra). --parts takes some of the parts below, --seeds, --limits and --macs
         make a trial shorter, --result keeps it apart. A part that is done is written at once; parts of an earlier run
         stay in the file until they are measured again.
Result:  benchmarks/results/search_quality.json, search_quality.svg and search_quality_macs.svg, printed as tables.

Space mobilenet_v3_w1.2, resolutions 160 to 224. The authors' predictor judges both sides; "accuracy" is its guess, no
measurement. The reference is the finder of the authors' tutorial with its own predictor class and tables and its
published settings (population 100, 500 generations, a quarter are parents, half are mutants, mutation probability 0.1;
50,100 predictions), run as it is but for what would download, ask or loop for ever (tests/reference_search.py). Ours
has its default settings. Seconds are of the search alone, by the clock and of processor time; setting up (tables read,
costs tabulated) is reported apart. Seeds 0 to 4, in part front the first three of them.

- latency: the reference, ours and random search in turns, at note10 latencies of 15 to 35 ms. Random search scores as
  many subnets as ours, uniform gene by gene and within the budget, but draws 5 million at most. `gap` is to the best
  accuracy known of each budget (from long searches, some of them not ours). Our table has one row for a layer that
  several of the reference's files time, so the two differ a little: each side keeps to its own, both price all answers.
- macs: budgets of 150 to 600 million MACs, the reference with its FLOPs table. Real MACs are counted layer by layer;
  the table counts others, so ours is searched twice: at the budget, and at the real MACs of the reference's answer.
- refused: budgets that cannot be met, or are below the reference's range: what each side answers.
- front: FrontSearch of accuracy against note10 latency, its answers at the budgets against the best known, against
  EvolutionarySearch with 400,000 subnets (population 1,000, 400 generations, one seed), against NSGA-II with the same
  900,000 children (which repeats itself less and so scores more subnets) and against the front of as many random
  subnets. Hypervolume: accuracy above the cheapest subnet's times latency below the largest's, ms.
- scaling: EvolutionarySearch at 25 ms with populations of 100 to 100,000: subnets scored a second, and the peak of
  memory that Python and numpy allocate (a second run, traced) per subnet scored, working arrays included.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reference_speed import processor
from latency_tables import Budget, LatencyTable, macs
from search import (
    NSGA2,
    AccuracyPredictor,
    Candidate,
    EvolutionarySearch,
    FrontSearch,
    NoSubnetError,
    ParetoFront,
)
from search.seen import Seen
from search.threads import one_blas_thread
from supernet.arch import SubnetConfig
from supernet.files import read_json, sha256_file, write_json
from supernet.spaces import get_space
from tests import reference_search
from tests.reference_search import ReferenceResult, RefusedError, sample_of

RESULT = Path(__file__).parent / "results" / "search_quality.json"
DEVICE = "note10"
METRIC = f"latency_ms@{DEVICE}"
BEST_KNOWN = {15.0: 0.7880, 20.0: 0.8079, 25.0: 0.8222, 30.0: 0.8306, 35.0: 0.8368}
"""Latency in ms -> greatest predicted accuracy that any search was known to have found before these runs."""
MILLION_MACS = (150.0, 250.0, 350.0, 450.0, 600.0)
REFUSED = ((DEVICE, 9.0), (DEVICE, 12.0), ("flops", 90.0), ("flops", 120.0))
"""Limits below the reference's range; of each pair the first cannot be met at all."""
MOST_DRAWN, DRAWN_AT_ONCE = 5_000_000, 100_000
LONG = {"population": 1000, "generations": 400}
SCALES = {100: 200, 1000: 20, 10_000: 4, 100_000: 4}
"""Population -> generations."""
LOOK_UPS = 1000
FRONTS = ("front", "nsga2", "random")
"""The sides of part front; the first is FrontSearch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictor", type=Path, required=True, help="the authors' acc_predictor.pth")
    parser.add_argument("--tables", type=Path, required=True, help="folder of the authors' note10 tables")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--limits", type=float, nargs="+", default=list(BEST_KNOWN), help="latencies, ms")
    parser.add_argument("--macs", type=float, nargs="+", default=list(MILLION_MACS), help="MACs, millions")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    oracle = {"predictor_sha256": sha256_file(arguments.predictor)}
    report = read_json(arguments.result) if arguments.result.exists() else {}
    if report.get("oracle") != oracle:
        report = {"question": __doc__.splitlines()[0], "space": "mobilenet_v3_w1.2", "oracle": oracle, "parts": {}}
    sides = Sides(arguments.predictor, arguments.tables)
    asked = Asked(arguments.seeds, arguments.limits, arguments.macs)
    for part in arguments.parts:
        load, started = os.getloadavg()[0], time.perf_counter()
        with one_blas_thread():
            found = PARTS[part](sides, asked)
        report["parts"][part] = found | {
            "whole_part_seconds": round(time.perf_counter() - started, 1),
            "machine": machine(load),
        }
        write_json(arguments.result, report)
        TABLES[part](found)
    draw_pictures(report["parts"], arguments.result)


def machine(load: float) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "load_at_start": round(load, 2),
        "load_at_end": round(os.getloadavg()[0], 2),
    }


@dataclass(frozen=True)
class Asked:
    """What to measure: seeds, latencies in ms, millions of MACs."""

    seeds: Sequence[int]
    limits: Sequence[float]
    millions: Sequence[float]


@dataclass
class Sides:
    """Both sides over the same files; `setup_seconds` is what each step before the searches took."""

    predictor_file: Path
    tables_folder: Path
    setup_seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._their_tables: dict[str, Any] = {}
        self.space = get_space("mobilenet_v3_w1.2")
        self.table = self._timed("ours_latency_table", lambda: LatencyTable.load(self.tables_folder, device=DEVICE))
        self.predictor = AccuracyPredictor.load_ofa(self.predictor_file, self.space)
        searcher = self._timed("ours_search", self.search)
        self.domain, self.costs = searcher.domain, searcher.costs

    @cached_property
    def their_predictor(self) -> Any:
        """The reference's, of the same weights."""
        return reference_search.accuracy_predictor(self.predictor_file)

    def their_table(self, kind: str) -> Any:
        """The reference's table of latencies (`kind` note10) or of FLOPs (`kind` flops)."""
        if kind not in self._their_tables:
            makers = {DEVICE: lambda: reference_search.latency_table(self.tables_folder)}
            makers["flops"] = reference_search.flops_table
            self._their_tables[kind] = self._timed(f"reference_table_of_{kind}", makers[kind])
        return self._their_tables[kind]

    def search(self, **settings: Any) -> EvolutionarySearch:
        """Ours, ready to run."""
        return EvolutionarySearch(self.space, self.predictor, {DEVICE: self.table}, **settings)

    def run_reference(self, kind: str, limit: float, seed: int, *, checked: bool = True) -> ReferenceResult:
        """A search of the reference within ms (`kind` note10) or millions of FLOPs (`kind` flops)."""
        table = self.their_table(kind)
        return reference_search.finder(kind, limit, table, self.their_predictor, checked=checked).run(seed)

    def judged(self, config: SubnetConfig) -> dict[str, float]:
        """A subnet's predicted accuracy, latency by our table and by the reference's, and real MACs."""
        return {
            "accuracy": float(self.predictor.predict([config])[0]),
            "latency_ms": self.table.estimate_ms(self.space, config),
            "latency_ms_by_their_files": float(self.their_table(DEVICE).predict_efficiency(sample_of(config))),
            "macs": macs(self.space.layers(config)),
        }

    def of_candidate(self, found: Candidate) -> dict[str, Any]:
        """The same of an answer of ours, counted anew and not taken from it."""
        return self.judged(found.config) | {"predictions": found.scored, "unique": found.scored}

    def of_reference(self, found: ReferenceResult) -> dict[str, Any]:
        """The same of an answer of the reference, beside what it said itself."""
        judged = self.judged(found.config(self.space))
        # the same weights over the same architecture; else the two sides were not judged alike
        assert abs(judged["accuracy"] - found.accuracy) < 1e-5, (judged, found.accuracy)
        said = {"said_accuracy": found.accuracy, "said_cost": found.cost}
        return judged | said | {"predictions": found.scored, "unique": found.unique()}

    def refusals(self, kind: str, limit: float, budget: Budget) -> dict[str, str]:
        """Who refuses a limit before a search, and why."""
        result = {}
        try:
            reference_search.finder(kind, limit, self.their_table(kind), self.their_predictor)
        except RefusedError as error:
            result["reference"] = str(error)
        try:
            self.search().check(budget)
        except NoSubnetError as error:
            result["ours"] = str(error)
        return result

    def _timed(self, name: str, make: Callable[[], Any]) -> Any:
        made, seconds = timed(make)
        self.setup_seconds[name] = round(seconds["seconds"], 3)
        return made


def timed(action: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it returns, and how long it took by the clock and of processor time."""
    clock, processor_time = time.perf_counter(), time.process_time()
    found = action()
    return found, {
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - processor_time,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "least": float(min(values)), "most": float(max(values))}


def over_seeds(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spreads of what every seed measured."""
    return {name: spread([cell[name] for cell in cells]) for name in cells[0]}


def ratios(theirs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many times as long the reference took, seed by seed."""
    return {
        name: spread([a[name] / b[name] for a, b in zip(theirs, ours, strict=True)])
        for name in ("seconds", "cpu_seconds")
    }


def latency_budget(limit: float) -> Budget:
    return Budget.parse(f"{METRIC}<={limit!r}")


def macs_budget(limit: float) -> Budget:
    return Budget.parse(f"macs<={limit:.0f}")


def answered(budgets: dict[str, Any]) -> list[tuple[str, Any]]:
    """The budgets for which both sides searched."""
    return [(limit, cell) for limit, cell in budgets.items() if "refused" not in cell]


# -- latency -----------------------------------------------------------------------------------------------------


def latency(sides: Sides, asked: Asked) -> dict[str, Any]:
    """The reference, ours and random search, in turns."""
    budgets: dict[str, Any] = {}
    for limit in asked.limits:
        if refusals := sides.refusals(DEVICE, limit, latency_budget(limit)):
            print(f"{limit:g} ms: refused: {refusals}", flush=True)
            budgets[f"{limit:g}"] = {"refused": refusals}
            continue
        cells: dict[str, list[dict[str, Any]]] = {"reference": [], "ours": [], "random": []}
        for seed in asked.seeds:
            theirs, seconds = timed(lambda limit=limit, seed=seed: sides.run_reference(DEVICE, limit, seed))
            cells["reference"].append(sides.of_reference(theirs) | seconds)
            searcher = sides.search(seed=seed)
            ours, seconds = timed(lambda limit=limit, searcher=searcher: searcher.run(latency_budget(limit)))
            cells["ours"].append(sides.of_candidate(ours) | seconds)
            cells["random"].append(random_search(sides, limit, ours.scored, seed))
            last = {side: found[-1] for side, found in cells.items()}
            print(
                f"{limit:g} ms, seed {seed}:",
                *(f"{side} {cell['accuracy']:.5f} ({cell['seconds']:.1f} s)" for side, cell in last.items()),
                flush=True,
            )
        if limit in BEST_KNOWN:
            for cell in (cell for found in cells.values() for cell in found):
                cell["gap"] = BEST_KNOWN[limit] - cell["accuracy"]
        budgets[f"{limit:g}"] = {side: over_seeds(found) for side, found in cells.items()} | {
            **{
                f"within_budget_by_{table}": {
                    side: sum(cell[key] <= limit * (1 + 1e-9) for cell in found) for side, found in cells.items()
                }
                for table, key in (("our_table", "latency_ms"), ("their_files", "latency_ms_by_their_files"))
            },
            "reference_times_as_long": ratios(cells["reference"], cells["ours"]),
            "ours_at_least_as_accurate": sum(
                ours["accuracy"] >= theirs["accuracy"]
                for ours, theirs in zip(cells["ours"], cells["reference"], strict=True)
            ),
        }
    return {"seeds": list(asked.seeds), "setup_seconds": dict(sides.setup_seconds), "budgets_ms": budgets}


def random_search(sides: Sides, limit: float, count: int, seed: int) -> dict[str, Any]:
    """The best of `count` random subnets within the limit, or of those among `MOST_DRAWN` draws."""
    rng = np.random.default_rng(seed)
    start = time.perf_counter(), time.process_time()
    seen, drawn = Seen(), 0
    best, best_score = None, -np.inf
    while len(seen) < count and drawn < MOST_DRAWN:
        rows = sides.domain.random(rng, DRAWN_AT_ONCE)
        drawn += len(rows)
        met = sides.costs.of(rows, [METRIC])[:, 0] <= limit
        kept = sides.domain.canonical(rows[met])
        kept, _ = seen.first_new(kept, np.ones(len(kept), dtype=bool), count - len(seen))
        if len(kept):
            scores = sides.predictor.rank_genotypes(kept)
            if scores.max() > best_score:
                best, best_score = kept[scores.argmax()], scores.max()
    seconds = {"seconds": time.perf_counter() - start[0], "cpu_seconds": time.process_time() - start[1]}
    assert best is not None, f"none of {drawn} random subnets takes {limit} ms or less"
    judged = sides.judged(sides.space.decode(best[None])[0])
    return judged | {"predictions": len(seen), "unique": len(seen), "drawn": drawn} | seconds


def latency_table(found: dict[str, Any]) -> None:
    print("\nlatency: predicted accuracy, median [least, most] of the seeds")
    print(f"{'ms':>5}{'reference':>27}{'ours':>27}{'random':>27}{'best known':>12}{'times as long (processor)':>27}")
    for limit, cell in answered(found["budgets_ms"]):
        ratio = cell["reference_times_as_long"]
        best = BEST_KNOWN.get(float(limit))
        print(
            f"{limit:>5}",
            *(f"{_range(cell[side]['accuracy']):>26}" for side in ("reference", "ours", "random")),
            f"{best:>11.4f}" if best else f"{'':>11}",
            f"{ratio['seconds']['median']:>12.1f} ({ratio['cpu_seconds']['median']:.1f})",
        )
    print(f"{'ms':>5}   seconds (processor), different subnets of those predicted; real latency")
    for limit, cell in answered(found["budgets_ms"]):
        for side in ("reference", "ours", "random"):
            one = {name: spread["median"] for name, spread in cell[side].items()}
            print(
                f"{limit:>5}   {side:<10}{one['seconds']:>8.2f} ({one['cpu_seconds']:.2f})"
                f"{one['unique']:>10,.0f} of {one['predictions']:,.0f}; {one['latency_ms']:.3f} ms, "
                f"by their files {one['latency_ms_by_their_files']:.3f}"
            )


# -- macs --------------------------------------------------------------------------------------------------------


def by_macs(sides: Sides, asked: Asked) -> dict[str, Any]:
    """The reference with its FLOPs table; ours at the same budget, and at what the reference's answer really needs."""
    budgets: dict[str, Any] = {}
    for millions in asked.millions:
        asked_macs = millions * 1e6
        if refusals := sides.refusals("flops", millions, macs_budget(asked_macs)):
            print(f"{millions:g} M: refused: {refusals}", flush=True)
            budgets[f"{millions:g}"] = {"refused": refusals}
            continue
        cells: dict[str, list[dict[str, Any]]] = {"reference": [], "ours": [], "ours_at_their_macs": []}
        for seed in asked.seeds:
            theirs, seconds = timed(lambda limit=millions, seed=seed: sides.run_reference("flops", limit, seed))
            cells["reference"].append(sides.of_reference(theirs) | seconds)
            for name, limit in (("ours", asked_macs), ("ours_at_their_macs", cells["reference"][-1]["macs"])):
                searcher = sides.search(seed=seed)
                ours, seconds = timed(lambda limit=limit, searcher=searcher: searcher.run(macs_budget(limit)))
                cells[name].append(sides.of_candidate(ours) | seconds)
                assert cells[name][-1]["macs"] <= limit
            last = {side: found[-1] for side, found in cells.items()}
            print(
                f"{millions:g} M, seed {seed}:",
                *(f"{side} {cell['accuracy']:.5f} with {cell['macs'] / 1e6:.1f} M" for side, cell in last.items()),
                flush=True,
            )
        budgets[f"{millions:g}"] = {side: over_seeds(found) for side, found in cells.items()} | {
            "within_budget": {side: sum(cell["macs"] <= asked_macs for cell in found) for side, found in cells.items()},
            "reference_times_as_long": ratios(cells["reference"], cells["ours"]),
            "ours_at_least_as_accurate": sum(
                ours["accuracy"] >= theirs["accuracy"]
                for ours, theirs in zip(cells["ours_at_their_macs"], cells["reference"], strict=True)
            ),
            "points": {side: [[cell["macs"], cell["accuracy"]] for cell in found] for side, found in cells.items()},
        }
    return {"seeds": list(asked.seeds), "setup_seconds": dict(sides.setup_seconds), "budgets_million_macs": budgets}


def macs_table(found: dict[str, Any]) -> None:
    seeds = len(found["seeds"])
    print("\nmacs: medians; real MACs in millions, answers within the budget, predicted accuracy")
    print(f"{'M':>5}{'reference':>28}{'ours':>28}{'ours, their real MACs':>28}{'as good':>10}{'times as long':>15}")
    for millions, cell in answered(found["budgets_million_macs"]):
        texts = [
            f"{cell[side]['macs']['median'] / 1e6:.1f} M "
            + (f"({cell['within_budget'][side]}/{seeds}) " if side != "ours_at_their_macs" else "")
            + f"{cell[side]['accuracy']['median']:.5f}"
            for side in ("reference", "ours", "ours_at_their_macs")
        ]
        ratio = cell["reference_times_as_long"]["seconds"]["median"]
        equal = f"{cell['ours_at_least_as_accurate']}/{seeds}"
        print(f"{millions:>5}" + "".join(f"{text:>28}" for text in texts) + f"{equal:>10}{ratio:>15.1f}")


# -- refused -----------------------------------------------------------------------------------------------------


def refused(sides: Sides, asked: Asked) -> dict[str, Any]:
    """What each side answers to limits below the reference's range."""
    seed = asked.seeds[0]
    for kind in (DEVICE, "flops"):
        sides.their_table(kind)  # built before the clock runs
    rows = []
    for kind, limit in REFUSED:
        budget = latency_budget(limit) if kind == DEVICE else macs_budget(1e6 * limit)
        searcher = sides.search(seed=seed)
        sides_asked: dict[str, Callable[[], dict[str, Any]]] = {
            "reference": lambda kind=kind, limit=limit: sides.of_reference(sides.run_reference(kind, limit, seed)),
            "reference_unchecked": lambda kind=kind, limit=limit: sides.of_reference(
                sides.run_reference(kind, limit, seed, checked=False)
            ),
            "ours": lambda budget=budget, searcher=searcher: sides.of_candidate(searcher.run(budget)),
        }
        row: dict[str, Any] = {"budget": str(budget)}
        for side, ask in sides_asked.items():
            row[side], seconds = timed(lambda ask=ask: answer(ask))
            row[side]["seconds"] = seconds["seconds"]
        rows.append(row)
    return {"seed": seed, "budgets": rows}


def answer(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except (RefusedError, NoSubnetError) as error:
        return {"refused": str(error)}


def refused_table(found: dict[str, Any]) -> None:
    print("\nrefused: answers to budgets below the reference's range")
    for row in found["budgets"]:
        print(row["budget"])
        for side in ("reference", "reference_unchecked", "ours"):
            said = row[side].get("refused") or f"accuracy {row[side]['accuracy']:.5f}"
            print(f"  {side:<20}{row[side]['seconds']:>7.2f} s  {said}")


# -- front -------------------------------------------------------------------------------------------------------


def front(sides: Sides, asked: Asked) -> dict[str, Any]:
    """All budgets at once, against long searches of each, NSGA-II, and random subnets."""
    seeds = list(asked.seeds)[:3]
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in FRONTS}
    curves: dict[str, list[list[float]]] = {}
    for seed in seeds:
        searchers = [
            finder(sides.space, sides.predictor, {DEVICE: sides.table}, metrics=[METRIC], seed=seed)
            for finder in (FrontSearch, NSGA2)
        ]
        found = [timed(searcher.run) for searcher in searchers]
        count = found[0][0].details["scored"]
        found.append(timed(lambda seed=seed, count=count: random_front(sides, count, seed)))
        for name, (one, took) in zip(FRONTS, found, strict=True):
            cells[name].append(of_front(sides, one, asked.limits) | took)
            curves.setdefault(
                name,
                [
                    [round(float(ms), 4), round(float(accuracy), 6)]
                    for ms, accuracy in zip(one.costs[METRIC], one.accuracies, strict=True)
                ],
            )
            print(f"{name}, seed {seed}: {took['seconds']:.1f} s, {len(one)} points", flush=True)
    long = {}
    for limit in asked.limits:
        one_budget = sides.search(seed=seeds[0], **LONG)
        best, seconds = timed(lambda limit=limit, search=one_budget: search.run(latency_budget(limit)))
        long[f"{limit:g}"] = sides.of_candidate(best) | seconds
        print(f"long search, {limit:g} ms: {best.predicted_accuracy:.5f}", flush=True)
    return {
        "seeds": seeds,
        "hypervolume_corner": corner(sides),
        "best_known": {f"{limit:g}": value for limit, value in BEST_KNOWN.items() if limit in asked.limits},
        "long_search": LONG | {"seed": seeds[0], "budgets_ms": long},
        **{
            name: over_seeds([{key: value for key, value in cell.items() if key != "answers"} for cell in found])
            | {"answers_ms": over_seeds([cell["answers"] for cell in found])}
            for name, found in cells.items()
        },
        "curves_of_first_seed": curves,
    }


def corner(sides: Sides) -> dict[str, float]:
    """Where the hypervolume begins: the largest subnet's latency, the cheapest one's accuracy."""
    _, cheapest = sides.costs.minimum(METRIC)
    accuracy = float(sides.predictor.predict_genotypes(cheapest[None])[0])
    return {"latency_ms": sides.costs.of_largest(METRIC), "accuracy": accuracy}


def of_front(sides: Sides, found: ParetoFront, limits: Sequence[float]) -> dict[str, Any]:
    """Answers at the limits, the time of a look-up, and the hypervolume."""
    least, most = float(found.costs[METRIC].min()), float(found.costs[METRIC].max())
    budgets = [latency_budget(float(limit)) for limit in np.random.default_rng(0).uniform(least, most, size=LOOK_UPS)]
    _, seconds = timed(lambda: [found.look_up(budget) for budget in budgets])
    answers = {limit: found.look_up(latency_budget(limit)) for limit in limits}
    at = corner(sides)
    return {
        "points": len(found),
        "scored": found.details["scored"],
        "look_up_microseconds": 1e6 * seconds["cpu_seconds"] / LOOK_UPS,
        "hypervolume": found.hypervolume({METRIC: at["latency_ms"]}, at["accuracy"]),
        "answers": {f"{limit:g}": sides.judged(answer.config)["accuracy"] for limit, answer in answers.items()},
    }


def random_front(sides: Sides, count: int, seed: int) -> ParetoFront:
    """The front of different random subnets, uniform gene by gene."""
    rng = np.random.default_rng(seed)
    seen = Seen()
    kept, scores = [], []
    while len(seen) < count:
        rows = sides.domain.canonical(sides.domain.random(rng, DRAWN_AT_ONCE))
        rows, _ = seen.first_new(rows, np.ones(len(rows), dtype=bool), count - len(seen))
        kept.append(rows)
        scores.append(sides.predictor.rank_genotypes(rows))
    rows, ranks = np.concatenate(kept), np.concatenate(scores)
    costs = {METRIC: sides.costs.of(rows, [METRIC])[:, 0]}
    return ParetoFront.of(sides.space, rows, np.clip(ranks, 0, 1), ranks, costs, [METRIC], scored=len(rows))


def front_table(found: dict[str, Any]) -> None:
    print("\nfront: predicted accuracy at each latency, median [least, most] of the seeds")
    print(
        f"{'ms':>5}"
        + "".join(f"{name:>27}" for name in FRONTS)
        + f"{'long search':>13}{'best known':>12}{'gap to long':>13}{'to best':>10}"
    )
    for limit, cell in found["front"]["answers_ms"].items():
        long, best = found["long_search"]["budgets_ms"][limit]["accuracy"], found["best_known"].get(limit)
        print(
            f"{limit:>5}"
            + "".join(f"{_range(found[name]['answers_ms'][limit]):>27}" for name in FRONTS)
            + f"{long:>13.5f}"
            + (f"{best:>12.4f}" if best else f"{'':>12}")
            + f"{long - cell['median']:>13.5f}"
            + (f"{best - cell['median']:>10.5f}" if best else "")
        )
    for name in FRONTS:
        one = {key: value["median"] for key, value in found[name].items() if key != "answers_ms"}
        print(
            f"{name}: {one['seconds']:.1f} s ({one['cpu_seconds']:.1f} of processor), {one['scored']:,.0f} subnets, "
            f"{one['points']:.0f} points, hypervolume {one['hypervolume']:.4f}, "
            f"a look-up {one['look_up_microseconds']:.0f} us"
        )
    long_seconds = [cell["seconds"] for cell in found["long_search"]["budgets_ms"].values()]
    print(f"long search: {min(long_seconds):.1f} to {max(long_seconds):.1f} s a budget")


# -- scaling -----------------------------------------------------------------------------------------------------


def scaling(sides: Sides, asked: Asked) -> dict[str, Any]:
    """Rate and memory of the search by population."""
    seed, budget = asked.seeds[0], latency_budget(25.0)
    populations = {}
    for population, generations in SCALES.items():
        settings = {"population": population, "generations": generations, "seed": seed}
        searcher = sides.search(**settings)
        found, seconds = timed(lambda searcher=searcher: searcher.run(budget))
        searcher = sides.search(**settings)
        tracemalloc.start()
        try:
            traced = searcher.run(budget)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert traced == found
        populations[str(population)] = {
            "generations": generations,
            "scored": found.scored,
            "accuracy": found.predicted_accuracy,
            **seconds,
            "scored_per_second": found.scored / seconds["seconds"],
            "scored_per_cpu_second": found.scored / seconds["cpu_seconds"],
            "peak_mb": peak / 1e6,
            "peak_bytes_a_subnet": peak / found.scored,
        }
    return {"seed": seed, "budget": str(budget), "populations": populations}


def scaling_table(found: dict[str, Any]) -> None:
    print(f"\nscaling: {found['budget']}")
    print(f"{'population':>10}{'generations':>13}{'scored':>10}{'scored/s':>12}{'peak MB':>10}{'bytes a subnet':>16}")
    for population, cell in found["populations"].items():
        print(
            f"{population:>10}{cell['generations']:>13}{cell['scored']:>10,}{cell['scored_per_second']:>12,.0f}"
            f"{cell['peak_mb']:>10.1f}{cell['peak_bytes_a_subnet']:>16,.0f}"
        )


# ----------------------------------------------------------------------------------------------------------------


PARTS: dict[str, Callable[[Sides, Asked], dict[str, Any]]] = {
    "latency": latency,
    "macs": by_macs,
    "refused": refused,
    "front": front,
    "scaling": scaling,
}
TABLES: dict[str, Callable[[dict[str, Any]], None]] = {
    "latency": latency_table,
    "macs": macs_table,
    "refused": refused_table,
    "front": front_table,
    "scaling": scaling_table,
}


def _range(values: dict[str, float]) -> str:
    return f"{values['median']:.5f} [{values['least']:.4f}, {values['most']:.4f}]"


def draw_pictures(parts: dict[str, Any], result: Path) -> None:
    """Accuracy by latency and by real MACs, of the parts that there are."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "search_quality"  # equal results give equal files
    from matplotlib import pyplot as plt

    colours = {
        "ours": "tab:blue",
        "reference": "tab:red",
        "random": "tab:gray",
        "front": "tab:green",
        "nsga2": "tab:orange",
    }
    if "latency" in parts or "front" in parts:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for name, label in (
            ("front", "ours: front, one search"),
            ("nsga2", "NSGA-II, as many children"),
            ("random", "random front, as many subnets"),
        ):
            curve = np.array(parts.get("front", {}).get("curves_of_first_seed", {}).get(name, np.empty((0, 2))))
            if len(curve):
                style = {"front": "-", "nsga2": "--"}.get(name, ":")
                axes.step(curve[::-1, 0], 100 * curve[::-1, 1], style, where="post", color=colours[name], label=label)
        budgets = dict(answered(parts.get("latency", {}).get("budgets_ms", {})))
        for side, marker, label in (
            ("ours", "o", "ours: a search a budget"),
            ("random", "x", "random, as many subnets as ours"),
            ("reference", "s", "reference: a search a budget"),
        ):
            accuracies = [cell[side]["accuracy"] for cell in budgets.values()]
            if accuracies:
                medians = np.array([one["median"] for one in accuracies])
                ends = np.abs(np.array([[one["least"], one["most"]] for one in accuracies]).T - medians)
                latencies = [cell[side]["latency_ms"]["median"] for cell in budgets.values()]
                axes.errorbar(
                    latencies, 100 * medians, yerr=100 * ends, fmt=marker, color=colours[side], capsize=3, label=label
                )
        axes.set_xlim(9, 45)
        axes.set_xlabel("latency on note10 by its table, ms")
        axes.set_ylabel("predicted ImageNet top-1 accuracy, %")
        axes.set_title("MobileNetV3 w1.2; medians and ranges over seeds")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(result.with_suffix(".svg"), metadata={"Date": None})
        plt.close(figure)
    if "macs" in parts:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        budgets = dict(answered(parts["macs"]["budgets_million_macs"]))
        for number, millions in enumerate(budgets):
            axes.axvline(
                float(millions), color="black", linewidth=0.8, linestyle=":", label=None if number else "budget"
            )
        for side, marker, label in (
            ("ours", "o", "ours at the budget"),
            ("ours_at_their_macs", "^", "ours at the reference's real MACs"),
            ("reference", "s", "reference at the budget"),
        ):
            points = np.array([point for cell in budgets.values() for point in cell["points"][side]])
            colour = colours.get(side, "tab:cyan")
            axes.plot(points[:, 0] / 1e6, 100 * points[:, 1], marker, markersize=5, color=colour, label=label)
        axes.set_xlabel("real MACs, millions")
        axes.set_ylabel("predicted ImageNet top-1 accuracy, %")
        axes.set_title("MobileNetV3 w1.2; every seed")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
        figure.savefig(result.with_name(result.stem + "_macs.svg"), metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
