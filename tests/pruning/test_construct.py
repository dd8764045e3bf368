"""Compact models: equal outputs, an untouched original, plans, files, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pruning import Plan, ZeroInvariantGroups, construct_subnet
from pruning.artefact import load_compact, load_plan, program_as_onnx, save_compact
from pruning.construct import compare, construct_kept
from pruning.selftest import telling_copy
from supernet.errors import CheckpointError, ConfigError, ConstructionError
from tests.pruning.networks import UNet
from tests.pruning.op_zoo import CASES
from tests.pruning.test_groups import IMAGES, Chain


def _pruned(model: nn.Module, images: Tensor = IMAGES) -> tuple[nn.Module, ZeroInvariantGroups]:
    groups = ZeroInvariantGroups(model, images)
    pruned = telling_copy(model, (images,))
    groups.zero(pruned, groups.random_masks(0.5, 0))
    return pruned, groups


def test_compact_model_is_new_and_the_original_is_untouched() -> None:
    pruned, groups = _pruned(Chain())
    before = copy.deepcopy(pruned.state_dict())
    compact, _ = construct_subnet(pruned, groups)
    assert all(torch.equal(before[name], tensor) for name, tensor in pruned.state_dict().items())
    assert compact is not pruned
    shared = {t.data_ptr() for t in pruned.state_dict().values()} & {
        t.data_ptr() for t in compact.state_dict().values() if t.numel()
    }
    assert not shared


def test_modules_know_their_new_sizes() -> None:
    pruned, groups = _pruned(Chain())
    compact, plan = construct_subnet(pruned, groups)
    assert isinstance(compact, Chain)
    assert (compact.one.out_channels, compact.norm.num_features, compact.two.in_channels) == (2, 2, 2)
    assert (compact.two.out_channels, compact.head.in_features) == (3, 48)
    assert plan.attributes["two"] == {"in_channels": 2, "out_channels": 3}
    assert plan.units == {"one": 2, "two": 3}


def test_compact_model_can_be_trained_on() -> None:
    pruned, groups = _pruned(Chain())
    compact, _ = construct_subnet(pruned, groups)
    compact.train()
    optimiser = torch.optim.SGD(compact.parameters(), 0.1)
    first = compact(IMAGES).square().mean()
    first.backward()
    optimiser.step()
    assert compact(IMAGES).square().mean() < first


def test_nothing_zero_gives_the_same_model() -> None:
    model = telling_copy(Chain(), (IMAGES,))
    compact, plan = construct_subnet(model, ZeroInvariantGroups(model, IMAGES))
    assert plan.tensors == {}
    assert plan.error == 0
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), compact.parameters(), strict=True))


def test_a_unit_of_each_set_stays_even_if_all_are_zero() -> None:
    model = telling_copy(Chain(), (IMAGES,))
    groups = ZeroInvariantGroups(model, IMAGES)
    groups.zero(model, [torch.ones(g.units, dtype=torch.bool) for g in groups.sets])
    compact, plan = construct_subnet(model, groups)
    assert plan.units == {"one": 1, "two": 1}
    assert plan.error == 0
    assert compact(IMAGES).shape == (2, 2)


def test_units_that_are_not_zero_cannot_be_dropped() -> None:
    model = telling_copy(Chain(), (IMAGES,))
    groups = ZeroInvariantGroups(model, IMAGES)
    kept = [torch.arange(g.units) > 0 for g in groups.sets]
    with pytest.raises(
        ConstructionError, match=r"no compact Chain computes .* modules: outputs differ by .* program: "
    ):
        construct_kept(model, groups, kept)


@pytest.mark.parametrize("name", ["sigmoid", "plus one", "batch norm without weights", "group norm of one"])
def test_the_comparison_would_catch_what_is_frozen(name: str) -> None:
    """A conv whose zero does not stay zero: were it dropped all the same, the outputs would differ."""
    model = telling_copy(CASES[name].build(), (IMAGES,))
    with torch.no_grad():
        model.first.weight[0] = 0
        model.first.bias[0] = 0
        other = copy.deepcopy(model)
        other.last.weight[:, 0] = 0  # what dropping the channel amounts to
    found = compare(model, other, (IMAGES,))
    assert found.error > 1e-3 * found.scale


def test_programs_take_batches_of_any_size() -> None:
    pruned, groups = _pruned(CASES["channel shuffle"].build())
    compact, plan = construct_subnet(pruned, groups)
    assert plan.form == "program"
    images = torch.randn(7, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(compact(images), pruned.eval()(images), atol=1e-6)


def test_tied_parameters_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.two.weight = self.one.weight
            self.leave = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.tanh(self.two(torch.tanh(self.one(torch.tanh(self.enter(x)))))))

    pruned, groups = _pruned(Tied(), torch.randn(4, 3))
    compact, plan = construct_subnet(pruned, groups)
    assert compact.two.weight is compact.one.weight
    assert compact.one.weight.shape == (3, 3)
    assert plan.signal > 100 * plan.error


def test_plans_survive_json() -> None:
    pruned, groups = _pruned(UNet((4, 8)), torch.randn(1, 3, 8, 8))
    plan = construct_subnet(pruned, groups)[1]
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    with pytest.raises(CheckpointError, match="the plan has format 7; this version reads 1"):
        Plan.from_dict({"format": 7})
    with pytest.raises(CheckpointError, match="not a pruning plan"):
        Plan.from_dict({"format": 1})


def test_files_hold_the_same_model_with_and_without_its_code(tmp_path: Path) -> None:
    pruned, groups = _pruned(Chain())
    compact, plan = construct_subnet(pruned, groups)
    files = save_compact(tmp_path / "compact", compact, plan, IMAGES)
    assert [file.name for file in files] == ["weights.safetensors", "plan.json", "model.pt2"]
    assert load_plan(tmp_path / "compact") == plan
    images = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = compact(images)
        assert torch.allclose(load_compact(tmp_path / "compact")(images), expected, atol=1e-6)
        assert torch.equal(load_compact(tmp_path / "compact", Chain())(images), expected)


@pytest.mark.slow
def test_onnx_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch's exporter needs the extra onnx")
    pruned, groups = _pruned(CASES["channel shuffle"].build())
    compact, plan = construct_subnet(pruned, groups)
    files = save_compact(tmp_path, compact, plan, IMAGES, formats=["onnx"])  # compares before the file appears
    assert files[-1].name == "model.onnx"
    save_compact(tmp_path, compact, plan, IMAGES, formats=["torch-export"])
    program_as_onnx(tmp_path / "model.pt2", tmp_path / "again.onnx", IMAGES)  # likewise
    assert (tmp_path / "again.onnx").is_file()
    with pytest.raises(CheckpointError, match="does not exist"):
        program_as_onnx(tmp_path / "absent.pt2", tmp_path / "never.onnx", IMAGES)
    assert not (tmp_path / "never.onnx").exists()
    assert files[-1].stat().st_size > 1000


def test_programs_load_from_files_only(tmp_path: Path) -> None:
    pruned, groups = _pruned(CASES["channel shuffle"].build())
    compact, plan = construct_subnet(pruned, groups)
    save_compact(tmp_path, compact, plan, IMAGES)
    with torch.no_grad():
        assert torch.allclose(load_compact(tmp_path / "model.pt2")(IMAGES), compact(IMAGES), atol=1e-6)
    with pytest.raises(CheckpointError, match=r"is of the form 'program', which modules cannot take"):
        load_compact(tmp_path, CASES["channel shuffle"].build())


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    pruned, groups = _pruned(Chain())
    compact, plan = construct_subnet(pruned, groups)
    with pytest.raises(ConfigError, match=r"unknown format 'tflite'; allowed: torch-export, onnx"):
        save_compact(tmp_path, compact, plan, IMAGES, formats=["tflite"])
    save_compact(tmp_path, compact, plan, IMAGES, formats=[])
    with pytest.raises(CheckpointError, match=r"model.pt2' does not exist; write it with save_compact"):
        load_compact(tmp_path)
    with pytest.raises(CheckpointError, match=r"does not fit the network|was made for another model"):
        load_compact(tmp_path, UNet((4, 8)))
    (tmp_path / "model.pt2").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_compact(tmp_path)
