"""`onceforall export`: a subnet for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.output import Json, print_json


def export(
    subnet: Annotated[Path, typer.Argument(help="Folder of an extracted or downloaded subnet.")],
    format: Annotated[str, typer.Option(help="onnx, or torch-export (.pt2).")] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="File to write.  [default: subnet.onnx or subnet.pt2 in the folder]")
    ] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Take any number of images at once, not one only.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a subnet as one file for another runtime, with its metadata, and compare its outputs with torch's."""
    from supernet.errors import ConfigError, one_of
    from supernet.export import SUFFIXES, export_network, subnet_metadata
    from supernet.subnet_file import load_centre_share, load_class_names, load_normalisation, load_subnet

    if format not in SUFFIXES:
        raise ConfigError(one_of("format", format, list(SUFFIXES)))
    network = load_subnet(subnet)
    metadata = subnet_metadata(
        network,
        normalisation=load_normalisation(subnet),
        class_names=load_class_names(subnet),
        centre_share=load_centre_share(subnet),
    )
    path = out or subnet / f"subnet{SUFFIXES[format]}"
    done = export_network(network, path, format=format, dynamic_batch=dynamic_batch, metadata=metadata)
    if as_json:
        print_json(
            {
                "file": str(path),
                "format": format,
                "dynamic_batch": dynamic_batch,
                "max_relative_error": done.error,
                "compared_batches": done.inputs,
                "size_bytes": done.size_bytes,
                "sha256": done.sha256,
                "metadata": done.metadata,
            }
        )
        return
    typer.echo(
        f"largest error {done.error:.1e} of the largest output, {done.inputs} batches; "
        f"{done.size_bytes / 1e6:.2f} MB -> {path}"
    )
