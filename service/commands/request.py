"""`onceforall request`: a subnet from a service. `onceforall prune request`: a pruned network from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.output import Json, millions, percent, print_json
from service.commands.prune_options import LatencyFile

Server = Annotated[str, typer.Option(help="Address of the service.", envvar="ONCEFORALL_SERVER")]
Formats = Annotated[str, typer.Option("--formats", help="Formats besides safetensors, with commas: onnx, pt2.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write the files to.  [default: do not download]")]
Key = Annotated[str | None, typer.Option(help="Key of the service, where it needs one.", envvar="ONCEFORALL_KEY")]
_LOCAL = "http://127.0.0.1:8000"


def request(
    supernet: Annotated[str, typer.Option(help="Name or id of the service's supernet.")],
    budget: Annotated[str, typer.Option(help='Limits that must all hold, such as "macs<=3M, latency_ms@note10<=20".')],
    server: Server = _LOCAL,
    formats: Formats = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    prune: Annotated[
        bool, typer.Option("--prune", help="Where no subnet meets the budget, have the nearest one pruned further.")
    ] = False,
    out: Out = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Ask a service for the best subnet within a budget, wait for it, and download it."""
    from service.client import Client, ServiceError

    wanted, tell = _listed(formats), _teller(quiet=as_json)
    with Client(server, key=key) as client:
        try:
            found = client.request_subnet(supernet, budget, seed=seed, formats=wanted, on_progress=tell)
        except ServiceError as error:
            offer = error.problem.get("offer")
            if offer is None:
                raise
            if not prune:
                message = f"{error}; from here: repeat this command with --prune, which {offer['note']}"
                raise ServiceError(message, error.status, error.problem) from None
            tell(offer["note"], 0.0)
            found = client.prune({**offer["body"], "formats": wanted}, on_progress=tell)
        paths = [] if out is None else client.download(found["id"], out)
    _report(found, paths, as_json=as_json)


def prune_request(
    model: Annotated[str, typer.Argument(help="Id of a subnet of the service, or a torchvision classifier.")],
    target: Annotated[
        str, typer.Option(help="What is to be met: macs=50%, params<=2M, sparsity=0.6; several with commas.")
    ],
    server: Server = _LOCAL,
    method: Annotated[str, typer.Option(help="oto, or auto-compress.")] = "oto",
    data: Annotated[
        str | None,
        typer.Option(help="A data set of the service's, or run-images.  [default: the subnet's, if it can be read]"),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="safetensors file of torchvision's classifier.")] = None,
    classes: Annotated[int, typer.Option(min=2, help="Outputs of torchvision's classifier.")] = 10,
    size: Annotated[int, typer.Option(min=8, help="Side of torchvision's classifier's input, pixels.")] = 32,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="oto: in all; auto-compress: of each round.  [default: 20 or 10]")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step.")] = 64,
    latencies: LatencyFile = None,
    formats: Formats = "",
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is random.")] = 0,
    out: Out = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Have a service prune a network, wait for it, and download it."""
    from pruning.targets import Target
    from service.client import Client
    from service.domain import is_digest
    from supernet.errors import ConfigError
    from supernet.files import read_json

    wished = Target.parse(target)
    body: dict[str, Any] = {
        "method": method,
        "source": {"subnet": model} if is_digest(model) else _architecture(model, classes, size),
        "data": data,
        "sparsity": wished.sparsity,
        "constraints": [limit.to_dict() for limit in wished.limits],
        "latencies": None if latencies is None else read_json(latencies),
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "formats": _listed(formats),
    }
    if weights is not None and is_digest(model):
        raise ConfigError(f"subnet {model[:12]} has its own weights; leave --weights out")
    with Client(server, key=key) as client:
        if weights is not None:
            body["source"]["weights"] = client.upload_weights(weights)
        found = client.prune(body, on_progress=_teller(quiet=as_json))
        paths = [] if out is None else client.download(found["id"], out)
    _report(found, paths, as_json=as_json)


def _architecture(name: str, classes: int, size: int) -> dict[str, Any]:
    return {"architecture": name, "num_classes": classes, "resolution": size}


def _listed(formats: str) -> list[str]:
    return [format.strip() for format in formats.split(",") if format.strip()]


def _teller(*, quiet: bool) -> Callable[[str, float], None]:
    """Says every new stage on standard error."""
    last = ""

    def tell(stage: str, _fraction: float) -> None:
        nonlocal last
        if stage != last and not quiet:
            typer.echo(stage, err=True)
        last = stage

    return tell


def _report(network: dict[str, Any], paths: list[Path], *, as_json: bool) -> None:
    if as_json:
        print_json({"subnet": network, "files": [str(path) for path in paths]})
        return
    predicted, measured = network["predicted"], network["measured"]
    if network["pruned"]:
        dense = network["card"]["dense"]
        before = "" if dense["accuracy"] is None else f" (dense: {percent(dense['accuracy'])})"
        less = f"{millions(measured['params'])} parameters (dense: {millions(dense['params'])})"
        typer.echo(
            f"pruned network {network['id'][:12]}: accuracy {percent(measured['accuracy'])}{before};"
            f" {millions(measured['macs'])} MACs (dense: {millions(dense['macs'])}), {less}"
        )
    else:
        typer.echo(
            f"subnet {network['id'][:12]}: accuracy {percent(measured['accuracy'])} measured,"
            f" {percent(predicted['accuracy'])} predicted; {millions(measured['macs'])} MACs"
        )
    for device, predicted_ms in predicted["latency_ms"].items():
        measured_ms = measured["latency_ms"].get(device)
        typer.echo(
            f"{device}: {predicted_ms:.2f} ms predicted"
            + (f", {measured_ms:.2f} ms measured" if measured_ms is not None else "")
        )
    for path in paths:
        typer.echo(f"-> {path}")
    if not paths:
        formats_there = ", ".join(file["format"] for file in network["files"])
        typer.echo(f"files: {formats_there}; download them with --out FOLDER")
