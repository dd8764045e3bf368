"""`onceforall prune auto-compress`: make a trained network compact to a target, by itself."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.data_options import DataRoot, Download, SkipCorrupt, Stream, Workers, named_files
from service.commands.output import Json, Threads, prepare_torch, print_json, progress_bar, usable_device
from service.commands.prune_options import CARD, Keep, LatencyFile, Model, Programs, Size, input_side, open_network
from supernet.errors import ConfigError, MissingPackageError


def auto_compress(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write the compact network to, and every round's.")],
    target: Annotated[
        str, typer.Option(help="What is to be met: params=5%, macs<=20M, latency_ms@DEVICE<=9; several with commas.")
    ] = "params=25%",
    weights: Annotated[Path | None, typer.Option(help="safetensors file of torchvision's classifier.")] = None,
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, cifar10, or folder.")] = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    stream: Stream = None,
    workers: Workers = None,
    skip_corrupt: SkipCorrupt = False,
    size: Size = None,
    dimensions: Annotated[
        str,
        typer.Option(
            help="combined (filters and columns: smallest), channels (fastest), filters, or weights (no structure)."
        ),
    ] = "combined",
    factor: Annotated[float, typer.Option(help="How many times less each round leaves; above 1.")] = 2.0,
    proposals: Annotated[int, typer.Option(min=0, help="Quick evaluations of each round's search; 0: none.")] = 200,
    blocks: Annotated[int, typer.Option(help="ADMM: blocks of training at most, each with a higher rho.")] = 14,
    block_epochs: Annotated[int, typer.Option(help="ADMM: epochs of each block.")] = 1,
    purify_proposals: Annotated[int, typer.Option(min=0, help="Quick evaluations of each purification; 0: none.")] = 60,
    allowed_drop: Annotated[float, typer.Option(help="What a purification may cost, percentage points.")] = 0.5,
    retrain_epochs: Annotated[int, typer.Option(help="Masked training at the end of the last round.")] = 10,
    round_epochs: Annotated[
        int | None, typer.Option(help="Masked training at the end of each round before.  [default: as many]")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Of the first step of every block.")] = 0.02,
    weight_decay: Annotated[float, typer.Option(help="L2 decay of weights.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    latencies: LatencyFile = None,
    keep: Keep = None,
    format: Programs = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was begun in --out.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    threads: Threads = 1,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, or auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Prune a trained network in rounds until it meets the target.

    AutoCompress: per-layer rates are searched by annealing, weights are trained towards the chosen structure (ADMM),
    what has become useless is purified away, and the compact network is trained on. Killed, it goes on by --resume.
    """
    from pruning import CompressionSettings, UnitLatencies
    from pruning.admm import AdmmSettings
    from pruning.autocompress import Progress
    from pruning.compression_report import CompressionReport
    from pruning.compression_state import STATE
    from service.prune_recipes import Workpiece, compress, save
    from supernet.training.data import FolderOptions, load_data

    settings = CompressionSettings(
        dimensions=dimensions,
        factor=factor,
        admm=AdmmSettings(blocks=blocks),
        admm_epochs=block_epochs,
        allowed_drop=allowed_drop,
        retrain_epochs=retrain_epochs,
        round_epochs=round_epochs,
        seed=seed,
    ).with_proposals(proposals, purify_proposals)
    device = usable_device(device)
    if weights is None and not Path(model).is_dir():
        raise ConfigError(
            f"{model!r} would be untrained; AutoCompress prunes trained networks: give --weights FILE, or train and "
            "prune at once with: onceforall prune oto"
        )
    if resume and not (out / STATE).exists():
        raise ConfigError(f"there is nothing in {str(out)!r} to go on with; leave out --resume")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        hint = "go on with it by --resume, or choose" if (out / STATE).exists() else "choose"
        raise ConfigError(f"{str(out)!r} is not an empty folder; {hint} another with --out, or remove it")
    if "onnx" in (format or []) and find_spec("onnx") is None:  # said now, not after hours
        raise MissingPackageError('--format onnx needs the extra "onnx": pip install "onceforall[onnx]"')
    prepare_torch(threads)
    side = input_side(model, size)
    images = load_data(
        data, root=data_root, download=download, size=side, folder=FolderOptions(stream, workers, skip_corrupt)
    )
    if images.skipped:
        typer.echo(named_files("left out", images.skipped), err=True)
    net, own = open_network(model, weights, len(images.class_names), seed)
    piece = Workpiece(model, net, images, side, own or images.normalisation())
    with ExitStack() as stack:
        bars: dict[tuple[int, str], Any] = {}

        def show(progress: Progress) -> None:
            stage = (progress.round, progress.phase)
            if stage not in bars:
                stack.pop_all().close()
                bars[stage] = stack.enter_context(
                    progress_bar(f"round {progress.round} of {progress.rounds}, {progress.phase}")
                )
            bars[stage](progress.done, progress.total)

        pruned = compress(
            piece,
            settings,
            target,
            folder=out,
            device=device,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            keep=keep or (),
            table=UnitLatencies.load(latencies) if latencies else None,
            progress=(lambda progress: None) if as_json else show,
        )
    card = pruned.card
    save(out, pruned, piece.example, format or ["torch-export"], card)
    (out / STATE).unlink(missing_ok=True)
    if as_json:
        print_json(card | {"folder": str(out)})
        return
    typer.echo(str(CompressionReport.from_dict(card)))
    typer.echo(f"-> {out} (see {CARD}; every round's network is in its own folder)")
