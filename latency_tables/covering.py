"""Which layers a profile measures, and few subnets that together have all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from supernet.arch import LayerSpec
from supernet.errors import ConfigError
from supernet.spaces import Genotypes, SearchSpace
from supernet.spaces.base import Kind


def resolutions_of(space: SearchSpace, resolutions: Sequence[int] = ()) -> tuple[int, ...]:
    """The wanted ones of the space's resolutions, pixels, ascending; none wanted: all.

    Raises:
        ConfigError: the space lacks one.
    """
    allowed = [int(value) for dim in space.dimensions if dim.kind == "resolution" for value in dim.choices]
    unknown = sorted(set(resolutions) - set(allowed))
    if unknown:
        raise ConfigError(
            f"{space.name} has no resolution {', '.join(map(str, unknown))}; allowed: {', '.join(map(str, allowed))}"
        )
    return tuple(value for value in allowed if not resolutions or value in resolutions)


def layers_within(space: SearchSpace, resolutions: Sequence[int] = ()) -> list[LayerSpec]:
    """Every different layer that some subnet of these resolutions needs, sorted; no resolutions: of all.

    Raises:
        ConfigError: the space lacks a resolution.
    """
    return sorted({spec for options in _layers_of_sites(space, resolutions) for _, spec in options})


def covering_genotypes(space: SearchSpace, rng: np.random.Generator, resolutions: Sequence[int] = ()) -> Genotypes:
    """Few subnets that together have every layer of the space, as int8 (subnets, genes).

    Greedy: each subnet takes, site by site, a layer that is still wanted and agrees with the genes chosen so far; genes
    that no layer asks for are random. For a MobileNetV3 space that is resolutions x kernels x expand ratios, the least
    possible.

    Args:
        space: the search space.
        rng: source of randomness.
        resolutions: of the subnets, pixels; none: all of the space.

    Raises:
        ConfigError: the space lacks a resolution.
    """
    within: dict[Kind, tuple[int, ...]] = {"resolution": resolutions_of(space, resolutions)}
    wanted = _layers_of_sites(space, resolutions)
    found: set[LayerSpec] = set()
    genotypes: list[npt.NDArray[np.int8]] = []
    while any(wanted):
        chosen: dict[int, int] = {}
        for site, options in zip(space.sites, wanted, strict=True):
            for place, _ in options:
                if all(chosen.get(gene, index) == index for gene, index in zip(site.genes, place, strict=True)):
                    chosen.update(zip(site.genes, place, strict=True))
                    break
        genotype = space.sample_genotypes(rng, 1, within=within)
        for gene, index in chosen.items():
            genotype[0, gene] = index
        genotype = space.canonical_genotypes(genotype)
        genotypes.append(genotype[0])
        found.update(space.layers(space.decode(genotype)[0]))
        wanted = [[(place, spec) for place, spec in options if spec not in found] for options in wanted]
    return np.stack(genotypes)


_Options = list[tuple[tuple[int, ...], LayerSpec]]


def _layers_of_sites(space: SearchSpace, resolutions: Sequence[int]) -> list[_Options]:
    """For each site its layers, each with the choices of the site's genes; the deepest first."""
    wanted = resolutions_of(space, resolutions)
    sites: list[_Options] = []
    for site in space.sites:
        axes = []
        for gene in site.genes:
            dim = space.dimensions[gene]
            indices = range(len(dim.choices) - 1, -1, -1)
            axes.append([i for i in indices if dim.kind != "resolution" or dim.choices[i] in wanted])
        options = []
        for place in itertools.product(*axes):
            spec = site.lower(*(space.dimensions[g].choices[i] for g, i in zip(site.genes, place, strict=True)))
            if spec is not None:
                options.append((place, spec))
        sites.append(options)
    return sites
