"""`onceforall train`: train a supernet, or go on with a training that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.output import Json, Threads, percent, print_json
from supernet.errors import ConfigError, one_of

if TYPE_CHECKING:
    from supernet.training.metrics import Display

DEFAULT_EPOCHS = {"digits": 23, "fashion-mnist": 24, "cifar10": 60, "folder": 60}


def train(
    context: typer.Context,
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, cifar10, or folder.")] = "digits",
    data_root: Annotated[Path | None, typer.Option(help="Where the data set's files are.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch absent files into --data-root.")] = False,
    space: Annotated[str, typer.Option(help="Search space.")] = "mobilenet_v3_tiny",
    run: Annotated[Path | None, typer.Option(help="Folder to make for this run.  [default: runs/DATA]")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on in this run folder; all other settings are its own.")
    ] = None,
    epochs: Annotated[
        str, typer.Option(help="In all (23), or a stage: largest=8,kernel=2,depth1=1,depth2=2,width1=1,width2=9.")
    ] = "",
    learning_rates: Annotated[str, typer.Option(help="Those that differ, a stage: largest=0.1,kernel=0.05.")] = "",
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    kd_ratio: Annotated[float, typer.Option(help="Weight of the largest network's soft labels.")] = 1.0,
    label_smoothing: Annotated[float, typer.Option(help="Share of probability spread over all classes.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="L2 decay of weights.")] = 3e-5,
    calibration_images: Annotated[int, typer.Option(help="Training images kept for batch norm calibration.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    threads: Threads = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train one supernet by progressive shrinking: largest network, then elastic kernels, depths and widths."""
    import torch

    from supernet.runs import RunFolder
    from supernet.spaces import get_space, largest_resolution
    from supernet.training.data import DATA_SETS, load_data
    from supernet.training.metrics import Silence
    from supernet.training.trainer import TrainingSettings, exclusive, start_run
    from supernet.training.trainer import train as run_training

    settings = None
    given = [
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    extra = sorted(set(given) - {"resume", "as_json"})
    if resume is not None and extra:
        options = ", ".join("--" + name.replace("_", "-") for name in extra)
        raise ConfigError(f"--resume takes all settings from the run itself; leave out {options}, or start another run")
    if data not in DATA_SETS:
        raise ConfigError(one_of("data set", data, sorted(DATA_SETS)))
    if resume is not None:
        path, manifest = resume, RunFolder(resume).manifest
        if "imported" in manifest:
            raise ConfigError(f"{str(resume)!r} was imported, there is no training to go on with; start another run")
        source = manifest["data"]
        data, where = source["name"], source["source"]
        data_root, size = (Path(where["root"]) if where["root"] else None), int(where["size"])
    else:
        path, size = run or Path("runs") / data, largest_resolution(get_space(space))
        settings = TrainingSettings(
            space=space,
            stages=_stages(space, epochs, learning_rates, DEFAULT_EPOCHS[data]),
            seed=seed,
            batch_size=batch_size,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            kd_ratio=kd_ratio,
            calibration_images=calibration_images,
            threads=threads or torch.get_num_threads(),
            device=("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device,
        )
    images = load_data(data, root=data_root, download=download, size=size)
    with exclusive(path):
        if settings is not None:
            root = str(data_root.resolve()) if data_root else None
            start_run(path, settings, images, {"root": root, "size": size})
        try:
            if as_json:
                finished = run_training(path, images, Silence())
            else:
                with _Live() as display:
                    finished = run_training(path, images, display)
        except KeyboardInterrupt:
            typer.echo(f"stopped; go on with: onceforall train --resume {path}", err=True)
            raise typer.Exit(130) from None
    report = _report(finished.path)
    if as_json:
        print_json(report)
    else:
        typer.echo(
            f"\ntrained {finished.space.name} on {data} in {report['training_seconds']:.0f} s -> {finished.path}"
        )
        typer.echo(f"next: onceforall predictor {finished.path}")


def _stages(space: str, epochs: str, learning_rates: str, default_epochs: int) -> tuple[Any, ...]:
    from supernet.spaces import get_space
    from supernet.training.schedule import SMALL_IMAGE_RATES, STAGE_NAMES, progressive_shrinking, split_epochs

    if not epochs or epochs.isdecimal():
        counts = split_epochs(int(epochs) if epochs else default_epochs)
    else:
        given = {name: int(value) for name, value in _pairs(epochs, "--epochs", int)}
        counts = dict.fromkeys(STAGE_NAMES, 0) | given
    rates = SMALL_IMAGE_RATES | dict(_pairs(learning_rates, "--learning-rates", float))
    return progressive_shrinking(get_space(space), counts, rates)


def _pairs(text: str, option: str, kind: type[int] | type[float]) -> list[tuple[str, int | float]]:
    pairs: list[tuple[str, int | float]] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, value = piece.partition("=")
        try:
            pairs.append((name, kind(value)))
        except ValueError:
            example = "largest=15,kernel=4" if kind is int else "largest=0.1,kernel=0.05"
            raise ConfigError(f"{option}: {piece!r} is not STAGE=NUMBER; for example {option} {example}") from None
    return pairs


def _report(path: Path) -> dict[str, Any]:
    from supernet.runs import RunFolder

    run = RunFolder(path)
    return {
        "run": str(path),
        "space": run.space.name,
        "data": run.manifest["data"]["name"],
        "training_seconds": run.manifest["training_seconds"],
        "weights_sha256": run.weights_sha256,
    }


class _Live:
    """One bar a stage, with loss, accuracy, images/s and time left; one line when it is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def stage_started(self, stage: Any, done: int, total: int) -> None:
        """A new bar."""
        self.smooth: dict[str, float] = {}
        self.task = self.progress.add_task(stage.name, total=total, completed=done, figures="")

    def step(self, metrics: dict[str, float]) -> None:
        """Move the bar; figures are averages over about the last 20 steps."""
        for name, value in metrics.items():
            self.smooth[name] = 0.95 * self.smooth.get(name, value) + 0.05 * value
        figures = (
            f"loss {self.smooth['loss']:.3f}  accuracy {percent(self.smooth['accuracy'])}  "
            f"{self.smooth['images_per_second']:.0f} images/s"
        )
        self.progress.update(self.task, advance=1, figures=figures)

    def stage_ended(self, stage: Any, report: dict[str, Any]) -> None:
        """Replace the bar by a line."""
        self.progress.remove_task(self.task)
        self.progress.console.print(
            f"{stage.name:<8} {stage.epochs:>3} epochs {report['seconds']:>6.0f} s   held-out: "
            f"largest {percent(report['holdout_accuracy_largest'])}, "
            f"smallest {percent(report['holdout_accuracy_smallest'])}",
            highlight=False,
        )
