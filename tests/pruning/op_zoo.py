"""Small networks, one operator or pattern each, for the tests of pruning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Body(nn.Module):
    """conv -> `middle` -> conv -> pool -> linear; `middle` is the operator that is looked at."""

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int = 8, out: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.middle = middle
        self.last = nn.Conv2d(out or width, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.last(self.middle(self.first(x)))).mean((2, 3)))


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class SpatialGate(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(x))


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn(self.conv(x)))


class Split(nn.Module):
    """Halves of the channels by slices, one of them convolved, put together in the other order."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.half = width // 2
        self.conv = nn.Conv2d(self.half, self.half, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x[:, self.half :]), x[:, : self.half]], 1)


class Chunks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, 1)
        return torch.cat([two, F.relu(one)], 1)


class Glu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.glu(x, 1)


class Shuffle(nn.Module):
    """A channel shuffle by view and transpose."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleWithin(nn.Module):
    """A channel shuffle with something computed while channels lie on two axes."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return F.relu(x.view(n, 2, c // 2, h, w) * 2).transpose(1, 2).reshape(n, c, h, w)


class Sequence(nn.Module):
    """A network over (batch, tokens, 3) vectors."""

    def __init__(self, middle: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, width), middle, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x))).mean(1)


class Attention(nn.Module):
    """Four heads of width 2, by `way`: products of matrices or torch's operator."""

    def __init__(self, way: str, width: int = 8) -> None:
        super().__init__()
        self.qkv, self.out, self.way = nn.Linear(width, 3 * width), nn.Linear(width, width), way

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.way == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, c))


class SelfAttention(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class GroupedQuery(nn.Module):
    """Four heads of queries share two of keys and values."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q = self.q(x).view(n, t, 4, 2).transpose(1, 2)
        k, v = self.kv(x).view(n, t, 2, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class Shared(nn.Module):
    """One convolution used twice."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.relu(self.conv(x))))


class PaddedShortcut(nn.Module):
    """A residual whose shortcut has fewer channels, filled with zeros."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width + 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + F.pad(x, (0, 0, 0, 0, 2, 2))


class InPlaceHalf(nn.Module):
    """Writes into a view; a later reader of the whole sees it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :4].relu_()
        return y


class Flatten(nn.Module):
    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view = view
        self.conv, self.line, self.last = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = x.view(x.size(0), 8 * 36) if self.view else x.flatten(1)
        return self.last(F.relu(self.line(x)))


class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.bn = nn.Conv1d(3, 8, 3), nn.Conv1d(8, 8, 3, groups=8), nn.BatchNorm1d(8)
        self.up, self.head = nn.ConvTranspose1d(8, 6, 2, stride=2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(F.relu(self.bn(self.two(self.one(x)))))).amax(2))


def _fixed(function: Callable[[Tensor], Tensor], out: int | None = None, width: int = 8) -> Callable[[], nn.Module]:
    class Middle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return lambda: Body(Middle(), width, out)


@dataclass(frozen=True)
class Case:
    """A network, and what is to be found: the names of prunable producers, reasons of frozen ones by name."""

    build: Callable[[], nn.Module]
    prunable: tuple[str, ...] = ("first", "last")
    frozen: dict[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] = (2, 3, 8, 8)
    form: str = "modules"
    units: dict[str, int] = field(default_factory=dict)


def _body(module: Callable[[], Any], out: int | None = None, width: int = 8) -> Callable[[], nn.Module]:
    return lambda: Body(module(), width, out)


def _words(middle: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Sequence(middle())


_LAST = ("last",)
_TOKENS = (2, 5, 3)

CASES: dict[str, Case] = {
    # zero stays zero
    "relu": Case(_body(nn.ReLU)),
    "relu in place": Case(_body(lambda: nn.ReLU(inplace=True))),
    "gelu": Case(_body(nn.GELU)),
    "silu": Case(_body(nn.SiLU)),
    "hard swish": Case(_body(lambda: nn.Hardswish(inplace=True))),
    "hard swish by hand": Case(_fixed(lambda x: x * F.relu6(x + 3) / 6)),
    "tanh": Case(_body(nn.Tanh)),
    "leaky relu": Case(_body(nn.LeakyReLU)),
    "prelu": Case(_body(lambda: nn.PReLU(8))),
    "clamp": Case(_fixed(lambda x: x.clamp(-1, 1))),
    "scaled": Case(_fixed(lambda x: 2.5 * x / 3)),
    "plus one minus one": Case(_fixed(lambda x: (x + 1) - 1)),
    "softplus minus its zero": Case(_fixed(lambda x: x.abs().sqrt() * x.sign())),
    "sigmoid then batch norm": Case(
        _body(lambda: nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(8))), ("middle.1", "last")
    ),
    # zero does not stay zero
    "sigmoid": Case(_body(nn.Sigmoid), _LAST, {"first.weight": "sigmoid in 'middle' maps zero to 0.5"}),
    "softplus": Case(_body(nn.Softplus), _LAST, {"first.weight": "softplus in 'middle' maps zero to 0.693"}),
    "plus one": Case(_fixed(lambda x: x + 1), _LAST, {"first.weight": "add in 'middle' maps zero to 1"}),
    "hard sigmoid": Case(_body(nn.Hardsigmoid), _LAST, {"first.weight": "hardsigmoid in 'middle' maps zero to 0.5"}),
    "cosine": Case(_fixed(torch.cos), _LAST, {"first.weight": "cos in 'middle' maps zero to 1"}),
    "exponential": Case(_fixed(torch.exp), _LAST, {"first.weight": "exp in 'middle' maps zero to 1"}),
    "channel softmax": Case(
        _fixed(lambda x: x.softmax(1)), _LAST, {"first.weight": "_softmax in 'middle' is over channels"}
    ),
    "channel maximum": Case(
        _fixed(lambda x: x - x.amax(1, keepdim=True)), _LAST, {"first.weight": "amax in 'middle' is over channels"}
    ),
    "channel mean": Case(
        _fixed(lambda x: x - x.mean(1, keepdim=True)), _LAST, {"first.weight": "mean in 'middle' is over channels"}
    ),
    "channel norm": Case(_fixed(lambda x: F.normalize(x, dim=1))),
    "batch norm without weights": Case(
        _body(lambda: nn.BatchNorm2d(8, affine=False)),
        _LAST,
        {"first.weight": "buffer 'middle.running_mean' is not zero"},
    ),
    "batch norm of the batch": Case(_body(lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False))),
    "a buffer added": Case(lambda: Body(Offset()), _LAST, {"first.weight": "buffer 'middle.offset' is not zero"}),
    # norms
    "batch norm": Case(_body(lambda: nn.BatchNorm2d(8))),
    "group norm": Case(_body(lambda: nn.GroupNorm(4, 8)), units={"first": 4}),
    "group norm of one": Case(
        _body(lambda: nn.GroupNorm(1, 8)),
        _LAST,
        {"first.weight": "native_group_norm in 'middle' normalises over its channels together"},
    ),
    "instance norm": Case(_body(lambda: nn.InstanceNorm2d(8, affine=True))),
    "layer norm": Case(
        _words(lambda: nn.LayerNorm(8)),
        (),
        {"first.weight": "native_layer_norm in 'middle' normalises over its channels together"},
        _TOKENS,
    ),
    # convolutions
    "depthwise": Case(_body(lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1))),
    "depthwise multiplied": Case(_body(lambda: nn.Conv2d(8, 16, 3, groups=8, padding=1), 16), units={"first": 8}),
    "sigmoid then depthwise": Case(
        _body(lambda: nn.Sequential(nn.Sigmoid(), nn.Conv2d(8, 8, 3, groups=8, padding=1))), ("middle.1", "last")
    ),
    "four groups of two": Case(_body(lambda: nn.Conv2d(8, 8, 3, groups=4, padding=1)), units={"first": 4}),
    "two groups of four": Case(
        _body(lambda: nn.Conv2d(8, 12, 3, groups=2, padding=1), 12),
        ("first", "middle", "last"),
        units={"first": 4, "middle": 6},
    ),
    "transposed": Case(_body(lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), 6), ("first", "middle", "last")),
    "transposed depthwise": Case(_body(lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8))),
    "transposed, four groups": Case(_body(lambda: nn.ConvTranspose2d(8, 12, 2, groups=4), 12), units={"first": 4}),
    "transposed, two groups": Case(
        _body(lambda: nn.ConvTranspose2d(8, 12, 2, groups=2), 12),
        ("first", "middle", "last"),
        units={"first": 4, "middle": 6},
    ),
    "one dimension": Case(Audio, ("one", "up"), shape=(2, 3, 9)),
    "three dimensions": Case(
        lambda: nn.Sequential(nn.Conv3d(3, 8, 2), nn.ReLU(), nn.Conv3d(8, 4, 2), nn.Flatten()),
        ("0",),
        shape=(2, 3, 4, 4, 4),
    ),
    "shared": Case(_body(Shared), ("first", "last")),
    # gates, residuals, concatenation
    "gate": Case(_body(Gate), ("first", "middle.down", "last")),
    "spatial gate": Case(_body(SpatialGate)),
    "residual": Case(_body(Residual)),
    "padded shortcut": Case(_body(PaddedShortcut, 12), ("first", "middle.conv", "last"), form="program"),
    "concatenation": Case(_fixed(lambda x: torch.cat([x, F.relu(x)], 1), 16)),
    "input in a concatenation": Case(lambda: WithInput(), ("first", "last")),
    # index maps
    "flatten": Case(lambda: Flatten(view=False), ("conv", "line")),
    "view": Case(lambda: Flatten(view=True), ("conv", "line"), form="program"),
    "slices": Case(_body(Split), ("first", "middle.conv", "last"), form="program"),
    "chunk": Case(_body(Chunks), form=""),
    "glu": Case(_body(Glu, 4), form="modules"),
    "channel shuffle": Case(_body(Shuffle), form="program", units={"first": 8}),
    "channel shuffle of torch": Case(_body(lambda: nn.ChannelShuffle(2)), form="program", units={"first": 8}),
    "shuffle with work inside": Case(_body(ShuffleWithin), form="modules", units={"first": 4}),
    "pixel shuffle": Case(_body(lambda: nn.PixelShuffle(2), 2), units={"first": 2}),
    "pixel unshuffle": Case(_body(lambda: nn.PixelUnshuffle(2), 32), units={"first": 8}),
    "every second channel": Case(_fixed(lambda x: x[:, ::2], 4), form="program"),
    "reversed": Case(_fixed(lambda x: x.flip(1))),
    "rolled": Case(_fixed(lambda x: x.roll(3, 1)), form="program"),
    "picked by a list": Case(_fixed(lambda x: x[:, [5, 1, 2, 7]], 4), form="program"),
    "repeated": Case(_fixed(lambda x: x.repeat(1, 2, 1, 1), 16)),
    "permuted": Case(_fixed(lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2))),
    "transposed image": Case(_fixed(lambda x: x.transpose(2, 3))),
    "pools": Case(_fixed(lambda x: F.max_pool2d(F.avg_pool2d(x, 3, 1, 1), 2))),
    "upsampled": Case(
        _fixed(lambda x: F.interpolate(F.interpolate(x, scale_factor=2), scale_factor=0.5, mode="bilinear"))
    ),
    "padded": Case(_fixed(lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"))),
    "einsum": Case(_fixed(lambda x: torch.einsum("nchw->nhwc", x).permute(0, 3, 1, 2))),
    "one channel taken out": Case(
        _fixed(lambda x: x[:, :1] * 2 + x), _LAST, {"first.weight": "slice in 'middle' takes a single channel out"}
    ),
    "written through a view": Case(
        _body(InPlaceHalf), _LAST, {"first.weight": "its memory is written through another view"}
    ),
    "sort of channels": Case(
        _fixed(lambda x: x.sort(1).values), _LAST, {"first.weight": "sort in 'middle' is over channels"}
    ),
    "an unknown operator": Case(
        _fixed(lambda x: torch.fft.fft2(x).real),
        _LAST,
        {"first.weight": "_fft_c2c in 'middle' is not known to keep channels apart"},
    ),
    "squares summed": Case(_fixed(lambda x: x * x.pow(2).sum(1, keepdim=True))),
    # attention
    "attention": Case(
        _words(lambda: Attention("matmul")), ("middle.qkv", "first", "middle.out"), shape=_TOKENS, form="program"
    ),
    "attention of torch": Case(
        _words(lambda: Attention("sdpa")), ("middle.qkv", "first", "middle.out"), shape=_TOKENS, form="program"
    ),
    "multi-head attention": Case(
        _words(SelfAttention), ("middle.attention", "first", "middle.attention.out_proj"), shape=_TOKENS, form="program"
    ),
    "grouped queries": Case(
        _words(GroupedQuery), ("middle.q", "first", "middle.out"), shape=_TOKENS, form="program", units={"middle.q": 2}
    ),
    "encoder layer": Case(
        _words(lambda: nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)),
        ("middle.self_attn", "middle.linear1"),
        {"first.weight": "native_layer_norm in 'middle.norm1' normalises over its channels together"},
        _TOKENS,
        form="program",
    ),
}


class Offset(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


class WithInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(11, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(torch.cat([x, F.relu(self.first(x))], 1)).mean((2, 3)))
