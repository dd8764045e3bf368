"""What needs a CUDA device; skipped elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD

from pruning.annealing import AnnealingSettings
from pruning.autocompress import Compression, Progress, auto_compress
from pruning.compression_settings import CompressionSettings
from pruning.construct import construct_subnet
from pruning.dhspg import DHSPG
from pruning.groups import ZeroInvariantGroups
from pruning.hesso import HESSO
from pruning.loops import ImageLoop
from pruning.training import PruningSettings, predictions, train_and_prune
from supernet.training.data import ImageData
from tests.pruning.digits_training import SETTINGS as PRUNING
from tests.pruning.digits_training import SIZE, StopError, trained
from tests.pruning.hand_built import ChainGroups, batch, chain

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SETTINGS = CompressionSettings(
    search=AnnealingSettings(proposals=6, calibration=3),
    purify=AnnealingSettings(proposals=6, explored=0.0, calibration=3),
    admm_epochs=1,
    purify_epochs=1,
    retrain_epochs=2,
)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA's operators give the same bits every time."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("method", ["dhspg", "hesso"])
def test_pruning_goes_on_to_the_same_weights_and_the_compact_network_answers_alike(
    method: str, few_digits: ImageData, tmp_path: Path
) -> None:
    settings, state = replace(PRUNING, method=method), tmp_path / "state.pt"
    whole, groups = trained(few_digits, settings, device="cuda")
    for stop_at in (2, 10, 22):  # before, during and after pruning
        with pytest.raises(StopError):
            trained(few_digits, settings, state, stop_at, "cuda")
    resumed, _ = trained(few_digits, settings, state, device="cuda")
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in whole.state_dict().items())
    compact, plan = construct_subnet(whole, groups)
    assert {tensor.device.type for tensor in (*whole.parameters(), *compact.parameters())} == {"cuda"}
    assert plan.macs <= 0.6 * plan.full_macs
    assert plan.signal > 100 * plan.error
    answers = [
        predictions(
            network,
            few_digits.test_batches(100),
            resolution=SIZE,
            normalisation=few_digits.normalisation(),
            device="cuda",
        )[0]
        for network in (whole, compact)
    ]
    assert torch.equal(*answers)


@pytest.mark.parametrize("method", [DHSPG, HESSO])
def test_a_gpu_prunes_as_a_cpu_does(method: type[DHSPG] | type[HESSO]) -> None:
    """The same units and the same numbers in float64, where rounding does not decide."""
    found = []
    for device in ("cpu", "cuda"):
        net = chain().double().to(device)
        base = SGD(net.parameters(), lr=0.05, momentum=0.9)
        optimizer = method(base, ChainGroups.of(net), target="macs=0.5", start_pruning_step=3, pruning_steps=12)
        for step in range(18):
            images, labels = batch(step)
            net.zero_grad()
            F.cross_entropy(net(images.double().to(device)), labels.to(device)).backward()
            optimizer.step()
        found.append((torch.cat(optimizer.zero), {n: p.detach().cpu() for n, p in net.named_parameters()}))
    assert torch.equal(found[0][0], found[1][0])
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, rtol=1e-6, atol=1e-8, msg=name)


def test_groups_are_the_same_wherever_model_and_inputs_are() -> None:
    cpu = ZeroInvariantGroups(chain(), torch.randn(2, 3, SIZE, SIZE))
    for device in ("cpu", "cuda"):
        groups = ZeroInvariantGroups(chain().cuda(), torch.randn(2, 3, SIZE, SIZE, device=device))
        assert [(s.name, s.units) for s in groups.sets] == [(s.name, s.units) for s in cpu.sets]
        assert groups.count() == cpu.count()
        outcome = groups.self_test()
        assert outcome.signal > 100 * outcome.error


@pytest.mark.usefixtures("exact")
def test_autocompress_trains_where_the_model_is_and_goes_on(few_digits: ImageData, tmp_path: Path) -> None:
    dense = chain(widths=(16, 24), classes=10)
    groups = ZeroInvariantGroups(dense, torch.randn(2, 3, SIZE, SIZE))
    train_and_prune(
        groups,
        few_digits,
        PruningSettings(target="macs=1", epochs=4, batch_size=32),
        resolution=SIZE,
        normalisation=few_digits.normalisation(),
        device="cuda",
    )
    seen: set[str] = set()

    class Watching(ImageLoop):
        def accuracy(self, model: nn.Module) -> float:
            seen.update(tensor.device.type for tensor in model.state_dict().values())
            return super().accuracy(model)

    def compressed(folder: Path | None = None, stop_in: str = "") -> Compression:
        loop = Watching(few_digits, resolution=SIZE, batch_size=32)

        def stop(progress: Progress) -> None:
            if progress.phase == stop_in:
                raise StopError

        return auto_compress(dense, loop, "params=40%", settings=SETTINGS, folder=folder, progress=stop)

    whole = compressed()
    for phase in ("search", "admm", "purify", "retrain"):
        with pytest.raises(StopError):
            compressed(tmp_path, phase)
    resumed = compressed(tmp_path)
    assert seen == {"cuda"}
    assert {tensor.device.type for tensor in whole.model.state_dict().values()} == {"cuda"}
    assert {tensor.device.type for tensor in dense.parameters()} == {"cuda"}
    assert whole.report.rounds[-1].model.params <= 0.4 * whole.report.dense.params
    assert all(tensor.equal(resumed.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())
