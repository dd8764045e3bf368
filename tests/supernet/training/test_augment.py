from __future__ import annotations

import torch

from supernet.training.augment import Augmentation


def _images() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_no_augmentation_keeps_the_pixels() -> None:
    images = _images()
    assert torch.allclose(Augmentation()(images, torch.Generator()) * 255, images.float(), atol=1e-3)


def test_flip_mirrors_left_to_right_some_of_the_images() -> None:
    images = _images()
    found = Augmentation(flip=True)(images, torch.Generator().manual_seed(3)) * 255
    kinds = {
        "kept" if torch.allclose(new, old.float(), atol=1e-3) else "mirrored"
        for new, old in zip(found, images, strict=True)
        if torch.allclose(new, old.float(), atol=1e-3) or torch.allclose(new, old.float().flip(-1), atol=1e-3)
    }
    assert kinds == {"kept", "mirrored"}


def test_a_shift_moves_the_picture_by_at_most_its_share() -> None:
    """A bright point in the middle of 21 pixels stays within 10 % of the side, and does move."""
    images = torch.zeros(50, 3, 21, 21, dtype=torch.uint8)
    images[:, :, 10, 10] = 255
    found = Augmentation(shift=0.1)(images, torch.Generator().manual_seed(0))
    rows = torch.arange(21.0)
    centre = (found.sum((1, 3)) * rows).sum(1) / found.sum((1, 2, 3))
    assert (centre - 10).abs().max() <= 2.1 + 1e-4
    assert (centre - 10).abs().max() > 1


def test_the_same_generator_gives_the_same_images() -> None:
    change = Augmentation(flip=True, shift=0.1, scale=0.1, rotate_degrees=10)
    first, second = (change(_images(), torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, change(_images(), torch.Generator().manual_seed(5)))
