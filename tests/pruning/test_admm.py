from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from pruning.admm import Admm, AdmmSettings
from pruning.projections import combined, top
from supernet.errors import CheckpointError, ConfigError


def few_rows(rows: int):  # type: ignore[no-untyped-def]
    def project(weights: dict[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: w * top(w.square().sum(1), rows)[:, None] for name, w in weights.items()}

    return project


def rows_and_columns(weights: dict[str, Tensor]) -> Mapping[str, Tensor]:
    found = {}
    for name, weight in weights.items():
        rows, (columns,) = combined([weight.square()], 3, [4])
        found[name] = weight * rows[:, None] * columns
    return found


def weight(seed: int = 0, rows: int = 6, columns: int = 8) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))


def train(admm: Admm, w: nn.Parameter, wanted: Tensor) -> None:
    """The exact W-step for f(W) = 1/2 ||W - wanted||^2, checked by the gradient of the loss with the penalty."""
    pull = admm.targets["w"] - admm.duals["w"]
    with torch.no_grad():
        w.copy_((wanted + admm.rho * pull) / (1 + admm.rho))
    (gradient,) = torch.autograd.grad((w - wanted).square().sum() / 2 + admm.penalty(), w)
    assert float(gradient.abs().max()) < 1e-5


def test_weights_of_the_structure_are_a_fixed_point() -> None:
    w = weight()
    with torch.no_grad():
        w[2:] = 0
    admm = Admm({"w": w}, few_rows(2))
    penalty = admm.penalty()
    (gradient,) = torch.autograd.grad(penalty, w)
    assert float(penalty.detach()) == 0
    assert torch.equal(gradient, torch.zeros_like(w))  # and not NaN, as the norm's root would give
    residual = admm.update()
    assert residual.primal == 0
    assert residual.dual == 0
    assert admm.converged
    assert torch.equal(admm.targets["w"], w)
    assert not admm.duals["w"].any()


def test_targets_are_copies_even_where_the_projection_returns_its_argument() -> None:
    w = weight()
    admm = Admm({"w": w}, lambda weights: weights)
    before = w.detach().clone()
    with torch.no_grad():
        w += 1
    assert torch.equal(admm.targets["w"], before)
    assert float(admm.penalty().detach()) == pytest.approx(1e-3 / 2 * w.numel(), rel=1e-5)


def test_penalty_and_updates_are_those_of_the_equations() -> None:
    w = weight()
    admm = Admm({"w": w}, few_rows(2), AdmmSettings(rho=0.1, rho_max=0.3))
    z, u, rho = admm.targets["w"].clone(), torch.zeros_like(w), 0.1
    for step in range(4):
        with torch.no_grad():
            w += torch.randn(w.shape, generator=torch.Generator().manual_seed(step))
        assert float(admm.penalty().detach()) == pytest.approx(
            rho / 2 * float((w - z + u).detach().square().sum()), rel=1e-5
        )
        before = z
        z = few_rows(2)({"w": (w + u).detach()})["w"]
        u = (u + w - z).detach()
        found = admm.update()
        assert found.primal == pytest.approx(float(((w - z).norm() / w.norm()).detach()), rel=1e-5)
        assert found.dual == pytest.approx(float((z - before).norm() / z.norm()), rel=1e-5, abs=1e-7)
        grown = min(2 * rho, 0.3)
        u, rho = u * (rho / grown), grown
        assert admm.rho == pytest.approx(rho)
        torch.testing.assert_close(admm.duals["w"], u)


def test_the_unscaled_dual_does_not_jump_when_rho_grows() -> None:
    w = weight()
    admm = Admm({"w": w}, few_rows(2), AdmmSettings(rho=0.01))
    with torch.no_grad():
        w += 0.3
    expected = 0.01 * (w + admm.duals["w"] - few_rows(2)({"w": (w + admm.duals["w"]).detach()})["w"])
    admm.update()
    torch.testing.assert_close(admm.rho * admm.duals["w"], expected.detach())


def test_residuals_fall_to_the_tolerance_and_the_rows_that_serve_the_loss_stay() -> None:
    wanted = torch.zeros(6, 8)
    wanted[1], wanted[4] = 2.0, -3.0
    wanted += 0.3 * torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    w = weight()
    admm = Admm({"w": w}, few_rows(2), AdmmSettings(rho=0.1, primal=0.01, dual=0.01, blocks=40, rho_max=2.0))
    while not admm.finished:
        train(admm, w, wanted)
        admm.update()
    assert admm.converged
    assert admm.residuals[-1].primal <= 0.01
    assert admm.residuals[-1].primal < admm.residuals[0].primal / 10
    kept = admm.targets["w"].abs().sum(1) > 0
    assert kept.nonzero()[:, 0].tolist() == [1, 4]
    torch.testing.assert_close(admm.targets["w"][kept], wanted[kept], atol=0.15, rtol=0.05)


def test_the_combined_projection_converges_too() -> None:
    wanted = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))
    w = weight(6)
    admm = Admm({"w": w}, rows_and_columns, AdmmSettings(rho=0.1, blocks=60, rho_max=5.0))
    while not admm.finished:
        train(admm, w, wanted)
        admm.update()
    assert admm.converged
    assert int((admm.targets["w"] != 0).sum()) == 3 * 4


def test_blocks_end_it_where_the_tolerance_is_not_met() -> None:
    w = weight()
    admm = Admm({"w": w}, few_rows(2), AdmmSettings(primal=0.0, blocks=3))
    for _ in range(3):
        assert not admm.finished
        admm.update()
    assert admm.finished
    assert not admm.converged
    assert [residual.rho for residual in admm.residuals] == pytest.approx([1e-3, 2e-3, 4e-3])


def test_a_resumed_run_is_the_uninterrupted_one() -> None:
    wanted = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))
    w = weight()
    admm = Admm({"w": w}, few_rows(2))
    again: Admm | None = None
    for block in range(6):
        train(admm, w, wanted)
        admm.update()
        if block == 2:
            w2 = nn.Parameter(w.detach().clone())
            again = Admm({"w": w2}, few_rows(2))
            again.load_state_dict(admm.state_dict())
        elif again is not None:
            train(again, again.weights["w"], wanted)  # type: ignore[arg-type]
            again.update()
    assert again is not None
    assert torch.equal(again.weights["w"], w)
    assert torch.equal(again.duals["w"], admm.duals["w"])
    assert again.residuals == admm.residuals
    assert again.rho == admm.rho


def test_states_of_other_weights_and_settings_out_of_range_are_refused() -> None:
    admm = Admm({"w": weight()}, few_rows(2))
    with pytest.raises(CheckpointError, match="go on with the same model and settings"):
        Admm({"v": weight()}, few_rows(2)).load_state_dict(admm.state_dict())
    with pytest.raises(ConfigError, match=r"rho is 0; allowed: above 0; .*rho_max is -1; .*blocks is 0"):
        AdmmSettings(rho=0, rho_max=-1, blocks=0)
