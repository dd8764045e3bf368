"""What `search` and `front` read: the space, its accuracy predictor and the latency tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from supernet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from latency_tables import LatencyTable
    from search import AccuracyPredictor, ParetoFront
    from supernet.spaces import SearchSpace

Run = Annotated[str, typer.Argument(help="Folder of a trained run, or the name of a space (then with --predictor).")]
Tables = Annotated[list[Path] | None, typer.Option(help="Latency table, file or folder; repeat for more devices.")]
PredictorPath = Annotated[
    Path | None, typer.Option(help="Folder of a predictor, or MIT's .pth file.  [default: the run's own]")
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="File that keeps the search while it runs; after an interruption the same command goes on."),
]


def read_space(run: str) -> SearchSpace:
    """The space of a run's folder, or the one of this name.

    Raises:
        ConfigError: it is neither.
        CheckpointError: the run's manifest is damaged.
    """
    from supernet.manifest import read_manifest, trained_space
    from supernet.spaces import get_space, list_spaces

    if run not in list_spaces() and not Path(run).is_dir():
        raise ConfigError(
            f"{run!r} is neither a run's folder nor a space; spaces: {', '.join(list_spaces())}; "
            "train a run with: onceforall train"
        )
    return get_space(run) if run in list_spaces() else trained_space(Path(run), read_manifest(Path(run)))


def read_predictor(run: str, path: Path | None) -> AccuracyPredictor:
    """The predictor for a run or a space; `path` overrides the run's own.

    Raises:
        ConfigError: neither a run nor a space, or the predictor is for another space.
        CheckpointError: there is no predictor, it is damaged, or the run's own was fitted to other weights.
    """
    from search import AccuracyPredictor
    from supernet.manifest import read_manifest, trained_weights

    space = read_space(run)
    if path is not None:
        load = AccuracyPredictor.load_ofa if path.suffix == ".pth" else AccuracyPredictor.load
        return load(path, space=space)
    own = _own_predictor(run)
    if own is None:
        raise ConfigError(f"{run!r} is a space and has no accuracy predictor of its own; name one with --predictor")
    if not own.exists():
        raise CheckpointError(
            f"{run!r} has no accuracy predictor; make one with: onceforall predictor {run}, or give --predictor"
        )
    found = AccuracyPredictor.load(own, space=space)
    fitted_to = found.details.get("weights_sha256")  # absent where it was fitted by hand
    if fitted_to is not None and fitted_to != (weights := trained_weights(Path(run), read_manifest(Path(run)))):
        raise CheckpointError(
            f"the accuracy predictor of {run!r} was fitted to the weights {str(fitted_to)[:12]}..., the run has "
            f"{weights[:12]}...; fit it again with: onceforall predictor {run}, or give --predictor"
        )
    return found


def _own_predictor(run: str) -> Path | None:
    """Where a run's own predictor is or would be; None for a space."""
    from supernet.manifest import PREDICTOR
    from supernet.spaces import list_spaces

    return None if run in list_spaces() else Path(run) / PREDICTOR


def read_front(
    path: Path, run: str, predictor: Path | None, tables: Sequence[Path] | None
) -> tuple[ParetoFront, AccuracyPredictor | None]:
    """A front for a run or a space, and the predictor that it was made with.

    Args:
        path: the front's file.
        run: a run's folder or a space's name.
        predictor: overrides the run's own; where there is neither, the front's is not checked.
        tables: may be left out; those that are given are checked.

    Raises:
        ConfigError: it is for another space or number of classes, or was made with another predictor or table.
        CheckpointError: a file is absent or damaged.
        TableError: a table cannot be read.
    """
    from search import ParetoFront

    front, space = ParetoFront.load(path), read_space(run)
    faults, digests = [], front.details.get("tables") or {}
    if front.space != space:
        asked, found = (f"{one.name!r} with {one.num_classes} classes" for one in (space, front.space))
        raise ConfigError(
            f"the front {str(path)!r} is of space {found}, not of {asked}; "
            f"make one with: onceforall front {run} --metric {front.metrics[0]}"
        )
    own = _own_predictor(run)
    fitted = read_predictor(run, predictor) if predictor is not None or (own is not None and own.exists()) else None
    if fitted is not None and front.details.get("predictor") != fitted.digest:
        faults.append(f"another predictor than {str(predictor or own)!r} (--predictor names one)")
    faults += [
        f"another table of {device!r}" if device in digests else f"no table of {device!r}"
        for device, table in read_tables(tables).items()
        if digests.get(device) != table.digest
    ]
    if faults:
        raise ConfigError(
            f"the front {str(path)!r} was made with {' and '.join(faults)}; give what it was made with, "
            f"or make it again with: onceforall front {run}"
        )
    return front, fitted


def refuse_idle(context: typer.Context, names: Sequence[str], *, because: str) -> None:
    """Refuse options that were given and would change nothing.

    Raises:
        ConfigError: there are some.
    """
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    ]
    if given:
        raise ConfigError(f"{', '.join(given)} would change nothing {because}; leave it out")


def read_tables(paths: Sequence[Path] | None) -> dict[str, LatencyTable]:
    """Device -> its table.

    Raises:
        ConfigError: two tables of one device.
        TableError: one cannot be read.
    """
    from latency_tables import LatencyTable

    found: dict[str, LatencyTable] = {}
    for path in paths or []:
        table = LatencyTable.load(path)
        if table.device in found:
            raise ConfigError(f"{str(path)!r} is a second table of device {table.device!r}; give one table a device")
        found[table.device] = table
    return found


def tell_not_searched(left_out: Mapping[int, str] | Mapping[str, str]) -> None:
    """Say on standard error which resolutions are left out, if any.

    Args:
        left_out: resolution -> why.
    """
    from search.domain import in_words

    if left_out:
        typer.echo(f"not searched: {in_words(left_out)}", err=True)
