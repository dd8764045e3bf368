from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.errors import ConfigError, DataError
from supernet.training.data import ImageData, load_data


def _images_of(data: ImageData, part: str) -> set[bytes]:
    return {image.numpy().tobytes() for image in getattr(data, f"{part}_images")}


def test_digits_fall_into_three_disjoint_parts_that_hold_every_class(digits: ImageData) -> None:
    parts = [_images_of(digits, part) for part in ("train", "holdout", "test")]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    labels = [digits.train_labels, digits.holdout_labels, digits.test_labels]
    assert sum(map(len, labels)) == 1797
    for part in labels:
        assert sorted(set(part.tolist())) == list(range(10))


def test_digits_are_the_same_every_time(digits: ImageData) -> None:
    again = load_data("digits")
    assert again.digest == digits.digest
    assert torch.equal(again.test_labels, digits.test_labels)


def test_normalisation_is_mean_and_deviation_of_the_training_part(digits: ImageData) -> None:
    pixels = digits.train_images.double() / 255
    found = digits.normalisation()
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert found.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_calibration_images_come_from_the_training_part(digits: ImageData) -> None:
    pack = digits.image_pack(64)
    assert len(pack.calibration_images) == 64
    assert {image.numpy().tobytes() for image in pack.calibration_images} <= _images_of(digits, "train")
    assert torch.equal(pack.holdout_images, digits.holdout_images)


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="unknown data set 'imagenet22k'; allowed: cifar10, digits, fashion-mnist, folder"
    ):
        load_data("imagenet22k")


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def fashion_root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 50), ("t10k", 20)):
        _write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        _write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


def test_fashion_mnist_reads_the_standard_files(fashion_root: Path) -> None:
    data = load_data("fashion-mnist", root=fashion_root)
    assert data.train_images.shape == (40, 3, 28, 28)
    assert data.holdout_labels.tolist() == list(np.arange(10)) or sorted(data.holdout_labels.tolist()) == list(
        range(10)
    )
    assert data.test_images.shape == (20, 3, 28, 28)
    assert data.class_names[9] == "ankle-boot"


def test_a_truncated_fashion_mnist_file_is_named(fashion_root: Path) -> None:
    path = fashion_root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz' is damaged: .*; fetch it again"):
        load_data("fashion-mnist", root=fashion_root)


def test_fashion_mnist_with_a_corrupt_or_unequal_file_is_refused(fashion_root: Path) -> None:
    path = fashion_root / "train-labels-idx1-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[15] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="is damaged"):
        load_data("fashion-mnist", root=fashion_root)
    _write_idx(path, np.arange(49) % 10)
    with pytest.raises(DataError, match="has 50 images for 49 labels"):
        load_data("fashion-mnist", root=fashion_root)


def test_absent_fashion_mnist_files_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not found in .*; install Debian's package dataset-fashion-mnist"):
        load_data("fashion-mnist", root=tmp_path)


def test_cifar10_without_its_files_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable CIFAR-10 .*; add --download"):
        load_data("cifar10", root=tmp_path)
    with pytest.raises(ConfigError, match="cifar10 needs --data-root"):
        load_data("cifar10")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def test_a_folder_of_images_becomes_a_data_set(folder: Path) -> None:
    data = load_data("folder", root=folder, size=24)
    assert data.class_names == ("cat", "dog")
    assert data.train_images.shape == (16, 3, 24, 24)
    assert data.holdout_labels.tolist() == [0, 0, 1, 1]
    assert data.test_labels.tolist() == [0] * 4 + [1] * 4


def test_a_folder_without_a_test_part_gives_one_up(folder: Path) -> None:
    data = load_data("folder", root=folder / "train", size=24)
    assert [len(data.train_labels), len(data.holdout_labels), len(data.test_labels)] == [12, 4, 4]


def test_a_corrupt_image_is_named(folder: Path) -> None:
    (folder / "train" / "cat" / "3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"3\.png' is not a readable image .*; remove or replace it"):
        load_data("folder", root=folder)


def test_a_folder_with_one_class_or_an_empty_class_is_refused(folder: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    (lonely / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="holds 1 class folder"):
        load_data("folder", root=lonely)
    for name in ("bird", "cow"):
        (folder / "train" / name).mkdir()
    with pytest.raises(DataError, match=r"bird' holds no image .*cow' holds no image .*; add images, or remove"):
        load_data("folder", root=folder)


def test_a_data_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder; check --data-root"):
        load_data("folder", root=tmp_path / "absent")


def test_a_class_with_too_few_images_for_three_parts_is_refused(folder: Path) -> None:
    for number in range(2, 10):
        (folder / "train" / "dog" / f"{number}.png").unlink()
    with pytest.raises(DataError, match="class number 1 has 2 image"):
        load_data("folder", root=folder)


def test_shares_of_the_test_part_are_the_whole(digits: ImageData) -> None:
    whole = [labels for _, labels in digits.test_batches(100)]
    shares = [[labels for _, labels in digits.test_batches(100, (part, 3))] for part in range(3)]
    assert [len(share) for share in shares] == [2, 1, 1]
    assert torch.equal(torch.cat([shares[0][0], shares[1][0], shares[2][0], shares[0][1]]), torch.cat(whole))
