"""The inverse of lowering: which subnet of a space, if any, a list of layers is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from supernet.arch import LayerSpec, SubnetConfig, Value
from supernet.spaces.base import KINDS, Kind, SearchSpace

_Genes = dict[int, Value]


def recognise(space: SearchSpace, layers: Sequence[LayerSpec]) -> SubnetConfig | None:
    """The subnet of `space` that lowers to exactly `layers`, or None.

    Args:
        space: the space; its number of classes does not matter.
        layers: from the image to the logits.
    """
    if not layers or layers[-1].op != "linear" or layers[-1].out_channels < 2:
        return None
    space = space.with_num_classes(layers[-1].out_channels)
    genes = _Search(space, layers).run(0, 0, {})
    if genes is None:
        return None
    values: dict[Kind, list[Value]] = {kind: [] for kind in KINDS}
    for number, dim in enumerate(space.dimensions):
        values[dim.kind].append(genes.get(number, dim.choices[0]))
    return space.config(
        resolution=int(values["resolution"][0]),
        depths=[int(value) for value in values["depth"]],
        kernels=[int(value) for value in values["kernel"]],
        expands=values["expand"],
        widths=values["width"],
    )


class _Search:
    """Depth first over the sites; each takes the next layer, or none where it is left out."""

    def __init__(self, space: SearchSpace, layers: Sequence[LayerSpec]) -> None:
        self.space, self.layers = space, layers
        self.failed: set[tuple[int, int, tuple[tuple[int, Value], ...]]] = set()
        """Dead ends; without them, the many values of genes that a left out block has make the search exponential."""

    def run(self, site: int, layer: int, genes: _Genes) -> _Genes | None:
        """Genes with which the sites from `site` on lower to the layers from `layer` on, given those chosen so far."""
        if site == len(self.space.sites):
            return genes if layer == len(self.layers) else None
        later = {gene for other in self.space.sites[site:] for gene in other.genes}
        state = site, layer, tuple((gene, value) for gene, value in genes.items() if gene in later)
        if state in self.failed:
            return None
        here = self.space.sites[site]
        choices = [(genes[gene],) if gene in genes else self.space.dimensions[gene].choices for gene in here.genes]
        for values in itertools.product(*choices):
            spec = here.lower(*values)
            if spec is not None and (layer == len(self.layers) or spec != self.layers[layer]):
                continue
            chosen = genes | dict(zip(here.genes, values, strict=True))
            found = self.run(site + 1, layer + (spec is not None), chosen)
            if found is not None:
                return found
        self.failed.add(state)
        return None
