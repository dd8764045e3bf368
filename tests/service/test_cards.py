from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest
from small_service import SPACE

from latency_tables import macs, params
from service.cards import describe, measured_part
from supernet.evaluation import confidence_interval, measure_subnet
from supernet.runs import RunFolder


def test_a_card_counts_on_the_network_what_its_layers_say_and_is_plain_json(run_folder: Path) -> None:
    run, config = RunFolder(run_folder), SPACE.smallest()
    measured = measure_subnet(run.load_supernet(), config, run.images(), before_calibration=False)
    card = {**describe(config, run.manifest), "measured": measured_part(measured)}
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    layers = SPACE.layers(config)
    assert (card["measured"]["macs"], card["measured"]["params"]) == (macs(layers), params(layers))
    assert card["measured"]["accuracy"] == card["measured"]["correct"] / card["measured"]["total"]
    assert card["measured"]["accuracy_before_calibration"] is None
    low, high = card["measured"]["accuracy_interval"]
    assert low < card["measured"]["accuracy"] < high
    assert sum(measured.correct_by_half) == measured.correct
    assert card["digests"] == {
        "weights": run.weights_sha256,
        "images": run.images_sha256,
        "data": run.manifest["data"]["digest"],
    }


@pytest.mark.parametrize(("correct", "images"), [(0, 10), (10, 10), (1, 200), (180, 200), (9_950, 10_000)])
def test_the_interval_of_an_accuracy_is_wilsons(correct: int, images: int) -> None:
    expected = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    assert confidence_interval(correct, images) == pytest.approx((expected.low, expected.high), abs=1e-7)
