"""Import without the reference package: keys and layers written down by hand, and everything that is refused."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import in_their_names
from torch import Tensor

from supernet.arch import LayerSpec
from supernet.errors import CheckpointError, ConfigError
from supernet.images import Normalisation
from supernet.import_ofa import (
    load_ofa_net_config,
    load_ofa_state_dict,
    load_ofa_subnet,
    lower_net_config,
    read_state_dict,
)
from supernet.import_ofa.run import NORMALISATION, write_imported_run
from supernet.network import Network, Subnet, Supernet
from supernet.runs import RunFolder
from supernet.spaces import SearchSpace, get_space
from supernet.subnet_file import CONFIG, load_subnet, save_subnet
from supernet.training.data import ImageData

State = dict[str, Tensor]


@pytest.fixture
def theirs(net: Supernet) -> State:
    return in_their_names(net)


# -- supernets ---------------------------------------------------------------------------------------------------


def test_an_imported_supernet_has_every_tensor_and_shares_none(net: Supernet, theirs: State) -> None:
    imported = load_ofa_state_dict(net.space.name, theirs)
    assert not imported.training
    assert all(parameter.requires_grad for parameter in imported.parameters())
    expected = net.state_dict()
    assert imported.state_dict().keys() == expected.keys()
    for tensor in theirs.values():
        tensor.zero_()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in imported.state_dict().items())


@pytest.mark.parametrize(
    ("theirs_key", "ours_key"),
    [
        ("first_conv.bn.running_mean", "layers.stem.bn.running_mean"),
        ("blocks.0.conv.depth_conv.conv.weight", "layers.first_block.depthwise.conv.weight"),
        ("blocks.1.conv.inverted_bottleneck.conv.conv.weight", "layers.stage1_block1.expand.conv.weight"),
        ("blocks.5.conv.depth_conv.conv.7to5_matrix", "layers.stage2_block1.depthwise.transforms.7to5"),
        ("blocks.5.conv.depth_conv.se.fc.expand.bias", "layers.stage2_block1.squeeze_excite.expand.bias"),
        ("blocks.12.conv.point_linear.bn.bn.bias", "layers.stage3_block4.project.bn.bias"),
        ("classifier.linear.weight", "layers.classifier.linear.weight"),
    ],
)
def test_a_key_of_the_reference_reaches_its_place(net: Supernet, theirs: State, theirs_key: str, ours_key: str) -> None:
    theirs[theirs_key] += 1
    imported = load_ofa_state_dict(net.space.name, theirs).state_dict()
    expected = net.state_dict()
    assert [name for name in expected if not torch.equal(imported[name], expected[name])] == [ours_key]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {
            re.sub(r"^(blocks\.\d+)\.conv", r"\1.mobile_inverted_conv", name): tensor for name, tensor in state.items()
        },
        lambda state: {name.replace("bn.bn", "bn"): tensor for name, tensor in state.items()},
        lambda state: state | {"first_conv.bn.num_batches_tracked": torch.tensor(5)},
        lambda state: {name: tensor.double() for name, tensor in state.items()},
    ],
)
def test_other_ways_to_write_the_same_weights(net: Supernet, theirs: State, change: Callable[[State], Any]) -> None:
    imported = load_ofa_state_dict(net.space.name, change(theirs)).state_dict()
    assert all(torch.equal(tensor, imported[name]) for name, tensor in net.state_dict().items())


def test_the_classifier_decides_the_number_of_classes(tiny: SearchSpace) -> None:
    net = Supernet(tiny, num_classes=3, generator=torch.Generator().manual_seed(0))
    assert load_ofa_state_dict(tiny.name, in_their_names(net)).space.num_classes == 3


def test_all_faults_of_a_state_dict_are_in_one_sorted_line(tiny: SearchSpace, theirs: State) -> None:
    gone = sorted(name for name in theirs if name.startswith("blocks.1."))
    for name in gone:
        del theirs[name]
    theirs["blocks.2.conv.extra.weight"] = torch.zeros(3)
    theirs["first_conv.conv.weight"] = torch.zeros(8, 3, 3, 3)
    theirs["first_conv.bn.weight"][0] = float("nan")
    theirs["classifier.linear.bias"] = torch.zeros(10, dtype=torch.int64)
    theirs["feature_mix_layer.conv.weight"] = "text"  # type: ignore[assignment]
    with pytest.raises(CheckpointError) as caught:
        load_ofa_state_dict(tiny.name, theirs)
    message = str(caught.value)
    assert "\n" not in message
    faults = message.partition(": ")[2].split("; ")[:-1]
    assert faults == sorted(faults)
    assert len(faults) == len(gone) + 5
    assert f"does not fit mobilenet_v3_tiny, {len(faults)} fault(s)" in message
    assert "blocks.2.conv.extra.weight is unknown" in faults
    assert "first_conv.conv.weight is [8, 3, 3, 3], expected [16, 3, 3, 3]" in faults
    assert "first_conv.bn.weight holds values that are not finite" in faults
    assert "classifier.linear.bias is torch.int64 (torch.strided), expected dense floating point numbers" in faults
    assert "feature_mix_layer.conv.weight is str, expected a tensor of floating point numbers" in faults
    assert "blocks.1.conv.depth_conv.conv.5to3_matrix is missing" in faults
    assert sum(fault.startswith("blocks.1.") for fault in faults) == len(gone)


def test_weights_of_another_space_are_recognised() -> None:
    with torch.device("meta"):
        shapes = in_their_names(Supernet(get_space("mobilenet_v3_w1.0"), num_classes=5))
    state = {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}
    with pytest.raises(CheckpointError, match=r"not fit proxyless_w1.3: it looks like mobilenet_v3_w1.0; import it as"):
        load_ofa_state_dict("proxyless_w1.3", state)
    del state["first_conv.conv.weight"]
    with pytest.raises(CheckpointError, match=r"looks like mobilenet_v3_w1.0, but for 1 fault\(s\): first_conv.conv"):
        load_ofa_state_dict("mobilenet_v3_w1.2", state)


def test_an_unknown_space_is_refused_with_the_known_ones(theirs: State) -> None:
    with pytest.raises(ConfigError, match=r"unknown search space 'ofa'; allowed: mobilenet_v3_tiny, mobilenet_v3_w1.0"):
        load_ofa_state_dict("ofa", theirs)


@pytest.mark.parametrize("state", [[1, 2], {}, {3: torch.zeros(1)}, {"state_dict": {}}])
def test_what_is_not_a_state_dict_is_refused(tiny: SearchSpace, state: Any) -> None:
    with pytest.raises(CheckpointError, match="a state dict maps names to tensors, got "):
        load_ofa_state_dict(tiny.name, state)


def test_two_keys_for_one_tensor_are_refused(tiny: SearchSpace, theirs: State) -> None:
    theirs["first_conv.bn.bn.weight"] = theirs["first_conv.bn.weight"]
    with pytest.raises(CheckpointError, match=r"twice: first_conv.bn.weight and first_conv.bn.bn.weight; keep one"):
        load_ofa_state_dict(tiny.name, theirs)


# -- files -------------------------------------------------------------------------------------------------------


class _Trap:
    """Runs a command when a careless program unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_new_and_old_format_are_read(tmp_path: Path, zipped: bool) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_state_dict(tmp_path / "w.pt")["state_dict"]["a"], torch.ones(2))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_could_run_code_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    trap = {"a": torch.ones(2), "b": _Trap(tmp_path / "sprung")}
    torch.save(trap, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"w.pt' holds more than tensors and plain values, .* refused; save its"):
        read_state_dict(tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


class _Room:
    """Pickled, it is an order for so many bytes, which `weights_only` does not refuse."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> Any:
        return bytearray, (self.size,)


def _repeated(path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 34)}, path)


def _repeated_inside(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1).expand(1 << 34)}}, path, _use_new_zipfile_serialization=False)


def _ordered(path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": _Room(64 << 30)}, path)


def _declared(path: Path) -> None:
    """In the old format the pickle says how long a storage is, and torch takes the memory before it looks."""
    torch.save({"a": torch.zeros(77)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x4d", b"\x8a\x05" + (1 << 34).to_bytes(5, "little")))


def _compressed(path: Path) -> None:
    torch.save({"a": torch.zeros(64 << 20, dtype=torch.uint8)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("make", [_repeated, _repeated_inside, _ordered, _declared, _compressed])
def test_a_small_file_that_declares_much_is_refused_and_takes_no_memory(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "w.pt"
    make(path)
    size = path.stat().st_size
    assert size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=rf"w.pt' has {size} bytes and declares tensors that need more: refused"):
        read_state_dict(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 19  # KiB
    assert resource.getrlimit(resource.RLIMIT_AS) == LIMITS


LIMITS = resource.getrlimit(resource.RLIMIT_AS)


def test_tensors_that_share_a_storage_are_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    torch.save({"a": whole, "b": whole[3:7], "c": whole.view(3, 4).t()}, tmp_path / "w.pt")
    found = read_state_dict(tmp_path / "w.pt")
    assert torch.equal(found["b"], whole[3:7])
    assert torch.equal(found["c"], whole.view(3, 4).t())


def test_absent_damaged_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(CheckpointError, match=r"w.pt' does not exist; check the path"):
        read_state_dict(path)
    torch.save({"a": torch.ones(2000)}, path)
    whole = path.read_bytes()
    for data in (b"", b"some text", whole[:-100], whole[:3000]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"w.pt' is truncated or not a file of torch.save \(.+\)") as caught:
            read_state_dict(path)
        assert "\n" not in str(caught.value)
    torch.save([torch.ones(2)], path)
    with pytest.raises(CheckpointError, match="holds a list; expected a state dict"):
        read_state_dict(path)


# -- specialised networks ----------------------------------------------------------------------------------------


def _conv(inputs: int, outputs: int, kernel: int, **more: Any) -> dict[str, Any]:
    return {"name": "ConvLayer", "kernel_size": kernel, "in_channels": inputs, "out_channels": outputs, **more}


def _block(inputs: int, outputs: int, **more: Any) -> dict[str, Any]:
    inner = {"name": "MBInvertedConvLayer", "in_channels": inputs, "out_channels": outputs, **more}
    return {"name": "MobileInvertedResidualBlock", "mobile_inverted_conv": inner, "shortcut": None}


IDENTITY = {"name": "IdentityLayer", "in_channels": [24], "out_channels": [24], "use_bn": False, "act_func": None}
MOBILE = {
    "name": "MobileNetV3",
    "bn": {"momentum": 0.1, "eps": 1e-5},
    "first_conv": _conv(3, 20, 3, stride=2, act_func="h_swish"),
    "blocks": [
        _block(20, 24, expand_ratio=1, kernel_size=5, act_func="relu", use_se=True),
        {"name": "ResidualBlock", "conv": {"name": "ZeroLayer"}, "shortcut": IDENTITY},
        _block(24, 24, expand_ratio=3, mid_channels=80, act_func="h_swish") | {"shortcut": IDENTITY},
        _block(24, 40, expand_ratio=6, stride=2),
    ],
    "final_expand_layer": _conv(40, 96, 1, act_func="h_swish"),
    "feature_mix_layer": _conv(96, 128, 1, use_bn=False, act_func="h_swish"),
    "classifier": {"name": "LinearLayer", "in_features": 128, "out_features": 7, "dropout_rate": 0.2},
}
MOBILE_LAYERS = [
    LayerSpec("conv", 33, 17, 3, 20, kernel=3, stride=2, activation="h_swish"),
    LayerSpec("mbconv", 17, 17, 20, 24, 20, 5, se_channels=8, activation="relu"),
    LayerSpec("mbconv", 17, 17, 24, 24, 80, 3, activation="h_swish", shortcut=True),
    LayerSpec("mbconv", 17, 9, 24, 40, 144, 3, 2, activation="relu6"),
    LayerSpec("conv", 9, 9, 40, 96, activation="h_swish"),
    LayerSpec("pool", 9, 1, 96, 96),
    LayerSpec("conv", 1, 1, 96, 128, activation="h_swish", batch_norm=False),
    LayerSpec("linear", 1, 1, 128, 7),
]
RESNET = {
    "name": "ResNets",
    "input_stem": [
        _conv(3, 16, 3, stride=2),
        {"name": "ResidualBlock", "conv": _conv(16, 16, 3), "shortcut": {"name": "IdentityLayer"}},
    ],
    "blocks": [
        {"name": "ResNetBottleneckBlock", "in_channels": 16, "out_channels": 64, "expand_ratio": 0.25, "stride": 2},
        {"name": "ResNetBottleneckBlock", "in_channels": 64, "out_channels": 64, "mid_channels": 20},
    ],
    "classifier": {"name": "LinearLayer", "in_features": 64, "out_features": 5},
}
RESNET_LAYERS = [
    LayerSpec("conv", 33, 17, 3, 16, kernel=3, stride=2, activation="relu"),
    LayerSpec("conv", 17, 17, 16, 16, kernel=3, activation="relu", shortcut=True),
    LayerSpec("max_pool", 17, 9, 16, 16, kernel=3, stride=2),
    LayerSpec("bottleneck", 9, 5, 16, 64, 16, 3, 2, activation="relu"),
    LayerSpec(
        "bottleneck", 5, 5, 64, 64, 24, 3, activation="relu", shortcut=True
    ),  # 20 is rounded, as in the reference
    LayerSpec("pool", 5, 1, 64, 64),
    LayerSpec("linear", 1, 1, 64, 5),
]


@pytest.mark.parametrize(("net_config", "layers"), [(MOBILE, MOBILE_LAYERS), (RESNET, RESNET_LAYERS)])
def test_a_net_config_lowers_to_the_layers_that_it_describes(
    tmp_path: Path, net_config: dict[str, Any], layers: list[LayerSpec]
) -> None:
    (tmp_path / "net.config").write_text(json.dumps(net_config))
    (tmp_path / "run.config").write_text('{"image_size": 33}')
    assert load_ofa_net_config(tmp_path / "net.config", tmp_path / "run.config") == layers
    assert lower_net_config(net_config, 33).config is None


def test_a_block_that_the_search_removed_still_counts_in_the_names_of_weights() -> None:
    layers = {layer.prefix: layer.name for layer in lower_net_config(MOBILE).layers}
    assert [prefix for prefix in layers if prefix.startswith("blocks")] == [
        "blocks.0.conv",
        "blocks.2.conv",
        "blocks.3.conv",
    ]


def test_a_proxyless_network_may_lack_the_feature_mix() -> None:
    net_config = {**MOBILE, "name": "ProxylessNASNets", "feature_mix_layer": None}
    net_config["classifier"] = {"name": "LinearLayer", "in_features": 40, "out_features": 7}
    del net_config["bn"]
    architecture = lower_net_config(net_config, 32)
    assert [spec.op for spec in architecture.specs][-3:] == ["mbconv", "pool", "linear"]
    assert architecture.bn_eps == 1e-3


def test_a_subnet_of_a_space_is_recognised_with_its_own_number_of_classes(tiny: SearchSpace) -> None:
    config = tiny.smallest()
    specs = tiny.with_num_classes(7).layers(config)
    net_config = {
        "name": "MobileNetV3",
        "first_conv": _conv(3, 16, 3, act_func="h_swish"),
        "blocks": [
            _block(
                spec.in_channels,
                spec.out_channels,
                mid_channels=spec.mid_channels,
                expand_ratio=1 if spec.mid_channels == spec.in_channels else 3,
                kernel_size=spec.kernel,
                stride=spec.stride,
                act_func=spec.activation,
                use_se=spec.se_channels > 0,
            )
            | {"shortcut": {"name": "IdentityLayer"} if spec.shortcut else None}
            for spec in specs
            if spec.op == "mbconv"
        ],
        "final_expand_layer": _conv(64, 192, 1, act_func="h_swish"),
        "feature_mix_layer": _conv(192, 256, 1, act_func="h_swish", use_bn=False),
        "classifier": {"name": "LinearLayer", "in_features": 256, "out_features": 7},
    }
    architecture = lower_net_config(net_config, 16)
    assert architecture.specs == specs
    assert architecture.config == config
    assert architecture.layers[2].name == "stage1_block1"
    assert lower_net_config({**net_config, "bn": {"eps": 1e-3}}, 16).config is None
    assert lower_net_config(net_config, 18).config is None


def test_all_that_a_layer_cannot_say_is_named_in_one_line() -> None:
    broken = copy.deepcopy(MOBILE)
    broken["bn"] |= {"ws_eps": 1e-5, "eps": "small"}
    broken["first_conv"] |= {"dilation": 2, "act_func": "tanh", "groups": True, "use_se": True}
    broken["blocks"][0]["mobile_inverted_conv"] |= {"kernel_size": 4, "mid_channels": 48}
    broken["blocks"][1] = {"name": "ShuffleBlock"}
    broken["blocks"][2]["shortcut"] = {"name": "ConvLayer"}
    broken["blocks"][3] |= {"shortcut": IDENTITY}
    broken["final_expand_layer"] = None
    broken["classifier"] |= {"in_features": 64, "bias": False}
    with pytest.raises(ConfigError) as caught:
        lower_net_config(broken)
    message = str(caught.value)
    assert "\n" not in message
    for fault in (
        "bn.ws_eps is 1e-05; allowed: null",
        "bn.eps is 'small'; allowed: a number above 0",
        "first_conv.dilation is 2; allowed: 1",
        "first_conv.act_func is 'tanh'; allowed: null, relu, relu6, h_swish",
        "first_conv.groups is True; allowed: 1",
        "first_conv.use_se is True; allowed: False",
        "blocks.0.conv.kernel_size is 4; allowed: an odd whole number, at least 1",
        "blocks.0.conv.mid_channels is 48; allowed: 20 where expand_ratio is 1, and only there",
        "blocks.1.name is 'ShuffleBlock'; allowed: ResidualBlock, MobileInvertedResidualBlock",
        "blocks.2.shortcut.name is 'ConvLayer'; allowed: IdentityLayer",
        "blocks.3.conv.stride is 2; allowed: 1, and as many output as input channels, where there is a shortcut",
        "final_expand_layer is None; expected an object",
        "classifier.bias is False; allowed: True",
    ):
        assert fault in message


def test_resnet_downsampling_without_a_pool_is_refused_where_it_differs() -> None:
    strided = copy.deepcopy(RESNET)
    strided["blocks"][0]["downsample_mode"] = "conv"  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"blocks.0.downsample_mode is 'conv'; allowed: avgpool_conv"):
        lower_net_config(strided)
    strided["blocks"][0]["stride"] = 1  # type: ignore[index]
    assert lower_net_config(strided, 33).specs[3].stride == 1


@pytest.mark.parametrize("net_config", [[], {}, {"name": "OFAMobileNetV3"}, {"name": ["MobileNetV3"]}])
def test_a_file_of_another_kind_is_refused(net_config: Any) -> None:
    with pytest.raises(ConfigError, match=r"unknown network .*; allowed: MobileNetV3, ProxylessNASNets, ResNets; give"):
        lower_net_config(net_config)


@pytest.mark.parametrize("text", ["[]", "{}", '{"image_size": "big"}', '{"image_size": 0}'])
def test_a_run_config_without_a_size_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.config").write_text(json.dumps(MOBILE))
    (tmp_path / "run.config").write_text(text)
    with pytest.raises(ConfigError, match=r"run.config': run.config.* give a run.config as the reference wrote it"):
        load_ofa_net_config(tmp_path / "net.config", tmp_path / "run.config")


def _weights_for(net_config: dict[str, Any]) -> State:
    """Random weights under the reference's names, written down by hand for `RESNET`."""
    torch.manual_seed(0)
    convs = {
        "input_stem.0": (16, 3, 3, 3),
        "input_stem.1.conv": (16, 16, 3, 3),
        "blocks.0.conv1": (16, 16, 1, 1),
        "blocks.0.conv2": (16, 16, 3, 3),
        "blocks.0.conv3": (64, 16, 1, 1),
        "blocks.0.downsample": (64, 16, 1, 1),
        "blocks.1.conv1": (24, 64, 1, 1),
        "blocks.1.conv2": (24, 24, 3, 3),
        "blocks.1.conv3": (64, 24, 1, 1),
    }
    state = {"classifier.linear.weight": torch.randn(5, 64), "classifier.linear.bias": torch.randn(5)}
    for name, shape in convs.items():
        state[f"{name}.conv.weight"] = torch.randn(shape) / shape[1]
        for kind in ("weight", "bias", "running_mean"):
            state[f"{name}.bn.{kind}"] = torch.randn(shape[0])
        state[f"{name}.bn.running_var"] = torch.rand(shape[0]) + 0.5
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(3)
    return state


@torch.no_grad()
def test_a_specialised_network_gets_its_weights() -> None:
    state = _weights_for(RESNET)
    network = load_ofa_subnet(RESNET, state, resolution=33)
    assert not network.training
    assert (network.resolution, network.num_classes) == (33, 5)
    assert type(network) is Network
    restored = network.get_parameter("block1.restore.conv.weight")
    assert torch.equal(restored, state["blocks.1.conv3.conv.weight"])
    assert network(torch.randn(2, 3, 33, 33)).shape == (2, 5)


def test_weights_that_do_not_fit_a_specialised_network_are_listed() -> None:
    state = _weights_for(RESNET)
    del state["blocks.0.downsample.bn.weight"]
    state["blocks.7.conv1.conv.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        load_ofa_subnet(RESNET, state)
    assert str(caught.value) == (
        "the state dict does not fit the net.config, 2 fault(s): blocks.0.downsample.bn.weight is missing; "
        "blocks.7.conv1.conv.weight is unknown; give the weights that belong to it"
    )


# -- what is written ---------------------------------------------------------------------------------------------


def _save(folder: Path, network: Network) -> None:
    save_subnet(folder, network, {}, normalisation=NORMALISATION, class_names=list("abcde"))


@torch.no_grad()
def test_a_network_of_no_space_survives_its_folder(tmp_path: Path) -> None:
    network = load_ofa_subnet(RESNET, _weights_for(RESNET), resolution=33)
    _save(tmp_path, network)
    loaded = load_subnet(tmp_path)
    images = torch.randn(2, 3, 33, 33)
    assert torch.equal(loaded(images), network(images))
    assert loaded.specs == network.specs
    assert not isinstance(loaded, Subnet)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"op": "system"}, "layer 'stem1' has op 'system'"),
        ({"kernel": "3"}, "layer 'stem1' has kernel '3'"),
        ({"batch_norm": 1}, "layer 'stem1' has batch_norm 1"),
        ({"activation": "tanh"}, "layer 'stem1' has activation 'tanh'"),
        ({"kernel": 5}, "does not fit the network"),
    ],
)
def test_an_altered_list_of_layers_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    _save(tmp_path, load_ofa_subnet(RESNET, _weights_for(RESNET), resolution=33))
    description = json.loads((tmp_path / CONFIG).read_text())
    description["layers"][0] |= change
    (tmp_path / CONFIG).write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=re.escape(text)):
        load_subnet(tmp_path)


@pytest.fixture
def origin(tmp_path: Path, theirs: State) -> Path:
    torch.save({"state_dict": theirs}, tmp_path / "ofa.pt")
    return tmp_path / "ofa.pt"


def test_an_imported_run_opens_like_a_trained_one(
    tmp_path: Path, net: Supernet, origin: Path, digits: ImageData
) -> None:
    run = write_imported_run(tmp_path / "run", net, origin=origin, data=digits, calibration_images=64)
    assert run.complete
    assert run.normalisation == Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's, not digits'
    assert run.class_names == list(digits.class_names)
    assert len(run.images().calibration_images) == 64
    expected = net.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in run.load_supernet().state_dict().items())


def test_a_run_imported_without_images_says_what_it_lacks(tmp_path: Path, net: Supernet, origin: Path) -> None:
    run = write_imported_run(tmp_path / "run", net, origin=origin)
    assert run.load_supernet().space == net.space
    with pytest.raises(CheckpointError, match=r"imported without images, .* import the weights again, with images"):
        RunFolder(tmp_path / "run").images()


def test_images_of_other_classes_and_a_second_run_in_a_folder_are_refused(
    tmp_path: Path, tiny: SearchSpace, net: Supernet, origin: Path, digits: ImageData
) -> None:
    other = Supernet(tiny, num_classes=4)
    with pytest.raises(ConfigError, match="'digits' has 10 classes, the imported weights have 4; give images of"):
        write_imported_run(tmp_path / "run", other, origin=origin, data=digits)
    assert not (tmp_path / "run").exists()
    write_imported_run(tmp_path / "run", net, origin=origin)
    with pytest.raises(ConfigError, match="holds a run already; choose another folder with --run"):
        write_imported_run(tmp_path / "run", net, origin=origin)
