"""`onceforall import-ofa`: weights and architectures of MIT's once-for-all package as runs and subnets of ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.data_options import DataRoot, SkipCorrupt, Stream, Workers, named_files
from service.commands.output import Json, millions, print_json
from supernet.errors import ConfigError

if TYPE_CHECKING:
    from supernet.import_ofa import Architecture
    from supernet.training.data import FolderOptions


def import_ofa(
    supernet: Annotated[
        Path | None, typer.Argument(metavar="WEIGHTS", help="File with a supernet's state dict (.pt, .pth).")
    ] = None,
    space: Annotated[str, typer.Option(help="Search space that the supernet is of.")] = "",
    run: Annotated[Path | None, typer.Option(help="Folder to make for the supernet's run.")] = None,
    data: Annotated[str, typer.Option(help="Images to calibrate and judge subnets with; see train.")] = "",
    data_root: DataRoot = None,
    stream: Stream = None,
    workers: Workers = None,
    skip_corrupt: SkipCorrupt = False,
    calibration_images: Annotated[int, typer.Option(min=2, help="Training images kept for calibration.")] = 512,
    net_config: Annotated[Path | None, typer.Option(help="Instead: a specialised network's net.config.")] = None,
    run_config: Annotated[Path | None, typer.Option(help="Its run.config; without it, 224 pixels.")] = None,
    weights: Annotated[Path | None, typer.Option(help="File with its state dict.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write it to.")] = None,
    as_json: Json = False,
) -> None:
    """Import a supernet as a run, or describe a specialised network and import it as a subnet."""
    from supernet.training.data import FolderOptions

    of_images = {"--stream": stream is not None, "--workers": workers is not None, "--skip-corrupt": skip_corrupt}
    of_supernet = {"WEIGHTS": supernet, "--space": space, "--run": run, "--data": data, "--data-root": data_root}
    of_subnet = {"--net-config": net_config, "--run-config": run_config, "--weights": weights, "--out": out}
    if net_config is not None:
        _require("a specialised network", of_subnet, {"--out"} if weights else set(), not_used=of_supernet | of_images)
        report = _import_subnet(net_config, run_config, weights, out)
    else:
        _require(
            "a supernet",
            of_supernet,
            {"WEIGHTS", "--space", "--run"},
            not_used=of_subnet if data else of_subnet | of_images,
        )
        assert supernet is not None
        assert run is not None
        if data_root is not None and not data:
            raise ConfigError(f"--data-root {data_root} without --data: say what is there, for example --data folder")
        options = FolderOptions(stream, workers, skip_corrupt)
        report = _import_supernet(supernet, space, run, data, data_root, options, calibration_images)
    if as_json:
        print_json(report)
        return
    if net_config is not None:
        _print_subnet(report)
        return
    typer.echo(f"imported {space}, {report['num_classes']} classes -> {run}")
    if report["images"]:
        typer.echo(f"next: onceforall predictor {run}")
    else:
        typer.echo("no images: subnets cannot be calibrated or judged; for that, import with --data and --data-root")
        typer.echo(f"next: onceforall profile {run}")


def _require(what: str, options: dict[str, Any], needed: set[str], *, not_used: dict[str, Any]) -> None:
    """Refuse options that are missing, or that belong to the other kind of import; all of them in one message."""
    faults = [f"{name} is missing" for name, value in options.items() if name in needed and not value]
    faults += [f"{name} does not belong here" for name, value in not_used.items() if value]
    if faults:
        raise ConfigError(
            f"import-ofa of {what}: {'; '.join(faults)}; give WEIGHTS --space NAME --run FOLDER for a supernet, "
            "or --net-config FILE [--run-config FILE] [--weights FILE --out FOLDER] for a specialised network"
        )


def _import_supernet(
    weights: Path,
    space: str,
    run: Path,
    data: str,
    data_root: Path | None,
    options: FolderOptions,
    calibration_images: int,
) -> dict[str, Any]:
    from supernet.images import CENTRE_SHARE
    from supernet.import_ofa import load_ofa_state_dict, read_state_dict
    from supernet.import_ofa.run import require_new_run, write_imported_run
    from supernet.spaces import get_space, largest_resolution
    from supernet.training.data import load_data, recorded_source

    require_new_run(run)
    size = largest_resolution(get_space(space))
    net = load_ofa_state_dict(space, read_state_dict(weights))
    if data == "folder":
        options = replace(options, centre_share=CENTRE_SHARE)  # held in memory or not: as the weights were trained
    images = load_data(data, root=data_root, size=size, folder=options) if data else None
    if images and images.skipped:
        typer.echo(named_files("left out", images.skipped), err=True)
    source = recorded_source(images, data_root, size) if images else {}
    folder = write_imported_run(
        run, net, origin=weights, data=images, source=source, calibration_images=calibration_images
    )
    return {
        "run": str(run),
        "space": space,
        "num_classes": folder.space.num_classes,
        "weights_sha256": folder.weights_sha256,
        "images": folder.manifest["images"] is not None,
    }


def _import_subnet(net_config: Path, run_config: Path | None, weights: Path | None, out: Path | None) -> dict[str, Any]:
    from latency_tables import macs, params
    from supernet.files import write_json
    from supernet.import_ofa import read_net_config

    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} is not an empty folder; choose another with --out, or remove it")
    architecture = read_net_config(net_config, run_config)
    report: dict[str, Any] = {
        "family": architecture.family,
        "resolution": architecture.resolution,
        "num_classes": architecture.specs[-1].out_channels,
        "macs": macs(architecture.specs),
        "params": params(architecture.specs),
        "space": architecture.config and architecture.config.space,
        "config": architecture.config and architecture.config.to_dict(),
        "space_but_for_resolution": None,
    }
    if architecture.config is None and (usual := read_net_config(net_config).config) is not None:
        report["space_but_for_resolution"] = usual.space
    if weights is not None:
        assert out is not None
        _write_subnet(architecture, weights, out, report)
    elif out is not None:
        write_json(out / "architecture.json", report)
    return report | {"folder": out and str(out), "weights": weights and str(weights)}


def _write_subnet(architecture: Architecture, weights: Path, out: Path, report: dict[str, Any]) -> None:
    from latency_tables.counter import counted_macs
    from service.cards import FORMAT, count_params
    from supernet.files import sha256_file
    from supernet.images import CENTRE_SHARE
    from supernet.import_ofa import read_state_dict
    from supernet.import_ofa.run import NORMALISATION
    from supernet.import_ofa.subnets import build_network
    from supernet.subnet_file import save_subnet

    network = build_network(architecture, read_state_dict(weights))
    counted = {"macs": counted_macs(network, architecture.resolution), "params": count_params(network)}
    card = {
        "format": FORMAT,
        "config": report["config"],
        "config_digest": architecture.config and architecture.config.digest,
        "space": report["space"],
        "num_classes": network.num_classes,
        "imported": {"file": weights.name, "sha256": sha256_file(weights)},
        "measured": counted,
    }
    names = [str(number) for number in range(network.num_classes)]
    save_subnet(out, network, card, normalisation=NORMALISATION, class_names=names, centre_share=CENTRE_SHARE)


def _print_subnet(report: dict[str, Any]) -> None:
    typer.echo(
        f"{report['family']} at {report['resolution']} pixels, {report['num_classes']} classes: "
        f"{millions(report['macs'])} MACs, {millions(report['params'])} parameters"
    )
    if report["config"]:
        typer.echo(f"a subnet of {report['space']}: {json.dumps(report['config'])}")
    elif report["space_but_for_resolution"]:
        typer.echo(f"a subnet of {report['space_but_for_resolution']} but for its resolution, which the space lacks")
    else:
        typer.echo("a subnet of none of the search spaces")
    if report["folder"]:
        typer.echo(f"-> {report['folder']}")
        if report["weights"]:
            typer.echo(f"next: onceforall evaluate {report['folder']} --data folder --data-root IMAGES")
