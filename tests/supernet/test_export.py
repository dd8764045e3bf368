from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from supernet.errors import ConfigError, ExportError, StorageError
from supernet.export import SUFFIXES, export_network, relative_error, rounding_error, subnet_metadata
from supernet.files import sha256_file
from supernet.images import Normalisation
from supernet.network import Network, Subnet
from tests.lively import lively_subnet

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

NORMALISATION = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture(scope="module")
def subnet() -> Subnet:
    return lively_subnet("mobilenet_v3_tiny", 3)


@pytest.fixture(scope="module")
def metadata(subnet: Subnet) -> dict[str, str]:
    names = [f"digit {number}" for number in range(10)]
    return subnet_metadata(subnet, normalisation=NORMALISATION, class_names=names, centre_share=0.875)


def _run_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_onnx_file_alone_computes_what_the_subnet_computes(subnet: Subnet, tmp_path: Path, dynamic: bool) -> None:
    done = export_network(subnet, tmp_path / "new" / "a.onnx", dynamic_batch=dynamic)
    assert [path.name for path in done.path.parent.iterdir()] == ["a.onnx"]  # no weights beside it
    moved = done.path.rename(tmp_path / "b.onnx")
    assert (done.size_bytes, done.sha256) == (moved.stat().st_size, sha256_file(moved))
    assert done.error < 1e-5
    images = torch.randn(4 if dynamic else 1, 3, subnet.resolution, subnet.resolution)
    with torch.no_grad():
        assert relative_error(_run_onnx(moved, images), subnet(images)) < 1e-5
    if not dynamic:
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="invalid dimensions"):
            _run_onnx(moved, images.repeat(2, 1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_torch_program_computes_what_the_subnet_computes(subnet: Subnet, tmp_path: Path, dynamic: bool) -> None:
    done = export_network(subnet, tmp_path / "a.pt2", format="torch-export", dynamic_batch=dynamic)
    images = torch.randn(4 if dynamic else 1, 3, subnet.resolution, subnet.resolution)
    program = torch.export.load(done.path)
    with torch.no_grad():
        assert relative_error(program.module()(images), subnet(images)) < 1e-5


def test_an_onnx_file_says_what_its_user_needs_to_know(
    subnet: Subnet, metadata: dict[str, str], tmp_path: Path
) -> None:
    path = export_network(subnet, tmp_path / "a.onnx", metadata=metadata).path
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert facts["space"] == "mobilenet_v3_tiny"
    assert facts["config_digest"] == subnet.config.digest
    assert json.loads(facts["config"]) == subnet.config.to_dict()
    assert int(facts["resolution"]) == subnet.resolution
    assert (json.loads(facts["mean"]), json.loads(facts["std"])) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert json.loads(facts["centre_share"]) == 0.875
    assert json.loads(facts["class_names"])[3] == "digit 3"
    assert (facts["input"], facts["output"]) == ("images", "logits")


def test_a_network_of_no_space_is_exported_too(subnet: Subnet, tmp_path: Path) -> None:
    """As imports of published architectures are."""
    modules = dict(subnet.named_children())
    layers = list(zip(modules, subnet.specs, strict=True))
    network = Network(layers, bn_eps=subnet.bn_eps, build=lambda name, _: modules[name])
    facts = subnet_metadata(network, normalisation=NORMALISATION, class_names=[])
    done = export_network(network, tmp_path / "a.onnx", metadata=facts)
    assert not {"space", "config", "config_digest", "class_names"} & set(done.metadata)
    assert done.metadata["num_classes"] == "10"


def test_equal_subnets_give_equal_files(subnet: Subnet, tmp_path: Path) -> None:
    first, second = (export_network(subnet, tmp_path / name).sha256 for name in ("a.onnx", "b.onnx"))
    assert first == second


def test_an_export_that_computes_something_else_is_refused_and_not_written(tmp_path: Path) -> None:
    subnet = lively_subnet("mobilenet_v3_tiny", 3)
    handle = subnet.register_forward_hook(lambda _, __, logits: logits + 3e-4 * logits.abs().max())
    path = tmp_path / "a.onnx"
    path.write_bytes(b"older")
    with pytest.raises(ExportError, match=r"outputs differ from the network's by [23]\.\de-04.*allowed: 1e-04"):
        export_network(subnet, path)
    assert path.read_bytes() == b"older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.onnx"]
    handle.remove()
    export_network(subnet, path)


def test_a_network_that_amplifies_rounding_is_held_to_its_own_rounding(tmp_path: Path) -> None:
    subnet = lively_subnet("mobilenet_v3_tiny", 3)
    images = torch.rand(1, 3, subnet.resolution, subnet.resolution)

    def noisy(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        # float32 is 1e-3 off float64; the file, made from the layers, knows nothing of it
        return logits * (1 + (1e-3 if logits.dtype == torch.float32 else 0.0))

    subnet.register_forward_hook(noisy)
    assert rounding_error(subnet, images) == pytest.approx(1e-3, rel=0.01)
    done = export_network(subnet, tmp_path / "a.onnx")
    assert 5e-4 < done.error < 2e-3
    assert relative_error(torch.tensor([float("nan")]), torch.tensor([1.0])) == float("inf")


def test_a_network_whose_later_outputs_are_not_numbers_is_not_exported(tmp_path: Path) -> None:
    subnet, calls = lively_subnet("mobilenet_v3_tiny", 3), []

    def spoil(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return logits if len(calls) == 1 else logits * float("nan")

    subnet.register_forward_hook(spoil)
    with pytest.raises(ExportError, match="outputs differ from the network's by inf"):
        export_network(subnet, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    subnet = lively_subnet("mobilenet_v3_tiny", 3)
    subnet.train()
    subnet[0].eval()
    before = {name: value.clone() for name, value in subnet.state_dict().items()}
    export_network(subnet, tmp_path / "a.onnx")
    assert subnet.training
    assert subnet[1].training
    assert not subnet[0].training
    assert all(torch.equal(value, before[name]) for name, value in subnet.state_dict().items())


def test_the_error_is_a_share_of_the_largest_output() -> None:
    expected = torch.tensor([[1.0, -4.0]])
    assert relative_error(torch.tensor([[1.0, -3.0]]), expected) == 0.25
    assert relative_error(torch.tensor([[float("nan"), -4.0]]), expected) == float("inf")
    assert relative_error(expected, torch.tensor([[float("nan"), -4.0]])) == float("inf")
    assert relative_error(torch.tensor([1.0]), expected) == float("inf")


def test_what_cannot_be_exported_is_told(subnet: Subnet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown format 'tflite'; allowed: onnx, torch-export"):
        export_network(subnet, tmp_path / "a", format="tflite")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        export_network(subnet, tmp_path / "file" / "a.onnx")
    assert set(SUFFIXES) == {"onnx", "torch-export"}
