from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pruning.construct import construct_subnet
from pruning.groups import ZeroInvariantGroups
from pruning.training import PruningSettings, predictions, train_and_prune
from supernet.errors import CheckpointError, ConfigError, ConstructionError, DataError, InfeasibleBudgetError
from supernet.training.data import ImageData
from tests.pruning.digits_training import SETTINGS, SIZE, StopError, trained
from tests.pruning.hand_built import chain


@pytest.mark.parametrize("method", ["dhspg", "hesso"])
def test_an_interrupted_training_goes_on_to_the_same_weights(
    method: str, few_digits: ImageData, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, method=method)
    whole, _ = trained(few_digits, settings)
    state = tmp_path / "state.pt"
    for stop_at in (2, 10, 22):  # before, during and after pruning
        with pytest.raises(StopError):
            trained(few_digits, settings, state, stop_at)
    resumed, _ = trained(few_digits, settings, state)
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_it_learns_and_the_compact_network_answers_alike(digits: ImageData) -> None:
    net = chain(widths=(16, 24), classes=10)
    groups = ZeroInvariantGroups(net, torch.randn(2, 3, SIZE, SIZE))
    normalisation = digits.normalisation()
    settings = replace(SETTINGS, target="sparsity=0.4, params=0.5", epochs=10, optimizer="adamw", learning_rate=0.01)
    train_and_prune(groups, digits, settings, resolution=SIZE, normalisation=normalisation)
    compact, plan = construct_subnet(net, groups)
    assert sum(plan.units.values()) == 24
    assert plan.params <= 0.5 * plan.full_params
    answers = []
    for network in (net, compact):
        found, right = predictions(network, digits.test_batches(100), resolution=SIZE, normalisation=normalisation)
        answers.append(found)
    assert torch.equal(*answers)
    assert (found == right).double().mean() > 0.6  # a dozen channels; chance is 0.1


def test_states_of_other_settings_or_networks_are_refused(few_digits: ImageData, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    with pytest.raises(StopError):
        trained(few_digits, SETTINGS, state, 9)
    with pytest.raises(CheckpointError, match=r"begun with epochs 8 \(here 9\); seed 0 \(here 1\)"):
        trained(few_digits, replace(SETTINGS, epochs=9, seed=1), state)
    groups = ZeroInvariantGroups(chain(widths=(8, 8), classes=10), torch.randn(2, 3, SIZE, SIZE))
    with pytest.raises(CheckpointError, match="is of another model"):
        train_and_prune(
            groups, few_digits, SETTINGS, resolution=SIZE, normalisation=few_digits.normalisation(), state=state
        )
    state.write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="is no state of a pruning"):
        trained(few_digits, SETTINGS, state)


def test_too_few_images_and_a_target_out_of_reach_are_refused(few_digits: ImageData) -> None:
    with pytest.raises(ConfigError, match="280 training images, fewer than a batch of 300"):
        trained(few_digits, replace(SETTINGS, batch_size=300))
    with pytest.raises(InfeasibleBudgetError, match="is out of reach"):
        trained(few_digits, replace(SETTINGS, target="macs=0.001"))


def test_wrong_settings_are_refused_together() -> None:
    with pytest.raises(
        ConfigError,
        match=r"unknown method 'best'.*unknown optimizer 'lion'.*epochs is 0.*learning_rate is -1.*"
        r"start_share 0.5 and pruning_share 0.6",
    ):
        PruningSettings(method="best", optimizer="lion", epochs=0, learning_rate=-1, start_share=0.5, pruning_share=0.6)
    with pytest.raises(ConfigError, match="unknown metric 'time'"):
        PruningSettings(target="time=0.5")


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (PruningSettings(epochs=8, batch_size=64), (125, 125, 375)),
        (PruningSettings(epochs=1, batch_size=8000), (1, 0, 1)),
        (PruningSettings(epochs=2, batch_size=4000, start_share=0.9, pruning_share=0.1), (2, 3, 1)),
        (PruningSettings(epochs=2, batch_size=4000, start_share=0, pruning_share=1), (2, 0, 4)),
    ],
)
def test_steps_follow_from_the_shares(settings: PruningSettings, steps: tuple[int, int, int]) -> None:
    assert settings.steps(8000) == steps


def test_a_loss_that_is_no_number_stops_the_training(few_digits: ImageData, tmp_path: Path) -> None:
    net = chain(widths=(8, 12), classes=10)
    groups = ZeroInvariantGroups(net, torch.randn(2, 3, SIZE, SIZE))
    settings = replace(SETTINGS, learning_rate=1e30)
    with pytest.raises(DataError, match=r"the loss became (nan|inf) in step \d+ of 32, at a learning rate of "):
        train_and_prune(
            groups,
            few_digits,
            settings,
            resolution=SIZE,
            normalisation=few_digits.normalisation(),
            state=tmp_path / "state.pt",
        )
    assert not (tmp_path / "state.pt").exists()  # it was in the first epoch
    with pytest.raises(ConstructionError, match="the pruned Sequential itself gives outputs that are not finite"):
        construct_subnet(net, groups)
