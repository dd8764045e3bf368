from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from supernet.errors import CheckpointError
from supernet.tensors import digest_of, load_into, load_tensors, save_tensors


def test_tensors_read_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4)[:, ::2], "b": torch.arange(5), "c": torch.tensor(1.5, dtype=torch.float64)}
    save_tensors(tmp_path / "t.safetensors", tensors, {"note": "x"})
    found = load_tensors(tmp_path / "t.safetensors")
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert digest_of(found) == digest_of(tensors)


def test_the_digest_sees_names_shapes_types_and_values() -> None:
    base = {"a": torch.zeros(4)}
    others = [{"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4, dtype=torch.int32)}]
    others.append({"a": torch.tensor([0.0, 0, 0, 1e-30])})
    assert len({digest_of(base), *map(digest_of, others)}) == 5


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"t\.safetensors' is truncated or not a safetensors file"):
        load_tensors(path)


def test_every_fault_of_a_state_is_named_and_nothing_is_loaded() -> None:
    layer = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(layer, {"weight": torch.zeros(3, 2), "extra": torch.zeros(1)}, "'x'")
    assert str(caught.value) == (
        "'x' does not fit the network: bias is missing; extra is unknown; "
        "weight is float32 [3, 2], expected float32 [2, 3]"
    )
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    layer = nn.Linear(3, 2)
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    state["weight"][0, 0] = value
    with pytest.raises(CheckpointError, match="weight holds values that are not finite"):
        load_into(layer, state, "'x'")


def test_another_type_of_number_is_refused() -> None:
    layer = nn.Linear(3, 2)
    state = {name: tensor.double() for name, tensor in layer.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"weight is float64 \[2, 3\], expected float32 \[2, 3\]"):
        load_into(layer, state, "'x'")
