"""Compact models as files: weights and plan, and programs for other runtimes that need none of the training code.

A folder holds ``weights.safetensors``, ``plan.json``, and on demand ``model.pt2`` (torch.export) and ``model.onnx``.
Each program is loaded again and compared before it appears; no file holds pickled classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruning.compact_modules import apply_plan
from pruning.compact_program import at_least_two
from pruning.construct import other_inputs, outputs_of
from pruning.plan import Plan
from pruning.trace import copy_of, evaluating
from supernet.errors import CheckpointError, ConfigError, ExportError, MissingPackageError, one_of
from supernet.files import atomic_path, read_json, write_json
from supernet.tensors import load_into, load_tensors, save_tensors

WEIGHTS, PLAN = "weights.safetensors", "plan.json"
PROGRAMS = {"torch-export": "model.pt2", "onnx": "model.onnx"}
"""Formats of programs, and their files."""

MAX_ERROR = 1e-4
"""Largest difference of a program's outputs over the largest output."""


def save_compact(
    folder: Path, model: nn.Module, plan: Plan, example_inputs: Any, *, formats: Sequence[str] = ("torch-export",)
) -> list[Path]:
    """Write a compact model.

    Args:
        folder: is made where it does not exist.
        model: as `construct_subnet` gave it, or trained on since.
        plan: likewise.
        example_inputs: a tensor or the positional arguments of its forward; the programs take batches of any size
            where the model does.
        formats: programs to write beside weights and plan: ``torch-export``, ``onnx``.

    Returns:
        The files that were written.

    Raises:
        ConfigError: an unknown format.
        ExportError: a program does not compute what the model computes, or cannot be written.
        MissingPackageError: ``onnx`` without the extra ``onnx``.
        StorageError: the folder cannot be written.
    """
    unknown = [name for name in formats if name not in PROGRAMS]
    if unknown:
        raise ConfigError(one_of("format", unknown[0], list(PROGRAMS)))
    folder = Path(folder)
    inputs = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    inputs = at_least_two(inputs)
    copy = copy_of(model).cpu()
    inputs = tuple(pytree.tree_map(lambda item: item.cpu() if isinstance(item, Tensor) else item, inputs))
    written = [folder / WEIGHTS, folder / PLAN]
    save_tensors(written[0], copy.state_dict())
    write_json(written[1], plan.to_dict())
    for name in formats:
        target = folder / PROGRAMS[name]
        with evaluating(copy), torch.no_grad(), atomic_path(target) as temporary:
            run = (_write_program if name == "torch-export" else _write_onnx)(copy, inputs, temporary)
            error = max(_relative(run(batch), outputs_of(copy(*batch))) for batch in (inputs, other_inputs(inputs)))
            _require_equal(error, target)
        written.append(target)
    return written


def load_compact(path: Path, model: nn.Module | None = None) -> nn.Module:
    """Read a compact model.

    Args:
        path: the folder, or a program in it.
        model: an instance of the full model; None: the exported program is read, for evaluation, which needs no code
            of the model.

    Raises:
        CheckpointError: files are missing, damaged, or of another model.
    """
    path = Path(path)
    if model is None:
        return _load_program(path if path.suffix == ".pt2" else path / PROGRAMS["torch-export"])
    plan = load_plan(path)
    if plan.form != "modules":
        raise CheckpointError(
            f"the plan in {str(path)!r} is of the form {plan.form!r}, which modules cannot take; load its program "
            f"instead: load_compact({str(path)!r})"
        )
    try:
        compact = apply_plan(model, plan)
    except (AttributeError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"the plan in {str(path)!r} was made for another model: {error}") from None
    load_into(compact, load_tensors(path / WEIGHTS), str(path / WEIGHTS))
    return compact.eval()


def load_plan(folder: Path) -> Plan:
    """Read a folder's plan."""
    return Plan.from_dict(read_json(Path(folder) / PLAN), str(Path(folder) / PLAN))


def program_as_onnx(program: Path, target: Path, example_inputs: Any) -> None:
    """Write an exported program, as `save_compact` left it, as ONNX too; nothing of the model's code is needed.

    Args:
        program: the file ``model.pt2``.
        target: the file to write; appears only if it computes what the program computes.
        example_inputs: as for `save_compact`.

    Raises:
        CheckpointError: the program is missing or damaged.
        ExportError: ONNX cannot express it, or computes something else.
        MissingPackageError: the extra ``onnx`` is not installed.
        StorageError: the file cannot be written.
    """
    inputs = at_least_two(example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,))
    loaded = _load_program(program)
    with program.open("rb") as file, torch.no_grad(), atomic_path(target) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = _save_onnx(torch.export.load(file), inputs, temporary, program.name)
        error = max(_relative(run(batch), outputs_of(loaded(*batch))) for batch in (inputs, other_inputs(inputs)))
        _require_equal(error, target)


def _write_program(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> Callable[[Any], list[Tensor]]:
    program = _program(model, inputs)
    with path.open("wb") as file:
        torch.export.save(program, file)
    loaded = _load_program(path)
    return lambda batch: outputs_of(loaded(*batch))


def _program(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """The exported program, for any size of batch; of the examples' size where the model fixes it."""
    dims = pytree.tree_map(lambda x: {0: torch.export.Dim.AUTO} if isinstance(x, Tensor) and x.dim() else None, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch.export's own workings
        try:
            return torch.export.export(model, inputs, dynamic_shapes=(dims,) if _variadic(model) else dims)
        except Exception as error:  # export raises errors of every kind
            raise ExportError(f"torch.export cannot write {type(model).__name__}: {error}") from error


def _variadic(model: nn.Module) -> bool:
    """Whether forward takes its arguments as ``*args``, for which torch.export expects a nested description."""
    code = getattr(type(model).forward, "__code__", None)
    return bool(code is not None and code.co_flags & 0x04 and code.co_argcount == 1)


def _load_program(path: Path) -> nn.Module:
    if not path.is_file():
        raise CheckpointError(
            f"{str(path)!r} does not exist; write it with save_compact(..., formats=['torch-export'])"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                module = torch.export.load(file).module()
        except Exception as error:  # a damaged archive fails in many ways
            raise CheckpointError(f"{str(path)!r} is damaged ({error}); fetch or make it again") from None
    assert isinstance(module, nn.Module)
    return module


def _write_onnx(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> Callable[[Any], list[Tensor]]:
    return _save_onnx(_program(model, inputs), inputs, path, type(model).__name__)


def _save_onnx(program: Any, inputs: tuple[Any, ...], path: Path, name: str) -> Callable[[Any], list[Tensor]]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 torch's exporter needs it
    except ImportError as error:
        raise MissingPackageError(
            f"writing ONNX needs {error.name}; install it with: pip install 'onceforall[onnx]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exported = torch.onnx.export(program, inputs, dynamo=True, verbose=False)
            assert exported is not None
            exported.save(str(path), external_data=False)
            session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        except Exception as error:  # the exporter raises errors of every kind
            raise ExportError(f"torch.onnx cannot write {name}: {error}") from error
    names = [item.name for item in session.get_inputs()]

    def run(batch: Any) -> list[Tensor]:
        tensors = [item for item in pytree.tree_leaves(tuple(batch)) if isinstance(item, Tensor)]
        found = session.run(None, {name: t.numpy() for name, t in zip(names, tensors, strict=True)})
        return [torch.from_numpy(array) for array in found]

    return run


def _require_equal(error: float, target: Path) -> None:
    if not error <= MAX_ERROR:
        raise ExportError(
            f"{str(target)!r}: outputs differ from the model's by {error:.1e} of the largest; allowed: "
            f"{MAX_ERROR:.0e}; it was not written; try another format, one of: {', '.join(PROGRAMS)}"
        )


def _relative(found: list[Tensor], expected: list[Tensor]) -> float:
    if len(found) != len(expected) or any(a.shape != b.shape for a, b in zip(found, expected, strict=True)):
        return float("inf")
    scale = max(float(t.abs().max()) for t in expected)
    worst = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    return worst / max(scale, 1e-30) if worst <= float("inf") else float("inf")
