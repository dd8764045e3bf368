"""`onceforall train`: train a supernet, or go on with a training that was killed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from service.commands.data_options import DataRoot, Download, Stream, Workers, named_files
from service.commands.output import Json, Threads, percent, print_json
from supernet.errors import ConfigError, one_of

if TYPE_CHECKING:
    from supernet.training.data import TrainingData
    from supernet.training.metrics import Display

DEFAULT_EPOCHS = {"digits": 20, "fashion-mnist": 20, "cifar10": 50, "folder": 50}


def train(
    context: typer.Context,
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, cifar10, or folder.")] = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    stream: Stream = None,
    workers: Workers = None,
    skip_corrupt: Annotated[
        bool,
        typer.Option(
            "--skip-corrupt",
            help="A folder: check every file first, and leave out unreadable ones; with --resume: read others instead.",
        ),
    ] = False,
    space: Annotated[str, typer.Option(help="Search space.")] = "mobilenet_v3_tiny",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="progressive, progressive-sandwich, sandwich, alphanet, random, or delayed.  [default: the preset's]"
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="Usual numbers: small-images, or imagenet.")] = "small-images",
    run: Annotated[Path | None, typer.Option(help="Folder to make for this run.  [default: runs/DATA]")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on in this run folder; all settings but --workers and --skip-corrupt are its own."),
    ] = None,
    epochs: Annotated[
        str, typer.Option(help="In all, or a stage of progressive shrinking: largest=8,kernel=2,depth2=3,width2=10.")
    ] = "",
    learning_rates: Annotated[str, typer.Option(help="Those that differ, a stage: largest=0.1,kernel=0.05.")] = "",
    batch_size: Annotated[int | None, typer.Option(help="Images a step and process.  [default: the preset's]")] = None,
    accumulate: Annotated[int, typer.Option(help="Parts of a batch, one after the other, to need less memory.")] = 1,
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16 (CUDA only), or fp64 (to tell rounding from a fault).")
    ] = "fp32",
    ema_decay: Annotated[float, typer.Option(help="Decay a step of the weights' moving average; 0: none.")] = 0.0,
    clip_norm: Annotated[float, typer.Option(help="Greatest norm of a gradient; 0: no limit.")] = 0.0,
    kd_ratio: Annotated[float, typer.Option(help="Weight of a frozen teacher's soft labels.")] = 1.0,
    label_ratio: Annotated[
        float | None,
        typer.Option(help="Weight of the true labels beside a teacher in place.  [default: the preset's]"),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(help="Share of probability spread over all classes.  [default: the preset's]")
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(help="Before the classifier, of subnets that nobody teaches in place.  [default: the preset's]"),
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 decay of weights.  [default: the preset's]")] = None,
    sync_batch_norm: Annotated[
        bool, typer.Option("--sync-batch-norm", help="Batch norm over the batches of all processes.")
    ] = False,
    calibration_images: Annotated[
        int | None, typer.Option(help="Training images kept for calibration.  [default: the preset's]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    threads: Threads = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train one supernet, in this process or in all that torchrun started."""
    import torch

    from supernet.runs import RunFolder
    from supernet.spaces import get_space, largest_resolution
    from supernet.training.data import DATA_SETS, FolderOptions, load_data, recorded_source, reload_data
    from supernet.training.metrics import Silence
    from supernet.training.processes import joined, torchrun_count
    from supernet.training.recipes import PRESETS, build_stages
    from supernet.training.same_images import replace_unreadable
    from supernet.training.settings import TrainingSettings
    from supernet.training.trainer import exclusive, start_run
    from supernet.training.trainer import train as run_training

    settings = None
    given = [
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    extra = sorted(set(given) - {"resume", "as_json", "workers", "skip_corrupt"})
    if resume is not None and extra:
        options = ", ".join("--" + name.replace("_", "-") for name in extra)
        raise ConfigError(f"--resume takes all settings from the run itself; leave out {options}, or start another run")
    if data not in DATA_SETS:
        raise ConfigError(one_of("data set", data, sorted(DATA_SETS)))
    if preset not in PRESETS:
        raise ConfigError(one_of("preset", preset, sorted(PRESETS)))
    if resume is not None:
        path, manifest = resume, RunFolder(resume).manifest
        if "imported" in manifest:
            raise ConfigError(f"{str(resume)!r} was imported, there is no training to go on with; start another run")
        data, device = manifest["data"]["name"], manifest["settings"]["device"]
    else:
        usual, searched = PRESETS[preset], get_space(space)
        usual = usual if label_ratio is None else replace(usual, label_ratio=label_ratio)
        recipe = recipe or usual.recipe
        path, size = run or Path("runs") / data, largest_resolution(searched)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        settings = TrainingSettings(
            space=space,
            stages=build_stages(
                recipe,
                searched,
                usual,
                epochs=_epochs(epochs, DEFAULT_EPOCHS[data] if usual.name == "small-images" else None),
                learning_rates=dict(_pairs(learning_rates, "--learning-rates", float)),
                processes=torchrun_count(),
            ),
            recipe=recipe,
            seed=seed,
            batch_size=usual.batch_size if batch_size is None else batch_size,
            processes=torchrun_count(),
            accumulate=accumulate,
            weight_decay=usual.weight_decay if weight_decay is None else weight_decay,
            label_smoothing=usual.label_smoothing if label_smoothing is None else label_smoothing,
            kd_ratio=kd_ratio,
            dropout=usual.dropout if dropout is None else dropout,
            clip_norm=clip_norm,
            ema_decay=ema_decay,
            precision=cast(Any, precision),
            sync_batch_norm=sync_batch_norm,
            calibration_images=usual.calibration_images if calibration_images is None else calibration_images,
            threads=threads or torch.get_num_threads(),
            device=device,
        )
    images: TrainingData | None = None

    def start() -> None:
        nonlocal images
        lock.enter_context(exclusive(path))
        if settings is not None:
            folder = FolderOptions(stream, workers, skip_corrupt)
            loaded = load_data(data, root=data_root, download=download, size=size, folder=folder)
            start_run(path, settings, loaded, recorded_source(loaded, data_root, size))
            if loaded.skipped:
                typer.echo(f"{named_files('left out', loaded.skipped)}; the run's manifest lists all", err=True)
            images = loaded
        elif skip_corrupt:
            images = streamed = replace_unreadable(path, workers)
            if streamed.replaced:
                typer.echo(f"{named_files('replaced', streamed.replaced)}; the run's manifest lists all", err=True)

    with joined(device) as here, ExitStack() as lock:
        here.by_first(start)
        if images is None:
            images = reload_data(data, RunFolder(path).manifest["data"]["source"], workers=workers)
        try:
            if as_json or not here.first:
                finished = run_training(path, images, Silence(), here)
            else:
                with _Live() as display:
                    finished = run_training(path, images, display, here)
        except KeyboardInterrupt:
            typer.echo(f"stopped; go on with: onceforall train --resume {path}", err=True)
            raise typer.Exit(130) from None
        if not here.first:
            return
    report = _report(finished.path)
    if as_json:
        print_json(report)
    else:
        typer.echo(
            f"\ntrained {finished.space.name} on {data} in {report['training_seconds']:.0f} s -> {finished.path}"
        )
        typer.echo(f"next: onceforall predictor {finished.path}")


def _epochs(text: str, usual: int | None) -> int | dict[str, int] | None:
    if not text:
        return usual
    if text.isascii() and text.isdecimal():
        return int(text)
    return {name: int(value) for name, value in _pairs(text, "--epochs", int)}


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
