"""Which of a space's layers are known, in all and by resolution of the image."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from latency_tables.covering import layers_within, resolutions_of
from supernet.arch import LayerSpec
from supernet.spaces import SearchSpace


@dataclass(frozen=True)
class ResolutionCoverage:
    """How much of one resolution a table knows.

    Attributes:
        needed: number of layers that the subnets of this resolution need.
        missing: keys of those that have no row.
    """

    needed: int
    missing: list[str]

    @property
    def complete(self) -> bool:
        """Whether every subnet of the resolution can be estimated."""
        return not self.missing


@dataclass(frozen=True)
class Coverage:
    """How much of a space a table knows.

    Attributes:
        present: number of the space's layers that have a row.
        missing: keys of those that have none.
        unknown: keys of rows that no subnet of the space needs, such as a typing error.
        resolutions: the same by resolution, ascending; a layer can be needed at several.
    """

    present: int
    missing: list[str]
    unknown: list[str]
    resolutions: Mapping[int, ResolutionCoverage]

    @property
    def complete(self) -> bool:
        """Whether every subnet of the space can be estimated."""
        return not self.missing

    @property
    def covered(self) -> tuple[int, ...]:
        """Resolutions of which every subnet can be estimated, ascending."""
        return tuple(resolution for resolution, part in self.resolutions.items() if part.complete)


def coverage_of(space: SearchSpace, keys: Collection[str]) -> Coverage:
    """Which of the space's layers are among `keys`."""
    needed = [spec.key for spec in space.all_layers()]
    missing = [key for key in needed if key not in keys]
    resolutions = {}
    for resolution, layers in layers_by_resolution(space).items():
        here = [spec.key for spec in layers]
        resolutions[resolution] = ResolutionCoverage(len(here), [key for key in here if key not in keys])
    return Coverage(len(needed) - len(missing), missing, sorted(set(keys) - set(needed)), resolutions)


def layers_by_resolution(space: SearchSpace) -> dict[int, list[LayerSpec]]:
    """Every different layer that some subnet of a resolution needs, sorted, by resolution (ascending)."""
    return {resolution: layers_within(space, (resolution,)) for resolution in resolutions_of(space)}
