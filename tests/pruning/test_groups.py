"""What is found in models: sets of units, what stays and why, costs, and what a user does wrong."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latency_tables import macs, params
from pruning import Cost, ZeroInvariantGroups, construct_subnet
from pruning.selftest import telling_copy
from pruning.units import zeroed_units
from supernet.errors import CaptureError, ConfigError
from tests.pruning.networks import Carn, DeepResNet, UNet, tiny_subnet
from tests.pruning.op_zoo import Attention, Body, Gate, Sequence


class Chain(nn.Module):
    """conv, batch norm, relu, conv, flatten, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)
        self.head = nn.Linear(5 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.norm(self.one(x))))).flatten(1))


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_unit_holds_rows_bias_and_norm_and_slices_columns_and_statistics() -> None:
    one, two = ZeroInvariantGroups(Chain(), IMAGES).sets
    assert (one.name, one.units) == ("one", 4)
    assert {(e.name, e.axis) for e in one.variables} == {
        ("one.weight", 0), ("one.bias", 0), ("norm.weight", 0), ("norm.bias", 0)
    }  # fmt: skip
    assert {(e.name, e.axis) for e in one.consumers} == {
        ("two.weight", 1), ("norm.running_mean", 0), ("norm.running_var", 0)
    }  # fmt: skip
    assert all(e.index.tolist() == [[0], [1], [2], [3]] for e in (*one.variables, *one.consumers))
    columns = next(e for e in two.consumers if e.name == "head.weight")
    assert columns.index.tolist() == [list(range(16 * channel, 16 * channel + 16)) for channel in range(5)]


def test_a_gate_is_sliced_with_its_channels_and_need_not_be_zero() -> None:
    groups = ZeroInvariantGroups(Body(Gate()), IMAGES)
    channels = next(group for group in groups.sets if group.name == "first")
    assert {e.name for e in channels.variables} == {"first.weight", "first.bias"}
    assert {e.name for e in channels.consumers} >= {"middle.up.weight", "middle.up.bias", "middle.down.weight"}


def test_heads_of_attention_go_with_queries_keys_values_and_output_columns() -> None:
    groups = ZeroInvariantGroups(Sequence(Attention("sdpa")), torch.randn(2, 5, 3))
    heads = next(group for group in groups.sets if group.name == "middle.qkv")
    rows = next(e for e in heads.variables if e.name == "middle.qkv.weight")
    assert rows.index.tolist() == [[8 * part + 2 * h + i for part in range(3) for i in range(2)] for h in range(4)]
    assert next(e for e in heads.consumers if e.name == "middle.out.weight").index.tolist()[3] == [6, 7]


def test_outputs_stay_and_say_so() -> None:
    assert ZeroInvariantGroups(Chain(), IMAGES).frozen == {"head.weight": "an output of the model"}


def test_kept_modules_stay_and_say_so() -> None:
    groups = ZeroInvariantGroups(Chain(), IMAGES, keep=["one"])
    assert [group.name for group in groups.sets] == ["two"]
    assert groups.frozen["one.weight"] == groups.frozen["norm.weight"] == "kept as asked"


def test_unknown_names_to_keep_are_refused_with_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"keep: no module or parameter 'norn' .* close: norm"):
        ZeroInvariantGroups(Chain(), IMAGES, keep=["norn"])


def test_zeroed_finds_what_zero_has_set() -> None:
    model = Chain()
    groups = ZeroInvariantGroups(model, IMAGES)
    masks = groups.random_masks(0.5, seed=3)
    assert not any(mask.any() for mask in groups.zeroed(model))
    groups.zero(model, masks)
    assert all(torch.equal(a, b) for a, b in zip(groups.zeroed(model), masks, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(zeroed_units(dict(model.named_parameters()), groups.sets), masks, strict=True)
    )


def test_masks_of_another_shape_are_refused() -> None:
    groups = ZeroInvariantGroups(Chain(), IMAGES)
    with pytest.raises(ConfigError, match=r"1 masks for 2 sets"):
        groups.count([torch.ones(4, dtype=torch.bool)])
    with pytest.raises(ConfigError, match=r"mask of 'one' is int64 \(4,\); expected bool \(4,\)"):
        groups.count([torch.ones(4, dtype=torch.int64), torch.ones(5, dtype=torch.bool)])


def test_costs_by_hand() -> None:
    groups = ZeroInvariantGroups(Chain(), IMAGES)
    full_macs = 36 * 4 * 3 * 9 + 16 * 5 * 4 * 9 + 80 * 2
    assert groups.count() == Cost(full_macs, 4 * 27 + 4 + 8 + 5 * 36 + 5 + 160 + 2)
    kept = [torch.tensor([True, False, True, False]), torch.tensor([True, True, True, False, False])]
    assert groups.count(kept) == Cost(
        36 * 2 * 3 * 9 + 16 * 3 * 2 * 9 + 48 * 2, 2 * 27 + 2 + 4 + 3 * 18 + 3 + 48 * 2 + 2
    )
    by_op, by_parameter = groups.count_by_operator(kept)
    assert by_op["convolution in 'two'"] == 16 * 3 * 2 * 9
    assert by_parameter["head.weight"] == 48 * 2


def test_costs_of_our_subnets_are_those_of_their_layers() -> None:
    subnet = tiny_subnet()
    cost = ZeroInvariantGroups(subnet, torch.randn(2, 3, subnet.resolution, subnet.resolution)).count()
    assert cost == (macs(subnet.specs), params(subnet.specs))


@pytest.mark.parametrize("build", [UNet, Carn, tiny_subnet], ids=["unet", "carn", "subnet"])
def test_counted_costs_are_the_compact_models(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    size = getattr(model, "resolution", 16)
    images = torch.randn(2, 3, size, size)
    groups = ZeroInvariantGroups(model, images)
    pruned = telling_copy(model, (images,))
    masks = groups.random_masks(0.5, 1)
    groups.zero(pruned, masks)
    compact, plan = construct_subnet(pruned, groups)
    assert 100 * plan.error <= plan.signal
    assert groups.count([~mask for mask in masks]) == (plan.macs, plan.params)
    assert plan.params == sum(p.numel() for p in compact.parameters())
    assert ZeroInvariantGroups(compact, images).count() == (plan.macs, plan.params)


def test_partition_time_grows_with_depth_only() -> None:
    def seconds_a_layer(layers: int) -> float:
        model = DeepResNet(layers, width=4)
        best = float("inf")
        for _ in range(3):
            begin = time.process_time()
            ZeroInvariantGroups(model, torch.randn(1, 3, 4, 4))
            best = min(best, time.process_time() - begin)
        return best / layers

    assert seconds_a_layer(400) < 3 * seconds_a_layer(100)  # quadratic time would be 4 times


def test_report_names_sets_and_reasons() -> None:
    groups = ZeroInvariantGroups(Chain(), IMAGES)
    text = groups.report()
    assert "9 units in 2 sets" in text
    assert "head.weight: an output of the model" in text
    data = json.loads(json.dumps(groups.to_dict()))
    assert [item["units"] for item in data["sets"]] == [4, 5]
    assert data["frozen"] == groups.frozen


def test_picture_is_a_graph_in_the_colours_of_the_sets() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(ZeroInvariantGroups(Chain(), IMAGES).picture())
    boxes = {g[0].text.split(":")[0]: g[1].get("fill") for g in root if g.tag.endswith("}g")}  # type: ignore[union-attr]
    assert boxes["one"] == boxes["norm"] != boxes["two"]
    assert boxes["head"] == boxes["input"] == "#e4e4e4"


def test_self_test_compares_error_and_signal() -> None:
    error, signal = ZeroInvariantGroups(Chain(), IMAGES).self_test(fraction=0.5, seed=0)
    assert error <= 1e-5 * signal
    with pytest.raises(ConfigError, match=r"fraction is 1.5; allowed: 0 to 1"):
        ZeroInvariantGroups(Chain(), IMAGES).self_test(1.5)


def test_self_test_leaves_the_model_alone() -> None:
    model = Chain().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ZeroInvariantGroups(model, IMAGES).self_test()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_wrong_inputs_are_refused_with_the_line() -> None:
    with pytest.raises(
        ConfigError, match=r"Chain does not run on example inputs of shape \(2, 4, 8, 8\).*test_groups.py"
    ):
        ZeroInvariantGroups(Chain(), torch.randn(2, 4, 8, 8))
    with pytest.raises(ConfigError, match=r"example_inputs is str without a tensor"):
        ZeroInvariantGroups(Chain(), "images")


class ReadsValues(Chain):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            x = x * 2
        return super().forward(x)


class FromNumpy(Chain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(x.numpy() * 2))


class RemembersInput(Chain):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return super().forward(x)


def test_a_model_that_depends_on_values_is_refused_with_the_line() -> None:
    with pytest.raises(
        CaptureError, match=r"reads values of a tensor in Python \(test_groups.py:\d+: if x.mean\(\) > 0"
    ):
        ZeroInvariantGroups(ReadsValues(), IMAGES)


def test_a_model_that_leaves_torch_is_refused_with_the_line() -> None:
    with pytest.raises(CaptureError, match=r"leave torch and others come back \(test_groups.py:\d+: "):
        ZeroInvariantGroups(FromNumpy(), IMAGES)


def test_a_model_that_keeps_a_tensor_is_handled() -> None:
    assert len(ZeroInvariantGroups(RemembersInput(), IMAGES)) == 9


class TiedWeights(nn.Module):
    """The matrix that makes the hidden layer is the transpose of the one that makes the output: it has to stay."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.out = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 6)
        self.out.weight = nn.Parameter(self.embed.weight.t().contiguous())
        self.again = nn.Linear(6, 8)
        self.again.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.out(F.relu(self.hidden(F.relu(self.embed(x))))))


def test_a_parameter_shared_with_an_output_stays() -> None:
    groups = ZeroInvariantGroups(TiedWeights(), torch.randn(2, 6))
    assert groups.frozen["embed.weight"] == "an output of the model"
    assert "hidden" in [group.name for group in groups.sets]
    assert groups.self_test().error <= 1e-5


def test_a_recurrent_layer_stays_and_says_so() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.hidden, self.out = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.relu(self.hidden(self.memory(x)[0][:, -1])))

    groups = ZeroInvariantGroups(Recurrent(), torch.randn(2, 4, 3))
    assert [group.name for group in groups.sets] == ["hidden"]
    assert "in 'memory' is not known to keep channels apart" in groups.frozen["memory.weight_ih_l0"]
