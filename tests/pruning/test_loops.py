from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import SGD

from pruning.loops import Epoch, ImageLoop, OwnLoop, reestimate_norms
from supernet.errors import ConfigError, DataError
from supernet.images import Normalisation
from supernet.training.data import load_data


def epoch(number: int, of: int, state: dict[str, object] | None = None) -> Epoch:
    return Epoch(number, of, 7, lambda: torch.zeros(()), lambda: None, state)


def test_a_block_begins_with_the_full_rate_and_falls_along_a_cosine() -> None:
    model = nn.Linear(2, 2)
    first = epoch(0, 4)
    optimizer = first.optimizer(lambda: SGD(model.parameters(), lr=0.4, momentum=0.9))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4)
    first.progress(0.5)
    assert 0.3 < optimizer.param_groups[0]["lr"] < 0.4
    third = epoch(2, 4, optimizer.state_dict())
    again = third.optimizer(lambda: SGD(model.parameters(), lr=0.4, momentum=0.9))
    assert again.param_groups[0]["lr"] == pytest.approx(0.2)
    restarted = epoch(0, 4).optimizer(lambda: SGD(model.parameters(), lr=0.4, momentum=0.9))
    assert restarted.param_groups[0]["lr"] == pytest.approx(0.4)


def test_momentum_goes_on_from_epoch_to_epoch_of_a_block() -> None:
    def steps(split: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        state: dict[str, object] | None = None
        used = None
        for number in range(2):
            job = epoch(number, 2, state)
            if split or used is None:
                used = job.optimizer(lambda: SGD(model.parameters(), lr=0.1, momentum=0.9))
            else:
                job.used = used
                job.progress(0.0)
            model(torch.ones(2, 3)).sum().backward()
            used.step()
            state = used.state_dict()
        return model.weight.detach()

    with torch.random.fork_rng():
        assert torch.equal(steps(True), steps(False))


def test_the_hook_is_counted_and_called() -> None:
    calls: list[int] = []
    job = Epoch(0, 1, 0, lambda: torch.ones(()), lambda: calls.append(1))
    job.after_step()
    job.after_step()
    assert job.steps == len(calls) == 2
    assert float(job.penalty()) == 1


def test_norms_of_any_dimension_get_the_statistics_of_the_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.BatchNorm1d(12))
    generator = torch.Generator().manual_seed(0)
    images = 4 + 2 * torch.randn(50, 3, 2, 2, generator=generator)
    model.train()
    model[2].eval()
    reestimate_norms(model, [images])
    first, last = model[0], model[2]
    assert isinstance(first, nn.BatchNorm2d)
    assert isinstance(last, nn.BatchNorm1d)
    torch.testing.assert_close(first.running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, images.var((0, 2, 3)))
    normed = nn.functional.batch_norm(images, None, None, training=True).flatten(1)
    torch.testing.assert_close(last.running_mean, normed.mean(0), atol=1e-5, rtol=1e-5)
    assert first.training
    assert not last.training
    assert first.momentum == 0.1


def test_two_batches_average_and_none_change_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1))
    one, two = torch.zeros(4, 1, 2, 2), torch.full((4, 1, 2, 2), 6.0)
    reestimate_norms(model, [one, two])
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [3.0]
    reestimate_norms(model, [])
    assert norm.running_mean.tolist() == [3.0]
    reestimate_norms(nn.Linear(1, 1), [torch.zeros(1, 1)])  # has no norm: the batch is not even run


def test_image_loops_train_by_seed_and_judge_on_fixed_parts() -> None:
    data = load_data("digits")
    loop = ImageLoop(data, learning_rate=0.05)

    def trained(seed: int) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
        loop.train_epoch(model, Epoch(0, 1, seed, lambda: torch.zeros(()), lambda: None))
        return model.eval()

    with torch.random.fork_rng():
        one, two, other = trained(1), trained(1), trained(2)
    assert torch.equal(one[1].weight, two[1].weight)  # type: ignore[index,arg-type]
    assert not torch.equal(one[1].weight, other[1].weight)  # type: ignore[index,arg-type]
    assert loop.accuracy(one) == loop.accuracy(two) > 0.7
    assert loop.test_accuracy(one) > 0.7
    assert sum(len(batch) for batch in loop.calibration_batches()) == 512
    shifted = ImageLoop(data, normalisation=Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert not torch.equal(next(iter(shifted.calibration_batches())), next(iter(loop.calibration_batches())))


def test_own_loops_without_a_test_part_say_none_and_batches_too_large_are_refused() -> None:
    assert OwnLoop(lambda model, epoch: None, lambda model: 0.5).test_accuracy(nn.Linear(1, 1)) is None
    with pytest.raises(ConfigError, match="100000 images a batch for"):
        ImageLoop(load_data("digits"), batch_size=100_000)


def test_a_loss_that_is_no_number_stops_the_epoch() -> None:
    loop = ImageLoop(load_data("digits"), resolution=8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    with torch.no_grad():
        model[1].bias.fill_(torch.nan)
    with pytest.raises(
        DataError, match=r"the loss became nan in step 1 of \d+ of an epoch, at a learning rate of 0\.02"
    ):
        loop.train_epoch(model, epoch(0, 1))
