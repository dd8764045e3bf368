"""How many training images a second does one core prepare, and how many cores keep a host of 8 GPUs busy?

Command: python benchmarks/input_pipeline.py   (about 3 minutes on two cores)
Result:  benchmarks/results/input_pipeline.json, printed as a table.

Images: 500x375 JPEGs of about 110 KB (the size and weight of a typical ImageNet file), cut at random places and scales
out of the two photographs inside scikit-learn, half of them mirrored. Batches of 64 at 224 pixels.

Compared in the same run, round by round in turn:
- ours: decode, random crop, mirror in the worker (uint8); colours and normalisation on the batch, on the device, which
  a GPU does in passing. `batch_part` says what that costs on one CPU thread.
- torchvision: ImageFolder and DataLoader with RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize.
- reference: the same with the reference's ColorJitter (brightness 32/255, saturation 0.5).

`cpu_ms` is processor time (of this process, workers=0), which depends least on what else runs on the machine;
`ours_over_this` is the median over rounds of the ratio of images a second. `decoders` compares Pillow, which ours uses,
with torchvision's decode_jpeg on the same files, both to full size.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, __version__
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.io import decode_jpeg

from supernet.files import write_json
from supernet.images import Normalisation, prepare
from supernet.training.data import FolderOptions, StreamedFolder, load_data
from supernet.training.workers import in_workers, usable_cores

RESULT = Path(__file__).parent / "results" / "input_pipeline.json"
SIZE, BATCH, QUALITY = 224, 64, 98
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEMANDS = (1000, 2500)
"""Images a second that one GPU asks for: assumptions, to be replaced by the GPU's own speed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=100_000, help="small files for the time that indexing takes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report: dict[str, Any] = {
            "question": __doc__.splitlines()[0],
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": usable_cores(),
                "load_at_start": round(os.getloadavg()[0], 1),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "pillow": __version__,
            },
            "seeds": "numpy 0 for the images, 0 for the order",
            "typical": pipelines(Path(folder) / "typical", args.images, args.rounds, (500, 375)),
            "large": pipelines(Path(folder) / "large", 64, args.rounds, (2000, 1500), workers=(0,)),
            "batch_part_cpu_ms_per_image": batch_part(),
            "start_of_workers_ms": start_of_workers(),
            "index": indexing(Path(folder) / "many", args.files),
        }
    per_core = 1000 / report["typical"]["ours"]["cpu_ms"]
    report["extrapolated_cores_for_8_gpus"] = {
        "assumption": "one worker a core, each as fast as one core here; not measured on such a host",
        **{f"{demand} images/s a GPU": round(8 * demand / per_core, 1) for demand in DEMANDS},
    }
    write_json(RESULT, report)
    for kind in ("typical", "large"):
        for name, found in report[kind].items():
            if isinstance(found, dict) and "cpu_ms" in found:
                speeds = "  ".join(f"{w} workers {f['median']:.0f}" for w, f in found["images_per_second"].items())
                print(f"{kind:<8} {name:<12} {found['cpu_ms']:6.2f} ms of CPU an image   images/s: {speeds}")
    print({name: report[name] for name in ("batch_part_cpu_ms_per_image", "start_of_workers_ms", "index")})
    print(report["extrapolated_cores_for_8_gpus"])


def pipelines(
    root: Path, images: int, rounds: int, shape: tuple[int, int], workers: tuple[int, ...] = (0, 1, 2)
) -> dict[str, Any]:
    """Images a second of the three pipelines by number of workers, and processor time an image."""
    kilobytes = write_images(root, images, shape)
    data = load_data("folder", root=root, size=SIZE, folder=FolderOptions(stream=True, workers=0))
    assert isinstance(data, StreamedFolder)
    count = data.train_count
    order = torch.from_numpy(np.random.default_rng(0).permutation(count))
    plain = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    to_tensor = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    jitter = [transforms.ColorJitter(brightness=32 / 255, saturation=0.5)]
    folders = {
        "torchvision": ImageFolder(str(root), transforms.Compose(plain + to_tensor)),
        "reference": ImageFolder(str(root), transforms.Compose(plain + jitter + to_tensor)),
    }

    def ours(workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        return replace(data, workers=workers).train_batches(order.split(BATCH), (0, 0, 0))

    def theirs(name: str) -> Callable[[int], Iterator[Any]]:
        sampler = order.tolist()  # as many images as ours has, by position in the whole folder
        return lambda workers: iter(DataLoader(folders[name], BATCH, sampler=sampler, num_workers=workers))

    candidates: dict[str, Callable[[int], Iterator[Any]]] = {"ours": ours} | {name: theirs(name) for name in folders}
    wall: dict[str, dict[int, list[float]]] = {name: {w: [] for w in workers} for name in candidates}
    cpu: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for number in workers:
            for name, start in candidates.items():
                began, used = time.perf_counter(), time.process_time()
                seen = sum(len(batch[0]) for batch in start(number))
                assert seen == count
                wall[name][number].append(count / (time.perf_counter() - began))
                if number == 0:
                    cpu[name].append((time.process_time() - used) / count * 1000)
    report: dict[str, Any] = {"images": count, "pixels": list(shape), "mean_kilobytes": round(kilobytes, 1)}
    report["decoders_cpu_ms"] = decoders([Path(data.train.path(number)) for number in range(64 if count > 64 else 16)])
    for name in candidates:
        pairs = {w: zip(wall["ours"][w], wall[name][w], strict=True) for w in workers}
        report[name] = {
            "ours_over_this": {str(w): round(statistics.median(a / b for a, b in pairs[w]), 2) for w in workers},
            "cpu_ms": round(statistics.median(cpu[name]), 3),
            "cpu_ms_range": [round(min(cpu[name]), 3), round(max(cpu[name]), 3)],
            "images_per_second": {
                str(number): {
                    "median": round(statistics.median(speeds), 1),
                    "range": [round(min(speeds), 1), round(max(speeds), 1)],
                }
                for number, speeds in wall[name].items()
            },
        }
    return report


def write_images(root: Path, count: int, shape: tuple[int, int]) -> float:
    """Two classes of JPEGs; returns their mean size in kilobytes."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    sizes = []
    for number in range(count):
        photograph = photographs[number % 2]
        width = int(rng.integers(450, photograph.width + 1))
        height = min(photograph.height, width * 3 // 4)
        left = int(rng.integers(photograph.width - width + 1))
        top = int(rng.integers(photograph.height - height + 1))
        image = photograph.resize(shape, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        if number % 4 > 1:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = root / ("china", "flower")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=QUALITY)
        sizes.append(path.stat().st_size / 1000)
    return float(np.mean(sizes))


def decoders(paths: list[Path]) -> dict[str, float]:
    """Processor time an image to decode whole files from memory, in turn; the pixels must be equal."""
    files = [path.read_bytes() for path in paths]

    def pillow(file: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(file)))

    def by_torchvision(file: bytes) -> np.ndarray:
        return decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8)).permute(1, 2, 0).numpy()

    assert all(np.array_equal(pillow(file), by_torchvision(file)) for file in files[:4])
    times: dict[str, list[float]] = {"pillow": [], "torchvision": []}
    for _ in range(5):
        for name, decode in (("pillow", pillow), ("torchvision", by_torchvision)):
            used = time.process_time()
            for file in files:
                decode(file)
            times[name].append((time.process_time() - used) / len(files) * 1000)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def batch_part() -> float:
    """Colours, resize to 192 pixels and normalisation of a batch: processor time an image on one thread."""
    from supernet.training.streamed import PHOTOGRAPHS

    images = torch.randint(
        0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    times = []
    for _ in range(5):
        used = time.process_time()
        prepare(PHOTOGRAPHS(images, torch.Generator()), 192, Normalisation(MEAN, STD))
        times.append((time.process_time() - used) / BATCH * 1000)
    return round(statistics.median(times), 3)


def start_of_workers() -> dict[str, float]:
    """What a new epoch waits for two processes that do nothing."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        assert list(in_workers(abs, range(4), 2)) == [0, 1, 2, 3]
        times.append((time.perf_counter() - began) * 1000)
    return {"median": round(statistics.median(times), 1), "range": [round(min(times), 1), round(max(times), 1)]}


def indexing(root: Path, files: int) -> dict[str, Any]:
    """Seconds to list and stat that many files in 100 classes, to split them and to take their digest."""
    for number in range(100):
        (root / f"class{number:03}").mkdir(parents=True)
    for number in range(files):
        (root / f"class{number % 100:03}" / f"image_{number:08}.jpg").write_bytes(b"x")
    times = []
    for _ in range(3):
        began = time.perf_counter()
        data = load_data("folder", root=root, size=SIZE, folder=FolderOptions(stream=True))
        assert data.digest
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    return {
        "files": files,
        "seconds": round(seconds, 2),
        "range": [round(min(times), 2), round(max(times), 2)],
        "extrapolated_seconds_for_1281167_files": round(seconds * 1_281_167 / files, 1),
        "place": "local disk, names in the system's cache",
    }


if __name__ == "__main__":
    main()
