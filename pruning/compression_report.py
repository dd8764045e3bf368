"""What AutoCompress reports: every round against the dense model, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A model.

    Attributes:
        params: numbers that are not pruned; columns that have gone do not count.
        storage_bytes: float32, and a bit a place where single columns or weights have gone.
        macs: multiply-adds of one example; columns that have gone do not count.
        dense_params, dense_macs: of the model as it is, with its zeros: what a device computes that skips none.
        latency_ms: of one example on this machine's processor, one thread of PyTorch; None: not measured.
        accuracy: on the held-out part.
        test_accuracy: on the test part, None: there is none.
    """

    params: int
    storage_bytes: int
    macs: int
    dense_params: int
    dense_macs: int
    latency_ms: float | None
    accuracy: float
    test_accuracy: float | None


@dataclass(frozen=True)
class RoundReport:
    """One round.

    Attributes:
        number: from 1.
        limits: greatest costs that the round had to meet.
        met: costs of the structure that the search chose, by exact count, before purification.
        proposals: quick evaluations of the search.
        evaluations_per_second: of the search; None where it was not run or was interrupted.
        searched_accuracy: of the chosen action by quick evaluation, before any training.
        residuals: of ADMM, (rho, primal, dual) a block.
        purified_percent: of the first limited cost, taken away by purification.
        layers: what each layer keeps, of the dense model: rows, columns, weights.
        error, signal: of the compact model's outputs against the masked model's, and between two inputs.
        model: the compact model.
    """

    number: int
    limits: dict[str, float]
    met: dict[str, float]
    proposals: int
    evaluations_per_second: float | None
    searched_accuracy: float | None
    residuals: list[list[float]]
    purified_percent: float
    layers: list[dict[str, Any]]
    error: float
    signal: float
    model: Measured

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RoundReport:
        """The inverse of `to_dict`."""
        values = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "model": Measured(**data["model"])})


@dataclass(frozen=True)
class CompressionReport:
    """All rounds.

    Attributes:
        target: as text.
        dense: the model that was given.
        rounds: in order.
    """

    target: str
    dense: Measured
    rounds: tuple[RoundReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; each round says besides how many times less it is than the dense model."""
        rounds = [round_.to_dict() | {"times_less": times_less(self.dense, round_.model)} for round_ in self.rounds]
        return {"format": 1, "target": self.target, "dense": asdict(self.dense), "rounds": rounds}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CompressionReport:
        """The inverse of `to_dict`."""
        rounds = tuple(RoundReport.from_dict(round_) for round_ in data["rounds"])
        return cls(data["target"], Measured(**data["dense"]), rounds)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("", "parameters", "storage", "MACs", "computed MACs", "latency", "accuracy", "test")
        ]
        rows.append(("dense", *_cells(self.dense, None)))
        rows += [(f"round {r.number}", *_cells(r.model, self.dense)) for r in self.rounds]
        lines = [_aligned(rows)]
        if self.rounds:
            kept = self.rounds[-1].layers
            lines.append(f"\nkept after round {self.rounds[-1].number}:")
            lines.append(
                _aligned(
                    [("layer", "filters", "columns", "weights")]
                    + [
                        (row["name"], _of(row["rows"]), _of(row["columns"]), f"{100 * row['share']:.2f} %")
                        for row in kept
                    ]
                )
            )
        return "\n".join(lines)


def times_less(dense: Measured, model: Measured) -> dict[str, float]:
    """How many times less each cost is."""
    found = {
        name: getattr(dense, name) / getattr(model, name)
        for name in ("params", "storage_bytes", "macs", "dense_params", "dense_macs")
    }
    if dense.latency_ms and model.latency_ms:
        found["latency"] = dense.latency_ms / model.latency_ms
    return found


def _cells(model: Measured, dense: Measured | None) -> list[str]:
    less = times_less(dense, model) if dense else {}

    def cell(text: str, name: str) -> str:
        return f"{text} ({less[name]:.1f}x)" if name in less else text

    def percent(share: float | None, own: float | None) -> str:
        if share is None:
            return "-"
        return f"{100 * share:.2f} %" + (f" ({100 * (share - own):+.2f})" if own is not None else "")

    return [
        cell(f"{model.params:,}", "params"),
        cell(f"{model.storage_bytes / 1024:,.1f} KiB", "storage_bytes"),
        cell(f"{model.macs:,}", "macs"),
        cell(f"{model.dense_macs:,}", "dense_macs"),
        "-" if model.latency_ms is None else cell(f"{model.latency_ms:.3f} ms", "latency"),
        percent(model.accuracy, dense.accuracy if dense else None),
        percent(model.test_accuracy, dense.test_accuracy if dense else None),
    ]


def _of(pair: Sequence[int]) -> str:
    return f"{pair[0]} of {pair[1]}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)  # fmt: skip
