from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pruning import Entries, UnitSet
from pruning.flat import CompiledUnits, FlatUnits, flat_units
from supernet import kernels
from supernet.errors import ConfigError

FORMS = [
    FlatUnits,
    pytest.param(CompiledUnits, marks=pytest.mark.skipif(not kernels.installed(), reason="numba is not installed")),
]


def tensors() -> dict[str, Tensor]:
    """Rows, columns, a depthwise kernel, channels last, pieces of three rows, and entries that are scattered."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "rows": random(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "columns": random(7, 4, 3, 3),
        "bias": random(4),
        "heads": random(9, 20),
        "scattered": random(6, 11),
        "single": random(1, 3),
    }


def sets() -> tuple[UnitSet, ...]:
    one_each = torch.arange(4)[:, None]
    first = UnitSet(
        "first", 4, (Entries("rows", 0, one_each), Entries("columns", 1, one_each), Entries("bias", 0, one_each)), ()
    )
    heads = torch.arange(9).reshape(3, 3)
    scattered = torch.tensor([[5, 0], [1, 3], [10, 8]])
    second = UnitSet(
        "second",
        3,
        (
            Entries("heads", 0, heads),
            Entries("scattered", 1, scattered),
            Entries("single", 1, torch.arange(3)[:, None]),
        ),
        (),
    )
    return first, second


CHOSEN = torch.tensor([True, False, True, False, False, True, True])


def values(of: dict[str, Tensor], unit: int) -> Tensor:
    """The numbers of one unit, by plain indexing."""
    group, number = (sets()[0], unit) if unit < 4 else (sets()[1], unit - 4)
    parts = [of[entries.name].index_select(entries.axis, entries.index[number]) for entries in group.variables]
    return torch.cat([part.flatten() for part in parts]).double()


@pytest.mark.parametrize("form", FORMS)
def test_products_are_those_of_the_units_numbers(form: type[FlatUnits]) -> None:
    before = tensors()
    now = {name: tensor.clone() for name, tensor in before.items()}
    units = form(now, sets(), CHOSEN)
    units.remember()
    for tensor in now.values():
        tensor.mul_(0.5).add_(0.1)
    xx, xy, yy = units.products()
    for place, unit in enumerate(CHOSEN.nonzero()[:, 0].tolist()):
        x, y = values(before, unit), values(now, unit)
        found, expected = torch.stack([xx[place], xy[place], yy[place]]), torch.stack([x @ x, x @ y, y @ y])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # sums in float32


@pytest.mark.parametrize("form", FORMS)
def test_shift_moves_the_chosen_units_only_and_clears_those_that_are_zero(form: type[FlatUnits]) -> None:
    before = tensors()
    now = {name: tensor.clone() for name, tensor in before.items()}
    units = form(now, sets(), CHOSEN)
    units.remember()
    for tensor in now.values():
        tensor.add_(1)
    moved = {name: tensor.clone() for name, tensor in now.items()}
    factors = torch.tensor([0.25, 0.5, 0.75, 2.0], dtype=torch.float64)
    units.shift(factors, torch.tensor([False, True, False, False]))
    expected = {0: 0.25, 2: None, 5: 0.75, 6: 2.0}
    for unit in range(7):
        if unit not in expected:
            assert torch.equal(values(now, unit), values(moved, unit))
        elif expected[unit] is None:
            assert not values(now, unit).any()
        else:
            torch.testing.assert_close(
                values(now, unit), values(moved, unit) - expected[unit] * values(before, unit), rtol=0, atol=1e-5
            )
    untouched = torch.ones(11, dtype=torch.bool)
    untouched[[1, 3, 8, 10]] = False
    assert torch.equal(now["scattered"][:, untouched], moved["scattered"][:, untouched])


@pytest.mark.parametrize("form", FORMS)
def test_scale_and_clear(form: type[FlatUnits]) -> None:
    now = tensors()
    before = {name: tensor.clone() for name, tensor in now.items()}
    now["bias"][2] = torch.inf
    units = form(now, sets(), CHOSEN)
    units.scale(torch.tensor([0.5, 0.0, 1.0, 3.0], dtype=torch.float64))
    for unit, factor in ((0, 0.5), (1, 1), (2, 0), (3, 1), (4, 1), (5, 1), (6, 3)):
        torch.testing.assert_close(values(now, unit), factor * values(before, unit))
    units.clear()
    for unit in range(7):
        assert torch.equal(values(now, unit), values(before, unit)) != bool(CHOSEN[unit])
        assert bool(values(now, unit).any()) != bool(CHOSEN[unit])


@pytest.mark.parametrize("form", FORMS)
def test_no_unit_chosen_does_nothing(form: type[FlatUnits]) -> None:
    now = tensors()
    units = form(now, sets(), torch.zeros(7, dtype=torch.bool))
    units.remember()
    assert [len(found) for found in units.products()] == [0, 0, 0]
    units.shift(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.bool))
    units.clear()
    assert all(torch.equal(now[name], tensor) for name, tensor in tensors().items())


def test_tensors_may_move_between_steps() -> None:
    now = {name: torch.nn.Parameter(tensor) for name, tensor in tensors().items()}
    units = flat_units(dict(now), sets(), CHOSEN)
    now["bias"].data = now["bias"].data.clone()
    units.clear()
    assert now["bias"].detach().ne(0).tolist() == [False, True, False, True]


def test_low_precision_is_read_in_float32_and_written_back_exactly() -> None:
    now = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    before = {name: tensor.clone() for name, tensor in now.items()}
    units = flat_units(now, sets(), CHOSEN)
    assert type(units) is FlatUnits
    units.remember()
    xx, _, _ = units.products()
    torch.testing.assert_close(xx[0], values(before, 0).square().sum(), rtol=1e-5, atol=0)
    units.shift(torch.zeros(4, dtype=torch.float64), torch.tensor([True, False, False, False]))
    assert not values(now, 0).any()
    assert all(torch.equal(values(now, unit), values(before, unit)) for unit in range(1, 7))


def test_gaps_in_memory_are_refused_by_name() -> None:
    now = tensors()
    now["bias"] = torch.zeros(8)[::2]
    with pytest.raises(ConfigError, match=r"'bias' of shape \(4,\) has strides \(2,\), with gaps or overlaps"):
        flat_units(now, sets(), CHOSEN)


def test_two_devices_are_refused() -> None:
    now = tensors()
    now["bias"] = now["bias"].to("meta")
    with pytest.raises(ConfigError, match=r"on 2 devices \(cpu, meta\)"):
        flat_units(now, sets(), CHOSEN)
