"""A compact model as a graph of operators, for models whose code fixes sizes: the exported graph with other constants.

Each constant that speaks of a size or position on an axis that shrinks is rewritten: shapes of views, parts of splits,
ends of slices, groups of convolutions. What reorders channels by a rule that holds for the full number only (a channel
shuffle) becomes a list of positions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from pruning.flow import Flow
from pruning.partition import Partition, settle
from pruning.plan import cut
from pruning.provenance import FIXED, Ids
from pruning.trace import Value, copy_of, exported, record_graph
from supernet.errors import ConstructionError

Kept = NDArray[np.bool_]


def cut_program(
    model: nn.Module, example_inputs: Sequence[Any], partition: Partition, keep: Kept
) -> tuple[fx.GraphModule, dict[str, dict[int, list[int]]]]:
    """The compact model as a graph.

    Args:
        model: is left as it is.
        example_inputs: positional arguments of its forward.
        partition: of the model.
        keep: by unit, whether it stays.

    Returns:
        The graph, for evaluation; and the kept positions of its constants that are not the model's.
    """
    inputs = at_least_two(example_inputs)
    copy = copy_of(model)
    graph = exported(copy, inputs)
    trace, values = record_graph(graph, inputs)
    flow = Flow()
    flow.run(trace)
    sizes = _Sizes(flow, settle(flow, trace), _gone_atoms(flow, partition, keep, _names(copy, graph)))
    _Rewriter(graph, values, sizes).rewrite()
    extra = _cut_tensors(graph, flow, sizes)
    graph.graph.lint()
    graph.recompile()
    return graph, extra


def at_least_two(example_inputs: Sequence[Any]) -> tuple[Any, ...]:
    """The inputs with each batch of one doubled: torch.export takes a batch of one for a constant."""

    def double(item: Any) -> Any:
        return torch.cat([item, item]) if isinstance(item, Tensor) and item.dim() and item.shape[0] == 1 else item

    return tuple(pytree.tree_map(double, tuple(example_inputs)))


def _names(model: nn.Module, graph: fx.GraphModule) -> dict[str, str]:
    """The model's first name of each tensor of the graph that is the model's."""
    first: dict[str, str] = {}
    seen: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        first[name] = seen.setdefault(id(tensor), name)
    return {name: first[name] for name, _ in (*graph.named_parameters(), *graph.named_buffers()) if name in first}


def _gone_atoms(flow: Flow, partition: Partition, keep: Kept, names: Mapping[str, str]) -> dict[str, dict[int, Kept]]:
    """By tensor of the graph and axis, the positions that go."""
    known = partition.flow.ledger.leaves
    gone: dict[str, dict[int, Kept]] = {}
    for name in flow.ledger.leaves:
        leaf = known.get(names.get(name, ""))
        if leaf is None:
            continue
        for axis, (first, size) in enumerate(zip(leaf.first, leaf.shape, strict=True)):
            away = ~partition.kept(np.arange(first, first + size, dtype=np.int64), keep)
            if away.any():
                gone.setdefault(name, {})[axis] = away
    return gone


class _Sizes:
    """Which positions of the graph's tensors stay."""

    def __init__(self, flow: Flow, classes: Ids, gone: Mapping[str, Mapping[int, Kept]]) -> None:
        self.flow = flow
        self.classes = classes
        away = np.zeros(int(classes.max()) + 1 if len(classes) else 0, bool)
        for name, axes in gone.items():
            leaf = flow.ledger.leaves[name]
            for axis, positions in axes.items():
                away[classes[leaf.first[axis] + np.flatnonzero(positions)]] = True
        self.gone = away

    def kept(self, ids: Ids) -> Kept:
        """Which of these atoms stay."""
        return np.where(ids == FIXED, True, ~self.gone[self.classes[ids]])

    def axes(self, value: Value) -> dict[int, Kept] | None:
        """By axis that shrinks, the positions that stay; None: what stays is not a box."""
        found: dict[int, Kept] = {}
        for component in self.flow.of(value):
            mask = self.kept(component.ids)
            if mask.all():
                continue
            lines: list[Kept] = [
                np.asarray(mask.any(tuple(a for a in range(mask.ndim) if a != axis))) for axis in component.axes
            ]
            box = np.ones(mask.shape, bool)
            for axis, line in zip(component.axes, lines, strict=True):
                box &= line.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
            if (box != mask).any():
                return None
            found |= {axis: line for axis, line in zip(component.axes, lines, strict=True) if not line.all()}
        return found

    def stuck(self, value: Value) -> bool:
        """Whether the value's channels are spread over two axes from which they can go one by one."""
        for component in self.flow.of(value):
            own = np.where(component.ids >= 0, self.classes[component.ids], FIXED)
            if sum(bool((own != own.take([0], axis)).any()) for axis in component.axes) > 1:
                return True
        return False

    def shape(self, value: Value) -> list[int]:
        """The shape after cutting."""
        shape = list(value.shape)
        for axis, line in (self.axes(value) or {}).items():
            shape[axis] = int(line.sum())
        return shape


class _Rewriter:
    """Rewrites the constants of a graph, node by node."""

    def __init__(self, graph: fx.GraphModule, values: Mapping[fx.Node, Any], sizes: _Sizes) -> None:
        self.module = graph
        self.graph = graph.graph
        self.values = values
        self.sizes = sizes
        self.rules: dict[str, Callable[[fx.Node], None]] = {
            **dict.fromkeys(("view", "reshape", "_unsafe_view", "expand", "broadcast_to"), self._shape),
            "unflatten": self._unflatten,
            **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split"), self._split),
            "slice": self._slice,
            "narrow": self._narrow,
            "select": self._select,
            **dict.fromkeys(("constant_pad_nd", "pad"), self._pad),
            **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), self._groups),
            **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), self._groups),
            "group_norm": self._group_norm,
            **dict.fromkeys(("roll", "channel_shuffle", "native_channel_shuffle"), self._gather),
            "index_select": self._gather,
            "index": self._index,
        }

    def rewrite(self) -> None:
        """Rewrite all nodes."""
        for node in list(self.graph.nodes):
            if node.op != "call_function" or node not in self.values:
                continue
            inputs = [v for item in node.all_input_nodes for v in self._tensors(item)]
            outputs = self._tensors(node)
            if not any(self.sizes.axes(v) != {} for v in (*inputs, *outputs)):
                continue
            if any(self.sizes.stuck(v) for v in outputs):
                continue  # a movement inside of a region that the node at its end replaces
            if any(self.sizes.stuck(v) for v in inputs):
                self._leap(node)
                continue
            rule = self.rules.get(_name(node))
            if rule is not None:
                rule(node)
        self.graph.eliminate_dead_code()

    def _tensors(self, node: fx.Node) -> list[Value]:
        value = self.values.get(node)
        if isinstance(value, Value):
            return [value]
        return [v for v in value if v is not None] if isinstance(value, tuple) else []

    def _axes(self, node: fx.Node) -> dict[int, Kept]:
        found: dict[int, Kept] = {}
        for value in self._tensors(node)[:1]:
            axes = self.sizes.axes(value)
            if axes is None:
                raise ConstructionError(f"what stays of {node.format_node()} is not a box; mark it with keep=[...]")
            found = axes
        return found

    def _shape(self, node: fx.Node) -> None:
        """Sizes of a view: constants are replaced; sizes that grow with the batch are scaled."""
        value = self.values[node]
        node.update_arg(1, self._resized(node, _list(node.args[1]), value, 0))

    def _unflatten(self, node: fx.Node) -> None:
        value = self.values[node]
        source = self.values[_source(node)]
        axis = _number(node.args[1]) % len(source.shape)
        node.update_arg(2, self._resized(node, _list(node.args[2]), value, axis))

    def _resized(self, node: fx.Node, given: list[Any], value: Value, first: int) -> list[Any]:
        new = self.sizes.shape(value)
        result = []
        for place, item in enumerate(given):
            before, after = value.shape[first + place], new[first + place]
            if before == after or (isinstance(item, int) and item == -1):
                result.append(item)
            elif isinstance(item, int):
                result.append(after)
            else:
                with self.graph.inserting_before(node):
                    scaled = self.graph.call_function(operator.mul, (item, after))
                    result.append(self.graph.call_function(operator.floordiv, (scaled, before)))
        return result

    def _split(self, node: fx.Node) -> None:
        parts: tuple[Value, ...] = self.values[node]
        axis = self._dim(node, 2 if len(node.args) > 2 else None, len(parts[0].shape))
        sizes = [self.sizes.shape(part)[axis] for part in parts]
        if sizes != [part.shape[axis] for part in parts]:
            node.target = torch.ops.aten.split_with_sizes.default
            node.args = (_source(node), sizes, axis)
            node.kwargs = {}

    def _dim(self, node: fx.Node, place: int | None, ndim: int) -> int:
        dim = node.kwargs.get("dim", node.args[place] if place is not None else 0)
        return _number(dim) % ndim

    def _slice(self, node: fx.Node) -> None:
        source: Value = self.values[_source(node)]
        axis = self._dim(node, 1 if len(node.args) > 1 else None, len(source.shape))
        kept = self._axes(_source(node)).get(axis)
        if kept is None:
            return
        args = [*node.args, *[None] * (5 - len(node.args))]
        start, end, step = args[2], args[3], args[4]
        if step not in (None, 1):
            self._gather(node)
            return
        node.args = (_source(node), axis, *_part(kept, start, end))

    def _narrow(self, node: fx.Node) -> None:
        source: Value = self.values[_source(node)]
        axis = _number(node.args[1]) % len(source.shape)
        kept = self._axes(_source(node)).get(axis)
        if kept is not None:
            start, length = _number(node.args[2]), _number(node.args[3])
            begin, end = _part(kept, start, start + length)
            node.args = (*node.args[:2], begin, end - begin)

    def _select(self, node: fx.Node) -> None:
        source: Value = self.values[_source(node)]
        axis = _number(node.args[1]) % len(source.shape)
        kept = self._axes(_source(node)).get(axis)
        if kept is not None:
            index = _number(node.args[2]) % len(kept)
            node.update_arg(2, int(kept[:index].sum()))

    def _pad(self, node: fx.Node) -> None:
        source: Value = self.values[_source(node)]
        result: Value = self.values[node]
        pads = _list(node.args[1])
        for axis, kept in (self.sizes.axes(result) or {}).items():
            place = 2 * (len(source.shape) - 1 - axis)
            if place < len(pads):
                before, after = pads[place], pads[place + 1]
                pads[place] = int(kept[:before].sum())
                pads[place + 1] = int(kept[len(kept) - after :].sum())
        node.update_arg(1, pads)

    def _groups(self, node: fx.Node) -> None:
        channels = self.sizes.flow.channels.get(self._computed(node))
        transposed = "transpose" in _name(node)
        place = 7 if transposed else 6
        if _name(node) == "convolution":
            place = 8
        groups = node.kwargs.get("groups", node.args[place] if len(node.args) > place else 1)
        if transposed and len(node.args) > 6 and "groups" not in node.kwargs:
            place = 6
            groups = node.args[6]
        if channels is None or channels.ids is None or groups == 1 or not channels.whole:
            return
        new = int(self.sizes.kept(channels.ids).sum()) * _number(groups) // channels.count
        if "groups" in node.kwargs:
            node.kwargs = {**node.kwargs, "groups": new}
        else:
            node.update_arg(place, new)

    def _group_norm(self, node: fx.Node) -> None:
        channels = self.sizes.flow.channels.get(self._computed(node))
        if channels is not None and channels.ids is not None:
            kept = int(self.sizes.kept(channels.ids).sum())
            node.update_arg(1, kept * _number(node.args[1]) // channels.count)

    def _computed(self, node: fx.Node) -> Value:
        value = self.values[node]
        assert isinstance(value, Value)
        return value

    def _leap(self, node: fx.Node) -> None:
        """The last of several movements: all of them become one list of positions."""
        start = node
        while self.sizes.stuck(self.values[start]) or start is node:
            start = _source(start)
        self._gather(node, start)

    def _gather(self, node: fx.Node, source: fx.Node | None = None) -> None:
        """A reordering of the positions of one axis, written as a list of them."""
        source = source or _source(node)
        assert source is not None
        result: Value = self.values[node]
        for axis in self.sizes.axes(result) or {}:
            old, new = (self._line(self.values[item], axis) for item in (source, node))
            place = {atom: position for position, atom in enumerate(old[self.sizes.kept(old)].tolist())}
            wanted = new[self.sizes.kept(new)].tolist()
            if len(place) != int(self.sizes.kept(old).sum()) or any(atom not in place for atom in wanted):
                raise ConstructionError(f"cannot follow the order of channels of {node.format_node()}")
            positions = torch.tensor([place[atom] for atom in wanted], dtype=torch.int64)
            name = f"_positions_{node.name}_{axis}"
            self.module.register_buffer(name, positions)
            with self.graph.inserting_before(node):
                index = self.graph.get_attr(name)
                picked = self.graph.call_function(torch.ops.aten.index_select.default, (source, axis, index))
            node.replace_all_uses_with(picked)
            return
        # the axis itself stays: nothing to do

    def _line(self, value: Value, axis: int) -> Ids:
        for component in self.sizes.flow.of(value):
            if component.axes == (axis,):
                return component.ids.reshape(-1)
        raise ConstructionError(f"channels of a tensor of shape {value.shape} do not lie on axis {axis}")

    def _index(self, node: fx.Node) -> None:
        source: Value = self.values[_source(node)]
        indexed = [axis for axis, index in enumerate(_list(node.args[1])) if index is not None]
        if any(axis in (self.sizes.axes(source) or {}) for axis in indexed):
            self._gather(node)


def _part(kept: Kept, start: Any, end: Any) -> tuple[int, int]:
    """Ends of a slice among the kept positions."""
    begin, stop, _ = slice(start, end).indices(len(kept))
    first = int(kept[:begin].sum())
    return first, first + int(kept[begin:stop].sum())


def _source(node: fx.Node) -> fx.Node:
    """The node whose result a node moves or reads first."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _number(argument: Any) -> int:
    """An argument that is known to be an integer."""
    return int(argument)


def _list(argument: Any) -> list[Any]:
    """An argument that is known to be a list."""
    return list(argument)


def _name(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name.rpartition("::")[2]) if schema is not None else ""


def _cut_tensors(graph: fx.GraphModule, flow: Flow, sizes: _Sizes) -> dict[str, dict[int, list[int]]]:
    """Cut the graph's parameters, buffers and constants in place."""
    found: dict[str, dict[int, list[int]]] = {}
    for name, leaf in flow.ledger.leaves.items():
        kept = {}
        for axis, (first, size) in enumerate(zip(leaf.first, leaf.shape, strict=True)):
            stays = sizes.kept(np.arange(first, first + size, dtype=np.int64))
            if not stays.all():
                kept[axis] = np.flatnonzero(stays).tolist()
        if kept:
            found[name] = kept
    made: dict[int, Tensor] = {}
    names = {id(t): name for name, t in (*graph.named_parameters(), *graph.named_buffers())}
    for name, tensor in (*graph.named_parameters(remove_duplicate=False), *graph.named_buffers(remove_duplicate=False)):
        axes = found.get(names.get(id(tensor), ""))
        if not axes:
            continue
        if id(tensor) not in made:
            part = cut(tensor, axes)
            made[id(tensor)] = nn.Parameter(part, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else part
        path, _, attribute = name.rpartition(".")
        owner = graph.get_submodule(path)
        target: Any = owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers
        target[attribute] = made[id(tensor)]
    return found
