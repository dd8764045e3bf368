from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from torchvision.transforms import RandomResizedCrop

from supernet.errors import DataError
from supernet.training.image_files import Box, centre_box, random_box, read_image

ALL = partial(centre_box, share=1.0)


def _whole(width: int, height: int) -> Box:
    return 0, 0, width, height


def _photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours that differ everywhere."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".ppm", ".tif", ".jpg"])
@pytest.mark.parametrize(("mode", "expected"), [("RGB", (200, 100, 50)), ("L", (130, 130, 130)), ("1", (255,) * 3)])
def test_every_format_and_mode_becomes_rgb(
    suffix: str, mode: str, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    path = tmp_path / f"image{suffix}"
    colour = {"RGB": (200, 100, 50), "L": 130, "1": 1}[mode]
    Image.new(mode, (20, 30), colour).convert("RGB" if mode == "1" and suffix == ".webp" else mode).save(path)
    found = read_image(str(path), 8, ALL)
    assert found.shape == (8, 8, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= (4 if suffix in (".jpg", ".webp") else 0)


def test_cmyk_and_palette_images_keep_their_colours(tmp_path: Path) -> None:
    plain = Image.new("RGB", (16, 16), (220, 40, 90))
    for name, image in (("ink.jpg", plain.convert("CMYK")), ("palette.gif.png", plain.quantize(4))):
        image.save(tmp_path / name)
        found = read_image(str(tmp_path / name), 8, ALL)
        assert np.abs(found.astype(int) - (220, 40, 90)).max() <= 4


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    values = np.full((12, 12), 40000, np.uint16)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert set(read_image(str(tmp_path / name), 12, ALL).ravel().tolist()) == {40000 >> 8}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_on_white(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([9, 9, 9, 60, 60, 60])
        image.save(path, transparency=b"\xff\x00")
    else:
        Image.new(mode, (8, 8), (60, 60, 60, 0) if mode == "RGBA" else (60, 0)).save(path)
    assert read_image(str(path), 8, ALL).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
def test_images_are_read_as_they_are_shown(orientation: int, suffix: str, tmp_path: Path) -> None:
    """The same pixels as those of the upright copy, and the box counts in its coordinates."""
    stored = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    _photograph(60, 40).save(stored, exif=exif)
    with Image.open(stored) as image:
        ImageOps.exif_transpose(image).save(tmp_path / "upright.png", exif=b"")
    shown = []

    def corner(width: int, height: int) -> Box:
        shown.append((width, height))
        return 0, 0, width / 2, height / 3

    found, expected = (read_image(str(path), 16, corner) for path in (stored, tmp_path / "upright.png"))
    assert shown[0] == shown[1] == ((60, 40) if orientation < 5 else (40, 60))
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_decoded_at_a_reduced_size_looks_the_same(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    _photograph(1203, 905).save(tmp_path / "large.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "large.jpg") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "large.png", exif=b"")
    for seed in range(5):
        found, expected = (
            read_image(str(tmp_path / name), 48, partial(random_box, rng=np.random.default_rng(seed))).astype(int)
            for name in ("large.jpg", "large.png")
        )
        assert np.abs(found - expected).max() <= 3


def test_the_box_is_what_the_result_shows(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 30:40] = 255
    Image.fromarray(pixels).save(tmp_path / "square.png")
    assert read_image(str(tmp_path / "square.png"), 10, lambda w, h: (30, 10, 40, 20)).min() == 255
    assert read_image(str(tmp_path / "square.png"), 10, lambda w, h: (41, 0, 60, 19)).max() == 0


def test_pixels_of_an_image_that_has_the_size_already_are_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    assert np.array_equal(read_image(str(tmp_path / "image.png"), 32, ALL), pixels)


def test_a_truncated_jpeg_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    _photograph(200, 150).save(path)
    whole = path.read_bytes()
    for end in (0, 10, 300, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:end])
        with pytest.raises(
            DataError, match=r"cut\.jpg' is not a readable image \(.+\); remove or replace it, or add --skip-corrupt"
        ):
            read_image(str(path), 8, ALL)  # at an eighth of its size, as the check beforehand does


def test_files_that_are_no_plain_images_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not\nan image")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "range.tif")
    _photograph(90, 90).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:2000])
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match="is not a readable image") as caught:
            read_image(str(path), 8, ALL)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_broken_metadata_do_not_matter(tmp_path: Path) -> None:
    for number, exif in enumerate((b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 20)):
        Image.new("RGB", (8, 8), "white").save(tmp_path / f"{number}.jpg", exif=exif)
        assert read_image(str(tmp_path / f"{number}.jpg"), 8, ALL).min() == 255


def test_random_boxes_lie_inside_and_have_the_stated_areas_and_ratios() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        width, height = (int(side) for side in rng.integers(20, 400, 2))
        left, top, right, bottom = random_box(width, height, rng)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        w, h = right - left, bottom - top
        assert (w + 0.5) / (h - 0.5) >= 3 / 4
        assert (w - 0.5) / (h + 0.5) <= 4 / 3


@pytest.mark.parametrize(("width", "height"), [(1000, 10), (10, 1000), (1, 1), (1, 50)])
def test_strips_give_the_largest_allowed_box_in_the_middle(width: int, height: int) -> None:
    left, top, right, bottom = random_box(width, height, np.random.default_rng(0))
    assert left + right == pytest.approx(width)
    assert top + bottom == pytest.approx(height)
    assert min(right - left, bottom - top) == min(width, height)
    assert max(right - left, bottom - top) <= min(width, height) * 4 / 3 + 1e-9


def test_random_boxes_are_distributed_as_those_of_torchvision() -> None:
    """Named reference: torchvision's RandomResizedCrop.get_params; quartiles of area, ratio and place."""
    import torch

    width, height, draws = 500, 375, 4000
    rng = np.random.default_rng(1)
    ours = np.array([random_box(width, height, rng) for _ in range(draws)])
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = np.array(
            [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(draws)], dtype=float
        )
    top, left, h, w = theirs.T
    reference = np.stack([left, top, left + w, top + h], 1)

    def features(boxes: np.ndarray) -> np.ndarray:
        w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        area, slope = w * h / (width * height), np.log(w / h)
        return np.quantile(
            np.stack([area, slope, boxes[:, 0] / width, boxes[:, 1] / height]), (0.25, 0.5, 0.75), axis=1
        )

    assert np.abs(features(ours) - features(reference)).max() < 0.03  # the medians' standard errors are about 0.006


def test_the_centre_box_is_the_middle_square() -> None:
    assert centre_box(500, 375, 0.8) == (100, 37.5, 400, 337.5)
    assert centre_box(20, 30, 1.0) == (0, 5, 20, 25)
