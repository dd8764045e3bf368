"""`onceforall request`: a subnet from a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, millions, percent, print_json


def request(
    supernet: Annotated[str, typer.Option(help="Name or id of the service's supernet.")],
    budget: Annotated[str, typer.Option(help='Limits that must all hold, such as "macs<=3M, latency_ms@note10<=20".')],
    server: Annotated[
        str, typer.Option(help="Address of the service.", envvar="ONCEFORALL_SERVER")
    ] = "http://127.0.0.1:8000",
    formats: Annotated[
        str, typer.Option("--formats", help="Formats besides safetensors, with commas: onnx, pt2.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the subnet's files to.  [default: do not download]")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Key of the service, where it needs one.", envvar="ONCEFORALL_KEY")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask a service for the best subnet within a budget, wait for it, and download it."""
    from service.client import Client

    wanted = [format.strip() for format in formats.split(",") if format.strip()]
    last = ""

    def tell(stage: str, _fraction: float) -> None:
        nonlocal last
        if stage != last and not as_json:
            typer.echo(stage, err=True)
        last = stage

    with Client(server, key=key) as client:
        subnet = client.request_subnet(supernet, budget, seed=seed, formats=wanted, on_progress=tell)
        paths = [] if out is None else client.download(subnet["id"], out)
    if as_json:
        print_json({"subnet": subnet, "files": [str(path) for path in paths]})
        return
    predicted, measured = subnet["predicted"], subnet["measured"]
    typer.echo(
        f"subnet {subnet['id'][:12]}: accuracy {percent(measured['accuracy'])} measured,"
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
    if out is None:
        formats_there = ", ".join(file["format"] for file in subnet["files"])
        typer.echo(f"files: {formats_there}; download them with --out FOLDER")
