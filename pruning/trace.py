"""What a model computes, as a list of aten operators: recorded from one run, or from a `torch.export` program.

A run is recorded below autograd, where a model of any make consists of some hundred operators of aten with plain
arguments. That takes about as long as the forward pass. `torch.export` computes the same list of operators in 10 to 80
times the time; it is what is run when a recording cannot be trusted (tensors that come from outside of torch, values
that steer Python), and what a compact model is written from where modules cannot express it.
"""

from __future__ import annotations

import copy
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from supernet.errors import CaptureError, ConfigError

_READS_VALUES = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2"})
_LIFTS = frozenset({"lift_fresh", "lift", "lift_fresh_copy", "detach", "alias"})
_KEPT_CONSTANT = 1 << 20  # elements; the values of larger index tensors are not needed by any rule
OVERWRITTEN = "overwritten_alias"


@dataclass(slots=True, eq=False)
class Value:
    """A tensor of the recorded run.

    Attributes:
        shape, dtype: its own.
        kind: ``parameter``, ``buffer``, ``constant``, ``input`` or ``result``.
        name: of a parameter or buffer, its first name in the model.
        pure: it does not depend on the inputs.
        constant: the numbers of an integer tensor that does not depend on the inputs, None: not kept.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: str
    name: str = ""
    pure: bool = True
    constant: np.ndarray[Any, Any] | None = None


@dataclass(slots=True, eq=False)
class Op:
    """One operator of the recorded run.

    Attributes:
        func: the overload that ran.
        name: of its functional form: ``relu`` for ``aten.relu_.default``.
        args, kwargs: as it was called, a `Value` for each tensor.
        outs: its results, in order; None for what is not a tensor.
        where: path of the innermost module that was running; empty: the model itself.
        tensors: all tensors among its arguments.
    """

    func: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[Value | None, ...]
    where: str
    tensors: tuple[Value, ...]
    _bound: dict[str, Any] | None = None

    def arg(self, name: str, default: Any = None) -> Any:
        """The argument that the operator's schema calls `name`, given or by default."""
        if self._bound is None:
            schema = self.func._schema.arguments
            given = dict(zip((a.name for a in schema), self.args, strict=False)) | self.kwargs
            self._bound = {a.name: a.default_value for a in schema if a.has_default_value()} | given
        found = self._bound.get(name)
        return default if found is None else found

    def __str__(self) -> str:
        return f"{self.name} in {self.where!r}" if self.where else self.name


@dataclass(slots=True)
class Trace:
    """A recorded run: its operators in order, and what enters and leaves it."""

    ops: list[Op] = field(default_factory=list)
    leaves: dict[str, Value] = field(default_factory=dict)
    outputs: list[Value] = field(default_factory=list)
    examples: int = 1


def record(model: nn.Module, example_inputs: Sequence[Any]) -> Trace:
    """Run the model once in evaluation mode, and write down its operators.

    Args:
        model: any module; its mode is restored.
        example_inputs: positional arguments of its forward.

    Raises:
        ConfigError: it does not run on these inputs.
        CaptureError: what it computes depends on values that Python reads; the message names the line.
    """
    recorder = Recorder(model)
    output = recorder.run(model, example_inputs, lambda: model(*example_inputs))
    trace = recorder.finish(output)
    if not recorder.doubt:
        return trace
    try:
        program = exported(model, example_inputs)
    except CaptureError as error:
        raise CaptureError(f"{recorder.doubt}; torch.export refuses the model, too: {error}") from error
    again = Recorder(program)
    output = again.run(program, example_inputs, lambda: program(*example_inputs))
    trace = again.finish(output)
    if again.doubt:
        raise CaptureError(again.doubt)
    return trace


def exported(model: nn.Module, example_inputs: Sequence[Any]) -> fx.GraphModule:
    """The model as a graph of aten operators, for any size of batch where the model allows it.

    Args:
        model: any module.
        example_inputs: positional arguments of its forward, with at least two examples a batch to be free in its size.

    Raises:
        CaptureError: neither torch.export nor torch.fx can follow the model; the message names the line.
    """
    args = tuple(example_inputs)
    dims = pytree.tree_map(lambda x: {0: torch.export.Dim.AUTO} if isinstance(x, Tensor) and x.dim() else None, args)
    with evaluating(model), _quiet(), torch.no_grad():
        attempts: list[Callable[[], Any]] = [
            lambda: torch.export.export(model, args, dynamic_shapes=dims),
            lambda: torch.export.export(model, args),
            lambda: torch.export.export(fx.symbolic_trace(model), args),
        ]
        failures: list[Exception] = []
        for attempt in attempts:
            try:
                return _unguarded(attempt().module())
            except Exception as error:  # export raises errors of every kind, the model's own included
                failures.append(error)
    first = failures[0]
    reason = str(first).strip().splitlines()
    raise CaptureError(
        f"cannot follow {type(model).__name__}: {reason[0] if reason else type(first).__name__} "
        f"({_line_of(first.__traceback__)}); torch.fx cannot either; make that line independent of values, or prune "
        f"the parts around it one by one"
    ) from first


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each operator that runs while it is active.

    Args:
        model: whose parameters and buffers are known by name.

    Attributes:
        doubt: why the recording cannot be trusted; empty: it can.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.doubt = ""
        self._known: dict[int, tuple[Any, Value, int]] = {}  # id -> (weak reference, value, version of its storage)
        self._versions: dict[int, int] = {}
        self._written: dict[int, Value] = {}
        self._owners: dict[int, Tensor] = {}
        self._held: list[Tensor] = []
        self._path: list[str] = []
        self._detached: dict[Value, str] = {}  # by value that nobody has read yet, the line
        self._lifts = 0
        self._names = {id(module): name for name, module in model.named_modules()}
        for kind, items in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
            for name, tensor in items:
                self.trace.leaves[name] = self._enter(tensor, kind, name)
        for module in model.modules():
            for attribute in vars(module).values():
                for tensor in pytree.tree_leaves(attribute):
                    if isinstance(tensor, Tensor) and id(tensor) not in self._known:
                        self._enter(tensor, "constant")

    def run(self, model: nn.Module, example_inputs: Sequence[Any], call: Callable[[], Any]) -> Any:
        """What `call` returns, with each of its operators recorded."""
        self.trace.examples = _examples(example_inputs)
        for tensor in pytree.tree_leaves(tuple(example_inputs)):
            if isinstance(tensor, Tensor):
                self._enter(tensor, "input")
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it hides whole encoder layers in one operator
        try:
            with ExitStack() as stack:
                stack.enter_context(evaluating(model))
                stack.enter_context(torch.no_grad())
                stack.callback(register_module_forward_pre_hook(self._enters).remove)
                stack.callback(register_module_forward_hook(self._leaves, always_call=True).remove)
                stack.enter_context(self)
                return call()
        except Exception as error:
            shapes = ", ".join(_describe(x) for x in pytree.tree_leaves(tuple(example_inputs)))
            raise ConfigError(
                f"{type(model).__name__} does not run on example inputs of shape {shapes}: {error} "
                f"({_line_of(error.__traceback__)}); pass inputs as its forward takes them, batch first"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)

    def finish(self, output: Any) -> Trace:
        """The trace with its outputs marked."""
        outputs = [self.value(t) for t in pytree.tree_leaves(_plain(output)) if isinstance(t, Tensor)]
        self.trace.outputs = outputs
        for value in outputs:
            self._detached.pop(value, None)
        if self._detached and self._lifts:  # `numpy()` detaches, and what is made of the array comes back as a constant
            line = next(iter(self._detached.values()))
            self._doubt(f"values of a tensor leave torch and others come back ({line})")
        return self.trace

    def value(self, tensor: Tensor, *, lifted: bool = False) -> Value:
        """The value that a tensor holds at this point of the run."""
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor:
            return self._stranger(tensor, lifted=lifted)
        _, value, version = known
        storage = _storage(tensor)
        if self._versions.get(storage, 0) != version:  # written through another view of the same memory
            stale = Value(value.shape, value.dtype, "result", pure=False)
            written = self._written[storage]
            both = (value, written)
            self.trace.ops.append(Op(None, OVERWRITTEN, both, {}, (stale,), self._where(), both))
            self._remember(tensor, stale)
            return stale
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operator and record it."""
        kwargs = kwargs or {}
        name, mutable = _known_of(func)
        lifted = name in _LIFTS
        tensors: list[Value] = []
        seen_args = self._seen(args, lifted, tensors)
        seen_kwargs = {k: self._seen(v, lifted, tensors) for k, v in kwargs.items()}
        result = func(*args, **kwargs)
        if mutable:
            self._overwrite(func, args, kwargs)
        pure = all(value.pure for value in tensors)
        for value in tensors:
            self._detached.pop(value, None)
        self._lifts += name.startswith("lift")
        if name in _READS_VALUES and not pure:
            self._doubt(f"the forward pass reads values of a tensor in Python ({_line_here()})")
        flat = result if isinstance(result, tuple | list) else (result,)
        outs = tuple(self._result(tensor, pure) if isinstance(tensor, Tensor) else None for tensor in flat)
        if name == "detach" and not pure and outs[0] is not None:
            self._detached[outs[0]] = _line_here()
        self.trace.ops.append(Op(func, name, seen_args, seen_kwargs, outs, self._where(), tuple(tensors)))
        return result

    def _enter(self, tensor: Tensor, kind: str, name: str = "") -> Value:
        value = Value(tuple(tensor.shape), tensor.dtype, kind, name, pure=kind != "input")
        if kind != "input" and kind != "parameter":
            value.constant = _small_constant(tensor)
        if name:
            self._owners[_storage(tensor)] = tensor
        self._held.append(tensor)
        self._remember(tensor, value)
        return value

    def _remember(self, tensor: Tensor, value: Value) -> None:
        self._known[id(tensor)] = (weakref.ref(tensor), value, self._versions.get(_storage(tensor), 0))

    def _result(self, tensor: Tensor, pure: bool) -> Value:
        value = Value(tuple(tensor.shape), tensor.dtype, "result", pure=pure)
        if pure:
            value.constant = _small_constant(tensor)
        self._remember(tensor, value)
        storage = _storage(tensor)
        if storage in self._written and self._written[storage].kind == "pending":
            self._written[storage] = value
        return value

    def _overwrite(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Everything that shares memory with what was written is out of date, but for the result of the operator."""
        for position, argument in enumerate(func._schema.arguments):
            tensor = args[position] if position < len(args) else kwargs.get(argument.name)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(tensor, Tensor):
                storage = _storage(tensor)
                self._versions[storage] = self._versions.get(storage, 0) + 1
                self._written[storage] = Value((), tensor.dtype, "pending")

    def _stranger(self, tensor: Tensor, *, lifted: bool) -> Value:
        owner = self._owners.get(_storage(tensor))
        if owner is not None and owner.shape == tensor.shape and owner.stride() == tensor.stride():
            return self._known[id(owner)][1]  # `.data` of a parameter
        if not lifted:
            self._doubt(f"a tensor enters the forward pass from outside of torch ({_line_here()})")
        return self._enter(tensor, "constant")

    def _doubt(self, reason: str) -> None:
        self.doubt = self.doubt or reason

    def _seen(self, item: Any, lifted: bool, tensors: list[Value]) -> Any:
        if isinstance(item, Tensor):
            value = self.value(item, lifted=lifted)
            tensors.append(value)
            return value
        if isinstance(item, list | tuple):
            return type(item)(self._seen(part, lifted, tensors) for part in item)
        return item

    def _where(self) -> str:
        return self._path[-1] if self._path else ""

    def _enters(self, module: nn.Module, args: Any) -> None:
        self._path.append(self._names.get(id(module), self._where()))

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        self._path.pop()


class GraphRecorder(fx.Interpreter):
    """Runs a graph under a recorder and notes which value each node computes.

    Attributes:
        values: by node, the value, or a tuple of values, of its result.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.recorder = Recorder(graph)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, node: fx.Node) -> Any:
        """Run one node and note its value."""
        path = _module_of(node)
        self.recorder._path.append(path)
        try:
            result = super().run_node(node)
        finally:
            self.recorder._path.pop()
        if isinstance(result, Tensor):
            self.values[node] = self.recorder.value(result)
        elif isinstance(result, tuple | list) and node.op == "call_function":
            self.values[node] = tuple(self.recorder.value(t) if isinstance(t, Tensor) else None for t in result)
        return result


def record_graph(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> tuple[Trace, dict[fx.Node, Any]]:
    """As `record`, of an exported program, and the value of each of its nodes."""
    runner = GraphRecorder(graph)
    flat = pytree.tree_leaves(tuple(example_inputs))
    output = runner.recorder.run(graph, example_inputs, lambda: runner.run(*flat, enable_io_processing=False))
    return runner.recorder.finish(output), runner.values


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in evaluation mode; afterwards each one in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def copy_of(model: nn.Module) -> nn.Module:
    """A copy of the model that shares no tensor with it."""
    return copy.deepcopy(model)


def _unguarded(module: Any) -> fx.GraphModule:
    """Without the checks of the inputs' shapes, which hold for the original's constants only."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and "guard" in str(node.target):
            graph.erase_node(node)
    module.recompile()
    assert isinstance(module, fx.GraphModule)
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch.export's warnings, which speak about its own workings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _known_of(func: Any) -> tuple[str, bool]:
    """Name of an operator's functional form, and whether it writes into an argument."""
    name, mutable = func._schema.name.rpartition("::")[2], bool(func._schema.is_mutable)
    return (name.removesuffix("_") if mutable else name), mutable


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _small_constant(tensor: Tensor) -> np.ndarray[Any, Any] | None:
    if tensor.dtype not in (torch.int64, torch.int32) or not 0 < tensor.numel() <= _KEPT_CONSTANT:
        return None
    return tensor.detach().cpu().numpy().copy()


def _plain(output: Any) -> Any:
    """Outputs as containers that a tree can be made of: data classes and objects by their fields."""
    if pytree.tree_is_leaf(output) and not isinstance(output, Tensor) and hasattr(output, "__dict__"):
        return {name: _plain(part) for name, part in vars(output).items()}
    return output


def _examples(example_inputs: Sequence[Any]) -> int:
    shapes = [x.shape for x in pytree.tree_leaves(tuple(example_inputs)) if isinstance(x, Tensor)]
    if not shapes:
        raise ConfigError("example inputs hold no tensor; pass the positional arguments of the model's forward")
    return int(shapes[0][0]) if len(shapes[0]) else 1


def _describe(item: Any) -> str:
    return str(tuple(item.shape)) if isinstance(item, Tensor) else repr(item)


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _foreign(filename: str) -> bool:
    path = Path(filename).parts
    return "torch" in path or filename.startswith("<") or Path(filename) == Path(__file__)


def _line_here() -> str:
    return _name_line(traceback.extract_stack())


def _line_of(trace: Any) -> str:
    return _name_line(traceback.extract_tb(trace))


def _name_line(frames: traceback.StackSummary) -> str:
    own = [frame for frame in frames if not _foreign(frame.filename)] or list(frames)
    frame = own[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
