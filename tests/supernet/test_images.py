from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from supernet.errors import CheckpointError
from supernet.images import ImagePack, Normalisation, batches, prepare
from supernet.tensors import save_tensors

PLAIN = Normalisation((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))


def test_pixels_are_scaled_and_normalised_by_channel() -> None:
    images = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    found = prepare(images, 4, PLAIN)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert found[0, :, 0, 0].tolist() == [2.0, 1.0, 0.5]


@pytest.mark.parametrize("resolution", [2, 6, 9])
def test_images_are_resized_with_antialiasing(resolution: int) -> None:
    images = torch.randint(0, 256, (2, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = prepare(images, resolution, Normalisation((0, 0, 0), (1, 1, 1)))
    size = (resolution, resolution)
    expected = F.interpolate(images.float() / 255, size, mode="bilinear", antialias=True)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("count", "sizes"), [(7, [3, 4]), (6, [3, 3]), (8, [3, 3, 2]), (1, [1]), (2, [2])])
def test_no_batch_is_a_single_image_where_there_are_more(count: int, sizes: list[int]) -> None:
    parts = list(batches(torch.arange(count), 3))
    assert [len(part) for part in parts] == sizes
    assert torch.cat(parts).tolist() == list(range(count))


@pytest.mark.parametrize(
    ("mean", "std"), [((0, 0), (1, 1, 1)), ((0, 0, 0), (1, 0, 1)), ((0, float("nan"), 0), (1, 1, 1))]
)
def test_a_normalisation_that_cannot_work_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(CheckpointError, match="expected three finite numbers each, std above 0"):
        Normalisation(mean, std)  # type: ignore[arg-type]


@pytest.mark.parametrize(("calibration", "held_out", "labels"), [(1, 2, 2), (4, 0, 0), (4, 2, 3)])
def test_images_that_no_evaluation_can_use_are_refused(
    tmp_path: Path, calibration: int, held_out: int, labels: int
) -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    path = tmp_path / "images.safetensors"
    ImagePack(images[:calibration], images[:held_out], torch.zeros(labels, dtype=torch.int64), PLAIN).save(path)
    with pytest.raises(CheckpointError, match="with at least 2 calibration images and 1 held-out image"):
        ImagePack.load(path, PLAIN)


def test_a_pack_reads_back_and_refuses_other_files(tmp_path: Path) -> None:
    pack = ImagePack(
        torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
        torch.ones(2, 3, 8, 8, dtype=torch.uint8),
        torch.tensor([1, 0]),
        PLAIN,
    )
    pack.save(tmp_path / "images.safetensors")
    found = ImagePack.load(tmp_path / "images.safetensors", PLAIN)
    assert torch.equal(found.holdout_images, pack.holdout_images)
    assert torch.equal(found.holdout_labels, pack.holdout_labels)
    save_tensors(tmp_path / "other.safetensors", {"weights": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="does not hold a run's images"):
        ImagePack.load(tmp_path / "other.safetensors", PLAIN)
