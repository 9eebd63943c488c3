#!/usr/bin/env python3
"""Removes all graph inputs from an ONNX file except those that are named.

    scripts/keep-onnx-inputs.py IN.onnx OUT.onnx NAME...

Some exporters list weights as graph inputs, too. ONNX Runtime then treats them as values that can
change with each call, and asks for a value of each one that has no default. scripts/setup.sh
removes them from SFace. No package is needed: this edits the fields of the file, and copies all
other bytes unchanged, so that equal inputs give equal outputs.

It is an error if a named input does not exist, or if a node reads an input that would be removed
and that has no value in the file.

Exit status: 0 success, 2 an error.
"""

import sys
from pathlib import Path

# Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_SPARSE_INITIALIZER = 1, 5, 11, 15
NODE_INPUT, NODE_ATTRIBUTE = 1, 5
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11
INITIALIZER_NAME, INPUT_NAME = 8, 1
SPARSE_VALUES = 1

# Wire types of protocol buffers.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
# Nested subgraphs of valid models are a few levels deep.
MAX_DEPTH = 64
# Inputs that an error lists.
MAX_LISTED = 8


class EditError(Exception):
    """An error with its remedy, on one line."""


def varint(data, at):
    """A number and the position after it."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise EditError("it is truncated or not an ONNX file: download it again")


def encoded(value):
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def fields(data):
    """The fields of a message: number, content, and all bytes with the tag; content only of BYTES."""
    at = 0
    while at < len(data):
        start = at
        tag, at = varint(data, at)
        content, kind = None, tag & 7
        if kind == VARINT:
            _, at = varint(data, at)
        elif kind == BYTES:
            size, at = varint(data, at)
            content = data[at : at + size]
            at += size
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise EditError("it is not an ONNX file: download it again")
        if at > len(data):
            raise EditError("it is truncated: download it again")
        yield tag >> 3, content, data[start:at]


def contents(data, *numbers):
    """The contents of the fields with these numbers."""
    for number, content, _ in fields(data):
        if number in numbers and content is not None:
            yield content


def name(message, number):
    """The name in a message; the empty string if it has none."""
    return bytes(next(contents(message, number), b"")).decode(errors="replace")


def names_read(graph, depth=0):
    """The names that the nodes of a graph and of its subgraphs read."""
    if depth > MAX_DEPTH:
        raise EditError(f"its subgraphs are nested more than {MAX_DEPTH} deep: download it again")
    found = set()
    for node in contents(graph, GRAPH_NODE):
        found.update(bytes(content).decode(errors="replace") for content in contents(node, NODE_INPUT))
        for attribute in contents(node, NODE_ATTRIBUTE):
            for subgraph in contents(attribute, ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                found |= names_read(subgraph, depth + 1)
    return found


def edit_graph(graph, keep):
    inputs = {name(content, INPUT_NAME) for content in contents(graph, GRAPH_INPUT)}
    values = {name(content, INITIALIZER_NAME) for content in contents(graph, GRAPH_INITIALIZER)}
    for sparse in contents(graph, GRAPH_SPARSE_INITIALIZER):
        values.update(name(content, INITIALIZER_NAME) for content in contents(sparse, SPARSE_VALUES))
    needed = sorted((inputs - values) & names_read(graph))
    if missing := sorted(set(keep) - inputs):
        listed = ", ".join(map(repr, needed[:MAX_LISTED])) or "none"
        raise EditError(f"it has no input {missing[0]!r}; its inputs without a value are {listed}: name these")
    if lost := sorted(set(needed) - set(keep)):
        raise EditError(f"a node reads its input {lost[0]!r}, which has no value in the file: name this input, too")
    kept = (
        whole
        for number, content, whole in fields(graph)
        if number != GRAPH_INPUT or content is None or name(content, INPUT_NAME) in keep
    )
    return b"".join(kept)


def edit(model, keep):
    """The bytes of `model` with only the graph inputs `keep`."""
    model, parts, graphs = memoryview(model), [], 0
    for number, content, whole in fields(model):
        if number == MODEL_GRAPH and content is not None:
            graph = edit_graph(content, keep)
            whole, graphs = encoded(MODEL_GRAPH << 3 | BYTES) + encoded(len(graph)) + graph, graphs + 1
        parts.append(whole)
    if graphs != 1:
        raise EditError("it is not an ONNX file: download it again")
    return b"".join(parts)


def main(arguments):
    if len(arguments) < 3:
        print("usage: keep-onnx-inputs.py IN.onnx OUT.onnx NAME...", file=sys.stderr)
        return 2
    source, out, *keep = arguments
    try:
        Path(out).write_bytes(edit(Path(source).read_bytes(), keep))
    except EditError as error:
        print(f"keep-onnx-inputs: {source}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"keep-onnx-inputs: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
