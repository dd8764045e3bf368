"""`onceforall prune`: make a network that is no supernet compact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.data_options import DataRoot, Download, SkipCorrupt, Stream, Workers, named_files
from service.commands.output import (
    Json,
    Threads,
    millions,
    percent,
    prepare_torch,
    print_json,
    progress_bar,
    usable_device,
)
from service.commands.prune_options import CARD, Keep, LatencyFile, Model, Programs, Size, input_side, open_network
from supernet.errors import ConfigError

STATE = "training.pt"

prune = typer.Typer(help="Make an ordinary network compact.", no_args_is_help=True, rich_markup_mode=None)


@prune.callback()
def _prune() -> None:
    pass


@prune.command()
def oto(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write the compact network to.")],
    target: Annotated[
        str, typer.Option(help="What is to be met: macs=0.5, params<=2M, sparsity=0.6; several with commas.")
    ] = "macs=0.5",
    weights: Annotated[Path | None, typer.Option(help="safetensors file; torchvision: else untrained.")] = None,
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, cifar10, or folder.")] = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    stream: Stream = None,
    workers: Workers = None,
    skip_corrupt: SkipCorrupt = False,
    size: Size = None,
    method: Annotated[str, typer.Option(help="dhspg, or hesso.")] = "dhspg",
    optimizer: Annotated[str, typer.Option(help="sgd, adam, or adamw.")] = "sgd",
    epochs: Annotated[int, typer.Option(help="In all; there is no fine-tuning afterwards.")] = 20,
    start_share: Annotated[float, typer.Option(help="Share of all steps before units are chosen.")] = 0.125,
    pruning_share: Annotated[float, typer.Option(help="Share of all steps from then until the target is met.")] = 0.375,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest.  [default: 0.05 for sgd, else 0.001]")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="L2 decay of weights.")] = 5e-4,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 64,
    divisible: Annotated[int, typer.Option(help="A layer that loses units keeps a multiple of it.")] = 1,
    min_share: Annotated[float, typer.Option(help="Least share of a layer's units that stays.")] = 0.1,
    score: Annotated[str, typer.Option(help="What makes a unit redundant: oto, magnitude, or taylor.")] = "oto",
    latencies: LatencyFile = None,
    keep: Keep = None,
    format: Programs = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was begun in --out.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    threads: Threads = 1,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda, or auto.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train a network once, prune it on the way, and write a compact one that computes the same as the pruned.

    Only Train Once: zero-invariant groups of parameters are driven to zero while the network trains, until the target
    is met by exact count, at a step that is known before; then they are cut out.
    """
    from pruning import UnitLatencies
    from pruning.training import RATES, PruningSettings
    from service.prune_recipes import Workpiece, save, train_and_cut
    from supernet.training.data import FolderOptions, load_data

    settings = PruningSettings(
        target=target,
        method=method,
        optimizer=optimizer,
        epochs=epochs,
        learning_rate=RATES.get(optimizer, RATES["sgd"]) if learning_rate is None else learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        start_share=start_share,
        pruning_share=pruning_share,
        divisible=divisible,
        min_share=min_share,
        score=score,
        seed=seed,
    )
    device = usable_device(device)
    state = out / STATE
    if resume and not state.exists():
        raise ConfigError(f"there is nothing in {str(out)!r} to go on with; leave out --resume")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        hint = "go on with it by --resume, or choose" if state.exists() else "choose"
        raise ConfigError(f"{str(out)!r} is not an empty folder; {hint} another with --out, or remove it")
    prepare_torch(threads)
    side = input_side(model, size)
    images = load_data(
        data, root=data_root, download=download, size=side, folder=FolderOptions(stream, workers, skip_corrupt)
    )
    if images.skipped:
        typer.echo(named_files("left out", images.skipped), err=True)
    net, own = open_network(model, weights, len(images.class_names), seed)
    piece = Workpiece(model, net, images, side, own or images.normalisation())
    with progress_bar("pruning") as show:
        pruned = train_and_cut(
            piece,
            settings,
            state=state,
            device=device,
            keep=keep or (),
            table=UnitLatencies.load(latencies) if latencies else None,
            progress=lambda done, total, loss: None if as_json else show(done, total),
        )
    card, plan = pruned.card, pruned.plan
    assert plan is not None
    save(out, pruned, piece.example, format or ["torch-export"], card)
    state.unlink(missing_ok=True)
    if as_json:
        print_json(card | {"folder": str(out)})
        return
    test = card["measured"]["test"]
    typer.echo(
        f"{card['target']} met by step {card['met_by_step']} of {card['steps']}: {millions(plan.macs)} MACs "
        f"({percent(plan.macs / plan.full_macs)}), {millions(plan.params)} parameters "
        f"({percent(plan.params / plan.full_params)})"
    )
    typer.echo(
        f"test accuracy {percent(test['accuracy'])} of {test['total']}; largest difference from the pruned network "
        f"{plan.error:.1e} (two inputs differ by {plan.signal:.1e}) -> {out} (see {CARD})"
    )


@prune.command("latencies")
def measure_latencies(
    model: Model,
    device: Annotated[str, typer.Option(help="What to call this machine, for latency_ms@DEVICE.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")],
    classes: Annotated[
        int | None, typer.Option(min=2, help="Outputs of a torchvision classifier.  [default: 10]")
    ] = None,
    size: Size = None,
    keep: Keep = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes a round.")] = 20,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Time a network on this CPU with fewer channels of one layer at a time, for targets of `prune oto` on latency."""
    import torch

    from pruning import ZeroInvariantGroups, measure_unit_latencies
    from supernet.files import require_writable

    prepare_torch(threads)
    side = input_side(model, size)
    net, _ = open_network(model, None, classes, seed=0)
    groups = ZeroInvariantGroups(net, torch.randn(2, 3, side, side), keep=keep or ())
    require_writable(out)
    with progress_bar("timing") as show:
        table = measure_unit_latencies(
            groups, device, threads=threads or torch.get_num_threads(), repeats=repeats, progress=show
        )
    table.save(out)
    least = table.of(groups.sets)([torch.arange(unit_set.units) < 1 for unit_set in groups.sets])
    if as_json:
        print_json({"file": str(out), "device": device, "whole_ms": table.whole_ms, "least_ms": least})
        return
    typer.echo(f"{table.whole_ms:.3f} ms, with the fewest units of every layer about {least:.3f} ms -> {out}")
