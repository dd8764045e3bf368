"""A BERT-style encoder that guesses masked characters of real text, pruned while it trains: heads and MLP channels.

Run: python -m examples.oto_text --steps 1500
Result: examples/results/text.json

The text is Python's own standard library, the characters of whose sources are masked at 15 % of all places; files with
names from n on are the test part.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.training import dense_and_pruned

LENGTH, MASK, SYMBOLS = 64, 128, 129
"""Characters of an example; the symbol that stands for a masked one; ASCII and that symbol."""


class Layer(nn.Module):
    """Self-attention and an MLP, each after a layer norm and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width) to the same."""
        inside = self.norm1(x)
        q, k, v = (
            part(inside).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """Characters to scores of what each might be."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, width)
        nn.init.normal_(self.symbols.weight, std=0.02)  # no louder than the places, or neighbours are hard to find
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.norm, self.exit = nn.LayerNorm(width), nn.Linear(width, SYMBOLS)

    def forward(self, text: Tensor) -> Tensor:
        """int64 (n, length) to (n, length, symbols)."""
        return self.exit(self.norm(self.layers(self.symbols(text) + self.places)))


def make() -> nn.Module:
    """The untrained network."""
    torch.manual_seed(0)
    return Encoder()


def text(test: bool) -> Tensor:
    """All characters of one part, int64."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in folder.glob("*.py") if (path.name.lower() >= "n") == test)
    whole = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in files)
    return torch.tensor([ord(sign) for sign in whole if sign.isascii()])


def masked(characters: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces, the same with masked characters, and where those are; (count, length) each."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(characters) - LENGTH, (count, 1), generator=generator)
    pieces = characters[starts + torch.arange(LENGTH)]
    where = torch.rand(pieces.shape, generator=generator) < 0.15
    return pieces, pieces.masked_fill(where, MASK), where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--target", default="macs=0.6")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, test = text(test=False), text(test=True)

    def loss_of(net: nn.Module, step: int) -> Tensor:
        pieces, hidden, where = masked(train, 32, step)
        return F.cross_entropy(net(hidden)[where], pieces[where])

    def measure(net: nn.Module) -> float:
        pieces, hidden, where = masked(test, 512, 10**6)
        with torch.inference_mode():
            return float((net(hidden).argmax(2) == pieces)[where].double().mean())

    dense_and_pruned(
        "text",
        make,
        masked(train, 2, 0)[1],
        loss_of,
        measure,
        metric="accuracy_of_masked_characters",
        steps=arguments.steps,
        target=arguments.target,
        rate=2e-3,
    )


if __name__ == "__main__":
    main()
