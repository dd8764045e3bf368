"""Folders of images: what is in them, which part each file belongs to, and batches streamed from disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernet.errors import ConfigError, DataError
from supernet.training import folder as folder_module
from supernet.training.data import (
    FolderOptions,
    ImageData,
    StreamedFolder,
    TrainingData,
    load_data,
    recorded_source,
    reload_data,
)

STREAM = FolderOptions(stream=True, workers=0)
CLASSES = ("cat", "dog", "fox")


def _write(path: Path, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((48, 36), Image.Resampling.BICUBIC).save(path, quality=90)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, 12 training and 4 test images each; not to be changed."""
    root = tmp_path_factory.mktemp("pictures")
    seed = 0
    for part, count in (("train", 12), ("val", 4)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                _write(root / part / name / f"{number}.jpg", seed)
                seed += 1
    return root


@pytest.fixture
def copied(pictures: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(pictures, tmp_path / "pictures"))


def _load(root: Path, options: FolderOptions = STREAM, size: int = 24) -> StreamedFolder:
    data = load_data("folder", root=root, size=size, folder=options)
    assert isinstance(data, StreamedFolder)
    return data


def _names(data: StreamedFolder) -> dict[str, set[str]]:
    parts = {"train": data.train, "holdout": data.holdout, "test": data.test}
    return {what: {index.name(number) for number in range(len(index))} for what, index in parts.items()}


# -- what is where -----------------------------------------------------------------------------------------------


def test_parts_are_disjoint_and_hold_every_file_and_class(pictures: Path) -> None:
    data = _load(pictures)
    parts = _names(data)
    assert data.class_names == CLASSES
    everything = {str(path.relative_to(pictures)) for path in pictures.rglob("*.jpg")}
    assert set.union(*parts.values()) == everything
    assert sum(map(len, parts.values())) == len(everything)
    assert all(name.startswith("val/") for name in parts["test"])
    for index in (data.train, data.holdout, data.test):
        assert set(index.labels.tolist()) == {0, 1, 2}
        for number in range(len(index)):
            assert f"/{CLASSES[index.labels[number]]}/" in index.path(number)
    assert (data.train_count, data.test_count, data.size) == (30, 12, 24)


def test_streamed_and_in_memory_parts_are_the_same(pictures: Path) -> None:
    streamed = _load(pictures)
    memory = load_data("folder", root=pictures, size=24, folder=FolderOptions(stream=False, workers=0))
    assert isinstance(memory, ImageData)
    for index, labels in ((streamed.train, memory.train_labels), (streamed.holdout, memory.holdout_labels)):
        assert torch.equal(torch.from_numpy(index.labels), labels)
    with Image.open(streamed.train.path(0)) as image:
        square = image.resize((24, 24), Image.Resampling.BILINEAR, box=(6, 0, 42, 36))
    assert np.array_equal(memory.train_images[0].permute(1, 2, 0).numpy(), np.asarray(square))


def test_a_folder_without_a_test_part_gives_one_up(pictures: Path) -> None:
    data = _load(pictures / "train")
    assert [data.train_count, len(data.holdout), data.test_count] == [24, 6, 6]


def test_hidden_files_and_other_files_are_no_images_and_folders_below_are_searched(copied: Path) -> None:
    before = _load(copied)
    cats = copied / "train" / "cat"
    for name in ("._0.jpg", ".DS_Store", "notes.txt", "Thumbs.db"):
        (cats / name).write_bytes(b"no image")
    (cats / ".cache").mkdir()
    (cats / ".cache" / "0.jpg").write_bytes(b"no image")
    assert _load(copied).digest == before.digest
    (cats / "more").mkdir()
    _write(cats / "more" / "IMAGE.JPG", 99)
    parts = _names(_load(copied))
    assert "train/cat/more/IMAGE.JPG" in parts["train"] | parts["holdout"]


def test_file_names_may_be_any_bytes(copied: Path) -> None:
    import os

    weird = os.fsdecode(b"train/cat/\xff \xe9\nnew.jpg")
    _write(copied / "train" / "cat" / "spare.jpg", 7)
    (copied / "train" / "cat" / "spare.jpg").rename(copied / weird)
    data = _load(copied)
    parts = _names(data)
    assert weird in parts["train"] | parts["holdout"]
    assert sum(len(labels) for _, labels in data.train_batches([torch.arange(data.train_count)], (0, 0, 0))) == 30


@pytest.mark.parametrize("change", ["rename", "resize", "remove", "relabel"])
def test_the_digest_changes_with_names_sizes_and_labels(change: str, copied: Path) -> None:
    before, file = _load(copied).digest, copied / "train" / "cat" / "3.jpg"
    assert _load(copied).digest == before
    if change == "rename":
        file.rename(file.with_name("x.jpg"))
    elif change == "resize":
        file.write_bytes(file.read_bytes() + b"\0")
    elif change == "remove":
        file.unlink()
    else:
        file.rename(copied / "train" / "dog" / "33.jpg")
    assert _load(copied).digest != before


def test_the_digest_does_not_depend_on_where_the_folder_is(pictures: Path, copied: Path) -> None:
    assert _load(pictures).digest == _load(copied).digest


# -- batches -----------------------------------------------------------------------------------------------------


def _epoch(data: StreamedFolder, seed: tuple[int, int, int] = (0, 1, 2), start: int = 0) -> list[torch.Tensor]:
    order = torch.randperm(data.train_count, generator=torch.Generator().manual_seed(3))
    return [images for images, _ in data.train_batches(order.split(7)[start:], seed)]


def test_batches_have_the_stated_shape_type_and_labels(pictures: Path) -> None:
    data = _load(pictures)
    chosen = torch.tensor([29, 0, 15, 0])
    [(images, labels)] = data.train_batches([chosen], (0, 0, 0))
    assert (images.shape, images.dtype) == ((4, 3, 24, 24), torch.uint8)
    assert labels.dtype == torch.int64
    assert labels.tolist() == data.train.labels[chosen.numpy()].tolist()
    assert torch.equal(images[1], images[3])


def test_batches_do_not_depend_on_the_number_of_workers(pictures: Path) -> None:
    alone = _epoch(_load(pictures))
    for workers in (1, 3):
        with_workers = _epoch(replace(_load(pictures), workers=workers))
        assert all(torch.equal(a, b) for a, b in zip(alone, with_workers, strict=True))


def test_an_epoch_entered_in_the_middle_goes_on_as_the_whole_one(pictures: Path) -> None:
    whole, rest = _epoch(_load(pictures)), _epoch(_load(pictures), start=2)
    assert len(rest) == len(whole) - 2
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_a_crop_depends_on_the_image_and_not_on_its_batch(pictures: Path) -> None:
    """So ranks that share a batch see together what one process would see."""
    data = _load(pictures)
    [(whole, _)] = data.train_batches([torch.arange(8)], (5, 0, 0))
    halves = [images for images, _ in data.train_batches([torch.arange(4), torch.arange(4, 8)], (5, 0, 0))]
    assert torch.equal(whole, torch.cat(halves))


def test_run_stage_and_epoch_each_change_the_crops(pictures: Path) -> None:
    data = _load(pictures)
    seen = {torch.cat(_epoch(data, seed)).numpy().tobytes() for seed in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))}
    assert len(seen) == 4


def test_half_of_the_crops_are_mirrored(copied: Path) -> None:
    """An image that is dark on its left stays so in about half of 300 crops."""
    ramp = np.broadcast_to(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], (36, 48, 3))
    data = _load(copied)
    Image.fromarray(np.ascontiguousarray(ramp)).save(data.train.path(0), format="PNG")
    kept = sum(
        bool(images[0, 0, :, 0].sum() < images[0, 0, :, -1].sum())
        for epoch in range(300)
        for images, _ in data.train_batches([torch.tensor([0])], (0, 0, epoch))
    )
    assert 115 <= kept <= 185  # four standard deviations of 8.7


def test_streaming_leaves_the_global_generators_alone(pictures: Path) -> None:
    before = torch.get_rng_state()
    _epoch(_load(pictures))
    assert torch.equal(before, torch.get_rng_state())


def test_test_and_held_out_batches_are_fixed_centre_crops_in_order(pictures: Path) -> None:
    data = _load(pictures)
    images, labels = (torch.cat(parts) for parts in zip(*data.test_batches(5), strict=True))
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    side, left, top = 0.875 * 36, (48 - 0.875 * 36) / 2, (36 - 0.875 * 36) / 2
    with Image.open(data.test.path(2)) as image:
        square = image.resize((24, 24), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    assert np.array_equal(images[2].permute(1, 2, 0).numpy(), np.asarray(square))
    pack = data.image_pack(8)
    assert torch.equal(torch.cat([images for images, _ in data.holdout_batches(4)]), pack.holdout_images)


def test_the_fixed_images_are_those_of_their_parts_and_always_the_same(pictures: Path) -> None:
    data, again = _load(pictures), _load(pictures)
    pack, other = data.image_pack(10), again.image_pack(10)
    assert torch.equal(pack.calibration_images, other.calibration_images)
    assert torch.equal(pack.holdout_labels, torch.from_numpy(data.holdout.labels))
    assert pack.calibration_images.shape == (10, 3, 24, 24)
    assert pack.normalisation == data.normalisation() == again.normalisation()


def test_the_normalisation_is_that_of_the_training_part(pictures: Path) -> None:
    """With fewer images than the sample holds, all count."""
    data = _load(pictures)
    pixels = data.image_pack(data.train_count).calibration_images.double() / 255
    assert data.normalisation().mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert data.normalisation().std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_data_in_memory_and_on_disk_serve_the_same_protocol(pictures: Path, digits: ImageData) -> None:
    kinds: list[TrainingData] = [digits, _load(pictures)]
    for data in kinds:
        chosen = torch.tensor([3, 1])
        [(images, labels)] = data.train_batches([chosen], (0, 0, 0))
        assert images.shape == (2, 3, data.size, data.size)
        assert labels.max() < len(data.class_names)
        for batches, count in (
            (data.test_batches(200), data.test_count),
            (data.holdout_batches(200), len(data.image_pack(2).holdout_labels)),
        ):
            assert sum(len(labels) for _, labels in batches) == count
        augmented = data.augmentation(images, torch.Generator())
        assert augmented.shape == images.shape
        assert augmented.dtype == torch.float32


def test_batches_in_memory_are_plain_selections(digits: ImageData) -> None:
    chosen = [torch.tensor([5, 2]), torch.tensor([0])]
    found = list(digits.train_batches(chosen, (0, 0, 0)))
    assert all(torch.equal(images, digits.train_images[pick]) for (images, _), pick in zip(found, chosen, strict=True))
    assert all(torch.equal(labels, digits.train_labels[pick]) for (_, labels), pick in zip(found, chosen, strict=True))


# -- unreadable files --------------------------------------------------------------------------------------------


def _damage(root: Path) -> list[str]:
    """Three files, each in its own way."""
    truncated, text, empty = (root / name for name in ("train/cat/1.jpg", "train/dog/5.jpg", "val/fox/2.jpg"))
    truncated.write_bytes(truncated.read_bytes()[:-100])
    text.write_text("no image")
    empty.write_bytes(b"")
    return [str(path.relative_to(root)) for path in (truncated, text, empty)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_stops_its_batch_with_its_name(workers: int, copied: Path) -> None:
    data = replace(_load(copied), workers=workers)
    path = Path(data.train.path(4))
    path.write_bytes(path.read_bytes()[:-50])
    batches = data.train_batches([torch.tensor([0, 1]), torch.tensor([3, 4])], (0, 0, 0))
    next(batches)
    with pytest.raises(
        DataError, match=r"is not a readable image .*; leave it in its place .*--resume RUN --skip-corrupt, which takes"
    ) as error:
        next(batches)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_vanishes_during_training_is_named(copied: Path) -> None:
    data = _load(copied)
    Path(data.train.path(0)).unlink()
    with pytest.raises(DataError, match=r"\.jpg' is not a readable image \(.*No such file"):
        list(data.train_batches([torch.tensor([0])], (0, 0, 0)))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_left_out_on_request_and_named(stream: bool, workers: int, copied: Path) -> None:
    intact, damaged = _load(copied), _damage(copied)
    data = load_data("folder", root=copied, size=24, folder=FolderOptions(stream, workers, skip_corrupt=True))
    assert list(data.skipped) == sorted(damaged)
    assert data.test_count == 11
    held_out = len(data.image_pack(2).holdout_labels)
    assert data.train_count + held_out == 34
    if isinstance(data, StreamedFolder):
        for what, names in _names(intact).items():
            assert _names(data)[what] == names - set(damaged)  # all others stay in the part where they were


@pytest.mark.parametrize("stream", [True, False])
def test_a_run_is_resumed_without_the_same_files_and_no_new_check(
    stream: bool, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _damage(copied)
    data = load_data("folder", root=copied, size=24, folder=FolderOptions(stream, 0, skip_corrupt=True))
    source = json.loads(json.dumps(recorded_source(data, copied, 24)))
    monkeypatch.setattr(folder_module, "unreadable", None)
    again = reload_data("folder", source, workers=0)
    assert type(again) is type(data)
    assert (again.digest, again.skipped) == (data.digest, data.skipped)
    order = [torch.arange(data.train_count)]
    (first, _), (second, _) = next(data.train_batches(order, (0, 0, 0))), next(again.train_batches(order, (0, 0, 0)))
    assert torch.equal(first, second)


def test_runs_from_before_folders_were_streamed_are_still_resumed(pictures: Path) -> None:
    again = reload_data("folder", {"root": str(pictures), "size": 24}, workers=0)
    assert isinstance(again, ImageData)
    assert reload_data("digits", {"root": None, "size": 32}).name == "digits"


def test_a_part_that_would_lose_a_class_is_refused(copied: Path) -> None:
    for path in (copied / "val" / "fox").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"without 4 unreadable .*the test part has no image left of 'fox'; restore some"
    ):
        _load(copied, replace(STREAM, skip_corrupt=True))


def _spoil(path: Path) -> None:
    """Unreadable, but as long as before, as a bad disk leaves it."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_replaced_file_is_as_if_it_were_a_copy_of_the_next_of_its_class(workers: int, copied: Path) -> None:
    data = replace(_load(copied), workers=workers)
    first, last = (int(np.flatnonzero(data.train.labels == 1)[place]) for place in (0, -1))
    for spoilt, instead in ((first, first + 1), (last, first + 1)):  # after the last comes the first sound one
        shutil.copy(data.train.path(instead), data.train.path(spoilt))
    with_copies = _epoch(data)
    for number in (first, last):
        _spoil(Path(data.train.path(number)))
    repaired = data.replacing_unreadable()
    assert set(repaired.replaced) == {data.train.name(first), data.train.name(last)}
    assert all(torch.equal(a, b) for a, b in zip(with_copies, _epoch(repaired), strict=True))
    assert (repaired.digest, repaired.train_count) == (data.digest, data.train_count)
    again = reload_data("folder", json.loads(json.dumps(recorded_source(repaired, copied, 24))), workers=workers)
    assert isinstance(again, StreamedFolder)
    assert again.replaced == repaired.replaced


def test_a_class_without_a_readable_image_cannot_be_replaced(copied: Path) -> None:
    data = _load(copied)
    for number in np.flatnonzero(data.train.labels == 2).tolist():
        _spoil(Path(data.train.path(number)))
    with pytest.raises(DataError, match=r"no training image of class 'fox' in .* is readable; restore some of them"):
        data.replacing_unreadable()


def test_only_the_parts_to_be_used_are_checked(copied: Path) -> None:
    *_, in_test = _damage(copied)
    data = _load(copied, replace(STREAM, skip_corrupt=True, checked=("test",)))
    assert data.skipped == (in_test,)
    assert sum(len(labels) for _, labels in data.test_batches(5)) == 11


@pytest.mark.parametrize("share", [None, 0.5])
def test_held_in_memory_or_not_images_of_one_centre_share_are_equal(share: float | None, pictures: Path) -> None:
    chosen = replace(STREAM, centre_share=share)
    streamed = _load(pictures, chosen)
    memory = load_data("folder", root=pictures, size=24, folder=replace(chosen, stream=False))
    assert (streamed.centre_share, memory.centre_share) == (share or 0.875, share or 1.0)
    pairs = zip(streamed.test_batches(5), memory.test_batches(5), strict=True)
    assert all(torch.equal(a, b) for (a, _), (b, _) in pairs) == (share is not None)


# -- what is refused, and what is chosen -------------------------------------------------------------------------


def test_faulty_class_folders_are_all_named(copied: Path) -> None:
    shutil.rmtree(copied / "val" / "fox")
    (copied / "val" / "elk").mkdir()
    with pytest.raises(DataError, match=r"elk' is not a class of the training part; .*fox' holds no image .*jpg"):
        _load(copied)


def test_a_test_part_without_class_folders_is_refused(copied: Path) -> None:
    shutil.rmtree(copied / "val")
    (copied / "val").mkdir()
    _write(copied / "val" / "00001.jpg", 0)
    with pytest.raises(DataError, match=r"val' holds no class folder; sort its images into one subfolder a class"):
        _load(copied)


@pytest.mark.parametrize("content", ["images", "classes of another set", "nothing"])
def test_a_test_folder_without_labels_gives_way_to_the_labelled_one(content: str, copied: Path) -> None:
    """As ImageNet comes: the images of `test` have no published labels, those of `val` have."""
    before = _names(_load(copied))["test"]
    (copied / "test").mkdir()
    if content == "images":
        _write(copied / "test" / "00001.jpg", 0)
    elif content == "classes of another set":
        (copied / "test" / "images").mkdir()
        _write(copied / "test" / "images" / "00001.jpg", 0)
    assert _names(_load(copied))["test"] == before


def test_of_two_labelled_test_folders_the_one_called_test_counts(copied: Path) -> None:
    shutil.copytree(copied / "val", copied / "test")
    assert all(name.startswith("test/") for name in _names(_load(copied))["test"])


def test_one_class_is_refused(copied: Path) -> None:
    for name in ("dog", "fox"):
        shutil.rmtree(copied / "train" / name)
    with pytest.raises(DataError, match=r"holds 1 class folder.*; at least 2 are needed"):
        _load(copied)


def test_a_folder_is_streamed_where_its_images_exceed_the_memory_for_it(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 48 * 3 * 24 * 24
    for memory, kind in ((needed, ImageData), (needed - 1, StreamedFolder)):
        monkeypatch.setattr(folder_module, "MEMORY_BYTES", memory)
        assert type(load_data("folder", root=pictures, size=24, folder=FolderOptions(workers=0))) is kind


def test_options_for_folders_are_refused_with_other_data() -> None:
    with pytest.raises(ConfigError, match="--skip-corrupt are for --data folder, not 'digits'; leave them out"):
        load_data("digits", folder=FolderOptions(skip_corrupt=True))


def test_a_negative_number_of_workers_is_refused(pictures: Path) -> None:
    with pytest.raises(ConfigError, match=r"--workers is -2; allowed: 0 .* or more"):
        _load(pictures, FolderOptions(workers=-2))
