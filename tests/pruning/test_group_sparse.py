"""Laws that hold for every optimiser of group sparsity around every optimiser of torch."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler

from pruning import DHSPG, HESSO, FixedPenalty, GroupSparseOptimizer
from pruning.units import zeroed_units
from supernet.errors import CheckpointError, ConfigError, InfeasibleBudgetError
from tests.pruning.hand_built import ChainGroups, backward, batch, chain

START, STEPS, LAST = 4, 10, 20
Make = Callable[..., GroupSparseOptimizer]

BASES: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.05),
    "momentum": lambda parameters: SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-3, nesterov=True),
    "adam": lambda parameters: Adam(parameters, lr=0.01, weight_decay=1e-2),
    "adamw": lambda parameters: AdamW(parameters, lr=0.01, weight_decay=0.1, amsgrad=True),
}
METHODS: dict[str, Make] = {
    "dhspg": DHSPG,
    "dhspg-periods": lambda *given, **settings: DHSPG(*given, periods=3, **settings),
    "dhspg-epsilon": lambda *given, **settings: DHSPG(*given, epsilon=0.8, **settings),
    "hesso": lambda *given, **settings: HESSO(*given, periods=3, **settings),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Make:
    return METHODS[request.param]


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Callable[..., Optimizer]:
    return BASES[request.param]


def prune(method: Make, base: Callable[..., Optimizer], net: nn.Sequential, **settings: Any) -> GroupSparseOptimizer:
    settings = {"target": "macs=0.5", "start_pruning_step": START, "pruning_steps": STEPS, **settings}
    return method(base(net.parameters()), ChainGroups.of(net), **settings)


def zeros(net: nn.Sequential) -> Tensor:
    return torch.cat(zeroed_units(dict(net.named_parameters()), ChainGroups.of(net).sets))


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_the_target_is_met_at_the_stated_step_and_ever_after(method: Make, base: Callable[..., Optimizer]) -> None:
    net = chain()
    optimizer = prune(method, base, net)
    for step in range(LAST):
        assert optimizer.phase == ("before" if step <= START else "during" if step < START + STEPS else "after")
        backward(net, step)
        optimizer.step()
        if step + 1 >= optimizer.end_step:
            assert optimizer.costs["macs"] <= 0.5 * 61076
            assert torch.equal(torch.cat(optimizer.zero), zeros(net))
            assert torch.equal(torch.cat(optimizer.redundant), zeros(net))


def test_once_zero_always_zero(method: Make, base: Callable[..., Optimizer]) -> None:
    net = chain()
    optimizer, before = prune(method, base, net), zeros(chain())
    for step in range(LAST):
        backward(net, step)
        for parameter in net.parameters():  # what revives a unit, were it let
            parameter.grad.add_(0.1)
        optimizer.step()
        assert (zeros(net) >= before).all()
        before = zeros(net)
    assert before.any()


def test_other_units_follow_the_wrapped_optimiser_exactly(method: Make, base: Callable[..., Optimizer]) -> None:
    net, plain = chain(), chain()
    optimizer, alone = prune(method, base, net), base(plain.parameters())
    sets = optimizer.groups.sets
    for step in range(LAST):
        backward(net, step)
        with torch.no_grad():
            for mine, theirs in zip(net.parameters(), plain.parameters(), strict=True):
                theirs.grad = mine.grad.clone()
        optimizer.step()
        alone.step()
        mine, theirs = dict(net.named_parameters()), dict(plain.named_parameters())
        for unit_set, redundant in zip(sets, optimizer.redundant, strict=True):
            for entries in unit_set.variables:
                assert torch.equal(mine[entries.name][~redundant], theirs[entries.name][~redundant])
                if redundant.any() and "weight" in entries.name:
                    assert not torch.equal(mine[entries.name][redundant], theirs[entries.name][redundant])
        for name in ("11.weight", "11.bias"):
            assert torch.equal(mine[name], theirs[name])
    assert any(redundant.any() for redundant in optimizer.redundant)


@pytest.mark.parametrize("at", [2, START, START + 1, START + 5, START + STEPS, START + STEPS + 2])
def test_going_on_from_a_saved_state_gives_the_same_weights(
    method: Make, base: Callable[..., Optimizer], at: int
) -> None:
    net = chain()
    optimizer = prune(method, base, net)
    for step in range(LAST):
        if step == at:
            file = io.BytesIO()
            torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
        backward(net, step)
        optimizer.step()
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = chain(seed=1)
    again.load_state_dict(saved["net"])
    resumed = prune(method, base, again)
    resumed.load_state_dict(saved["optimizer"])
    for step in range(at, LAST):
        backward(again, step)
        resumed.step()
    assert same(net.state_dict(), again.state_dict())
    assert resumed.phase == "after"


def test_learning_rates_may_change_and_be_zero(method: Make, base: Callable[..., Optimizer]) -> None:
    net = chain()
    optimizer = prune(method, base, net)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda step: 0 if step > START + 5 else 1 / (step + 1))
    for step in range(START + STEPS):
        assert optimizer.base.param_groups[0]["lr"] == schedule.get_last_lr()[0]
        backward(net, step)
        optimizer.step()
        schedule.step()
    assert optimizer.costs["macs"] <= 0.5 * 61076


def test_redundant_units_fade_rather_than_vanish(method: Make) -> None:
    net = chain()
    optimizer = prune(method, BASES["sgd"], net, pruning_steps=30)
    norms = []
    for step in range(START + 30):
        backward(net, step)
        optimizer.step()
        weight, redundant = net[3].weight.detach(), optimizer.redundant[1]
        norms.append(float(weight[redundant].norm()) if redundant.any() else None)
    assert norms[-1] == 0
    shrinking = [norm for norm in norms if norm is not None]
    assert max(before - after for before, after in itertools.pairwise(shrinking)) < 0.5 * max(shrinking)


def test_frozen_parameters_keep_their_units(method: Make, base: Callable[..., Optimizer]) -> None:
    net = chain()
    net[3].weight.requires_grad_(False)
    before = state(net)
    optimizer = prune(method, base, net, target="sparsity=0.3")
    for step in range(START + STEPS):
        backward(net, step)
        optimizer.step()
    assert not optimizer.redundant[1].any()
    assert torch.equal(net[3].weight, before["3.weight"])
    assert int(zeros(net).sum()) == 6


def test_parameters_that_the_optimiser_does_not_train_keep_their_units(method: Make) -> None:
    net = chain()
    base = SGD([parameter for name, parameter in net.named_parameters() if name != "4.bias"], lr=0.05)
    optimizer = method(base, ChainGroups.of(net), target="sparsity=0.3", start_pruning_step=0, pruning_steps=STEPS)
    for step in range(STEPS):
        backward(net, step)
        optimizer.step()
    assert not optimizer.redundant[1].any()
    assert int(zeros(net).sum()) == 6


def test_mixed_precision_on_the_cpu(method: Make, base: Callable[..., Optimizer]) -> None:
    net = chain()
    optimizer = prune(method, base, net)
    for step in range(START + STEPS + 2):
        images, labels = batch(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
    assert optimizer.costs["macs"] <= 0.5 * 61076
    assert torch.equal(torch.cat(optimizer.redundant), zeros(net))


def test_steps_that_the_gradient_scaler_skips_are_not_counted(method: Make) -> None:
    net = chain()
    optimizer = prune(method, BASES["momentum"], net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(START + STEPS + 3):
        images, labels = batch(step)
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(net(images), labels)).backward()
        if step in (1, START + 2, START + 4):
            net[0].weight.grad[0] = torch.inf
        before = state(net)
        scaler.step(optimizer)
        scaler.update()
        if step in (1, START + 2, START + 4):
            assert all(torch.equal(parameter, before[name]) for name, parameter in net.named_parameters())
    assert optimizer.steps == START + STEPS
    assert torch.equal(torch.cat(optimizer.redundant), zeros(net))
    assert zeros(net).any()


def test_models_of_low_precision_are_pruned_as_well(method: Make) -> None:
    net = chain().bfloat16()
    optimizer = prune(method, BASES["momentum"], net)
    for step in range(START + STEPS):
        images, labels = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images.bfloat16()), labels).backward()
        optimizer.step()
    assert torch.equal(torch.cat(optimizer.redundant), zeros(net))
    assert optimizer.costs["macs"] <= 0.5 * 61076


def test_a_closure_is_called_once_before_the_step(method: Make) -> None:
    net, other = chain(), chain()
    optimizer, alike = prune(method, BASES["momentum"], net), prune(method, BASES["momentum"], other)
    for step in range(LAST):
        calls = []

        def closure(step: int = step, calls: list[int] = calls) -> Tensor:
            calls.append(step)
            images, labels = batch(step)
            net.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            return loss

        assert float(optimizer.step(closure).detach()) > 0
        assert calls == [step]
        backward(other, step)
        alike.step()
    assert same(net.state_dict(), other.state_dict())


def test_hooks_and_gradients_are_the_wrapping_optimisers(method: Make) -> None:
    net = chain()
    optimizer = prune(method, BASES["momentum"], net)
    seen: list[Optimizer] = []
    optimizer.register_step_post_hook(lambda stepped, args, kwargs: seen.append(stepped))
    backward(net, 0)
    optimizer.step()
    optimizer.zero_grad()
    assert seen == [optimizer]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert optimizer.state is optimizer.base.state
    extra = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    extra.grad = torch.ones(2)
    optimizer.step()
    # Nesterov: 1 - 0.5 (1 + 0.9) (1 + 0.005)
    assert extra.tolist() == pytest.approx([0.04525, 0.04525])


def test_missing_gradients_are_no_gradients(method: Make) -> None:
    net = chain()
    optimizer = prune(method, BASES["momentum"], net)
    for _ in range(START + STEPS):
        optimizer.step()
    assert optimizer.costs["macs"] <= 0.5 * 61076
    assert torch.equal(torch.cat(optimizer.redundant), zeros(net))


def test_the_last_units_and_the_divisor_hold(method: Make) -> None:
    net = chain(widths=(6, 8, 5))
    optimizer = prune(method, BASES["sgd"], net, target="macs=0.5", divisible=2, min_share=0.3)
    for step in range(START + STEPS):
        backward(net, step)
        optimizer.step()
    for unit_set, zero in zip(optimizer.groups.sets, optimizer.zero, strict=True):
        kept = unit_set.units - int(zero.sum())
        assert kept >= 0.3 * unit_set.units
        assert kept == unit_set.units or kept % 2 == 0


def test_a_target_out_of_reach_is_refused_at_once(method: Make) -> None:
    net = chain()
    with pytest.raises(InfeasibleBudgetError, match=r"macs<=1% is out of reach: .* macs \d+ of 61076"):
        prune(method, BASES["sgd"], net, target="macs=0.01")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruning_steps": 0}, "pruning_steps is 0; allowed: whole numbers from 1"),
        ({"start_pruning_step": -1, "divisible": 0}, "start_pruning_step is -1.*divisible is 0"),
        ({"min_share": 1.5}, "min_share is 1.5; allowed: 0 to 1"),
        ({"score": "best"}, "unknown score 'best'; allowed: oto, magnitude, taylor"),
        ({"target": "size=3"}, "unknown metric 'size'"),
    ],
)
def test_wrong_settings_are_refused(method: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prune(method, BASES["sgd"], chain(), **settings)


def test_parameters_of_another_model_are_refused(method: Make) -> None:
    net = chain()
    settings = {"target": "macs=0.5", "start_pruning_step": 1, "pruning_steps": 3}
    with pytest.raises(ConfigError, match="none of the optimiser's 14 parameters is one of the model's 14"):
        method(SGD(chain().parameters(), lr=0.1), ChainGroups.of(net), **settings)
    with pytest.raises(ConfigError, match=r"parameters that the model lacks, such as '0\.bias'"):
        method(SGD(net.parameters(), lr=0.1), replace(ChainGroups.of(net), model=net[1:]), **settings)


def test_optimisers_with_other_steps_are_refused(method: Make) -> None:
    net = chain()
    settings = {"target": "macs=0.5", "start_pruning_step": 1, "pruning_steps": 3}
    with pytest.raises(ConfigError, match="cannot wrap LBFGS"):
        method(torch.optim.LBFGS(net.parameters()), ChainGroups.of(net), **settings)
    wrapped = HESSO(SGD(net.parameters(), lr=0.1), ChainGroups.of(net), **settings)
    with pytest.raises(ConfigError, match="cannot wrap HESSO"):
        method(wrapped, ChainGroups.of(net), **settings)


def test_states_of_others_are_refused(method: Make) -> None:
    net = chain()
    optimizer = prune(method, BASES["sgd"], net)
    with pytest.raises(CheckpointError, match="this is no state of"):
        optimizer.load_state_dict(optimizer.base.state_dict())
    other = prune(method, BASES["sgd"], chain(), pruning_steps=STEPS + 1, target="params=0.5")
    with pytest.raises(
        CheckpointError, match=r"target 'params<=50%' \(here 'macs<=50%'\); pruning_steps 11 \(here 10\)"
    ):
        optimizer.load_state_dict(other.state_dict())


def test_it_is_saved_by_its_state_only(method: Make) -> None:
    with pytest.raises(TypeError, match=r"cannot be copied or pickled; save its state_dict\(\)"):
        torch.save(prune(method, BASES["sgd"], chain()), io.BytesIO())


def test_the_general_form_prunes_alike(method: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nets = []
    for installed in (True, False):
        monkeypatch.setattr("supernet.kernels.installed", lambda installed=installed: installed)
        net = chain()
        optimizer = prune(method, BASES["momentum"], net)
        for step in range(LAST):
            backward(net, step)
            optimizer.step()
        nets.append(net.state_dict())
    for name, tensor in nets[0].items():
        torch.testing.assert_close(tensor, nets[1][name], rtol=1e-3, atol=1e-4)


def test_fixed_penalties_prune_when_they_are_strong() -> None:
    net = chain()
    optimizer = prune(DHSPG, BASES["sgd"], net, penalty=FixedPenalty(strength=4.0))
    for step in range(64):
        backward(net, step)
        optimizer.step()
    assert optimizer.phase == "after"
    assert optimizer.costs["macs"] <= 0.5 * 61076
    assert torch.equal(torch.cat(optimizer.redundant), zeros(net))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_mixed_precision_on_a_gpu(method: Make, base: Callable[..., Optimizer]) -> None:
    net = chain().cuda()
    optimizer = prune(method, base, net)
    scaler = torch.amp.GradScaler("cuda")
    step = 0
    while optimizer.steps < START + STEPS + 2:
        images, labels = batch(step)
        step += 1
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = nn.functional.cross_entropy(net(images.cuda()), labels.cuda())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.costs["macs"] <= 0.5 * 61076
    assert torch.equal(torch.cat(optimizer.redundant), zeros(net).cpu())
