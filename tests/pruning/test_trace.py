"""Recorded runs: what is seen, what is not trusted, and the ways around it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from pruning import ZeroInvariantGroups
from pruning.trace import exported, record, record_graph
from supernet.errors import CaptureError
from tests.pruning.op_zoo import CASES
from tests.pruning.test_groups import IMAGES, Chain, ReadsValues


def test_operators_are_recorded_in_order_with_their_modules() -> None:
    trace = record(Chain(), (IMAGES,))
    layers = [(op.name, op.where) for op in trace.ops if op.name in ("convolution", "native_batch_norm", "addmm")]
    assert layers == [
        ("convolution", "one"), ("native_batch_norm", "norm"), ("convolution", "two"), ("addmm", "head")
    ]  # fmt: skip
    assert trace.examples == 2
    assert [value.shape for value in trace.outputs] == [(2, 2)]


def test_recording_leaves_the_modes_of_all_modules() -> None:
    model = Chain().train()
    model.norm.eval()
    record(model, (IMAGES,))
    assert [model.training, model.one.training, model.norm.training] == [True, True, False]
    assert int(model.norm.num_batches_tracked) == 0


def test_an_exported_graph_records_the_same_operators() -> None:
    model = CASES["channel shuffle"].build().eval()
    graph = exported(model, (IMAGES,))
    trace, values = record_graph(graph, (IMAGES,))
    assert [op.name for op in trace.ops] == [op.name for op in record(model, (IMAGES,)).ops]
    assert {tuple(v.shape) for v in values.values() if hasattr(v, "shape")} >= {(2, 2, 4, 8, 8), (2, 4, 2, 8, 8)}


def test_a_tensor_from_elsewhere_is_a_constant_of_the_exported_program() -> None:
    class Elsewhere(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.settings = SimpleNamespace(scale=torch.tensor([2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * self.settings.scale)

    groups = ZeroInvariantGroups(Elsewhere(), IMAGES)
    assert len(groups) == 9
    error, signal = groups.self_test()
    assert signal > 100 * error


def test_what_torch_export_refuses_is_traced_by_torch_fx(monkeypatch: pytest.MonkeyPatch) -> None:
    export = torch.export.export

    def refuse(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(model, fx.GraphModule):
            raise RuntimeError("refused")
        return export(model, *args, **kwargs)

    monkeypatch.setattr(torch.export, "export", refuse)
    model = Chain().eval()
    assert torch.allclose(exported(model, (IMAGES,))(IMAGES), model(IMAGES), atol=1e-6)


def test_what_neither_can_follow_is_refused_with_the_line() -> None:
    with pytest.raises(CaptureError, match=r"cannot follow ReadsValues: .*test_groups.py:\d+: if x.mean\(\) > 0"):
        exported(ReadsValues().eval(), (IMAGES,))
