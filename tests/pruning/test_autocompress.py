from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pruning.annealing import AnnealingSettings
from pruning.autocompress import PHASES, Compression, Progress, auto_compress
from pruning.compression_settings import CompressionSettings
from pruning.compression_state import composed, load_round
from pruning.groups import ZeroInvariantGroups
from pruning.loops import ImageLoop, OwnLoop
from pruning.units import Masks
from supernet.errors import CheckpointError, ConfigError, InfeasibleBudgetError
from supernet.training.data import load_data
from tests.pruning.compression_program import EXAMPLES, HOLDOUT, LOOP, SETTINGS, accuracy, network, train, trained

FAST = replace(SETTINGS, search=AnnealingSettings(proposals=6, calibration=3), purify_epochs=1, retrain_epochs=2)


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def whole(dense: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Compression, Path]:
    """A compression in one go, by the settings of the program that is killed."""
    folder = tmp_path_factory.mktemp("whole")
    result = auto_compress(dense, LOOP, "params=25%", example_inputs=EXAMPLES, settings=SETTINGS, folder=folder)
    return result, folder


def compress(dense: nn.Module, target: str = "params=40%", **changes: Any) -> Compression:
    settings = replace(FAST, **changes)
    return auto_compress(dense, LOOP, target, example_inputs=EXAMPLES, settings=settings)


def test_rounds_meet_their_limits_by_exact_count_and_compress_more_and_more(
    dense: nn.Module, whole: tuple[Compression, Path]
) -> None:
    report = whole[0].report
    full = sum(parameter.numel() for parameter in dense.parameters())
    assert report.dense.params == full
    limits = [round_.limits["params"] for round_ in report.rounds]
    assert limits[0] == full / 2
    assert limits[-1] == full / 4
    for round_ in report.rounds:
        assert 0.995 * round_.limits["params"] <= round_.met["params"] <= round_.limits["params"]
        assert round_.model.params <= round_.met["params"]
        assert round_.proposals == 16
        assert [len(residual) for residual in round_.residuals] == [3] * 3
    assert report.rounds[-1].model.accuracy > 0.5  # four classes; the dense model is above 0.9
    assert report.dense.accuracy > 0.9


def test_the_report_counts_what_is_not_zero(whole: tuple[Compression, Path]) -> None:
    result = whole[0]
    last = result.report.rounds[-1].model
    pruned = sum(int((~mask).sum()) for mask in result.masks.values())
    numbers = sum(parameter.numel() for parameter in result.model.parameters())
    assert last.dense_params == numbers
    assert last.params == numbers - pruned
    assert last.storage_bytes < 4 * last.dense_params
    for name, mask in result.masks.items():
        weight = dict(result.model.named_parameters())[name]
        assert weight.shape == mask.shape
        assert not weight[~mask].any()
    assert ZeroInvariantGroups(result.model, EXAMPLES).count().macs == last.dense_macs
    assert last.accuracy == accuracy(result.model)


def test_the_compact_model_computes_what_the_masked_one_does(whole: tuple[Compression, Path]) -> None:
    for round_ in whole[0].report.rounds:
        assert round_.error <= 1e-5 * max(1.0, round_.signal)
        assert round_.signal > 0.1  # beside which the error says something


def test_the_given_model_is_left_alone_and_its_plan_leads_to_the_compact_one(
    dense: nn.Module, whole: tuple[Compression, Path]
) -> None:
    result, folder = whole
    before = trained().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    for number, round_ in enumerate(result.report.rounds, 1):
        again = load_round(network(seed=5), folder, number)
        assert accuracy(again) == round_.model.accuracy
    last = load_round(network(seed=5), folder, len(result.report.rounds))
    with torch.no_grad():
        assert torch.equal(last(HOLDOUT[0]), result.model(HOLDOUT[0]))
    assert result.plan is not None
    assert composed(None, result.plan) is result.plan


def test_report_is_text_and_json(whole: tuple[Compression, Path]) -> None:
    result, folder = whole
    text = str(result.report)
    assert "dense" in text
    assert f"round {len(result.report.rounds)}" in text
    assert "one.0.weight" in text
    data = json.loads((folder / "report.json").read_text())
    assert data["rounds"][-1]["model"]["params"] == result.report.rounds[-1].model.params
    assert data["rounds"][-1]["times_less"]["params"] == pytest.approx(
        result.report.dense.params / result.report.rounds[-1].model.params
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_once_in_each_phase_it_goes_on_to_the_same_result(
    whole: tuple[Compression, Path], tmp_path: Path
) -> None:
    wanted = {"search": 7, "admm": 3, "purify": 5, "retrain": 2}
    for phase in PHASES:
        process = program(tmp_path)
        assert process.stdout is not None
        for line in process.stdout:
            number, name, done = line.split()
            if name == phase and int(done) >= wanted[phase] and int(number) == (2 if phase == "retrain" else 1):
                process.send_signal(signal.SIGKILL)
                break
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL, phase
    process = program(tmp_path)
    lines = process.communicate(timeout=300)[0].splitlines()
    assert process.returncode == 0
    assert lines[-1] == f"ended {len(whole[0].report.rounds)}"
    assert lines[0].split()[1] == "retrain"  # nothing of the earlier phases was done again
    for number in range(1, len(whole[0].report.rounds) + 1):
        ours, theirs = (load_round(network(), folder, number).state_dict() for folder in (whole[1], tmp_path))
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
        own, other = (untimed(json.loads((folder / f"round_{number}/report.json").read_text()))
                      for folder in (whole[1], tmp_path))  # fmt: skip
        assert own == other


def program(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.pruning.compression_program", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def untimed(report: dict[str, Any]) -> dict[str, Any]:
    model = {name: value for name, value in report["model"].items() if name != "latency_ms"}
    return {**{n: v for n, v in report.items() if n != "evaluations_per_second"}, "model": model}


def test_a_cancelled_run_says_so_keeps_its_rounds_and_goes_on(
    dense: nn.Module, whole: tuple[Compression, Path], tmp_path: Path
) -> None:
    seen: list[Progress] = []

    def compress_until(stop: bool) -> Compression:
        return auto_compress(
            dense,
            LOOP,
            "params=25%",
            example_inputs=EXAMPLES,
            settings=SETTINGS,
            folder=tmp_path,
            progress=seen.append,
            cancelled=lambda: stop and bool(seen) and seen[-1].round == 2 and seen[-1].phase == "admm",
        )

    part = compress_until(True)
    assert part.cancelled
    assert len(part.report.rounds) == 1
    with torch.no_grad():
        assert torch.equal(part.model(HOLDOUT[0]), load_round(network(), whole[1], 1)(HOLDOUT[0]))
    rest = compress_until(False)
    assert not rest.cancelled
    with torch.no_grad():
        assert torch.equal(rest.model(HOLDOUT[0]), whole[0].model(HOLDOUT[0]))
    order = [(progress.round, PHASES.index(progress.phase)) for progress in seen]
    assert order == sorted(order)


def test_another_model_target_or_setting_in_the_same_folder_is_refused(whole: tuple[Compression, Path]) -> None:
    folder = whole[1]
    with pytest.raises(CheckpointError, match=r"was begun with target 'params<=25%' \(here 'params<=20%'\)"):
        auto_compress(trained(), LOOP, "params=20%", example_inputs=EXAMPLES, settings=SETTINGS, folder=folder)
    with pytest.raises(CheckpointError, match="begun with model"):
        auto_compress(network(3), LOOP, "params=25%", example_inputs=EXAMPLES, settings=SETTINGS, folder=folder)


def test_channels_shrink_what_is_computed_as_much_as_what_is_counted(dense: nn.Module) -> None:
    result = compress(dense, "macs=40%", dimensions="channels")
    last = result.report.rounds[-1].model
    assert result.masks == {}
    assert (last.params, last.macs) == (last.dense_params, last.dense_macs)
    assert last.macs <= 0.4 * result.report.dense.macs


def test_without_structure_single_weights_go(dense: nn.Module) -> None:
    result = compress(dense, "params=30%", dimensions="weights")
    round_ = result.report.rounds[-1]
    assert round_.met["params"] == pytest.approx(0.3 * result.report.dense.params, rel=0.005)
    mask = result.masks["three.0.weight"].flatten(1)
    assert 0 < int(mask.sum()) < int(mask.any(1).sum()) * int(mask.any(0).sum())


def test_latency_by_a_table_is_a_target(dense: nn.Module) -> None:
    def table(groups: ZeroInvariantGroups, units: Masks) -> float:
        return groups.count(units).macs / 1e4

    full = table(ZeroInvariantGroups(dense, EXAMPLES), [torch.ones(n, dtype=torch.bool) for n in (10, 12)])
    result = auto_compress(
        dense,
        LOOP,
        f"latency_ms@phone<={0.5 * full}",
        example_inputs=EXAMPLES,
        settings=replace(FAST, dimensions="channels"),
        latencies={"phone": table},
    )
    assert result.report.rounds[-1].met["latency_ms@phone"] <= 0.5 * full
    assert result.report.rounds[-1].model.dense_macs / 1e4 <= 0.5 * full
    with pytest.raises(ConfigError, match="no latencies are known for 'phone'; known: none"):
        auto_compress(dense, LOOP, "latency_ms@phone<=1", example_inputs=EXAMPLES)


def test_switches_leave_parts_out(dense: nn.Module) -> None:
    plain = compress(dense, uniform=True, one_shot=True, purification=False).report.rounds[-1]
    assert plain.proposals == 1
    assert plain.residuals == []
    assert plain.purified_percent == 0
    rates = compress(dense, anneal=False, purification=False).report.rounds[-1]
    assert rates.proposals == 1
    assert [row["share"] for row in rates.layers] != [row["share"] for row in plain.layers]


def test_the_same_seed_gives_the_same_model_and_another_seed_another(dense: nn.Module) -> None:
    one, two, other = (compress(dense, seed=seed) for seed in (0, 0, 1))
    with torch.no_grad():
        outputs = [result.model(HOLDOUT[0]) for result in (one, two, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_our_data_sets_need_no_loop_and_no_example_inputs() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10))
    settings = replace(FAST, admm_epochs=1, purification=False, search=AnnealingSettings(proposals=3, calibration=2))
    result = auto_compress(net, load_data("digits"), "params=60%", settings=settings)
    last = result.report.rounds[-1].model
    assert last.params <= 0.6 * result.report.dense.params
    assert last.test_accuracy is not None
    assert last.latency_ms is not None


@pytest.mark.parametrize(("factor", "target", "of"), [(2.0, "params=25%", 2), (1.6, "params=38.5%", 3)])
def test_rounds_before_the_last_have_their_own_number_of_epochs(
    factor: float, target: str, of: int, dense: nn.Module
) -> None:
    """The last of three is the second where purification takes what the third was for."""
    found: dict[int, list[int]] = {}

    def note(progress: Progress) -> None:
        assert progress.rounds == of
        if progress.phase == "retrain":
            found.setdefault(progress.round, []).append(progress.done)

    settings = replace(FAST, factor=factor, round_epochs=1, retrain_epochs=3, allowed_drop=30.0)
    auto_compress(dense, LOOP, target, example_inputs=EXAMPLES, settings=settings, progress=note)
    assert found == {1: [1], 2: [1, 2, 3]}


def test_a_loop_that_forgets_the_hook_and_targets_that_are_not_known_are_refused(dense: nn.Module) -> None:
    def forgetful(model: nn.Module, epoch: Any) -> None:
        epoch.optimizer(lambda: torch.optim.SGD(model.parameters(), lr=0.1))

    with pytest.raises(ConfigError, match=r"never called epoch.after_step\(\)"):
        auto_compress(dense, OwnLoop(forgetful, accuracy), "params=50%", example_inputs=EXAMPLES, settings=FAST)
    with pytest.raises(ConfigError, match="allowed: params, macs, latency_ms@DEVICE"):
        auto_compress(dense, LOOP, "sparsity=0.5", example_inputs=EXAMPLES)
    with pytest.raises(ConfigError, match="example_inputs is needed"):
        auto_compress(dense, OwnLoop(train, accuracy), "params=50%")
    with pytest.raises(InfeasibleBudgetError, match="with the least of every layer"):
        auto_compress(dense, LOOP, "params<=20", example_inputs=EXAMPLES, settings=replace(FAST, factor=1000.0))
    with pytest.raises(
        ConfigError, match=r"factor is 1; allowed: above 1; .*retrain_epochs is -1.*; round_epochs is -2"
    ):
        CompressionSettings(factor=1, retrain_epochs=-1, round_epochs=-2)
    with pytest.raises(ConfigError, match="allowed: at least 2, and no more than there are"):
        ImageLoop(load_data("digits"), batch_size=1)


def test_no_quick_evaluations_mean_no_search_and_no_purification() -> None:
    usual = CompressionSettings()
    assert usual.with_proposals(200, 60) == usual
    none = usual.with_proposals(0, 0)
    assert (none.anneal, none.purification) == (False, False)
    some = usual.with_proposals(7, 3)
    assert (some.anneal, some.search.proposals, some.purification, some.purify.proposals) == (True, 7, True, 3)
    assert some.purify.explored == 0.0
    with pytest.raises(ConfigError, match="proposals is -1"):
        usual.with_proposals(-1, 3)


def test_a_target_out_of_reach_is_refused_before_the_first_of_many_rounds(dense: nn.Module, tmp_path: Path) -> None:
    def never(*arguments: Any) -> float:
        raise AssertionError("the loop was used")

    loop = OwnLoop(never, never)
    with pytest.raises(InfeasibleBudgetError, match="with the least of every layer"):
        auto_compress(
            dense, loop, "params<=5", example_inputs=EXAMPLES, settings=replace(FAST, factor=2.0), folder=tmp_path
        )
    assert not list(tmp_path.iterdir())


def test_norms_of_a_filter_that_went_do_not_speak_through_its_bias(dense: nn.Module) -> None:
    """A zero filter still emits its norm's bias; the masked model's outputs would differ from the compact one's."""
    with torch.no_grad():
        for module in dense.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.bias.abs().max() > 0
    result = compress(dense, "params=30%", dimensions="filters")
    assert result.report.rounds[-1].error <= 1e-5 * max(1.0, result.report.rounds[-1].signal)
