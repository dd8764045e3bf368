"""One image file to pixels: any format, mode and orientation to uint8 RGB of one size.

Pillow decodes. torchvision's decoder (libjpeg-turbo too; the pixels are equal) takes a tenth less for a JPEG of 500x375
pixels, of which cropping leaves a few hundredths (`benchmarks/input_pipeline.py`). But a file several times larger than
needed Pillow decodes at a half, quarter or eighth of its size ("draft"), which torchvision cannot; and it reads every
format.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from supernet.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
LEAST_AREA, WIDEST = 0.08, 4 / 3
"""Of random crops: share of the image's area, and ratio of the sides."""
_TRIES = 10

LEAVE_OUT = "remove or replace it, or add --skip-corrupt, which leaves such files out"
"""What to do about an unreadable file, as a rule."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
Pixels = npt.NDArray[np.uint8]


def centre_box(width: int, height: int, share: float) -> Box:
    """The square in the middle whose side is `share` of the image's shorter side."""
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A box of 8 to 100 % of the area with sides at 3:4 to 4:3, anywhere in the image.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6. The first of ten draws that fits
    counts; where none does (a strip), the largest box in the middle that has an allowed ratio.
    """
    for area, slope in rng.random((_TRIES, 2)).tolist():
        pixels = width * height * (LEAST_AREA + (1 - LEAST_AREA) * area)
        ratio = WIDEST ** (2 * slope - 1)  # its logarithm is uniform: wide and tall are equally likely
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    widest, tallest = min(width, height * WIDEST), min(height, width * WIDEST)
    return (width - widest) / 2, (height - tallest) / 2, (width + widest) / 2, (height + tallest) / 2


def read_image(path: str, size: int, choose: Callable[[int, int], Box], advice: str = LEAVE_OUT) -> Pixels:
    """Cut a box out of an image and bring it to one size, antialiased (bilinear).

    Args:
        path: the file.
        size: side of the result, pixels.
        choose: (width, height) of the image as it is shown -> the box.
        advice: what to do where it is unreadable; part of the error's message.

    Returns:
        uint8 (size, size, 3). Grey and 16-bit pixels become RGB of 8 bits, transparent ones lie on white, and the
        camera's orientation (EXIF) is applied.

    Raises:
        DataError: the file is absent, truncated, not an image, or of a kind without a plain way to RGB.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual metadata, once a file; what cannot be read is an error
            with Image.open(path) as image:
                return _cut(image, size, choose)
    except Exception as error:  # Pillow's plugins raise nearly anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path!r} is not a readable image ({reason}); {advice}") from None


def _cut(image: Image.Image, size: int, choose: Callable[[int, int], Box]) -> Pixels:
    if image.format not in ("JPEG", "MPO"):
        image.load()  # some formats know, or apply, their orientation only then
    turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    width, height = image.size
    left, top, right, bottom = choose(height, width) if turned in _SIDEWAYS else choose(width, height)
    shrink = min(right - left, bottom - top) / size
    if shrink >= 2:
        image.draft(None, (math.ceil(width / shrink), math.ceil(height / shrink)))
    if turned in _SIDEWAYS:  # from here on the box is one of the image as it is stored
        left, top, right, bottom = top, left, bottom, right
    if turned in _FROM_THE_RIGHT:
        left, right = width - right, width - left
    if turned in _FROM_BELOW:
        top, bottom = height - bottom, height - top
    reduced = round(width / image.width)  # 1, 2, 4 or 8; a last pixel that stands for fewer stays
    box = (left / reduced, top / reduced, min(right / reduced, image.width), min(bottom / reduced, image.height))
    result = _rgb(image).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(result.transpose(_TURNS[turned]) if turned in _TURNS else result, np.uint8)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image with this EXIF orientation upright."""
_SIDEWAYS, _FROM_THE_RIGHT, _FROM_BELOW = (5, 6, 7, 8), (2, 3, 7, 8), (3, 4, 6, 7)
"""Orientations in which the stored columns run as the shown rows; in which stored columns, or rows, run backwards."""


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion cuts off at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies even where there is nothing to do
