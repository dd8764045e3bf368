"""`onceforall profile`: measure every layer of a space on this machine, or write a bundle that does it elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.output import Json, print_json, progress_bar
from supernet.errors import ConfigError, one_of

if TYPE_CHECKING:
    from latency_tables import Corrected, LatencyTable, MeasuredSubnet, SubnetTimer
    from supernet.spaces import SearchSpace

SUSPICIOUS = 0.25
"""Relative difference between a sum of layers and the whole subnet at which a disturbance is likely; usual is 0.05."""

_CORRECTION_SEED = 1
"""Of the subnets that a table is corrected with."""

RUNTIMES = {"torch": "torch-eager", "onnxruntime": "onnxruntime"}
"""What `--runtime` takes, and how a table's provenance names it."""

Runtime = Annotated[str, typer.Option(help="What runs the networks: torch, or onnxruntime.")]


def checked_runtime(name: str) -> str:
    """A runtime as a table's provenance names it.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in RUNTIMES:
        raise ConfigError(one_of("runtime", name, list(RUNTIMES)))
    return RUNTIMES[name]


def profile(
    space: Annotated[str, typer.Argument(help="Search space, or the folder of a trained run (its space and classes).")],
    device: Annotated[str, typer.Option(help="What budgets will call this machine.")] = "this-cpu",
    out: Annotated[Path | None, typer.Option(help="File to write (.json or .yaml).  [default: DEVICE.json]")] = None,
    runtime: Runtime = "torch",
    threads: Annotated[int, typer.Option(help="CPU threads during the measurement.")] = 1,
    batch: Annotated[int, typer.Option(help="Images a forward pass.")] = 1,
    resolutions: Annotated[
        str, typer.Option(help="Sides of the input images, such as 160,192; other subnets cannot be estimated.")
    ] = "all",
    repeats: Annotated[int, typer.Option(help="Timed rounds over all layers.")] = 30,
    warmup: Annotated[int, typer.Option(help="Rounds before them.")] = 3,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Measure nothing; write a folder that measures on a device with ONNX Runtime only."),
    ] = None,
    correct: Annotated[
        int,
        typer.Option(
            help="Also measure this many random whole subnets and fit the table to them; they and the table before "
            "are kept beside it.  [default: none]",
            show_default=False,
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write this machine's latency table: the median and spread of every layer that a subnet can need."""
    from latency_tables import measure_module_ms, measure_onnx_ms, profile_space
    from latency_tables.arguments import check_arguments
    from latency_tables.covering import resolutions_of
    from latency_tables.table import format_of
    from service.commands import table_words as words
    from supernet.files import require_writable
    from supernet.network import Subnet

    runtime = checked_runtime(runtime)
    wanted = _resolutions(resolutions)
    _check_correct(correct, bundle)
    check_arguments(device=device, threads=threads, batch=batch, repeats=repeats, warmup=warmup)
    chosen = _space(space)
    measured = resolutions_of(chosen, wanted)
    if bundle is not None:
        _write_bundle(chosen, bundle, batch, wanted, as_json)
        return
    path = out or Path(f"{device}.json")
    format_of(path)
    require_writable(path)
    timer = _timer(chosen, correct, measured, runtime, threads, batch) if correct else None
    with progress_bar("timing layers") as progress:

        def round_done(done: int, total: int) -> None:
            if timer is not None:
                timer.round(counts=done > warmup)
            progress(done, total)

        table = profile_space(
            chosen,
            device=device,
            threads=threads,
            batch=batch,
            repeats=repeats,
            warmup=warmup,
            runtime=runtime,
            resolutions=wanted,
            progress=round_done,
            say=lambda line: typer.echo(line, err=True),
        )
    table.save(path)
    corrected = _correct(table, chosen, path, timer.measured()) if timer is not None else None
    table = corrected.table if corrected else table
    configs = {
        "smallest": replace(chosen.smallest(), resolution=measured[0]),
        "largest": replace(chosen.largest(), resolution=measured[-1]),
    }
    sums = {name: table.estimate_ms(chosen, config) for name, config in configs.items()}
    wholes = {}
    for name, config in configs.items():
        network = Subnet(chosen, config).eval()
        if runtime == "onnxruntime":
            row = measure_onnx_ms(network, batch=batch, threads=threads)
        else:
            row = measure_module_ms(network, (batch, 3, config.resolution, config.resolution), threads=threads)
        wholes[name] = row.median_ms
    if as_json:
        print_json(
            {
                "file": str(path),
                "device": device,
                "space": chosen.name,
                "runtime": runtime,
                "resolutions": list(measured),
                "rows": len(table.rows),
                "digest": table.digest,
                "estimated_ms": sums,
                "measured_ms": wholes,
                **(words.corrected_facts(corrected) if corrected else {}),
            }
        )
        return
    typer.echo(
        f"{len(table.rows)} layers of {chosen.name} on {device!r}, {runtime}, {threads} thread(s), batch {batch} "
        f"-> {path}"
    )
    for line in words.corrected_lines(corrected) if corrected else []:
        typer.echo(line)
    for name, ms in sums.items():
        typer.echo(f"{name} subnet: sum of its layers {ms:.3f} ms, measured whole {wholes[name]:.3f} ms")
    differences = [abs(ms / wholes[name] - 1) for name, ms in sums.items()]
    if corrected:  # a correction makes sums right even where it was fitted to a disturbance
        differences.append(corrected.error_before)
    if max(differences) > SUSPICIOUS:
        typer.echo("these differ much: other programs were busy; profile again on a quiet machine", err=True)


def _check_correct(count: int, bundle: Path | None) -> None:
    from latency_tables.correction import LEAST_SUBNETS
    from latency_tables.measured import MAX_SUBNETS

    if count and not LEAST_SUBNETS <= count <= MAX_SUBNETS:
        raise ConfigError(f"--correct is {count}; allowed: {LEAST_SUBNETS} to {MAX_SUBNETS} subnets, or 0 for none")
    if count and bundle is not None:
        raise ConfigError("--correct measures here, --bundle elsewhere, and fits to whole subnets anyway; give one")


def _timer(
    space: SearchSpace, count: int, resolutions: tuple[int, ...], runtime: str, threads: int, batch: int
) -> SubnetTimer:
    """Whole subnets that are timed as the table is and in turn with it, so that both are of the same moments."""
    import numpy as np

    from latency_tables import SubnetTimer, random_subnets

    configs = random_subnets(space, count, np.random.default_rng(_CORRECTION_SEED), resolutions)
    return SubnetTimer(space, configs, runtime=runtime, threads=threads, batch=batch)


def _correct(table: LatencyTable, space: SearchSpace, path: Path, measured: list[MeasuredSubnet]) -> Corrected:
    """Correct the table; the subnets, and what the corrected table was made of, are kept beside it."""
    from latency_tables import correct, write_measured

    write_measured(path.with_name(f"{path.stem}.measured.json"), measured)
    found = correct(table, space, measured)
    if found.changed:
        table.save(path.with_name(f"{path.stem}.uncorrected{path.suffix}"))
        found.table.save(path)
    return found


def _write_bundle(space: SearchSpace, folder: Path, batch: int, resolutions: tuple[int, ...], as_json: bool) -> None:
    from latency_tables import write_bundle
    from latency_tables.bundle import describe_bundle

    write_bundle(space, folder, batch=batch, resolutions=resolutions)
    report = describe_bundle(folder)
    if as_json:
        print_json(report)
        return
    typer.echo(
        f"{report['subnets']} subnets with all {report['layers']} layers of {space.name}, "
        f"{report['size_bytes'] / 1e6:.1f} MB -> {folder}"
    )
    typer.echo(
        "on the device, with Python 3.8 or newer: pip install onnxruntime; "
        f"python {folder.name}/measure.py --device NAME --threads 1"
    )


def _space(name: str) -> SearchSpace:
    """A search space by its name, or that of a run's folder."""
    from supernet.runs import MANIFEST, RunFolder
    from supernet.spaces import get_space

    return RunFolder(name).space if (Path(name) / MANIFEST).is_file() else get_space(name)


def _resolutions(text: str) -> tuple[int, ...]:
    """`160,192` as numbers; `all` as none."""
    if text.strip() == "all":
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--resolutions is {text!r}; write it as 160,192, or leave it out for all") from None
