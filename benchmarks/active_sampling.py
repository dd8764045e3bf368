"""Does it pay to measure a part of the subnets near the predicted front of accuracy and MACs?

Command: python benchmarks/active_sampling.py --oracle FOLDER/acc_predictor.pth   (about 5 minutes on a busy machine)
Result:  benchmarks/results/active_sampling.json, printed as a table.

The truth is the authors' own accuracy predictor of MobileNetV3 w1.2, plus normal noise of 0.25 points for evaluations.
Both arms measure equally many subnets and fit the same kind of predictor ("pooled"); one draws all at random, the
other measures half at random and half in four batches by `propose_near_front`, as `onceforall predictor
--front-share 0.5` does. Then each predictor is searched under four limits on MACs. Points of accuracy:
"regret", how much less accurate the found subnets truly are than those that the same search finds when it asks the
truth; "optimism", how much more than the truth the predictor promises for what it found, in the mean, and its size.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_tables import Budget
from search import AccuracyPredictor, EvolutionarySearch, fit_predictor, propose_near_front
from supernet.files import write_json
from supernet.spaces import Genotypes, SearchSpace, get_space

RESULT = Path(__file__).parent / "results" / "active_sampling.json"
NOISE = 0.0025
COUNTS = (100, 200, 400)
LIMITS = tuple(f"macs<={millions}M" for millions in (300, 400, 500, 600))
BATCHES = 4


@dataclass(frozen=True)
class Known:
    """A predictor for a search that must keep to the oracle's resolutions: others rank last."""

    space: SearchSpace
    predictor: AccuracyPredictor
    allowed: npt.NDArray[np.bool_]

    def predict_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.floating[Any]]:
        """Accuracy of each row."""
        return np.clip(self.rank_genotypes(genotypes), 0, 1)

    def rank_genotypes(self, genotypes: Genotypes) -> npt.NDArray[np.floating[Any]]:
        """The predictor's number, or one below all where the resolution is not the oracle's."""
        return np.where(self.allowed[genotypes[:, 0]], self.predictor.rank_genotypes(genotypes), -1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13])
    arguments = parser.parse_args()
    space = get_space("mobilenet_v3_w1.2")
    oracle = AccuracyPredictor.load_ofa(arguments.oracle, space)
    best = found_by(oracle, oracle)
    arms: dict[str, Any] = {}
    for count in COUNTS:
        for name, near_front in (("random", 0), ("half near the front", count // 2)):
            cells = []
            for seed in arguments.seeds:
                found = found_by(fit(oracle, count, near_front, seed), oracle)
                gaps = 100 * (found[:, 0] - found[:, 1])
                cells.append(
                    {
                        "regret_points": 100 * float(np.mean(best[:, 1] - found[:, 1])),
                        "optimism_points": float(gaps.mean()),
                        "optimism_size_points": float(np.abs(gaps).mean()),
                    }
                )
            arms.setdefault(str(count), {})[name] = {
                key: {
                    "mean": float(np.mean([cell[key] for cell in cells])),
                    "least": min(cell[key] for cell in cells),
                    "most": max(cell[key] for cell in cells),
                }
                for key in cells[0]
            }
            print(
                f"{count} evaluations, {name}: "
                + ", ".join(
                    f"{key} {cell['mean']:.2f} [{cell['least']:.2f} to {cell['most']:.2f}]"
                    for key, cell in arms[str(count)][name].items()
                ),
                flush=True,
            )
    write_json(
        RESULT,
        {
            "question": __doc__.splitlines()[0],
            "space": space.name,
            "oracle_sha256": oracle.details["imported"]["sha256"],
            "noise_points": 100 * NOISE,
            "limits": LIMITS,
            "seeds": arguments.seeds,
            "machine": {"processor": platform.processor() or platform.machine(), "numpy": np.__version__},
            "evaluations": arms,
        },
    )


def fit(oracle: AccuracyPredictor, count: int, near_front: int, seed: int) -> AccuracyPredictor:
    """Measure `count` subnets by the oracle, `near_front` of them by proposal, and fit."""
    assert oracle.resolutions is not None
    within, rng, space = {"resolution": oracle.resolutions}, np.random.default_rng(seed), oracle.space

    def measure(rows: Genotypes) -> list[float]:
        return (oracle.rank_genotypes(rows) + rng.normal(0, NOISE, size=len(rows))).tolist()

    rows = space.sample_genotypes(rng, count - near_front, within=within)
    configs, accuracies = space.decode(rows), measure(rows)
    for part in np.array_split(np.arange(near_front), BATCHES):
        if len(part):
            more = propose_near_front(space, configs, accuracies, count=len(part), seed=seed, within=within)
            configs += more
            accuracies += measure(space.encode(more))
    return fit_predictor(space, configs, accuracies, kind="pooled", seed=seed)


def found_by(predictor: AccuracyPredictor, oracle: AccuracyPredictor) -> npt.NDArray[np.float64]:
    """For each limit, what the predictor promises for the subnet that it finds, and the truth; (limits, 2)."""
    space = oracle.space
    assert oracle.resolutions is not None
    allowed = np.array([side in oracle.resolutions for side in space.dimensions[0].choices])
    search = EvolutionarySearch(space, Known(space, predictor, allowed), population=100, generations=100)
    pairs = []
    for limit in LIMITS:
        row = space.encode([search.run(Budget.parse(limit)).config])
        assert allowed[row[0, 0]]
        pairs.append([float(predictor.rank_genotypes(row)[0]), float(oracle.rank_genotypes(row)[0])])
    return np.array(pairs)


if __name__ == "__main__":
    main()
