from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from supernet.errors import CheckpointError, MissingPackageError
from supernet.export import relative_error
from supernet.onnx_graph import onnx_model, require_onnx
from supernet.onnx_network import OnnxNetwork
from tests.lively import lively, lively_subnet

pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.mark.parametrize(
    ("space", "seed", "resolution"),
    [
        ("mobilenet_v3_tiny", 0, None),
        ("mobilenet_v3_tiny", 1, 20),
        ("proxyless_w1.3", 2, 128),
        ("mobilenet_v3_w1.2", 3, 132),
        ("resnet50", 4, 128),
        ("resnet50", 5, 132),  # sides 33, 17 and 9: the last pool of each row has one pixel
    ],
)
def test_the_graph_computes_what_the_network_computes(space: str, seed: int, resolution: int | None) -> None:
    subnet = lively_subnet(space, seed, resolution)
    size = subnet.resolution
    model = onnx_model(subnet.named_children(), input_shape=(None, 3, size, size))
    loaded = OnnxNetwork(model.SerializeToString())
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = subnet(images)
        assert expected.std(0).max() > 1e-3 * expected.abs().max()  # the images matter
        assert relative_error(loaded(images), expected) < 1e-5
        for number in range(3):
            assert relative_error(loaded(images[number : number + 1]), expected[number : number + 1]) < 1e-5


@pytest.mark.slow
def test_it_equals_the_graph_of_torchs_own_exporter() -> None:
    pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript, a part of the extra onnx")
    subnet = lively_subnet("mobilenet_v3_tiny", 0)
    size = subnet.resolution
    images = torch.randn(1, 3, size, size)
    theirs = torch.onnx.export(subnet, (images,), dynamo=True, verbose=False)
    assert theirs is not None
    ours = onnx_model(subnet.named_children(), input_shape=(1, 3, size, size))
    results = [OnnxNetwork(model.SerializeToString())(images) for model in (ours, theirs.model_proto)]
    assert relative_error(*results) < 1e-5


def test_every_node_says_which_layer_it_belongs_to() -> None:
    subnet = lively_subnet("mobilenet_v3_tiny", 0)
    model = onnx_model(subnet.named_children(), input_shape=(1, 3, subnet.resolution, subnet.resolution))
    owners = [node.name.split("/")[0] for node in model.graph.node]
    assert list(dict.fromkeys(owners)) == [name for name, _ in subnet.named_children()]
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


def test_single_layers_are_graphs_too() -> None:
    layer = lively(nn.Sequential(nn.MaxPool2d(3, 2, padding=1)))[0]
    model = onnx_model([("pool", layer)], input_shape=(1, 4, 9, 9))
    images = torch.randn(1, 4, 9, 9)
    assert torch.equal(OnnxNetwork(model.SerializeToString())(images), layer(images))
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [1, 4, 5, 5]


def test_a_module_that_no_layer_is_made_of_is_refused() -> None:
    with pytest.raises(TypeError, match="layer 'x' is a Conv3d, for which no ONNX operator is known"):
        onnx_model([("x", nn.Conv3d(3, 3, 1))], input_shape=(1, 3, 8, 8))


def test_without_the_extra_the_pip_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError, match=r"'onnxruntime' is missing.*pip install 'onceforall\[onnx\]'"):
        require_onnx()


def test_a_file_that_is_no_graph_is_refused() -> None:
    with pytest.raises(CheckpointError, match="ONNX Runtime cannot load the model"):
        OnnxNetwork(b"not a graph")
