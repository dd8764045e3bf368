from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import in_their_names
from typer.testing import CliRunner

from latency_tables import macs, params
from service.cli import app
from supernet.errors import CheckpointError, ConfigError, DataError
from supernet.import_ofa import lower_net_config
from supernet.import_ofa.run import NORMALISATION
from supernet.import_ofa.subnets import empty_network
from supernet.network import Supernet
from supernet.runs import RunFolder
from supernet.spaces import SearchSpace
from supernet.subnet_file import load_centre_share, load_normalisation, load_subnet
from supernet.training.data import FolderOptions, load_data

SPACE = "mobilenet_v3_w1.0"
PLAIN = {"dilation": 1, "groups": 1, "bias": False, "dropout_rate": 0, "ops_order": "weight_bn_act"}


def _conv(inputs: int, outputs: int, **more: Any) -> dict[str, Any]:
    return {"name": "ConvLayer", "in_channels": inputs, "out_channels": outputs, **PLAIN, **more}


def _net_config(first_kernel: int = 3) -> dict[str, Any]:
    """The smallest subnet of `SPACE`, ten classes, in the reference's words; with another first kernel of no space."""
    blocks = []
    inputs = 16
    stages = ((24, 2, "relu", False), (40, 2, "relu", True), (80, 2, "h_swish", False), (112, 1, "h_swish", True))
    for width, stride, activation, squeeze_excite in (*stages, (160, 2, "h_swish", True)):
        for number in range(2):
            mid = 48 if inputs == 16 else 3 * inputs
            inner = {"name": "MBConvLayer", "in_channels": inputs, "out_channels": width, "expand_ratio": 3}
            inner |= {"mid_channels": mid, "kernel_size": 3, "stride": 1 if number else stride}
            inner |= {"act_func": activation, "use_se": squeeze_excite}
            shortcut = {"name": "IdentityLayer"} if number else None
            blocks.append({"name": "ResidualBlock", "conv": inner, "shortcut": shortcut})
            inputs = width
    first = {"name": "MBConvLayer", "in_channels": 16, "out_channels": 16, "expand_ratio": 1, "act_func": "relu"}
    first |= {"kernel_size": first_kernel}
    return {
        "name": "MobileNetV3",
        "bn": {"momentum": 0.1, "eps": 1e-05},
        "first_conv": _conv(3, 16, kernel_size=3, stride=2, act_func="h_swish"),
        "blocks": [{"name": "ResidualBlock", "conv": first, "shortcut": {"name": "IdentityLayer"}}, *blocks],
        "final_expand_layer": _conv(160, 960, kernel_size=1, act_func="h_swish"),
        "feature_mix_layer": _conv(960, 1280, kernel_size=1, act_func="h_swish", use_bn=False),
        "classifier": {"name": "LinearLayer", "in_features": 1280, "out_features": 10},
    }


_THEIRS = (("depthwise.", "depth_conv."), ("squeeze_excite.", "depth_conv.se.fc."), ("project.", "point_linear."))


def _write(folder: Path, net_config: dict[str, Any], resolution: int) -> tuple[str, ...]:
    """Files of a specialised network with random weights; the arguments that name them."""
    architecture = lower_net_config(net_config, resolution)
    prefixes = {layer.name: layer.prefix for layer in architecture.layers}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in empty_network(architecture).state_dict().items():
        name, inner = key.split(".", 1)
        for ours, theirs in (*_THEIRS, ("expand.", "inverted_bottleneck.")):
            if inner.startswith(ours):
                inner = theirs + inner.removeprefix(ours)
                break
        fan_in = math.prod(tensor.shape[1:])
        state[f"{prefixes[name]}.{inner}"] = torch.rand(tensor.shape, generator=generator) / fan_in
    torch.save({"state_dict": state}, folder / "net.pt")
    (folder / "net.config").write_text(json.dumps(net_config))
    (folder / "run.config").write_text(json.dumps({"image_size": resolution}))
    names = ("--net-config", folder / "net.config", "--run-config", folder / "run.config")
    return tuple(map(str, names))


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.fixture
def weights(tmp_path: Path, tiny: SearchSpace) -> Path:
    """File of a supernet's weights under the reference's names."""
    net = Supernet(tiny, generator=torch.Generator().manual_seed(0))
    torch.save({"state_dict": in_their_names(net)}, tmp_path / "ofa.pt")
    return tmp_path / "ofa.pt"


def test_an_imported_supernet_with_images_gives_calibrated_subnets(
    tmp_path: Path, weights: Path, tiny: SearchSpace
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    options = ("--space", tiny.name, "--data", "digits", "--calibration-images", 64)
    report = json.loads(_run("import-ofa", weights, "--run", run, *options, "--json"))
    assert report == {
        "run": str(run),
        "space": tiny.name,
        "num_classes": 10,
        "weights_sha256": RunFolder(run).weights_sha256,
        "images": True,
    }
    card = json.loads(_run("extract", run, "--subnet", "smallest", "--out", out, "--json"))
    assert card["measured"]["total"] == len(RunFolder(run).images().holdout_labels)
    assert json.loads(_run("evaluate", out, "--json"))["macs"] == card["measured"]["macs"]


def test_images_in_a_folder_are_cropped_as_the_imported_weights_were_trained(tmp_path: Path, weights: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(50):
        path = tmp_path / "images" / f"class{number % 10}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    damaged = tmp_path / "images" / "class3" / "3.png"
    damaged.write_bytes(b"no image")
    options = ("--space", "mobilenet_v3_tiny", "--run", tmp_path / "run", "--data", "folder")
    options += ("--data-root", tmp_path / "images", "--workers", 0)
    with pytest.raises(DataError, match=r"class3/3.png' is not a readable image .*, or add --skip-corrupt, which"):
        _run("import-ofa", weights, *options)
    done = CliRunner().invoke(app, list(map(str, ("import-ofa", weights, *options, "--skip-corrupt", "--json"))))
    assert done.exit_code == 0
    assert done.stderr == "left out 1 unreadable file(s): 'class3/3.png'\n"
    run = RunFolder(tmp_path / "run")
    assert run.manifest["data"]["source"]["skipped"] == ["class3/3.png"]
    assert run.centre_share == 0.875
    streamed = FolderOptions(stream=True, workers=0, left_out=("class3/3.png",))
    expected = load_data("folder", root=tmp_path / "images", size=32, folder=streamed).image_pack(8)
    assert torch.equal(run.images().holdout_images, expected.holdout_images)


def test_an_imported_supernet_without_images_says_what_each_command_lacks(
    tmp_path: Path, weights: Path, tiny: SearchSpace
) -> None:
    run = tmp_path / "run"
    text = _run("import-ofa", weights, "--space", tiny.name, "--run", run)
    assert f"imported {tiny.name}, 10 classes -> {run}" in text
    assert "no images: subnets cannot be calibrated or judged" in text
    for command in (("extract", run, "--subnet", "largest", "--out", tmp_path / "out"), ("predictor", run)):
        with pytest.raises(CheckpointError, match=r"was imported without images, .* --data folder --data-root IMAGES"):
            _run(*command)
    with pytest.raises(CheckpointError, match=f"has no accuracy predictor; make one with: onceforall predictor {run}"):
        _run("search", run, "--budget", "macs<=3M")
    with pytest.raises(ConfigError, match="was imported, there is no training to go on with; start another run"):
        _run("train", "--resume", run)


def test_a_specialised_network_is_described(tmp_path: Path) -> None:
    files = _write(tmp_path, _net_config(), 160)
    report = json.loads(_run("import-ofa", *files, "--json"))
    layers = lower_net_config(_net_config(), 160).specs
    assert (report["macs"], report["params"]) == (macs(layers), params(layers))
    assert (report["family"], report["resolution"], report["num_classes"]) == ("MobileNetV3", 160, 10)
    assert report["config"]["space"] == report["space"] == SPACE
    assert report["config"]["depths"] == [2, 2, 2, 2, 2]
    assert report["folder"] is None
    text = _run("import-ofa", *files)
    assert f"MobileNetV3 at 160 pixels, 10 classes: {macs(layers) / 1e6:.3f} M MACs" in text
    assert f"a subnet of {SPACE}: " in text


@pytest.mark.parametrize(
    ("first_kernel", "resolution", "text"),
    [
        (3, 236, f"a subnet of {SPACE} but for its resolution, which the space lacks"),
        (5, 160, "a subnet of none of the search spaces"),
    ],
)
def test_a_network_of_no_space_says_so(tmp_path: Path, first_kernel: int, resolution: int, text: str) -> None:
    files = _write(tmp_path, _net_config(first_kernel), resolution)
    assert text in _run("import-ofa", *files, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "architecture.json").read_text())["config"] is None


@pytest.mark.parametrize("first_kernel", [3, 5])
def test_a_specialised_network_with_weights_becomes_a_subnet_that_evaluates(tmp_path: Path, first_kernel: int) -> None:
    files = _write(tmp_path, _net_config(first_kernel), 128)
    weights, out = ("--weights", tmp_path / "net.pt"), tmp_path / "out"
    report = json.loads(_run("import-ofa", *files, *weights, "--out", out, "--json"))
    assert report["folder"] == str(out)
    assert load_normalisation(out) == NORMALISATION
    assert load_centre_share(out) == 0.875
    card = json.loads((out / "card.json").read_text())
    assert card["measured"] == {"macs": report["macs"], "params": report["params"]}
    assert load_subnet(out).resolution == 128
    if first_kernel == 5:
        found = json.loads(_run("evaluate", out, "--data", "digits", "--json"))
        assert (found["macs"], found["params"]) == (report["macs"], report["params"])
    with pytest.raises(ConfigError, match=r"out' is not an empty folder; choose another with --out"):
        _run("import-ofa", *files, *weights, "--out", out)


def test_weights_of_another_network_leave_nothing_behind(tmp_path: Path) -> None:
    files = _write(tmp_path, _net_config(), 128)
    torch.save({"first_conv.conv.weight": torch.zeros(1)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"does not fit the net.config, \d+ fault\(s\): "):
        _run("import-ofa", *files, "--weights", tmp_path / "net.pt", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_a_whole_supernet_are_recognised(tmp_path: Path, weights: Path) -> None:
    files = _write(tmp_path, _net_config(), 128)
    with pytest.raises(CheckpointError, match=r"of a whole supernet .* onceforall import-ofa WEIGHTS --space NAME"):
        _run("import-ofa", *files, "--weights", weights, "--out", tmp_path / "out")


def test_a_folder_in_place_of_weights_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder; name the file in it that holds the state dict"):
        _run("import-ofa", tmp_path, "--space", SPACE, "--run", tmp_path / "run")


def test_images_without_their_kind_are_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data-root .* without --data: say what is there"):
        _run("import-ofa", "a.pt", "--space", SPACE, "--run", tmp_path / "run", "--data-root", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "import-ofa of a supernet: WEIGHTS is missing; --space is missing; --run is missing; give WEIGHTS"),
        (("a.pt", "--space", SPACE, "--out", "b"), "--run is missing; --out does not belong here"),
        (("a.pt", "--space", SPACE, "--run", "b", "--skip-corrupt"), "supernet: --skip-corrupt does not belong here"),
        (("--net-config", "c", "--weights", "d"), "a specialised network: --out is missing"),
        (("a.pt", "--net-config", "c", "--data", "digits"), "WEIGHTS does not belong here; --data does not belong"),
    ],
)
def test_options_that_do_not_go_together_are_all_named(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _run("import-ofa", *arguments)
    assert text in str(caught.value)


def test_an_unknown_space_is_refused_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown search space 'ofa'"):
        _run("import-ofa", tmp_path / "absent.pt", "--space", "ofa", "--run", tmp_path / "run")
