"""The search spaces that exist, by name.

A leaf module: `SubnetConfig` asks it for its space, and spaces are described with `arch`, so neither needs the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supernet.errors import ConfigError, one_of

if TYPE_CHECKING:
    from supernet.spaces.base import SearchSpace

_spaces: dict[str, SearchSpace] = {}


def register(space: SearchSpace) -> SearchSpace:
    """Make `space` known by its name; a second space of the same name is refused.

    Raises:
        ConfigError: the name is taken.
    """
    if space.name in _spaces:
        raise ConfigError(f"a search space named {space.name!r} exists already; choose another name")
    _spaces[space.name] = space
    return space


def find(name: object) -> SearchSpace:
    """The space of that name.

    Raises:
        ConfigError: no such space; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in _spaces:
        raise ConfigError(one_of("search space", name, names()))
    return _spaces[name]


def names() -> list[str]:
    """Names of all known spaces, sorted."""
    return sorted(_spaces)
