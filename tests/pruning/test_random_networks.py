"""Random networks: whatever operators meet, the compact model computes the same, or everything stays."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import ZeroInvariantGroups
from pruning.selftest import run
from supernet.errors import ConfigError

_UNARY = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "plus one": lambda x: x + 1,
    "negative": lambda x: -x,
    "square": torch.square,
    "scale": lambda x: 3 * x,
    "pool": lambda x: F.max_pool2d(x, 3, 1, 1),
    "softmax": lambda x: x.softmax(1),
    "centre": lambda x: x - x.mean(1, keepdim=True),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 1),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "shuffle": lambda x: x.view(len(x), 2, -1, 6, 6).transpose(1, 2).reshape(x.shape),
}
_LAYERS = ("conv", "pointwise", "depthwise", "grouped", "batch norm", "group norm", "instance norm", "prelu")
_JOINS = ("add", "mul", "cat", "gate", "max")


class Random(nn.Module):
    """A list of steps; each reads one or two earlier maps of (n, channels, 6, 6) and makes a new one.

    Args:
        steps: (name, number of one earlier map, number of another one).
        width: channels of the first maps, a multiple of 4.
    """

    def __init__(self, steps: list[tuple[str, int, int]], width: int) -> None:
        super().__init__()
        self.steps = steps
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.parts = nn.ModuleDict()
        channels = [width]
        for place, (name, one, two) in enumerate(steps):
            first, second = channels[one % len(channels)], channels[two % len(channels)]
            made: nn.Module | None = None
            out = first
            if name == "conv":
                out, made = width, nn.Conv2d(first, width, 3, padding=1)
            elif name == "pointwise":
                out, made = width + 4, nn.Conv2d(first, width + 4, 1, bias=False)
            elif name == "depthwise":
                made = nn.Conv2d(first, first, 3, padding=1, groups=first)
            elif name == "grouped":
                made = nn.Conv2d(first, first, 3, padding=1, groups=4 if place % 2 else 2)
            elif name == "batch norm":
                made = nn.BatchNorm2d(first)
            elif name == "group norm":
                made = nn.GroupNorm(4, first)
            elif name == "instance norm":
                made = nn.InstanceNorm2d(first)
            elif name == "prelu":
                made = nn.PReLU(first)
            elif name in _JOINS and name != "cat" and first != second:
                made = nn.Conv2d(second, first, 1)
            if name == "cat":
                out = min(first + second, 64)
            if made is not None:
                self.parts[str(place)] = made
            channels.append(out)
        self.head = nn.Linear(channels[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.enter(x)]
        for place, (name, one, two) in enumerate(self.steps):
            a, b = maps[one % len(maps)], maps[two % len(maps)]
            part = dict(self.parts).get(str(place))
            if name in _UNARY:
                y = _UNARY[name](a)
            elif name in _LAYERS:
                y = part(a)
            elif name == "cat":
                y = torch.cat([a, b], 1)[:, :64]
            else:
                b = part(b) if part is not None else b
                y = {"add": torch.add, "mul": torch.mul, "max": torch.maximum, "gate": _gate}[name](a, b)
            maps.append(y)
        return self.head(maps[-1].mean((2, 3)))


def _gate(x: Tensor, y: Tensor) -> Tensor:
    return x * torch.sigmoid(y.mean((2, 3), keepdim=True))


steps = st.lists(
    st.tuples(st.sampled_from((*_UNARY, *_LAYERS * 2, *_JOINS * 2)), st.integers(0, 20), st.integers(0, 20)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, width=st.sampled_from((4, 8, 12)), seed=st.integers(0, 3))
def test_random_network_is_cut_exactly(steps: list[tuple[str, int, int]], width: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = Random(steps, width).eval()
    images = torch.randn(2, 3, 6, 6)
    try:
        groups = ZeroInvariantGroups(model, images)
    except ConfigError:  # no prunable group: nothing can go wrong
        return
    compact, plan = run(groups, 0.5, seed)  # raises where outputs differ
    assert plan.params == sum(p.numel() for p in compact.parameters())
    assert groups.zeroed(model)[0].dtype == torch.bool
