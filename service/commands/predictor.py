"""`onceforall predictor`: measure subnets of a trained run and learn to predict their accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, Threads, prepare_torch, print_json, print_table, progress_bar


def predictor(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    count: Annotated[int, typer.Option(help="Subnets to measure; those measured before count.")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which random subnets, and the fit.")] = 0,
    front_share: Annotated[
        float, typer.Option(help="Share of the subnets to take near the predicted front of accuracy and MACs.")
    ] = 0.0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Evaluate calibrated random subnets on the run's held-out images, and fit an accuracy predictor.

    Started by torchrun, all processes share the evaluations; the result is the same.
    """
    import numpy as np

    from search import Evaluation, collect_evaluations, compare_predictors
    from search.predictors.compare import require_enough
    from supernet.arch import SubnetConfig
    from supernet.evaluation import measure_subnet
    from supernet.runs import RunFolder
    from supernet.training.processes import joined

    prepare_torch(threads)
    require_enough(count)
    folder = RunFolder(run)
    net, pack = folder.load_supernet(), folder.images()

    def evaluate(config: SubnetConfig) -> Evaluation:
        measured = measure_subnet(net, config, pack, before_calibration=False)
        return Evaluation(config, measured.correct, measured.total, correct_by_half=measured.correct_by_half)

    with joined("cpu") as here, progress_bar("evaluating subnets") as progress:
        found = collect_evaluations(
            run,
            evaluate,
            space=folder.space,
            count=count,
            seed=seed,
            front_share=front_share,
            progress=progress if here.first else None,
            processes=here,
        )
    if not here.first:
        return
    halves = [evaluation.accuracy_by_half for evaluation in found if evaluation.accuracy_by_half is not None]
    comparison = compare_predictors(
        folder.space,
        [evaluation.config for evaluation in found],
        [evaluation.accuracy for evaluation in found],
        images=found[0].total,
        halves=np.array(halves).reshape(-1, 2),
        seed=seed,
        details={
            "weights_sha256": folder.weights_sha256,
            "images_sha256": folder.manifest["images"]["sha256"],
            "images": found[0].total,
        },
    )
    comparison.predictor.save(folder.predictor_path)
    report = comparison.to_dict() | {
        "run": str(run),
        "predictor": str(folder.predictor_path),
        "evaluated": len(found),
        "images": found[0].total,
        "accuracy_range": [min(e.accuracy for e in found), max(e.accuracy for e in found)],
    }
    if as_json:
        print_json(report)
        return
    print_table(
        f"{comparison.held_out} held-out subnets, {found[0].total} images each",
        ["predictor", "Kendall tau", "RMSE (points)", "cross-validated tau", "cross-validated RMSE"],
        [
            [
                kind + (" (chosen)" if kind == comparison.chosen else ""),
                f"{score.kendall_tau:.3f}",
                f"{100 * score.rmse:.2f}",
                f"{score.cv_kendall_tau:.3f}",
                f"{100 * score.cv_rmse:.2f}",
            ]
            for kind, score in comparison.scores.items()
        ],
    )
    if comparison.tau_with_truth is not None:
        typer.echo(
            f"Kendall tau of accuracies on these {found[0].total} images with the true ones: "
            f"{comparison.tau_with_truth:.3f} (no bound: luck with the same images can be predicted)"
        )
    typer.echo(
        f"standard error of one evaluation as an estimate for new images: {100 * comparison.standard_error:.2f} points"
    )
    typer.echo(f"saved -> {folder.predictor_path}\nnext: onceforall profile {run} --device this-cpu")
