"""The reference's search, guarded: what would hang or ask is an error, and what it finds is what we read."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from supernet import get_space
from tests import reference_search
from tests.reference import MISSING
from tests.reference_search import RefusedError, Sample, finder, sample_of

pytest.importorskip("ofa", reason=MISSING)


class SumOfKernels:
    """A table and a predictor in the reference's form: both grow with the kernels of all blocks."""

    def predict_efficiency(self, sample: Sample) -> float:
        return float(sum(sample["ks"]))

    def predict_accuracy(self, population: list[Sample]) -> torch.Tensor:
        return torch.tensor([[self.predict_efficiency(sample) / 1000] for sample in population])


def found(limit: float, seed: int = 0, **settings: Any) -> reference_search.ReferenceResult:
    return finder("note10", limit, SumOfKernels(), SumOfKernels(), **settings).run(seed)


def test_a_limit_out_of_its_range_is_an_error_instead_of_a_question() -> None:
    with pytest.raises(RefusedError, match="asks for another limit on the terminal"):
        finder("note10", 14.0, SumOfKernels(), SumOfKernels())


def test_endless_sampling_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_search, "REJECTIONS", 200)
    with pytest.raises(RefusedError, match="samples without end: 200 in a row were over 59"):
        found(59.0)  # the least sum of 20 kernels is 60


@pytest.mark.slow
def test_what_is_found_is_within_the_limit_and_the_same_for_the_same_seed() -> None:
    random.seed(7)
    before = random.getstate()
    first = found(80.0, checked=False)
    assert random.getstate() == before
    assert first == found(80.0, checked=False)
    assert first.cost == 80
    assert first.accuracy == pytest.approx(0.08)
    assert first.scored == 50_100
    assert 100 < first.unique() <= first.scored
    config = first.config(get_space("mobilenet_v3_w1.2"))
    again = sample_of(config)
    active = [kernel or full for kernel, full in zip(again["ks"], first.sample["ks"], strict=True)]
    assert active == first.sample["ks"]
    assert (again["d"], again["r"]) == (first.sample["d"], first.sample["r"])
