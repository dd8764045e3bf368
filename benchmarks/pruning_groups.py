"""Are the zero-invariant groups of real networks found, exactly and fast, beside OTO's package and Torch-Pruning?

Command: python -m benchmarks.pruning_groups   (about 15 minutes on 2 shared cores; needs the development extra)
Result:  benchmarks/results/pruning_groups.json, printed as a table.

Networks of torchvision and timm with random weights, seed 0, batch of one, 64x64 pixels (VGG: 32x32), one thread.

- ours: `ZeroInvariantGroups(model, inputs)`, the capture of the model included; the units, the share of the parameters
  that can go, what stays and why; then half of each set's units zeroed at random in a calibrated copy, the compact
  model constructed and compared: `error` over the largest output, and `signal_over_error`, how much more the output
  moves between two inputs. `form`: whether the compact model is made of the model's modules or of its exported graph.
- oto: ``OTO(model, inputs)`` of only-train-once 3.0.1, then its own random zeros and construction, compared likewise.
  On torch 2.14 it does not import: `torch.onnx` has moved what it reads. Here the old names are put back, nothing else.
- torch_pruning: ``DependencyGraph().build_dependency(model, inputs)`` of torch-pruning.
- depth: residual networks of 20 to 1,000 convolutions, seconds a layer.

Seconds are of processor time, the least of several turns, which a busy machine changes least; all sides take turns. A
peer that is not installed, fails, or takes more than a minute is recorded with its error. To have the peers, put them
(``pip install --no-deps only-train-once==3.0.1 torch-pruning graphviz``) into an environment that sees this project's.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import platform
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning import ZeroInvariantGroups
from pruning.selftest import run
from supernet.files import read_json, write_json
from tests.pruning.networks import Carn, DeepResNet, UNet, tiny_subnet

RESULT = Path(__file__).parent / "results" / "pruning_groups.json"
TURNS = 3
LIMIT_S = 60
DEPTHS = (20, 60, 200, 600, 1000)
TORCHVISION = (
    "vgg16_bn", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0",
    "googlenet", "shufflenet_v2_x1_0", "resnext50_32x4d", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip
TIMM = (
    "vgg16_bn", "resnet18", "resnet50", "densenet121", "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0",
    "resnext50_32x4d", "regnety_004", "convnext_tiny", "vit_base_patch16_224", "swin_tiny_patch4_window7_224",
)  # fmt: skip
OWN: dict[str, Callable[[], nn.Module]] = {
    "unet": UNet,
    "carn": Carn,
    "subnet of mobilenet_v3_tiny": tiny_subnet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", help="names of networks, such as torchvision/resnet18; the rest of the file stays"
    )
    parser.add_argument("--no-depth", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = [f"torchvision/{n}" for n in TORCHVISION] + [f"timm/{n}" for n in TIMM] + [f"ours/{n}" for n in OWN]
    chosen = arguments.only or names
    earlier = read_json(arguments.out) if arguments.only and arguments.out.exists() else {"networks": {}, "depth": []}
    rows = earlier["networks"]
    for name in chosen:
        rows[name] = look_at(name)
        print(line(name, rows[name]), flush=True)
    depth = earlier["depth"] if arguments.no_depth else growth()
    result = {
        "question": "zero-invariant groups of real networks: exact, and how fast",
        "machine": {
            "processor": processor(),
            "threads": 1,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
        "networks": rows,
        "depth": depth,
    }
    write_json(arguments.out, result)
    print(json.dumps(depth, indent=1))


def look_at(name: str) -> dict[str, Any]:
    """All sides on one network."""
    model = build(name)
    x = inputs_of(name, model)
    with torch.no_grad():
        model(x)  # whatever only the first call costs
    seconds: dict[str, list[float]] = {"ours": [], "oto": [], "torch_pruning": []}
    errors: dict[str, str] = {}
    makers = {
        "ours": lambda: ZeroInvariantGroups(model, x),
        "oto": lambda: oto(model, x),
        "torch_pruning": lambda: tp(model, x),
    }
    made: dict[str, Any] = {}
    for _ in range(TURNS):
        for side, make in makers.items():
            if side in errors:
                continue
            try:
                with limited(), contextlib.redirect_stdout(io.StringIO()):
                    begin = time.process_time()
                    made[side] = make()
                    seconds[side].append(time.process_time() - begin)
            except Exception as error:
                errors[side] = described(error)
    groups: ZeroInvariantGroups = made["ours"]
    begin = time.process_time()
    compact, plan = run(groups, 0.5, 0)
    constructed = time.process_time() - begin
    with torch.no_grad():
        scale = float(compact(x).abs().max())
    reasons: dict[str, int] = {}
    for text in groups.frozen.values():
        reasons[text.split(" in '")[0]] = reasons.get(text.split(" in '")[0], 0) + 1
    return {
        "ours": {
            "seconds": min(seconds["ours"]),
            "construct_seconds": constructed,
            "units": len(groups),
            "sets": len(groups.sets),
            "prunable_share": groups.prunable_share,
            "frozen": reasons,
            "form": plan.form,
            "macs_left": plan.macs / plan.full_macs,
            "params_left": plan.params / plan.full_params,
            "error": plan.error / scale,
            "signal_over_error": plan.signal / max(plan.error, 1e-30),
        },
        "oto": errors_or(errors.get("oto"), lambda: {"seconds": min(seconds["oto"]), **oto_error(name, x)}),
        "torch_pruning": errors_or(errors.get("torch_pruning"), lambda: {"seconds": min(seconds["torch_pruning"])}),
    }


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, network = name.partition("/")
    if library == "ours":
        return OWN[network]().eval()
    if library == "timm":
        settings = {"img_size": 64} if network.startswith(("vit", "swin")) else {}
        return import_module("timm").create_model(network, pretrained=False, **settings).eval()
    settings = {"image_size": 64} if network.startswith("vit") else {}
    if network == "googlenet":
        settings = {"init_weights": False}
    return import_module("torchvision").models.get_model(network, weights=None, **settings).eval()


def inputs_of(name: str, model: nn.Module) -> Tensor:
    size = getattr(model, "resolution", 32 if "vgg" in name else 64)
    channels = model.specs[0].in_channels if hasattr(model, "specs") else 3  # type: ignore[index,union-attr]
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(1))


def oto(model: nn.Module, x: Tensor) -> Any:
    exporter = "torch.onnx._internal.torchscript_exporter"
    sys.modules.setdefault("torch.onnx._globals", import_module(f"{exporter}._globals"))
    for moved in ("_optimize_trace", "_optimize_graph"):
        if not hasattr(torch.onnx, moved) and hasattr(import_module(f"{exporter}.utils"), moved):
            setattr(torch.onnx, moved, getattr(import_module(f"{exporter}.utils"), moved))
    return import_module("only_train_once").OTO(model=copy.deepcopy(model), dummy_input=x)


def oto_error(name: str, x: Tensor) -> dict[str, Any]:
    """Its own check: random zeros, its construction, and the distance of the two models it writes."""
    try:
        with limited(), contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
            made = oto(build(name), x)
            made.random_set_zero_groups()
            made.construct_subnet(out_dir=folder)
            full, small = (
                torch.load(path, weights_only=False).eval()
                for path in (made.full_group_sparse_model_path, made.compressed_model_path)
            )
            with torch.no_grad():
                a, b = full(x), small(x)
            return {"error": float((a - b).abs().max() / a.abs().max())}
    except Exception as error:
        return {"construction": described(error)}


def tp(model: nn.Module, x: Tensor) -> Any:
    return import_module("torch_pruning").DependencyGraph().build_dependency(copy.deepcopy(model), x)


def growth() -> list[dict[str, Any]]:
    """Seconds by depth."""
    found = []
    for layers in DEPTHS:
        model = DeepResNet(layers).eval()
        x = torch.randn(1, 3, 16, 16)
        best = float("inf")
        for _ in range(TURNS):
            begin = time.process_time()
            groups = ZeroInvariantGroups(model, x)
            best = min(best, time.process_time() - begin)
        found.append({"layers": layers, "units": len(groups), "seconds": best, "ms_a_layer": 1000 * best / layers})
    return found


def errors_or(error: str | None, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return {"failed": error} if error else make()


def described(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TimeoutError in what takes more processor time than the limit."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"no result in {LIMIT_S} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [text.partition(":")[2].strip() for text in lines if "model name" in text]
    return names[0] if names else platform.processor()


def line(name: str, row: dict[str, Any]) -> str:
    ours, theirs, third = row["ours"], row["oto"], row["torch_pruning"]
    peers = [f"{peer['seconds']:.2f} s" if "seconds" in peer else peer["failed"][:40] for peer in (theirs, third)]
    return (
        f"{name}: {ours['seconds']:.2f} s, {ours['units']} units in {ours['sets']} sets, "
        f"share {ours['prunable_share']:.3f}, error {ours['error']:.1e}, signal {ours['signal_over_error']:.0f} times, "
        f"{ours['form']}; oto {peers[0]}; torch-pruning {peers[1]}"
    )


if __name__ == "__main__":
    main()
