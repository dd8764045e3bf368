"""A run goes on with the images that it was started with; unreadable files of a streamed one can be replaced."""

from __future__ import annotations

from pathlib import Path

from supernet.errors import CheckpointError, ConfigError
from supernet.files import write_json
from supernet.runs import MANIFEST, RunFolder
from supernet.training.data import TrainingData, reload_data
from supernet.training.streamed import StreamedFolder


def require_same_images(run: RunFolder, data: TrainingData) -> None:
    """Refuse other images than the run's.

    Raises:
        CheckpointError: their digest is not the manifest's.
    """
    if run.manifest["data"]["digest"] == data.digest:
        return
    streamed = isinstance(data, StreamedFolder)
    how = " (names or sizes of files differ; an unreadable file has to stay in its place)" if streamed else ""
    raise CheckpointError(
        f"the images of data set {data.name!r} are not those that {str(run.path)!r} was started with{how}; "
        "restore them, or start another run"
    )


def replace_unreadable(path: Path, workers: int | None = None) -> StreamedFolder:
    """Load the images of a streamed run in training, replace the unreadable ones, and say so in the run's manifest.

    In place of each, from now on, the training reads the next readable image of its class, with the crop of the image
    that it stands for. The parts, the order of images and the digest do not change.

    Args:
        path: the run's folder; call within `exclusive(path)`.
        workers: processes that decode; None: as many as usual.

    Raises:
        ConfigError: the run is not of a streamed folder, or its training has ended.
        CheckpointError: the images are not the run's.
        DataError: the folder cannot be read, or a class has no readable training image.
    """
    run = RunFolder(path)
    recorded = run.manifest["data"]
    if run.complete:
        raise ConfigError(f"the training in {str(path)!r} has ended, no image is left to replace; omit --skip-corrupt")
    if not recorded["source"].get("stream", False):
        raise ConfigError(
            f"--resume with --skip-corrupt is for streamed folders; the {recorded['name']!r} images of {str(path)!r} "
            "were all read when it was started: restore those that have changed since, or start another run"
        )
    data = reload_data(recorded["name"], recorded["source"], workers=workers)
    require_same_images(run, data)
    assert isinstance(data, StreamedFolder)
    data = data.replacing_unreadable()
    source = recorded["source"] | {"replaced": list(data.replaced)}
    write_json(path / MANIFEST, run.manifest | {"data": recorded | {"source": source}})
    return data
