"""What a search space is: elastic dimensions (genes), and the layer sites that they shape.

A subnet has two exchangeable forms: a `SubnetConfig` (values, for people and files) and a row of an integer
genotype matrix (indices into each dimension's choices, for searches over whole populations).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from supernet import registry
from supernet.arch import LayerSpec, SubnetConfig, Value
from supernet.errors import ConfigError

Genotypes = npt.NDArray[np.int8]
Kind = Literal["resolution", "depth", "kernel", "expand", "width"]
KINDS: tuple[Kind, ...] = ("resolution", "depth", "kernel", "expand", "width")
FIELDS: dict[Kind, str] = {"depth": "depths", "kernel": "kernels", "expand": "expands", "width": "widths"}
"""Where a `SubnetConfig` holds the values of each kind that comes as a list."""
INACTIVE = 0
IMAGENET_RESOLUTIONS = tuple(range(128, 225, 4))
"""Sides of the square images that the published ImageNet supernets were trained on, pixels."""


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round channels to the nearest multiple of `divisor`, at least `divisor`, never more than 10 % down.

    Source: the rule of MobileNetV2 that all later mobile networks keep.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def strided(size: int, stride: int) -> int:
    """Side of the output of a convolution or pool that is padded by half its kernel, for any stride."""
    return -(-size // stride)


@dataclass(frozen=True)
class ElasticDimension:
    """One gene: a place in the network and the values that it may take.

    Attributes:
        kind: what is elastic.
        index: position in the config's list of that kind (0 for the resolution).
        choices: allowed values, ascending.
        needs_depth: (gene number of the stage's depth, least depth) at which this gene matters; None: always.
        aliases: (value, choice) pairs: further values that give the same network as a choice (where rounding to
            multiples of 8 channels makes two multipliers equal); a config may hold them, and is given the choice.
    """

    kind: Kind
    index: int
    choices: tuple[Value, ...]
    needs_depth: tuple[int, int] | None = None
    aliases: tuple[tuple[Value, Value], ...] = ()

    def choice_for(self, value: object) -> Value | None:
        """The choice that `value` means; None if it is outside of the space."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        for alias, choice in self.aliases:
            if value == alias:
                return choice
        return self.choices[self.choices.index(value)] if value in self.choices else None

    @property
    def allowed(self) -> tuple[Value, ...]:
        """Choices and aliases, ascending."""
        return tuple(sorted({*self.choices, *dict(self.aliases)}))

    @property
    def name(self) -> str:
        """As a person writes it: ``kernels[3]``, ``resolution``."""
        return self.kind if self.kind == "resolution" else f"{FIELDS[self.kind]}[{self.index}]"


@dataclass(frozen=True)
class LayerSite:
    """A place for a layer, the genes that shape it, and the layer for each choice of them.

    Attributes:
        name: the layer's name in the network (a Python identifier).
        genes: numbers of the dimensions that matter here.
        lower: their values, in that order -> the layer, or None where it is left out.
    """

    name: str
    genes: tuple[int, ...]
    lower: Callable[..., LayerSpec | None]


@dataclass(frozen=True)
class SearchSpace:
    """A family of networks that share their weights.

    Attributes:
        name: unique name, also in files.
        num_classes: outputs of the classifier.
        dimensions: all genes; their order is the genotype's column order.
        build_sites: number of classes -> all layer sites, from the image to the logits.
        bn_eps: epsilon of every batch norm.
    """

    name: str
    num_classes: int
    dimensions: tuple[ElasticDimension, ...]
    build_sites: Callable[[int], tuple[LayerSite, ...]] = field(repr=False)
    bn_eps: float = 1e-5

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.name, self.num_classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and (self.name, self.num_classes) == (other.name, other.num_classes)

    def __hash__(self) -> int:
        return hash((self.name, self.num_classes))

    def with_num_classes(self, num_classes: int) -> SearchSpace:
        """The same space with another classifier; configs and digests stay the same."""
        if num_classes < 2:
            raise ConfigError(f"num_classes is {num_classes}; a classifier needs at least 2")
        return self if num_classes == self.num_classes else replace(self, num_classes=num_classes)

    @cached_property
    def sites(self) -> tuple[LayerSite, ...]:
        """All layer sites, in the order of execution."""
        return self.build_sites(self.num_classes)

    @cached_property
    def cardinality(self) -> int:
        """Number of different subnets (inactive genes not counted), all resolutions included."""
        total = 1
        for number, dim in enumerate(self.dimensions):
            if dim.kind == "depth":
                total *= sum(
                    math.prod(
                        len(other.choices)
                        for other in self.dimensions
                        if other.needs_depth is not None
                        and other.needs_depth[0] == number
                        and other.needs_depth[1] <= d
                    )
                    for d in dim.choices
                )
            elif dim.needs_depth is None:
                total *= len(dim.choices)
        return total

    # -- configs ---------------------------------------------------------------------------------------------

    def config(
        self,
        *,
        resolution: int,
        depths: Sequence[int],
        kernels: Sequence[int] = (),
        expands: Sequence[Value] = (),
        widths: Sequence[Value] = (),
    ) -> SubnetConfig:
        """A checked `SubnetConfig` of this space; arguments as its attributes."""
        return SubnetConfig(self.name, resolution, tuple(depths), tuple(kernels), tuple(expands), tuple(widths))

    def canonical_values(self, config: SubnetConfig) -> dict[str, Any]:
        """The config's fields with every value checked and inactive ones set to 0.

        Raises:
            ConfigError: values outside of the space; every fault is named in the one message.
        """
        faults: list[str] = []
        given: dict[str, list[Any]] = {"resolution": [config.resolution]}
        for kind, name in FIELDS.items():
            values = getattr(config, name)
            expected = sum(dim.kind == kind for dim in self.dimensions)
            if not isinstance(values, list | tuple):
                faults.append(f"{name} is {values!r}; expected a list of {expected} numbers")
            elif len(values) != expected:
                faults.append(f"{name} has {len(values)} entries; expected {expected}")
            else:
                given[kind] = list(values)
        if not faults:
            for dim in self.dimensions:
                value = given[dim.kind][dim.index]
                if dim.needs_depth is not None:
                    depth_dim = self.dimensions[dim.needs_depth[0]]
                    depth = given["depth"][depth_dim.index]
                    inactive = isinstance(depth, int) and depth < dim.needs_depth[1]
                    if inactive and (value == INACTIVE or dim.choice_for(value) is not None):
                        given[dim.kind][dim.index] = INACTIVE
                        continue
                choice = dim.choice_for(value)
                if choice is None:
                    faults.append(f"{dim.name} is {value!r}; allowed: {', '.join(map(str, dim.allowed))}")
                else:
                    given[dim.kind][dim.index] = choice
        if faults:
            raise ConfigError(f"not a subnet of {self.name}: {'; '.join(faults)}")
        values_of = {name: tuple(given[kind]) for kind, name in FIELDS.items()}
        return {"resolution": given["resolution"][0], **values_of}

    def sample(self, rng: np.random.Generator) -> SubnetConfig:
        """A subnet drawn uniformly gene by gene."""
        return self.decode(self.sample_genotypes(rng, 1))[0]

    def largest(self) -> SubnetConfig:
        """Every dimension at its greatest value."""
        return self.decode(np.array([[len(dim.choices) - 1 for dim in self.dimensions]], dtype=np.int8))[0]

    def smallest(self) -> SubnetConfig:
        """Every dimension at its least value."""
        return self.decode(np.zeros((1, len(self.dimensions)), dtype=np.int8))[0]

    def layers(self, config: SubnetConfig) -> list[LayerSpec]:
        """The subnet's layers, in the order of execution."""
        return [spec for _, spec in self.named_layers(config) if spec is not None]

    def named_layers(self, config: SubnetConfig) -> list[tuple[str, LayerSpec | None]]:
        """(site name, layer or None where the depth leaves it out) for every site.

        Raises:
            ConfigError: the config belongs to another space.
        """
        if config.space != self.name:
            raise ConfigError(f"the subnet belongs to space {config.space!r}, not to {self.name!r}")
        values = [self._value(config, dim) for dim in self.dimensions]
        result: list[tuple[str, LayerSpec | None]] = []
        for site in self.sites:
            here = [values[gene] for gene in site.genes]
            result.append((site.name, site.lower(*here)))
        return result

    def all_layers(self) -> list[LayerSpec]:
        """Every different layer that some subnet of the space needs, sorted."""
        found: set[LayerSpec] = set()
        for site in self.sites:
            for values in itertools.product(*(self.dimensions[gene].choices for gene in site.genes)):
                spec = site.lower(*values)
                if spec is not None:
                    found.add(spec)
        return sorted(found)

    # -- genotypes -------------------------------------------------------------------------------------------

    def indices_within(
        self,
        gene: int,
        within: Mapping[Kind, Sequence[Value]] | None = None,
        greatest: Mapping[Kind, int] | None = None,
    ) -> list[int]:
        """Which choices of a gene a restriction leaves, ascending.

        Args:
            gene: number of the dimension.
            within: for some kinds, the allowed values (all where a kind is absent).
            greatest: for some kinds, how many of each dimension's allowed values, from the greatest down.

        Raises:
            ConfigError: none is left.
        """
        dim = self.dimensions[gene]
        wanted = dim.allowed if within is None else within.get(dim.kind, dim.allowed)
        values = [value for value in dim.allowed if value in wanted]
        if not values:
            raise ConfigError(f"{dim.name}: none of {wanted} is allowed; allowed: {', '.join(map(str, dim.allowed))}")
        if greatest is not None and dim.kind in greatest:
            values = values[-greatest[dim.kind] :]
        meant = {dim.choice_for(value) for value in values}
        return [index for index, choice in enumerate(dim.choices) if choice in meant]

    def sample_genotypes(
        self,
        rng: np.random.Generator,
        count: int,
        *,
        within: Mapping[Kind, Sequence[Value]] | None = None,
        greatest: Mapping[Kind, int] | None = None,
    ) -> Genotypes:
        """Draw `count` genotypes, uniformly gene by gene, of what `indices_within` leaves.

        Args:
            rng: source of randomness.
            count: number of rows.
            within: for some kinds, the values to draw from.
            greatest: for some kinds, how many of each dimension's values, from the greatest down.

        Returns:
            int8 matrix (count, genes), canonical.
        """
        columns = [
            rng.choice(np.array(self.indices_within(gene, within, greatest), dtype=np.int8), size=count)
            for gene in range(len(self.dimensions))
        ]
        return self.canonical_genotypes(np.stack(columns, axis=1))

    def active_genes(self, genotypes: Genotypes) -> npt.NDArray[np.bool_]:
        """Which genes matter, (n, genes) bool: those of blocks that the stage's depth includes."""
        active = np.ones(genotypes.shape, dtype=bool)
        for number, dim in enumerate(self.dimensions):
            if dim.needs_depth is not None:
                gene, least = dim.needs_depth
                enough = np.array([depth >= least for depth in self.dimensions[gene].choices])
                active[:, number] = enough[genotypes[:, gene]]
        return active

    def canonical_genotypes(self, genotypes: Genotypes) -> Genotypes:
        """A copy with inactive genes at index 0, so that equal subnets are equal rows."""
        return np.where(self.active_genes(genotypes), genotypes, 0).astype(np.int8)

    def encode(self, configs: Iterable[SubnetConfig]) -> Genotypes:
        """Configs -> canonical int8 matrix (n, genes) of indices into each dimension's choices."""
        rows = []
        for config in configs:
            if config.space != self.name:
                raise ConfigError(f"the subnet belongs to space {config.space!r}, not to {self.name!r}")
            values = [self._value(config, dim) for dim in self.dimensions]
            rows.append(
                [
                    dim.choices.index(v) if v in dim.choices else 0
                    for dim, v in zip(self.dimensions, values, strict=True)
                ]
            )
        return np.array(rows, dtype=np.int8).reshape(-1, len(self.dimensions))

    def decode(self, genotypes: Genotypes) -> list[SubnetConfig]:
        """The inverse of `encode`; rows need not be canonical."""
        configs = []
        for row, active in zip(genotypes, self.active_genes(genotypes), strict=True):
            values: dict[Kind, list[Value]] = {kind: [] for kind in KINDS}
            for dim, index, on in zip(self.dimensions, row, active, strict=True):
                values[dim.kind].append(dim.choices[index] if on else INACTIVE)
            configs.append(
                SubnetConfig(
                    self.name,
                    int(values["resolution"][0]),
                    tuple(int(v) for v in values["depth"]),
                    tuple(int(v) for v in values["kernel"]),
                    tuple(values["expand"]),
                    tuple(values["width"]),
                )
            )
        return configs

    @staticmethod
    def _value(config: SubnetConfig, dim: ElasticDimension) -> Value:
        if dim.kind == "resolution":
            return config.resolution
        value: Value = getattr(config, FIELDS[dim.kind])[dim.index]
        return value


def largest_resolution(space: SearchSpace) -> int:
    """Side of the largest input image of any subnet, pixels."""
    return int(max(value for dim in space.dimensions if dim.kind == "resolution" for value in dim.choices))


def _restore(name: str, num_classes: int) -> SearchSpace:
    return registry.find(name).with_num_classes(num_classes)
