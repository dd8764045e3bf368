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


def _coloured(seed: int = 0, **changes: float) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(60, 150, (64, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return images.float() / 255, Augmentation(**changes)(images, torch.Generator().manual_seed(seed))


def test_brightness_scales_each_image_by_its_own_factor_within_the_range() -> None:
    before, after = _coloured(brightness=0.25)
    factors = after / before
    assert torch.allclose(factors.amax((1, 2, 3)), factors.amin((1, 2, 3)), atol=1e-5)
    each = factors[:, 0, 0, 0]
    assert 0.75 <= each.min() < 0.85
    assert 1.15 < each.max() <= 1.25


def test_saturation_changes_the_distance_from_grey_and_not_the_grey() -> None:
    before, after = _coloured(saturation=0.5)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (before * weights).sum(1, keepdim=True)
    assert torch.allclose((after * weights).sum(1, keepdim=True), grey, atol=1e-5)
    ratio = (after - grey).square().sum((1, 2, 3)).sqrt() / (before - grey).square().sum((1, 2, 3)).sqrt()
    assert 0.5 <= ratio.min() < 0.7
    assert 1.3 < ratio.max() <= 1.5 + 1e-5


def test_colours_are_those_of_torchvision_for_the_same_factors() -> None:
    """Named reference: torchvision's adjust_brightness and adjust_saturation, on floats."""
    from torchvision.transforms.v2 import functional

    images = torch.randint(0, 256, (16, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = Augmentation(brightness=0.9, saturation=0.9)(images, torch.Generator().manual_seed(5))
    factors = 1 + 0.9 * (torch.rand((16, 2), generator=torch.Generator().manual_seed(5)) * 2 - 1).T
    for image, result, brightness, saturation in zip(images / 255, found, *factors.tolist(), strict=True):
        expected = functional.adjust_saturation(functional.adjust_brightness(image, brightness), saturation)
        assert torch.allclose(result, expected, atol=1e-3)  # torchvision writes 0.2989 for 0.299


def test_changed_colours_stay_on_the_scale() -> None:
    images = torch.randint(0, 256, (32, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = Augmentation(brightness=1.5, saturation=2.0)(images, torch.Generator())
    assert found.min() >= 0
    assert found.max() <= 1


def test_parts_of_a_batch_are_changed_as_in_the_whole_batch() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    change = Augmentation(flip=True, shift=0.1, brightness=0.3, saturation=0.3)
    whole = change(images, torch.Generator().manual_seed(1))
    parts = [change(images[2 * i : 2 * i + 2], torch.Generator().manual_seed(1), (i, 3)) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts), whole)
