from __future__ import annotations

import json
from pathlib import Path

from small_service import SPACE

from latency_tables import macs, params
from service.cards import describe, measured_part
from supernet.evaluation import measure_subnet
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
    assert sum(measured.correct_by_half) == measured.correct
    assert card["digests"] == {
        "weights": run.weights_sha256,
        "images": run.images_sha256,
        "data": run.manifest["data"]["digest"],
    }
