"""The plan of a compact model: which positions of which tensors stay, as data that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from supernet.errors import CheckpointError

PLAN_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """How a compact model is cut out of a model.

    Attributes:
        tensors: by name of a parameter or buffer, by axis, the kept positions in order; what is not named stays.
        attributes: by module, settings that change, such as ``out_channels``.
        form: ``modules``: the model's own modules with fewer channels; ``program``: a graph of operators, for
            evaluation only, since the model's code fixes sizes that its modules do not know.
        units: by set of units, how many stay.
        macs, params: of the compact model, for one example.
        full_macs, full_params: of the model.
        error: largest difference of outputs between the compact and the pruned model.
        signal: largest difference of outputs between two inputs, which says what `error` is small against.
    """

    tensors: dict[str, dict[int, list[int]]]
    attributes: dict[str, dict[str, Any]]
    form: str
    units: dict[str, int]
    macs: int
    params: int
    full_macs: int
    full_params: int
    error: float
    signal: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        data = asdict(self)
        data["tensors"] = {n: {str(a): kept for a, kept in axes.items()} for n, axes in self.tensors.items()}
        return {"format": PLAN_FORMAT, **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "the plan") -> Plan:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: another format, or fields missing.
        """
        if data.get("format") != PLAN_FORMAT:
            raise CheckpointError(f"{source} has format {data.get('format')!r}; this version reads {PLAN_FORMAT}")
        try:
            fields = {name: data[name] for name in cls.__dataclass_fields__}
            fields["tensors"] = {
                name: {int(axis): list(kept) for axis, kept in axes.items()} for name, axes in data["tensors"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{source} is not a pruning plan ({error!r}); make it again") from None
        return cls(**fields)


def cut(tensor: Tensor, kept: Mapping[int, list[int]]) -> Tensor:
    """A copy of the kept positions of a tensor.

    Args:
        tensor: any.
        kept: by axis, the positions that stay.
    """
    result = tensor.detach()
    for axis, positions in kept.items():
        result = result.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=tensor.device))
    return result.clone()
