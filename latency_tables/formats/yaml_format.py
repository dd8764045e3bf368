"""YAML, of which only what JSON can say is read.

The pure-Python loader is used: the one in C ignores overridden methods, with which aliases (exponential expansion),
tags and duplicate keys are refused here. Plain words become null, booleans and numbers exactly where JSON has them, so
`no` stays a word, `1e3` is a number, and a date is text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from supernet.errors import TableError

MAX_BYTES = 2**20
MAX_NODES = 40_000
"""The largest space has 2,671 layers, of 9 nodes each; the loader takes a second for so many on a busy machine."""
MAX_DEPTH = 16
"""Of brackets. A table needs 3; the loader's time for one more grows with those around it: 0.6 s for a thousand."""

# (tag, pattern, possible first characters): the scalars of JSON. No part of a pattern can match what the part before it
# gives back, or a long run of digits that is no number would take time with the square of its length.
_RESOLVERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("null", r"null|", ("n", "")),  # nothing at all is null too, as for every reader of YAML
    ("bool", r"true|false", ("t", "f")),
    ("int", r"-?(?:0|[1-9][0-9]*)", tuple("-0123456789")),
    ("float", r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|nan)", tuple("-+.0123456789")),
)


class _Refused(yaml.YAMLError):
    """Something that YAML allows and a table does not."""


class _Loader(yaml.SafeLoader):
    nodes = 0

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level >= MAX_DEPTH:
            raise RecursionError
        super().fetch_flow_collection_start(token_class)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise _Refused(f"an alias (*) in line {line}; write the value out")
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _Refused(f"more than {MAX_NODES} values and keys")
        if event.tag is not None:
            raise _Refused(f"a tag ({event.tag[:80]}) in line {line}; leave it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(f"a key that is no plain word in line {key.start_mark.line + 1}")
            if key.value in seen:
                raise _Refused(f"key {key.value[:80]!r} stands twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    pass


for _class in (_Loader, _Dumper):  # the same for both: the writer must quote what the reader would take for a number
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _RESOLVERS:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def decode(data: bytes) -> Any:
    """Plain data from UTF-8 YAML.

    Raises:
        TableError: not YAML, nested too deeply, an alias, a tag, or a key that stands twice.
    """
    try:
        loader = _Loader(data.decode("utf-8"))
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise TableError("latency table: YAML nested too deeply; a table needs 3 levels") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TableError(f"latency table: not readable as YAML ({reason}); mend the file, or send JSON") from None


def encode(document: Any) -> bytes:
    """UTF-8 YAML, in the document's own order."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=200)
    return text.encode()
