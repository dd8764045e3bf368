"""The laws of a search space's costs, as a test class to inherit; it brings the laws of the space itself along."""

from __future__ import annotations

import numpy as np

from latency_tables.costs import COUNTS, macs, params, size_bytes
from latency_tables.memory import peak_memory_bytes
from latency_tables.space_costs import SpaceCosts
from supernet.testing import SearchSpaceContract


class CostedSpaceContract(SearchSpaceContract):
    """Inherit it and set `space`: all of `SearchSpaceContract`, and that costs are those of the real networks."""

    def test_costs_are_those_of_the_real_networks(self) -> None:
        """MACs and memory as counted on the network at its own resolution; parameters and bytes as it holds them."""
        import torch

        from latency_tables.counter import counted_macs, counted_peak_memory_bytes
        from supernet.network import Subnet

        for config in self._configs():
            layers = self.space.layers(config)
            with torch.device("meta"):
                subnet = Subnet(self.space, config)
                assert macs(layers) == counted_macs(subnet, config.resolution), config
                assert peak_memory_bytes(layers) == counted_peak_memory_bytes(subnet, config.resolution), config
            assert params(layers) == sum(parameter.numel() for parameter in subnet.parameters()), config
            tensors = subnet.state_dict().values()
            assert size_bytes(layers) == sum(tensor.numel() * tensor.element_size() for tensor in tensors), config

    def test_peak_memory_of_single_layers_is_that_of_their_modules(self) -> None:
        """One by one, since a whole network's peak is that of one layer only, most often an early one."""
        import torch

        from latency_tables.counter import counted_peak_memory_bytes
        from supernet.layers import build_layer

        layers = self.space.all_layers()
        for spec in (layers[i] for i in self._rng().choice(len(layers), size=20)):
            with torch.device("meta"):
                counted = counted_peak_memory_bytes(build_layer(spec), spec.in_size, channels=spec.in_channels)
            assert peak_memory_bytes([spec]) == counted, spec.key

    def test_costs_of_populations_are_the_sums_over_layers(self) -> None:
        """Vectorised costs are exact; inactive genes cost nothing."""
        costs = self._costs()
        genotypes = self.space.sample_genotypes(self._rng(), 20)
        expected = [
            [model.of_layers(self.space.layers(config)) for model in COUNTS] for config in self.space.decode(genotypes)
        ]
        assert (costs.of(genotypes) == np.array(expected)).all()

    def test_no_subnet_costs_less_than_the_minimum_or_more_than_the_largest(self) -> None:
        """The exact minimum that tells whether a budget can be met."""
        costs = self._costs()
        found = costs.of(self.space.sample_genotypes(self._rng(), 2000))
        for column, metric in enumerate(costs.metrics):
            least, genotype = costs.minimum(metric)
            config = self.space.decode(genotype[None])[0]
            assert costs.of_config(config)[metric] == least
            assert least <= costs.of_config(self.space.smallest())[metric]
            assert least <= found[:, column].min()
            assert costs.of_config(self.space.largest())[metric] >= found[:, column].max()

    def _costs(self) -> SpaceCosts:
        return SpaceCosts(self.space, {model.name: model for model in COUNTS})

    def test_costs_within_some_resolutions_are_those_of_the_whole_space(self) -> None:
        """Equal where allowed, infinite elsewhere; the exact minimum is allowed."""
        (resolutions,) = (dim.choices for dim in self.space.dimensions if dim.kind == "resolution")
        whole = self._costs()
        some = SpaceCosts(self.space, {model.name: model for model in COUNTS}, within={"resolution": resolutions[1:2]})
        genotypes = self.space.sample_genotypes(self._rng(), 200)
        allowed = np.array([config.resolution == resolutions[1] for config in self.space.decode(genotypes)])
        np.testing.assert_array_equal(some.of(genotypes)[allowed], whole.of(genotypes)[allowed])
        assert np.isinf(some.of(genotypes)[~allowed]).all()
        for metric in some.metrics:
            least, genotype = some.minimum(metric)
            assert self.space.decode(genotype[None])[0].resolution == resolutions[1]
            assert whole.minimum(metric)[0] <= least <= some.of_largest(metric)
