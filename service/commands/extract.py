"""`onceforall extract` and `onceforall evaluate`: a subnet of one's own, and how good it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.data_options import DataRoot, Download, SkipCorrupt, Workers, named_files
from service.commands.output import Json, Threads, millions, percent, prepare_torch, print_json, usable_device
from service.commands.profile import RUNTIMES, Runtime, checked_runtime
from supernet.errors import ConfigError, one_of

if TYPE_CHECKING:
    from supernet.arch import SubnetConfig
    from supernet.network import Network
    from supernet.onnx_network import OnnxNetwork
    from supernet.spaces import SearchSpace


def extract(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    subnet: Annotated[str, typer.Option(help="largest, smallest, or a JSON file with a subnet's config.")],
    out: Annotated[Path, typer.Option(help="Folder to write the subnet to.")],
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Cut a subnet out, calibrate its batch norms, measure it on the held-out images, and write it to a folder."""
    from service.cards import describe, measured_part
    from supernet.evaluation import measure_subnet
    from supernet.runs import RunFolder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} is not an empty folder; choose another with --out, or remove it")
    prepare_torch(threads)
    folder = RunFolder(run)
    config = _read_config(subnet, folder.space)
    measured = measure_subnet(folder.load_supernet(), config, folder.images())
    card = describe(config, folder.manifest) | {"measured": measured_part(measured)}
    folder.save_subnet(out, measured.subnet, card)
    if as_json:
        print_json(card | {"folder": str(out)})
        return
    figures = card["measured"]
    typer.echo(
        f"held-out accuracy {percent(figures['accuracy'])} (before calibration "
        f"{percent(figures['accuracy_before_calibration'])}), {millions(figures['macs'])} MACs, "
        f"{millions(figures['params'])} parameters -> {out}"
    )


def evaluate(
    path: Annotated[Path, typer.Argument(help="Folder of an extracted or downloaded subnet.")],
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, cifar10, or folder.")] = "digits",
    data_root: DataRoot = None,
    download: Download = False,
    part: Annotated[
        list[str] | None, typer.Option(help="test, or holdout (which the search has used); repeat for both.")
    ] = None,
    workers: Workers = None,
    skip_corrupt: SkipCorrupt = False,
    device: Annotated[str, typer.Option(help="Where to classify: cpu, cuda, or auto.")] = "auto",
    runtime: Runtime = "torch",
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Measure a stored subnet, in this process or in all that torchrun started.

    A folder's files are read as the subnet's training read them, and those of the asked parts alone. Accuracy on
    images, MACs and parameters counted on the real modules, latency on the CPU here. With --runtime onnxruntime, the
    subnet is exported and ONNX Runtime classifies the images (on the CPU) and is timed.
    """
    from latency_tables import measure_module_ms, measure_onnx_ms
    from latency_tables.counter import counted_macs
    from service.cards import count_params
    from supernet.evaluation import BATCH_SIZE, count_correct, standard_error
    from supernet.network import Subnet
    from supernet.spaces import largest_resolution
    from supernet.subnet_file import load_centre_share, load_normalisation, load_subnet
    from supernet.training.data import FolderOptions, load_data
    from supernet.training.processes import joined

    parts = part or ["test"]
    for name in parts:
        if name not in ("test", "holdout"):
            raise ConfigError(one_of("part of the data", name, ["test", "holdout"]))
    onnx, found = checked_runtime(runtime) == "onnxruntime", usable_device(device)
    if onnx and device == "cuda":
        raise ConfigError("--runtime onnxruntime classifies on the CPU; leave out --device cuda")
    device = "cpu" if onnx else found
    prepare_torch(threads)
    subnet = load_subnet(path)
    size = largest_resolution(subnet.space) if isinstance(subnet, Subnet) else subnet.resolution
    folder = FolderOptions(None, workers, skip_corrupt)
    if data == "folder":
        folder = replace(folder, stream=True, centre_share=load_centre_share(path), checked=tuple(parts))
    images = load_data(data, root=data_root, download=download, size=size, folder=folder)
    if len(images.class_names) != subnet.num_classes:
        raise ConfigError(
            f"{data!r} has {len(images.class_names)} classes, the subnet in {str(path)!r} has "
            f"{subnet.num_classes}; choose the data set that it was trained on"
        )
    resolution, normalisation = subnet.resolution, load_normalisation(path)
    accuracies: dict[str, dict[str, float]] = {}
    with joined(device) as here:
        if images.skipped and here.first:
            typer.echo(named_files("left out", images.skipped), err=True)
        classify = _in_onnxruntime(subnet, threads) if onnx else subnet.to(device)
        for name in parts:
            batches_of = images.test_batches if name == "test" else images.holdout_batches
            mine = [
                (count_correct(classify, pixels, labels, resolution, normalisation), len(labels))
                for pixels, labels in batches_of(BATCH_SIZE, (here.rank, here.count))
            ]
            correct, total = map(int, here.sum(sum(right for right, _ in mine), sum(count for _, count in mine)))
            accuracies[name] = {
                "total": total,
                "correct": correct,
                "accuracy": correct / total,
                "standard_error": standard_error(correct / total, total),
            }
    if not here.first:
        return
    subnet.to("cpu")
    report: dict[str, Any] = {
        "subnet": str(path),
        "data": data,
        "parts": accuracies,
        "skipped": list(images.skipped),
        "macs": counted_macs(subnet, resolution),
        "params": count_params(subnet),
        "runtime": RUNTIMES[runtime],
        "latency_ms": (
            measure_onnx_ms(subnet) if onnx else measure_module_ms(subnet, (1, 3, resolution, resolution))
        ).median_ms,
    }
    if as_json:
        print_json(report)
        return
    for name, figures in accuracies.items():
        typer.echo(
            f"{name} accuracy {percent(figures['accuracy'])} +- {percent(figures['standard_error'])} "
            f"({figures['correct']} of {figures['total']})"
        )
    typer.echo(
        f"{millions(report['macs'])} MACs, {millions(report['params'])} parameters, "
        f"{report['latency_ms']:.3f} ms on 1 thread ({report['runtime']})"
    )


def _in_onnxruntime(subnet: Network, threads: int) -> OnnxNetwork:
    """The subnet as ONNX Runtime computes it, for any number of images."""
    from supernet.onnx_graph import onnx_model
    from supernet.onnx_network import OnnxNetwork

    shape = (None, 3, subnet.resolution, subnet.resolution)
    model = onnx_model(subnet.named_children(), input_shape=shape)
    return OnnxNetwork(model.SerializeToString(), threads=threads)


def _read_config(text: str, space: SearchSpace) -> SubnetConfig:
    from supernet.arch import SubnetConfig
    from supernet.files import read_json

    if text == "largest":
        return space.largest()
    if text == "smallest":
        return space.smallest()
    return SubnetConfig.from_dict(read_json(Path(text)))
