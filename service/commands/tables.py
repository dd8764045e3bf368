"""`onceforall tables`: look into latency tables, check, convert, compare and correct them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.output import Json, print_json

if TYPE_CHECKING:
    from latency_tables import Coverage, LatencyTable
    from supernet.spaces import SearchSpace

tables = typer.Typer(help="Look into latency tables.", no_args_is_help=True)
LARGEST = 10
"""Rows that `diff` shows; all of them with --json."""

TablePath = Annotated[
    Path, typer.Argument(help="Latency table: .json, .yaml or .csv; or a folder (or file) of the ofa package.")
]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="What to call the device, not as the file or the ofa folder says.")
]


@tables.callback()
def _group() -> None:
    """Look into latency tables, check, convert, compare and correct them."""


@tables.command()
def show(path: TablePath, device: DeviceName = None, as_json: Json = False) -> None:
    """Show a table's rows, origin, coverage and outliers."""
    from latency_tables import LatencyTable, outliers
    from service.commands import table_words as words

    table = LatencyTable.load(path, device=device)
    coverage = table.coverage(_space(table, path))
    odd = [str(outlier) for outlier in outliers(table)]
    if as_json:
        print_json(
            {
                **_named(table),
                "provenance": asdict(table.provenance),
                "covered": list(coverage.covered),
                "missing": coverage.missing,
                "unknown": coverage.unknown,
                "outliers": odd,
                "rows": {key: asdict(row) for key, row in table.rows.items()},
            }
        )
        return
    facts = words.provenance_words(table.provenance) | {"covered sizes": words.coverage_words(coverage)}
    _print(
        words.wrapped("", f"{table.device}: {len(table.rows)} layers of {table.space}"),
        words.row_lines(table),
        [""],
        words.fact_lines(facts),
        words.missing_lines(coverage, coverage.resolutions),
        words.list_lines("unknown", coverage.unknown),
        words.list_lines("outliers", odd),
    )


@tables.command()
def validate(
    path: TablePath,
    resolutions: Annotated[
        str | None, typer.Option(help="Only what these need, as in 160,176,192.  [default: all of the space]")
    ] = None,
    device: DeviceName = None,
    as_json: Json = False,
) -> None:
    """Check a table: missing rows, rows that no subnet needs, and outliers; exit status 1 where there are any."""
    from latency_tables import LatencyTable, outliers
    from service.commands import table_words as words

    table = LatencyTable.load(path, device=device)
    coverage = table.coverage(_space(table, path))
    chosen = _chosen(resolutions, coverage)
    missing = {size: coverage.resolutions[size].missing for size in chosen if coverage.resolutions[size].missing}
    odd = [str(outlier) for outlier in outliers(table)]
    valid = not (missing or coverage.unknown or odd)
    if as_json:
        print_json(
            {
                **_named(table),
                "valid": valid,
                "resolutions": chosen,
                "covered": list(coverage.covered),
                "missing": list(dict.fromkeys(key for keys in missing.values() for key in keys)),
                "missing_by_resolution": {str(size): keys for size, keys in missing.items()},
                "unknown": coverage.unknown,
                "outliers": odd,
            }
        )
    else:
        _print(
            words.wrapped("", f"{table.device}: {len(table.rows)} layers of {table.space}"),
            words.wrapped("covered resolutions: ", words.coverage_words(coverage)),
            words.missing_lines(coverage, chosen),
            words.list_lines("unknown", coverage.unknown),
            words.list_lines("outliers", odd),
            ["valid" if valid else "not valid"],
        )
    if not valid:
        raise typer.Exit(1)


@tables.command()
def convert(
    path: TablePath,
    out: Annotated[Path, typer.Argument(help="File to write: .json, .yaml or .csv.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    device: DeviceName = None,
    as_json: Json = False,
) -> None:
    """Write a table in another format."""
    from latency_tables import LatencyTable
    from service.commands import table_words as words

    _check_new(out, force)
    table = LatencyTable.load(path, device=device)
    table.save(out)
    if as_json:
        print_json({**_named(table), "file": str(out), "rows": len(table.rows)})
        return
    _print(words.wrapped("", f"{table.device}: {len(table.rows)} layers of {table.space} -> {out}"))


@tables.command()
def diff(
    first: Annotated[Path, typer.Argument(help="Latency table A.")],
    second: Annotated[Path, typer.Argument(help="Latency table B, of the same space.")],
    as_json: Json = False,
) -> None:
    """Compare two tables: rows that only one has, ratios of the others, and what was measured differently."""
    from latency_tables import LatencyTable, compare
    from service.commands import table_words as words

    loaded = [LatencyTable.load(path) for path in (first, second)]
    found = compare(*loaded)
    if as_json:
        print_json(
            {
                "first": _named(loaded[0]),
                "second": _named(loaded[1]),
                "only_first": found.only_first,
                "only_second": found.only_second,
                "median_ratio": found.median_ratio,
                "ratios": [asdict(row) | {"ratio": row.ratio} for row in found.ratios],
                "differences": {name: list(pair) for name, pair in found.differences.items()},
            }
        )
        return
    titles = [
        words.wrapped(f"{letter}: ", f"{table.device}, {len(table.rows)} layers of {table.space} ({path})")
        for letter, table, path in zip("AB", loaded, (first, second), strict=True)
    ]
    _print(*titles, words.comparison_lines(found, LARGEST))


@tables.command()
def correct(
    path: TablePath,
    out: Annotated[Path, typer.Argument(help="File to write: .json, .yaml or .csv.")],
    measured: Annotated[
        Path,
        typer.Option(help='JSON list of {"config": {...}, "latency_ms": 12.3}: whole subnets timed on that device.'),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    device: DeviceName = None,
    as_json: Json = False,
) -> None:
    """Fit a table to a few whole subnets; exit status 1 and no file where that predicts left-out ones no better."""
    from latency_tables import LatencyTable, read_measured
    from latency_tables import correct as fitted
    from service.commands import table_words as words

    _check_new(out, force)
    table = LatencyTable.load(path, device=device)
    found = fitted(table, _space(table, path), read_measured(measured))
    if found.changed:
        found.table.save(out)
    if as_json:
        print_json({**_named(found.table), "file": str(out) if found.changed else None, **words.corrected_facts(found)})
    else:
        where = f" -> {out}" if found.changed else ", not corrected"
        _print(
            words.wrapped("", f"{table.device}: {len(table.rows)} layers of {table.space}{where}"),
            words.corrected_lines(found),
        )
    if not found.changed:
        raise typer.Exit(1)


def _check_new(out: Path, force: bool) -> None:
    """Refuse a file that cannot be written, or that nobody said may be replaced."""
    from latency_tables.table import format_of
    from supernet.errors import ConfigError

    format_of(out)
    if out.exists() and not force:
        raise ConfigError(f"{str(out)!r} exists; replace it with --force, or choose another name")


def _space(table: LatencyTable, path: Path) -> SearchSpace:
    """The space whose layers the table of that path has."""
    from supernet.errors import ConfigError
    from supernet.spaces import get_space

    try:
        return get_space(table.space).with_num_classes(table.num_classes)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r}: {error}") from None


def _named(table: LatencyTable) -> dict[str, str | int]:
    return {
        "device": table.device,
        "space": table.space,
        "num_classes": table.num_classes,
        "digest": table.digest,
    }


def _chosen(text: str | None, coverage: Coverage) -> list[int]:
    """The resolutions that the user names; all where none are named."""
    from supernet.errors import ConfigError

    known = {str(size): size for size in coverage.resolutions}
    names = list(known) if text is None else [name.strip() for name in text.split(",")]
    unknown = [repr(name[:80]) for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--resolutions: unknown {', '.join(unknown[:5])}; allowed: {', '.join(known)}")
    return sorted({known[name] for name in names})


def _print(*parts: list[str]) -> None:
    for lines in parts:
        for line in lines:
            typer.echo(line)
