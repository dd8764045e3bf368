"""The laws that every search space keeps, as a test class to inherit.

A space's test is one class; pytest collects it by its name and runs all laws::

    class TestMySpace(SearchSpaceContract):
        space = get_space("my_space")

Only asserts are used, so any test runner will do. Where weights matter, networks see small images: layers do not depend
on the size. torch is imported by the laws that need it, not by this module.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from supernet import registry
from supernet.arch import SubnetConfig, Value
from supernet.errors import ConfigError
from supernet.spaces.base import FIELDS, INACTIVE, ElasticDimension, Genotypes, SearchSpace, largest_resolution

if TYPE_CHECKING:
    import torch
    from torch import nn

    from supernet.network import Supernet


class SearchSpaceContract:
    """Inherit it, set `space`, and the inherited tests check the space.

    Attributes:
        space: the registered space.
        subnets: random subnets a law, beside the largest and the smallest.
        image_side: side of the images that networks compute with, pixels.
        seed: of all random choices.
    """

    space: ClassVar[SearchSpace]
    subnets: ClassVar[int] = 3
    image_side: ClassVar[int] = 64
    seed: ClassVar[int] = 0

    # -- descriptions ----------------------------------------------------------------------------------------

    def test_the_space_is_registered_and_travels_by_its_name(self) -> None:
        """`get_space` finds it, and so does another process."""
        assert registry.find(self.space.name) is self.space
        assert pickle.loads(pickle.dumps(self.space)) == self.space

    def test_genes_are_well_formed(self) -> None:
        """One resolution; indices of each kind without gaps; ascending choices; depths that exist; each gene used."""
        dims = self.space.dimensions
        assert [dim.index for dim in dims if dim.kind == "resolution"] == [0]
        for kind in FIELDS:
            indices = [dim.index for dim in dims if dim.kind == kind]
            assert sorted(indices) == list(range(len(indices))), f"{FIELDS[kind]}: indices are {indices}"
        for number, dim in enumerate(dims):
            assert list(dim.choices) == sorted(set(dim.choices)), f"{dim.name}: choices are {dim.choices}"
            assert all(choice in dim.choices and value not in dim.choices for value, choice in dim.aliases)
            if dim.needs_depth is not None:
                gene, least = dim.needs_depth
                assert dims[gene].kind == "depth", f"{dim.name} needs gene {gene}, which is no depth"
                assert gene < number, f"{dim.name} stands before the depth that it needs"
                assert least <= max(dims[gene].choices), f"{dim.name} is never active"
        used = {gene for site in self.space.sites for gene in site.genes}
        idle = [dim.name for number, dim in enumerate(dims) if number not in used and len(dim.choices) > 1]
        assert not idle, f"no layer site uses {idle}"

    def test_every_gene_takes_effect_or_is_inactive(self) -> None:
        """The choices of an active gene give different networks and names; those of an inactive one the same."""
        for genotype in self._genotypes():
            active = self.space.active_genes(genotype[None])[0]
            for gene, dim in enumerate(self.space.dimensions):
                variants = np.repeat(genotype[None], len(dim.choices), axis=0)
                variants[:, gene] = np.arange(len(dim.choices))
                configs = self.space.decode(variants)
                networks = {tuple(self.space.named_layers(config)) for config in configs}
                expected = len(dim.choices) if active[gene] else 1
                assert len({config.digest for config in configs}) == expected, f"{dim.name}: names of {configs[0]}"
                assert len(networks) == expected, f"{dim.name}: {len(networks)} networks of {expected} choices"

    def test_configs_survive_dictionaries_and_genotypes(self) -> None:
        """Encoding and decoding are inverse to each other."""
        genotypes = self.space.sample_genotypes(self._rng(), 50)
        configs = self.space.decode(genotypes)
        assert (self.space.encode(configs) == genotypes).all()
        assert [SubnetConfig.from_dict(config.to_dict()) for config in configs] == configs

    def test_values_of_inactive_genes_do_not_matter(self) -> None:
        """Whatever allowed value stands there, the config is the same; likewise for the two names of one choice."""
        rng = self._rng()
        for config in self._configs():
            values = {name: list(getattr(config, name)) for name in FIELDS.values()}
            for dim in self.space.dimensions:
                if dim.kind == "resolution":
                    continue
                here = values[FIELDS[dim.kind]]
                if dim.kind != "depth" and here[dim.index] == INACTIVE:
                    here[dim.index] = dim.allowed[rng.integers(len(dim.allowed))]
                for alias, choice in dim.aliases:
                    if here[dim.index] == choice:
                        here[dim.index] = alias
            same = self.space.config(resolution=config.resolution, **values)
            assert same == config
            assert same.digest == config.digest

    def test_layers_chain_from_the_image_to_the_logits(self) -> None:
        """What one layer gives is what the next one takes."""
        for config in self._configs(20):
            layers = self.space.layers(config)
            assert (layers[0].in_size, layers[0].in_channels) == (config.resolution, 3)
            assert (layers[-1].out_size, layers[-1].out_channels) == (1, self.space.num_classes)
            for before, after in itertools.pairwise(layers):
                assert (before.out_channels, before.out_size) == (after.in_channels, after.in_size), (
                    f"{before.key} is followed by {after.key}"
                )

    def test_layer_sites_and_keys_are_unique(self) -> None:
        """Sites name weights, keys name rows of latency tables."""
        names = [site.name for site in self.space.sites]
        assert len(set(names)) == len(names)
        assert all(name.isidentifier() for name in names)
        layers = self.space.all_layers()
        assert len({spec.key for spec in layers}) == len(layers)

    def test_another_number_of_classes_changes_the_classifier_only(self) -> None:
        """All other weights can be kept when the classes change."""
        other, config = self.space.with_num_classes(self.space.num_classes + 1), self.space.largest()
        assert other.layers(config)[:-1] == self.space.layers(config)[:-1]
        assert other.layers(config)[-1] == replace(
            self.space.layers(config)[-1], out_channels=self.space.num_classes + 1
        )

    # -- refusals --------------------------------------------------------------------------------------------

    def test_values_outside_of_the_space_are_refused_by_name_and_never_rounded(self) -> None:
        """Above, below, between, and of another type."""
        for dim in self.space.dimensions:
            low, high = min(dim.choices), max(dim.choices)
            for bad in (high + 1, low - 1, low + 0.001, 99, -1, None, "3", True, float("nan")):
                text = self._refusal({dim.name: bad})
                assert f"{dim.name} is {bad!r}; allowed: " in text, f"{dim.name}={bad!r}: {text}"

    def test_lists_of_a_wrong_length_are_refused(self) -> None:
        """One entry too few, one too many, or no list."""
        largest = self.space.largest().to_dict()
        for name in FIELDS.values():
            expected = len(largest[name])
            wrong: list[Any] = [[*largest[name], 1], "7"] + ([largest[name][:-1]] if expected else [])
            for values in wrong:
                text = self._error(largest | {name: values})
                assert f"{name} " in text, text
                assert f"expected {expected}" in text or f"a list of {expected}" in text, text

    def test_all_faults_are_named_at_once(self) -> None:
        """One message for one config."""
        dims = [self.space.dimensions[0], *(dim for dim in self.space.dimensions if dim.index == 1)]
        text = self._refusal({dim.name: 1234 for dim in dims})
        assert all(f"{dim.name} is 1234" in text for dim in dims), text
        assert "\n" not in text

    # -- networks --------------------------------------------------------------------------------------------

    def test_layers_have_the_shapes_that_they_say(self) -> None:
        """The module of a layer turns the input that its description names into the output that it names."""
        import torch

        from supernet.layers import build_layer

        layers = self.space.all_layers()
        chosen = self._rng().choice(len(layers), size=min(60, len(layers)), replace=False)
        with torch.device("meta"), torch.inference_mode():
            for spec in (layers[i] for i in chosen):
                found = build_layer(spec).eval()(torch.empty(2, spec.in_channels, spec.in_size, spec.in_size)).shape
                size = () if spec.op == "linear" else (spec.out_size, spec.out_size)
                assert tuple(found) == (2, spec.out_channels, *size), f"{spec.key}: {tuple(found)}"

    def test_an_extracted_subnet_computes_what_the_active_supernet_does(self) -> None:
        """In evaluation mode and, batch norm by the batch's own statistics, in training mode."""
        import torch

        net, images = self._supernet(), self._images(4)
        for config in self._configs():
            subnet = net.extract(config)
            net.activate(config)
            for training in (False, True):
                with torch.no_grad():
                    error = _relative_error(subnet.train(training)(images), net.train(training)(images))
                assert error <= 1e-6, f"{error} for {config}"

    def test_sorting_channels_keeps_what_the_largest_network_computes(self) -> None:
        """Though it moves weights."""
        import torch

        net, images = self._supernet(), self._images(2)
        before = [parameter.detach().clone() for parameter in net.parameters()]
        with torch.no_grad():
            expected = net(images)
            net.sort_channels()
            assert _relative_error(net(images), expected) <= 1e-4
        assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))

    def test_sorting_channels_keeps_every_subnet_of_trained_expand_ratios(self) -> None:
        """At all depths, kernels and widths."""
        import torch

        expands = sorted({value for dim in self.space.dimensions if dim.kind == "expand" for value in dim.choices})
        trained = expands[1:]
        net, images = self._supernet(), self._images(2)
        genotypes = self.space.sample_genotypes(self._rng(), self.subnets, within={"expand": trained})
        configs = self.space.decode(genotypes)
        with torch.no_grad():
            expected = [self._compute(net, config, images) for config in configs]
            net.sort_channels(trained)
            for config, logits in zip(configs, expected, strict=True):
                error = _relative_error(self._compute(net, config, images), logits)
                assert error <= 1e-4, f"{error} for {config}"

    def test_gradients_reach_every_parameter(self) -> None:
        """Over the corner subnets: all genes greatest, all least, and for each kind only that one least."""
        import torch

        net, images = self._supernet().train(), self._images(4)
        for config in self._corners():
            net.activate(config)
            logits = net(images)
            (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
        missed = [
            name
            for name, parameter in net.named_parameters()
            if parameter.grad is None or not parameter.grad.any() or not parameter.grad.isfinite().all()
        ]
        assert not missed, f"no gradient, or not a finite one: {missed}"

    def test_every_parameter_is_in_one_optimiser_group(self) -> None:
        """Convolutions and linear layers decay; batch norms, biases and kernel transforms do not."""
        net = self._supernet()
        decayed, spared = net.parameter_groups(1e-4)
        names = {parameter: name for name, parameter in net.named_parameters()}
        assert sorted(names[p] for group in (decayed, spared) for p in group["params"]) == sorted(names.values())
        for parameter, name in names.items():
            decays = name.endswith(".weight") and ".bn." not in name
            assert any(parameter is p for p in (decayed if decays else spared)["params"]), name

    # -- helpers ---------------------------------------------------------------------------------------------

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def _configs(self, count: int | None = None) -> list[SubnetConfig]:
        random = self.space.sample_genotypes(self._rng(), self.subnets if count is None else count)
        return [self.space.largest(), self.space.smallest(), *self.space.decode(random)]

    def _genotypes(self) -> Genotypes:
        return self.space.encode(self._configs())

    def _corners(self) -> Iterator[SubnetConfig]:
        yield self.space.smallest()
        dims = self.space.dimensions
        greatest = np.array([len(dim.choices) - 1 for dim in dims], dtype=np.int8)
        for kind in ("resolution", *FIELDS):  # the resolution does not matter: the images are given
            genotype = np.where([dim.kind == kind for dim in dims], 0, greatest).astype(np.int8)
            if kind == "resolution" or (genotype != greatest).any():
                yield self.space.decode(genotype[None])[0]

    def _supernet(self) -> Supernet:
        import torch

        from supernet.network import Supernet

        net = Supernet(self.space, generator=torch.Generator().manual_seed(self.seed))
        randomise(net, self.seed + 1)
        return net.eval()

    def _images(self, count: int) -> torch.Tensor:
        import torch

        side = min(self.image_side, largest_resolution(self.space))
        return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(self.seed))

    @staticmethod
    def _compute(net: Supernet, config: SubnetConfig, images: torch.Tensor) -> torch.Tensor:
        net.activate(config)
        logits: torch.Tensor = net(images)
        return logits

    def _refusal(self, changes: dict[str, Any]) -> str:
        """The message with which the largest subnet is refused after some genes got these values."""
        data = self.space.largest().to_dict()
        for dim in self.space.dimensions:
            if dim.name in changes:
                _put(data, dim, changes[dim.name])
        return self._error(data)

    def _error(self, data: dict[str, Any]) -> str:
        try:
            accepted = SubnetConfig.from_dict(data)
        except ConfigError as error:
            return str(error)
        raise AssertionError(f"{data} was accepted as {accepted}")


def randomise(net: nn.Module, seed: int) -> None:
    """Random statistics, scales, biases and transforms: nothing may rest on them being 0, 1 or the identity."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            kind = name.rpartition(".")[2]
            if kind == "running_var":
                value.uniform_(0.5, 2, generator=generator)
            elif kind == "running_mean" or (kind == "bias" and ".bn." in name):
                value.normal_(0, 0.3, generator=generator)
            elif kind == "weight" and ".bn." in name:
                value.uniform_(0.5, 1.5, generator=generator)
            elif kind == "bias":
                value.normal_(0, 0.1, generator=generator)
            elif ".transforms." in name:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.1)


def _relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _put(data: dict[str, Any], dim: ElasticDimension, value: Value | None) -> None:
    if dim.kind == "resolution":
        data["resolution"] = value
    else:
        values: Sequence[Any] = data[FIELDS[dim.kind]]
        data[FIELDS[dim.kind]] = [value if i == dim.index else old for i, old in enumerate(values)]
