"""`onceforall settings`: every setting of the service, its value here, and what it means."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from service.commands.output import Json, print_json, print_table


def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the defaults as the table of the docs.")] = False,
    json: Json = False,
) -> None:
    """Show the service's settings as the environment makes them; passwords are hidden."""
    from service.logs import hide_secrets
    from service.settings import load_settings

    if markdown:
        typer.echo(markdown_table())
        return
    values = hide_secrets(None, "", dict(load_settings()))
    if json:
        print_json({variable(name): value if _is_plain(value) else str(value) for name, value in values.items()})
        return
    meanings = described()
    rows = [[variable(name), _shown(value), meanings[name]] for name, value in values.items()]
    print_table("settings", ["variable", "value", "meaning"], rows)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    from service.settings import Settings

    return f"{Settings.model_config.get('env_prefix', '')}{name}".upper()


def described() -> dict[str, str]:
    """Setting -> what the docstring of `Settings` says about it."""
    from service.settings import Settings

    lines = (Settings.__doc__ or "").partition("Attributes:\n")[2].splitlines()
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        begin = re.match(r" {8}(\w+(?:, \w+)*): (.*)", line)
        if begin is not None:
            names = begin[1].split(", ")
            found |= dict.fromkeys(names, begin[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def markdown_table() -> str:
    """The settings with their defaults, as docs/operations.md has them."""
    meanings = described()
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in _fields().items():
        default = _shown(field.get_default())
        meaning = meanings[name].replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{variable(name)}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines)


def _fields() -> dict[str, Any]:
    from service.settings import Settings

    return dict(Settings.model_fields)


def _shown(value: object) -> str:
    """As it is set, and round numbers of bytes as people say them too; None as nothing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value and value % 1024 == 0:
        for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
            if value % 1024**power == 0:
                return f"{value} ({value // 1024**power} {unit})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
