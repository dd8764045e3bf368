"""An ONNX file as a torch module, so that whatever takes a network takes an exported one: accuracy, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernet.errors import CheckpointError
from supernet.onnx_graph import require_onnx


class OnnxNetwork(nn.Module):
    """A network that ONNX Runtime runs on the CPU.

    Args:
        source: the file, or its content.
        threads: threads inside of an operator.

    Attributes:
        metadata: the facts in the file.

    Raises:
        MissingPackageError: the extra `onnx` is not installed.
        CheckpointError: ONNX Runtime cannot load the file.
    """

    def __init__(self, source: Path | bytes, *, threads: int = 1) -> None:
        super().__init__()
        require_onnx()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        where = "the model" if isinstance(source, bytes) else repr(str(source))
        try:
            self._session: Any = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own classes, several, of no common base
            raise CheckpointError(f"ONNX Runtime cannot load {where}: {str(error).splitlines()[0][:300]}") from None
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._input = self._session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of float images (N, 3, H, W)."""
        return torch.from_numpy(self._session.run(None, {self._input: images.contiguous().numpy()})[0])
