"""How well do predictors know the subnets of a supernet that was really trained?

Command: python benchmarks/supernet_predictor.py RUN --name NAME
Result:  benchmarks/results/supernet_predictor_NAME.json, printed as a table.

RUN is the folder of a trained run, such as benchmarks/training_recipes.py leaves in its --work folder. 400 subnets
(the largest, the smallest and random ones) are calibrated and measured on the run's held-out images, which also the
search sees and no training saw. Each of five random splits fits every kind of predictor to 300 of them and judges it
by the 100 others: Kendall's tau, root mean squared error, share of the 100 inside of the 90 % interval. Beside
them stands the tau of the evaluations with the true accuracies, by split halves of the images: what a predictor that
knows the truth would score. It is no bound, as the 100 are measured on the same images as the 300.
Measured subnets are kept in the run's folder and not measured again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from search import Evaluation, collect_evaluations, compare_predictors
from search.predictors.fitting import KINDS
from supernet.arch import SubnetConfig
from supernet.evaluation import measure_subnet
from supernet.files import write_json
from supernet.runs import RunFolder

RESULTS = Path(__file__).parent / "results"
MEASURED, UNSEEN, SPLITS, COVERAGE = 400, 100, 5, 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True, help="of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = RunFolder(arguments.run)
    net, pack = folder.load_supernet(), folder.images()

    def evaluate(config: SubnetConfig) -> Evaluation:
        measured = measure_subnet(net, config, pack, before_calibration=False)
        return Evaluation(config, measured.correct, measured.total, correct_by_half=measured.correct_by_half)

    found = collect_evaluations(arguments.run, evaluate, space=folder.space, count=MEASURED)
    configs = [one.config for one in found]
    accuracies = np.array([one.accuracy for one in found])
    halves = np.array([one.accuracy_by_half for one in found])
    rows: dict[str, dict[str, list[float]]] = {kind: {"tau": [], "rmse": [], "covered": []} for kind in KINDS}
    chosen, with_truth = [], []
    for split in range(SPLITS):
        images, share = found[0].total, UNSEEN / MEASURED
        compared = compare_predictors(
            folder.space, configs, accuracies, images=images, halves=halves, held_out_share=share, seed=split
        )
        assert (compared.held_out, compared.fitted) == (UNSEEN, MEASURED - UNSEEN)
        chosen.append(compared.chosen)
        with_truth.append(compared.tau_with_truth)
        for kind, score in compared.scores.items():
            rows[kind]["tau"].append(score.kendall_tau)
            rows[kind]["rmse"].append(score.rmse)
        order = np.random.default_rng(split).permutation(MEASURED)[:UNSEEN]  # as compare_predictors holds out
        low, high = compared.predictor.interval([configs[i] for i in order], coverage=COVERAGE)
        inside = (low <= accuracies[order]) & (accuracies[order] <= high)
        rows[compared.chosen]["covered"].append(float(inside.mean()))
    result = {
        "question": __doc__.splitlines()[0],
        "training": {key: folder.manifest.get(key) for key in ("settings", "training_seconds")},
        "images": found[0].total,
        "accuracy_range": [float(accuracies.min()), float(accuracies.max())],
        "chosen": chosen,
        "tau_with_truth": with_truth[0],
        "kinds": rows,
    }
    write_json(RESULTS / f"supernet_predictor_{arguments.name}.json", result)
    for kind, values in rows.items():
        covered = f"{100 * np.mean(values['covered']):.0f} %" if values["covered"] else "-"
        print(
            f"{kind:<8} tau {np.mean(values['tau']):.3f} ({min(values['tau']):.3f} to {max(values['tau']):.3f})  "
            f"RMSE {100 * np.mean(values['rmse']):.2f} points  90 % interval covers {covered}"
        )
    print(f"chosen {chosen}; tau with the truth {with_truth[0]:.3f}; {found[0].total} images a subnet")


if __name__ == "__main__":
    main()
