"""Costs counted on a real network: the independent check of those that are read from descriptions."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.modules.batchnorm import _BatchNorm

_OVERWRITING = (_BatchNorm, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Identity, nn.Flatten)


def counted_macs(network: nn.Module, resolution: int) -> int:
    """Multiply-adds of convolutions and linear layers in one image's forward pass.

    Args:
        network: takes images (n, 3, resolution, resolution); run in evaluation mode, then put back into its own.
        resolution: side of the image, pixels.
    """
    total = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += layer.weight.numel()

    hooks = [layer.register_forward_hook(count) for layer in network.modules()]
    was_training = network.training
    try:
        with torch.inference_mode():
            network.eval()(torch.zeros(1, 3, resolution, resolution))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return total


def counted_peak_memory_bytes(network: nn.Module, resolution: int, *, channels: int = 3) -> int:
    """Bytes of activations at the worst moment of one image's forward pass, by the conventions of `peak_memory_bytes`.

    The network is traced into a graph, which is executed in its order with a count of what is still needed.

    Args:
        network: takes images (n, channels, resolution, resolution); its control flow may not depend on them.
        resolution: side of the image, pixels.
        channels: channels of the image, or of the feature map where the network is a single layer.
    """
    traced = fx.symbolic_trace(network)
    with torch.inference_mode():
        ShapeProp(traced.eval()).propagate(torch.zeros(1, channels, resolution, resolution))
    sizes: dict[fx.Node, int] = {}
    last_use: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node.op != "output":
            sizes[node] = node.meta["tensor_meta"].shape.numel()
        for read in node.all_input_nodes:
            last_use[read] = node
    alive: set[fx.Node] = set()
    peak = 0
    for node in traced.graph.nodes:
        done = {read for read in node.all_input_nodes if last_use[read] is node}
        if node.op != "output":
            overwritten = _overwrites(traced, node) and any(sizes[read] == sizes[node] for read in done)
            peak = max(peak, sum(sizes[tensor] for tensor in alive) + (0 if overwritten else sizes[node]))
            alive.add(node)
        alive -= done
    return peak * torch.zeros(()).element_size()


def _overwrites(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the operation can write its result over an input of the same size."""
    if node.op == "call_module":
        return isinstance(traced.get_submodule(str(node.target)), _OVERWRITING)
    return node.target in (operator.add, operator.mul)
