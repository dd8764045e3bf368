"""A small service and what it serves, made in seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import numpy as np
import torch

from latency_tables import LatencyTable, Provenance, Row, macs
from search import fit_predictor
from service.server import prepare
from service.settings import Settings
from supernet import Supernet, get_space
from supernet.files import sha256_file, write_json
from supernet.images import ImagePack, Normalisation
from supernet.tensors import save_tensors

SPACE = get_space("mobilenet_v3_tiny")


def make_run(folder: Path, seed: int = 0) -> Path:
    """A run folder as training leaves it, of a supernet that was never trained: small, real, made in a second."""
    generator = torch.Generator().manual_seed(seed)
    save_tensors(folder / "supernet.safetensors", Supernet(SPACE, generator=generator).state_dict())
    normalisation = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    images = torch.randint(0, 256, (264, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (200,), generator=generator)
    ImagePack(images[:64], images[64:], labels, normalisation).save(folder / "images.safetensors")
    write_json(
        folder / "manifest.json",
        {
            "format": 1,
            "space": SPACE.name,
            "num_classes": 10,
            "class_names": [f"class {number}" for number in range(10)],
            "data": {"name": "noise", "digest": "0" * 64, "size": 32, "mean": [0.5] * 3, "std": [0.25] * 3},
            "settings": {"stages": [], "seed": seed},
            "status": "complete",
            "weights": {"file": "supernet.safetensors", "sha256": sha256_file(folder / "supernet.safetensors")},
            "images": {"file": "images.safetensors", "sha256": sha256_file(folder / "images.safetensors")},
        },
    )
    rng = np.random.default_rng(seed)
    configs = SPACE.decode(SPACE.sample_genotypes(rng, 40))
    accuracies = [0.2 + min(macs(SPACE.layers(config)) / 1e8, 0.7) for config in configs]
    fit_predictor(SPACE, configs, accuracies, kind="ridge").save(folder / "predictor")
    return folder


def make_table(device: str = "bench", *, scale: float = 1.0, drop: int = 0) -> LatencyTable:
    """A table whose rows follow the layers' multiply-adds."""
    rows = {spec.key: Row(scale * (0.01 + macs([spec]) / 1e7), 0.001, 9) for spec in SPACE.all_layers()}
    kept = dict(list(rows.items())[drop:])
    provenance = Provenance(
        {"cpu": "none"}, "formula", {"formula": "1"}, "fp32", "channels_last", 1, 1, date(2024, 1, 2).isoformat(), 9, 1
    )
    return LatencyTable(device, SPACE.name, 10, kept, provenance)


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """A service in a thread for the length of a `with` block; yields its URL."""
    server, listener, url = prepare(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()
        server.context.stop()


def small_settings(folder: Path, **changes: object) -> Settings:
    values = {"port": 0, "job_threads": 1, "search_population": 50, "search_generations": 40} | changes
    return Settings(data_dir=folder, **values)  # type: ignore[arg-type]
