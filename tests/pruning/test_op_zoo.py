"""Operators one by one: what can go goes exactly, what cannot is frozen with its reason."""

from __future__ import annotations

import pytest
import torch

from pruning.groups import ZeroInvariantGroups
from pruning.selftest import run
from supernet.errors import ConfigError
from tests.pruning.op_zoo import CASES


@pytest.mark.parametrize("name", CASES)
def test_operator_is_exact_or_frozen_with_its_reason(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build().eval()
    if not case.prunable:
        with pytest.raises(ConfigError, match="no prunable group") as caught:
            ZeroInvariantGroups(model, torch.randn(case.shape))
        assert all(f"{key}: {reason}" in str(caught.value) for key, reason in case.frozen.items())
        return
    groups = ZeroInvariantGroups(model, torch.randn(case.shape))
    found = {group.name.split(" + ")[0]: group.units for group in groups.sets}
    assert {name.split(" #")[0] for name in found} == set(case.prunable)
    for name_, reason in case.frozen.items():
        assert groups.frozen[name_].endswith(reason)
    for key, units in case.units.items():
        assert found[key] == units
    compact, plan = run(groups, 0.5, 0)
    assert plan.signal > 100 * plan.error
    assert plan.form == (case.form or plan.form)
    assert plan.params == sum(p.numel() for p in compact.parameters()) < plan.full_params
