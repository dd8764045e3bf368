from __future__ import annotations

import ast
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from supernet import Supernet, get_space, kernels
from supernet.kernels import threads
from supernet.layers import batch_norm


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "LEAST_WORK", 1)
    yield
    torch.set_num_threads(before)


def _training_step(net: Supernet, images: Tensor) -> list[Tensor]:
    """Gradients of the largest subnet, then its running statistics."""
    net.zero_grad(set_to_none=True)
    net.train()
    labels = torch.arange(len(images)) % 10
    F.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


def _net(dtype: torch.dtype = torch.float32) -> tuple[Supernet, Tensor]:
    net = Supernet(get_space("mobilenet_v3_tiny"), generator=torch.Generator().manual_seed(0)).to(dtype)
    images = torch.randn(16, 3, 28, 28, generator=torch.Generator().manual_seed(1)).to(dtype)
    return net, images.contiguous(memory_format=torch.channels_last)


def test_gradients_of_a_whole_supernet_equal_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm, "LEAST_NUMBERS", 0)
    found, exact = _training_step(*_net()), _training_step(*_net(torch.float64))
    error = sum(float((one - other).square().sum()) for one, other in zip(found, exact, strict=True)) ** 0.5
    assert error / sum(float(other.square().sum()) for other in exact) ** 0.5 < 1e-4


def test_a_step_gives_the_same_bits_again() -> None:
    first, second = _training_step(*_net()), _training_step(*_net())
    assert all(map(torch.equal, first, second))


@pytest.mark.usefixtures("many_threads")
def test_kernels_give_the_same_bits_with_any_number_of_threads() -> None:
    x = torch.randn(9, 40, 12, 12, generator=torch.Generator().manual_seed(0)).contiguous(
        memory_format=torch.channels_last
    )
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        out = torch.empty_like(x)
        mean, variance, _ = batch_norm.normalise_by_own_statistics(
            x, None, None, eps=1e-5, activation="h_swish", out=out
        )
        results.append((mean, variance, out))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_split_covers_the_range_once_and_passes_errors_on(many_threads: None) -> None:
    torch.set_num_threads(3)
    covered: list[tuple[int, int]] = []

    def note(first: int, last: int) -> None:
        covered.append((first, last))

    threads.split(note, 7, 10**9)
    assert sorted(covered) == [(0, 2), (2, 4), (4, 7)]

    def fail(first: int, last: int) -> None:
        if last == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.split(fail, 7, 10**9)


@pytest.mark.usefixtures("many_threads")
def test_two_python_threads_train_at_once() -> None:
    torch.set_num_threads(2)
    expected = _training_step(*_net())
    found: dict[int, list[Tensor]] = {}

    def work(number: int) -> None:
        torch.set_num_threads(2)
        found[number] = _training_step(*_net())

    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for gradients in found.values():
        for one, other in zip(gradients, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert len(found) == 2


def _split_in_child(queue: Any) -> None:
    covered: list[int] = []
    threads.split(lambda first, last: covered.extend(range(first, last)), 4, 10**9)
    queue.put(sorted(covered))


@pytest.mark.usefixtures("many_threads")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    torch.set_num_threads(2)
    threads.split(lambda first, last: None, 4, 10**9)  # the parent's pool exists
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_split_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == [0, 1, 2, 3]
    child.join(timeout=30)


BROKEN = """
import sys, warnings
from pathlib import Path
Path(sys.argv[1], "numba.py").write_text(sys.argv[2])
sys.path.insert(0, sys.argv[1])
import torch
from supernet import Supernet, get_space, kernels
assert "numba" not in sys.modules
net = Supernet(get_space("mobilenet_v3_tiny"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        images = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        net.train()(images).sum().backward()
assert all(parameter.grad is not None for name, parameter in net.named_parameters() if "depthwise.conv" in name)
print([str(one.message) for one in caught])
"""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise ImportError('Numba needs NumPy 2.2\\nor less')", "ImportError: Numba needs NumPy 2.2 or less"),
        ("raise OSError('libllvmlite.so: cannot open')", "OSError: libllvmlite.so: cannot open"),
        ("", "ImportError: cannot import name 'njit' from 'numba'"),
    ],
)
def test_training_goes_on_with_one_warning_where_numba_is_broken(fault: str, reason: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BROKEN, str(tmp_path), fault]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    (message,) = ast.literal_eval(done.stdout)
    assert message.startswith(f"numba is installed but cannot be imported ({reason}")
    assert message.endswith(
        "; training goes on with PyTorch's slower operators; mend it with: pip install --force-reinstall numba"
    )
    assert "\n" not in message


def test_absent_numba_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    kernels.installed.cache_clear()
    try:
        assert not kernels.usable(torch.randn(2, 16, 4, 4))
    finally:
        kernels.installed.cache_clear()


def test_kernels_take_nothing_that_they_cannot() -> None:
    x = torch.randn(2, 16, 4, 4)
    assert kernels.usable(x)
    assert not kernels.usable(x.double())
    assert not kernels.usable(x[:, :15])
    assert not kernels.usable(x[:0])
    assert not kernels.usable(x[0])
    assert not kernels.usable(x.to("meta"))
    with FakeTensorMode() as mode:
        assert not kernels.usable(mode.from_tensor(x))
