#!/usr/bin/env python3
"""Converts a RetinaFace that InsightFace published for MXNet to ONNX, with batch, height and width left open.

    python3 -m venv /tmp/convert && /tmp/convert/bin/pip install numpy onnx
    /tmp/convert/bin/python scripts/mxnet-to-onnx.py mnet.25-symbol.json mnet.25-0000.params mnet.25.onnx

SYMBOL is the net (`NAME-symbol.json`), PARAMS its weights (`NAME-0000.params`); MXNet itself is not needed. OUT has the
symbol's outputs in the symbol's order, called as there (`face_rpn_cls_prob_reshape_stride32` and so on), which is what
`RetinaFace.detect` of InsightFace reads. Its input `data` is as there, too: for mnet.25 RGB, 0 to 255.

The net is what MXNet computes in inference: dropout passes, batch normalisation takes the moving statistics, a
SoftmaxOutput is its softmax. Outputs that only training reads, losses and labels, are left out and named on standard
error. Nothing is folded: each operator becomes what computes the same numbers, weights keep their names and values.

Convolution and deconvolution, batch normalisation, pooling of both conventions, crops, upsampling, softmax, reshape and
element-wise operators are known: what InsightFace builds its detectors of (rcnn/symbol in detection/retinaface), but for
deformable convolution, which ONNX has had since opset 19 only. What is not known is an error, never a guess. mnet.25 was
compared with a conversion by others, each operator with a plain computation; the larger nets have not been run.

Exit status: 0 done, 2 an error.
"""

import argparse
import json
import math
import os
import re
import struct
import sys
import tempfile
from collections import namedtuple
from pathlib import Path

try:
    import numpy as np
    import onnx
except ImportError as missing:
    print(f"mxnet-to-onnx: {missing}: pip install numpy onnx", file=sys.stderr)
    sys.exit(2)

OPSET = 13
IR_VERSION = 8
PRODUCER = "retinaface mxnet-to-onnx"

# Of a list of arrays, and of an array in it (src/ndarray/ndarray.cc of MXNet). An array without one is older: it begins
# with its number of axes.
LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
# As NumPy 1 allows.
MOST_AXES = 32
# By MXNet's type flag.
TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
# Protocol buffers, and so an ONNX file, hold no more.
MOST_BYTES = 2**31 - 1
# What an attribute's number may be: MXNet keeps 32 bits of most.
MOST_INTEGER = 2**31 - 1
# A name stands at every node that reads it: long ones would make a large file of a small one.
LONGEST_NAME = 256

# What MXNet calls the net's picture; any other variable without a value is a missing parameter.
PICTURE = "data"
LAYOUTS = ("None", "NCW", "NCHW", "NCDHW")
AXES = ("batch", "channels", "height", "width")

# Statistics of layers that come from Gluon: called the first way by MXNet's symbols, mnet.25's among them, the second way
# in the weights.
GLUON_NAMES = (("_moving_mean", "_running_mean"), ("_moving_var", "_running_var"))

# Inputs after the first are labels, which only training reads.
LABELLED = {"SoftmaxOutput", "Softmax"}
LOSSES = {"MakeLoss", "make_loss"}
# Attributes that change nothing in inference: of training, and of how MXNet computes.
WITHOUT_EFFECT = {
    "workspace", "cudnn_tune", "cudnn_off", "momentum", "use_global_stats", "min_calib_range", "max_calib_range", "p",
    "grad_scale", "ignore_label", "use_ignore", "normalization", "out_grad", "smooth_alpha", "is_int", "lr_mult",
    "wd_mult", "force_mirroring", "ctx_group", "output_mean_var",
}  # fmt: skip


class ConversionError(Exception):
    """What went wrong, with its remedy; told on one line."""


def say(text):
    # Names come from the files, line breaks and all.
    print("mxnet-to-onnx:", " ".join(str(text).split()), file=sys.stderr, flush=True)


def read_file(path):
    # A device or a pipe may never end.
    if not path.is_file():
        raise ConversionError(f"{path} is not a file; the net is NAME-symbol.json, its weights are NAME-0000.params")
    return path.read_bytes()


# ---------------------------------------------------------------- parameters


class Reader:
    """Reads what a file still has; no number in it makes room for more."""

    def __init__(self, data, file):
        self.data, self.file, self.at = data, file, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, size, what):
        if size > self.left():
            raise ConversionError(f"{self.file} is truncated: {what} needs {size} bytes of {self.left()}; fetch it again")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, form, count, what):
        return struct.unpack(f"<{count}{form}", self.take(count * struct.calcsize(f"<{form}"), what))


def read_shape(reader, what):
    """An array's magic and its shape; None for an array without one."""
    (magic,) = reader.numbers("I", 1, what)
    dimension = "q" if magic in (V1_MAGIC, V2_MAGIC, V3_MAGIC) else "I"
    if magic in (V2_MAGIC, V3_MAGIC) and reader.numbers("i", 1, what) != (0,):
        raise ConversionError(f"{what} of {reader.file} is sparse or damaged; save it with dense arrays, as InsightFace did")
    (axes,) = (magic,) if dimension == "I" else reader.numbers("i", 1, what)
    # Under version 3 an array of no axes is a number, under the others an array that was never made.
    if axes == (-1 if magic == V3_MAGIC else 0):
        return None
    if not 0 <= axes <= MOST_AXES:
        raise ConversionError(
            f"{what} of {reader.file} has neither a known format nor a sane number of axes ({axes}): fetch it again"
        )
    shape = reader.numbers(dimension, axes, what)
    if any(side < 1 for side in shape):
        raise ConversionError(f"{what} of {reader.file} has the impossible shape {shape}: fetch it again")
    return shape


def read_array(reader, what):
    shape = read_shape(reader, what)
    if shape is None:
        return None
    # The device that it was on, and its number.
    reader.numbers("i", 2, what)
    (flag,) = reader.numbers("i", 1, what)
    if not 0 <= flag < len(TYPES):
        raise ConversionError(f"{what} of {reader.file} has the type {flag}, which MXNet 1 does not know: save it as float32")
    kind = np.dtype(TYPES[flag])
    return np.frombuffer(reader.take(math.prod(shape) * kind.itemsize, what), kind).reshape(shape)


def read_parameters(path):
    """The arrays of a .params file by name, without the kind that stands before it (`arg:`, `aux:`)."""
    reader = Reader(memoryview(read_file(path)), path)
    # The second number is reserved.
    if reader.left() < 16 or reader.numbers("Q", 2, "its head")[0] != LIST_MAGIC:
        raise ConversionError(f"{path} is not a parameter file of MXNet, or is truncated: NAME-0000.params is wanted")
    # However many are promised, each takes some bytes: the file's end ends them.
    arrays = [read_array(reader, f"array {index}") for index in range(*reader.numbers("Q", 1, "the number of arrays"))]
    names = [read_name(reader, index) for index in range(*reader.numbers("Q", 1, "the number of names"))]
    if len(names) != len(arrays):
        raise ConversionError(f"{path} has {len(arrays)} arrays and {len(names)} names: save it with mx.model.save_checkpoint")
    if reader.left():
        raise ConversionError(f"{path} has {reader.left()} bytes behind its end: it is damaged; fetch it again")
    if len(set(names)) != len(names):
        raise ConversionError(f"{path} has two arrays of one name: save it with mx.model.save_checkpoint")
    return {name: array for name, array in zip(names, arrays) if array is not None}


def read_name(reader, index):
    (length,) = reader.numbers("Q", 1, f"name {index}")
    try:
        kind, _, name = bytes(reader.take(length, f"name {index}")).decode().partition(":")
    except UnicodeDecodeError:
        raise ConversionError(f"name {index} of {reader.file} is no text: it is damaged; fetch it again") from None
    if kind not in ("arg", "aux") or not name:
        raise ConversionError(
            f"name {index} of {reader.file} does not begin with arg: or aux:; save it with mx.model.save_checkpoint"
        )
    return name


# ---------------------------------------------------------------- symbol

NEEDED = object()
NUMBER = re.compile(r"[+-]?\d{1,10}L?")
REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Node:
    """An operator or a variable of the net. Attributes that nobody asked for are errors, since they could mean anything."""

    def __init__(self, operator, name, attributes, inputs):
        self.operator, self.name, self.inputs = operator, name, inputs
        self.attributes = attributes
        self.unread = {key for key in attributes if not key.startswith("__")} - WITHOUT_EFFECT

    def is_variable(self):
        return self.operator == "null"

    def error(self, text):
        return ConversionError(f"{self.operator} {self.name!r}: {text}")

    def wrong(self, key, wanted):
        return self.error(f"{key}={self.attributes.get(key)!r} is not converted, only {wanted}")

    def text(self, key, default):
        self.unread.discard(key)
        if key not in self.attributes and default is NEEDED:
            raise self.error(f"{key} is missing: the symbol is damaged; fetch it again")
        return self.attributes.get(key)

    def word(self, key, default, known):
        text = self.text(key, default)
        word = default if text is None else text
        if word not in known:
            raise self.wrong(key, " or ".join(map(str, known)))
        return word

    def boolean(self, key, default):
        return self.word(key, str(default), ("True", "False", "true", "false", "1", "0")) in ("True", "true", "1")

    def real(self, key, default):
        text = self.text(key, default)
        if text is None:
            return default
        number = float(text) if REAL.fullmatch(text.strip()) else math.inf
        if abs(number) > float(np.finfo(np.float32).max):
            raise self.wrong(key, "numbers of 32 bits")
        return number

    def integers(self, key, default=NEEDED):
        """A tuple of integers; one integer is a tuple of one."""
        text = self.text(key, default)
        if text is None:
            return default
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1].strip()
            inner = inner[:-1] if inner.endswith(",") else inner
        parts = [part.strip() for part in inner.split(",")] if inner else []
        if len(parts) > MOST_AXES or not all(map(NUMBER.fullmatch, parts)):
            raise self.wrong(key, f"up to {MOST_AXES} integers")
        numbers = tuple(int(part.rstrip("L")) for part in parts)
        if any(abs(number) > MOST_INTEGER for number in numbers):
            raise self.wrong(key, "integers of 32 bits")
        return numbers

    def integer(self, key, default=NEEDED, least=-MOST_INTEGER):
        numbers = self.integers(key, default)
        if numbers is default:
            return default
        if len(numbers) != 1 or numbers[0] < least:
            raise self.wrong(key, "an integer" if least < 0 else f"an integer of at least {least}")
        return numbers[0]

    def sides(self, key, axes, default, least=0):
        """A number for each spatial axis; an empty tuple is MXNet's way to say the default."""
        numbers = self.integers(key, ()) or (default,) * axes
        if len(numbers) != axes or min(numbers) < least:
            raise self.wrong(key, f"{axes} integers of at least {least}")
        return list(numbers)

    def kernel(self):
        kernel = self.integers("kernel")
        if not 1 <= len(kernel) <= 3 or min(kernel) < 1:
            raise self.wrong("kernel", "one to three sides of at least 1")
        return list(kernel)

    def finish(self):
        if self.unread:
            raise self.error(f"the attribute {min(self.unread)!r} is not known to the converter; it needs to learn it")


class Symbol:
    """A net as MXNet writes it: nodes, each after its inputs, and those that are outputs."""

    def __init__(self, path):
        self.path = path
        try:
            content = json.loads(read_file(path))
        except (ValueError, RecursionError):
            raise self.damaged("it is no JSON") from None
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("nodes", "heads")):
            raise self.damaged("it has no nodes and heads")
        self.nodes = []
        for node in content["nodes"]:
            self.nodes.append(self.read_node(node))
        self.heads = self.edges(content["heads"], "the net")
        if not self.heads:
            raise self.damaged("it has no outputs")

    def damaged(self, why):
        return ConversionError(f"{self.path} is not a symbol file of MXNet ({why}): NAME-symbol.json is wanted")

    def read_node(self, content):
        index = len(self.nodes)
        if not isinstance(content, dict) or not all(self.is_name(content.get(key)) for key in ("op", "name")):
            raise self.damaged(f"node {index} has no op and name")
        attributes = {}
        # Newer versions of MXNet have called them otherwise.
        for key in ("param", "attr", "attrs"):
            part = content.get(key, {})
            if not isinstance(part, dict) or not all(isinstance(value, str) for value in part.values()):
                raise self.damaged(f"the attributes of node {index} are no texts")
            attributes.update(part)
        return Node(content["op"], content["name"], attributes, self.edges(content.get("inputs", []), f"node {index}"))

    @staticmethod
    def is_name(value):
        # Lone surrogates are among what is not printable: no file could hold them.
        return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable()

    def edges(self, content, reader):
        """Which nodes are read; only such as stand before, so that no net is a circle."""
        if not isinstance(content, list):
            raise self.damaged(f"the inputs of {reader} are no list")
        for edge in content:
            if not isinstance(edge, list) or len(edge) not in (2, 3) or not all(type(number) is int for number in edge):
                raise self.damaged(f"an input of {reader} is no pair of numbers")
            if not 0 <= edge[0] < len(self.nodes):
                raise self.damaged(f"{reader} reads node {edge[0]}, which does not stand before it")
            if edge[1] != 0:
                name = self.nodes[edge[0]].name
                raise ConversionError(
                    f"{reader} of {self.path} reads output {edge[1]} of {name!r}; only first outputs are converted"
                )
        return [edge[0] for edge in content]

    def used(self, index):
        """What a node reads in inference."""
        node = self.nodes[index]
        return node.inputs[:1] if node.operator in LABELLED else node.inputs

    def above(self, heads):
        """Everything that these nodes are computed from, in order, with them."""
        found = set(heads)
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in found:
                found.update(self.used(index))
        return sorted(found)


# ---------------------------------------------------------------- graph

# A side of a shape is a number, one of AXES where it is the picture's, or None.
Tensor = namedtuple("Tensor", "name shape")
OPERATORS = {}


def operator(*names):
    """Makes a function the converter of these operators: it gets the graph and the node, and gives the node's tensor."""

    def register(function):
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def gluon_parameters(symbol, parameters):
    """The parameters that stand under Gluon's name, under the symbol's."""
    found = {}
    for node in symbol.nodes:
        for ours, theirs in GLUON_NAMES:
            name = node.name[: -len(ours)] + theirs
            if node.is_variable() and node.name.endswith(ours) and name in parameters:
                found[node.name] = parameters[name]
    return found


class Graph:
    """The ONNX graph, as far as it is made."""

    def __init__(self, symbol, parameters):
        self.symbol, self.parameters = symbol, {**gluon_parameters(symbol, parameters), **parameters}
        # Tensors by the node that they are of; weights by name; which weight an array became, as what.
        self.nodes, self.made, self.weights, self.became = [], {}, {}, {}
        # Every name that is taken, and the number that the next to want it gets. Weights keep theirs.
        self.names = {node.name: 2 for node in symbol.nodes if node.is_variable()}
        self.channels = AXES[1]
        self.picture = self.find_picture()
        # What is an input or an output already.
        self.given = {self.picture}
        heads = self.heads()
        self.make(heads)
        self.outputs = [self.output(index) for index in heads]

    def find_picture(self):
        missing = [node.name for node in self.symbol.nodes if node.is_variable() and node.name not in self.parameters]
        if not missing:
            raise ConversionError(f"{self.symbol.path} has no input: every variable has a value")
        return PICTURE if PICTURE in missing else missing[0]

    def heads(self):
        """The outputs that inference gives: computed from the picture, and no loss."""
        fed = set()
        for index, node in enumerate(self.symbol.nodes):
            if (node.is_variable() and node.name == self.picture) or fed.intersection(self.symbol.used(index)):
                fed.add(index)
        kept, left_out = [], []
        for index in self.symbol.heads:
            node = self.symbol.nodes[index]
            (kept if index in fed and node.operator not in LOSSES else left_out).append(index)
        if not kept:
            raise ConversionError(
                f"no output of {self.symbol.path} is computed from {self.picture!r} in inference: is this the detector?"
            )
        if left_out:
            say(f"left out what only training reads: {', '.join(self.symbol.nodes[index].name for index in left_out)}")
        return kept

    def make(self, heads):
        for index in self.symbol.above(heads):
            node = self.symbol.nodes[index]
            if node.is_variable():
                continue
            if node.operator not in OPERATORS:
                raise node.error(f"the operator {node.operator} is not known to the converter; it needs to learn it")
            self.made[index] = OPERATORS[node.operator](self, node)
            node.finish()

    def unique(self, name):
        free = name
        while free in self.names:
            free = f"{name}_{self.names[name]}"
            self.names[name] += 1
        self.names[free] = 2
        return free

    def add(self, operator, inputs, name, shape, **attributes):
        names = [value.name if isinstance(value, Tensor) else value for value in inputs]
        output = self.unique(name)
        self.nodes.append(onnx.helper.make_node(operator, names, [output], name=output, **attributes))
        return Tensor(output, list(shape))

    def constant(self, name, values, kind=np.int64):
        name = self.unique(name)
        self.weights[name] = np.array(values, kind)
        return name

    def array(self, node, place, what, shape):
        """A parameter, whose shape has to be this one, and its name; None is any side."""
        if place >= len(node.inputs):
            raise node.error(f"it has {len(node.inputs)} inputs and no {what}: the symbol is damaged; fetch it again")
        variable = self.symbol.nodes[node.inputs[place]]
        if not variable.is_variable():
            raise node.error(f"its {what} is computed, by {variable.name!r}; only parameters are converted")
        array = self.parameters.get(variable.name)
        if array is None:
            raise node.error(f"its {what} {variable.name!r} is missing from the parameters: do both files belong together?")
        if array.ndim != len(shape) or any(side not in (None, had) for side, had in zip(shape, array.shape)):
            wanted = " x ".join("any" if side is None else str(side) for side in shape)
            raise node.error(
                f"its {what} {variable.name!r} has the shape {array.shape}, wanted is {wanted}: do both files belong together?"
            )
        return variable.name, array

    def parameter(self, node, place, what, shape):
        return self.weight(node, *self.array(node, place, what, shape))

    def weight(self, node, name, array, of=None):
        """A parameter as it is, or something else that is made of it."""
        key = (name, array.shape, of)
        if key not in self.became:
            if array.dtype.kind != "f":
                raise node.error(f"the parameter {name!r} is of {array.dtype}; save it as float32")
            self.became[key] = self.unique(name) if name in self.weights else name
            with np.errstate(over="ignore"):
                self.weights[self.became[key]] = array.astype(np.float32)
        return Tensor(self.became[key], list(array.shape))

    def data(self, node, place=0):
        """What a node computes with; not a weight of its own, though a parameter can be here, too."""
        if place >= len(node.inputs):
            raise node.error(f"it has {len(node.inputs)} inputs, too few: the symbol is damaged; fetch it again")
        index = node.inputs[place]
        if index in self.made:
            return self.made[index]
        name = self.symbol.nodes[index].name
        if name in self.parameters:
            return self.weight(node, name, self.parameters[name])
        if name == self.picture:
            return Tensor(name, list(AXES))
        raise node.error(f"its input {name!r} is missing from the parameters: do both files belong together?")

    def side(self, side):
        """A side of a shape, with the picture's channels if by now they are known."""
        return self.channels if side == AXES[1] else side

    def same(self, node, one, other):
        """A side that two tensors have to share."""
        one, other = self.side(one), self.side(other)
        if AXES[1] in (one, other) and isinstance(one, int) != isinstance(other, int):
            self.channels = one if isinstance(one, int) else other
            return self.channels
        if isinstance(one, int) and isinstance(other, int) and one != other:
            raise node.error(f"it gets {one} channels or sides where {other} are wanted: do both files belong together?")
        return one if one == other or isinstance(one, int) else other if isinstance(other, int) else None

    def image(self, node, axes, channels=None, place=0):
        """Data with a batch, channels and so many spatial axes."""
        x = self.data(node, place)
        self.rank(node, x, 2 + axes)
        if channels is not None:
            self.same(node, x.shape[1], channels)
        return x

    @staticmethod
    def rank(node, x, *wanted):
        if len(x.shape) not in wanted:
            raise node.error(f"{x.name!r} has {len(x.shape)} axes, wanted are {' or '.join(map(str, wanted))}")

    def output(self, index):
        """A node's tensor, under the node's own name where that is free."""
        name = self.symbol.nodes[index].name
        tensor = self.made.get(index) or Tensor(self.picture, list(AXES))
        if tensor.name in self.given or tensor.name != name:
            tensor = self.add("Identity", [tensor], name, tensor.shape)
        self.given.add(tensor.name)
        return tensor

    def value_info(self, tensor):
        kinds = AXES if len(tensor.shape) == len(AXES) else [f"axis{axis}" for axis in range(len(tensor.shape))]
        sides = [
            f"{tensor.name}_{kind}" if self.side(side) is None else self.side(side) for kind, side in zip(kinds, tensor.shape)
        ]
        return onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, sides)

    def model(self):
        if sum(array.nbytes for array in self.weights.values()) >= MOST_BYTES:
            raise ConversionError("the weights are larger than an ONNX file can hold: is this the detector?")
        graph = onnx.helper.make_graph(
            self.nodes,
            "retinaface",
            [self.value_info(Tensor(self.picture, list(AXES)))],
            [self.value_info(tensor) for tensor in self.outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        opset = onnx.helper.make_operatorsetid("", OPSET)
        return onnx.helper.make_model(graph, opset_imports=[opset], producer_name=PRODUCER, ir_version=IR_VERSION)


# ---------------------------------------------------------------- operators


def doubled(sides):
    """Padding before and after, from padding on both."""
    return [*sides, *sides]


def window(node):
    """A convolution's kernel and how it moves, in ONNX's terms."""
    node.word("layout", "None", LAYOUTS)
    kernel = node.kernel()
    return {
        "kernel_shape": kernel,
        "strides": node.sides("stride", len(kernel), 1, 1),
        "dilations": node.sides("dilate", len(kernel), 1, 1),
        "pads": doubled(node.sides("pad", len(kernel), 0)),
        "group": node.integer("num_group", 1, 1),
    }


def divided(node, count, groups, what):
    if count % groups:
        raise node.error(f"{count} {what} do not make {groups} groups: the symbol is damaged; fetch it again")
    return count // groups


@operator("Convolution")
def convolution(graph, node):
    moves, filters = window(node), node.integer("num_filter", least=1)
    divided(node, filters, moves["group"], "filters")
    inputs = [graph.parameter(node, 1, "weight", (filters, None, *moves["kernel_shape"]))]
    x = graph.image(node, len(moves["kernel_shape"]), inputs[0].shape[1] * moves["group"])
    if not node.boolean("no_bias", False):
        inputs.append(graph.parameter(node, 2, "bias", (filters,)))
    return graph.add("Conv", [x, *inputs], node.name, [x.shape[0], filters] + [None] * (len(x.shape) - 2), **moves)


@operator("Deconvolution")
def deconvolution(graph, node):
    moves, filters = window(node), node.integer("num_filter", least=1)
    adj = node.sides("adj", len(moves["kernel_shape"]), 0)
    if any(node.integers("target_shape", ())):
        raise node.wrong("target_shape", "outputs as large as their inputs make them")
    if any(more >= step for more, step in zip(adj, moves["strides"])):
        raise node.wrong("adj", "numbers below the stride")
    shape = (None, divided(node, filters, moves["group"], "filters"), *moves["kernel_shape"])
    inputs = [graph.parameter(node, 1, "weight", shape)]
    divided(node, inputs[0].shape[0], moves["group"], "channels")
    x = graph.image(node, len(adj), inputs[0].shape[0])
    if not node.boolean("no_bias", True):
        inputs.append(graph.parameter(node, 2, "bias", (filters,)))
    sides = [x.shape[0], filters] + [None] * len(adj)
    return graph.add("ConvTranspose", [x, *inputs], node.name, sides, output_padding=adj, **moves)


@operator("UpSampling")
def upsampling(graph, node):
    scale = node.integer("scale", least=1)
    kind = node.word("sample_type", NEEDED, ("nearest", "bilinear"))
    node.word("multi_input_mode", "concat", ("concat", "sum"))
    x = graph.image(node, 2)
    if kind == "nearest":
        node.integer("num_filter", None)
        if node.integer("num_args", 1) != 1:
            raise node.wrong("num_args", "1")
        scales = graph.constant(f"{node.name}_scales", [1, 1, scale, scale], np.float32)
        return graph.add("Resize", [x, "", scales], node.name, [*x.shape[:2], None, None], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    # In MXNet, too, it is a deconvolution of each channel, with a weight of its own.
    node.integer("num_args", 2)
    filters, kernel = node.integer("num_filter", least=1), 2 * scale - scale % 2
    weight = graph.parameter(node, 1, "weight", (filters, 1, kernel, kernel))
    graph.same(node, x.shape[1], filters)
    return graph.add("ConvTranspose", [x, weight], node.name, [x.shape[0], filters, None, None], kernel_shape=[kernel] * 2,
                     strides=[scale] * 2, pads=[scale // 2] * 4, group=filters)  # fmt: skip


@operator("FullyConnected")
def fully_connected(graph, node):
    units, x = node.integer("num_hidden", least=1), graph.data(node)
    weight = graph.parameter(node, 1, "weight", (units, None))
    if node.boolean("flatten", True) and len(x.shape) != 2:
        x = graph.add("Flatten", [x], f"{node.name}_flat", [x.shape[0], None], axis=1)
    graph.rank(node, x, 2)
    graph.same(node, x.shape[1], weight.shape[1])
    inputs = [x, weight]
    if not node.boolean("no_bias", False):
        inputs.append(graph.parameter(node, 2, "bias", (units,)))
    return graph.add("Gemm", inputs, node.name, [x.shape[0], units], transB=1)


@operator("BatchNorm")
def batch_norm(graph, node):
    x = graph.data(node)
    graph.rank(node, x, 2, 3, 4, 5)
    if node.integer("axis", 1) != 1:
        raise node.wrong("axis", "1")
    name, gamma = graph.array(node, 1, "gamma", (None,))
    graph.same(node, x.shape[1], len(gamma))
    # What stands in the file is then not what MXNet takes.
    fixed = node.boolean("fix_gamma", True)
    scale = graph.weight(node, name, np.ones_like(gamma, np.float32), "ones") if fixed else graph.weight(node, name, gamma)
    others = [
        graph.parameter(node, place, what, gamma.shape)
        for place, what in ((2, "beta"), (3, "moving mean"), (4, "moving variance"))
    ]
    return graph.add("BatchNormalization", [x, scale, *others], node.name, x.shape, epsilon=node.real("eps", 1e-3))


ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}


@operator("Activation")
def activation(graph, node):
    x = graph.data(node)
    return graph.add(ACTIVATIONS[node.word("act_type", NEEDED, tuple(ACTIVATIONS))], [x], node.name, x.shape)


@operator("relu", "sigmoid", "tanh", "softsign")
def activation_by_name(graph, node):
    x = graph.data(node)
    return graph.add(ACTIVATIONS[node.operator], [x], node.name, x.shape)


@operator("LeakyReLU")
def leaky_relu(graph, node):
    x, kind = graph.data(node), node.word("act_type", "leaky", ("leaky", "elu", "prelu", "rrelu", "selu"))
    slope, lower, upper = node.real("slope", 0.25), node.real("lower_bound", 0.125), node.real("upper_bound", 0.334)
    if kind == "prelu":
        return graph.add("PRelu", [x, slopes(graph, node, x)], node.name, x.shape)
    if kind == "selu":
        return graph.add("Selu", [x], node.name, x.shape)
    # Outside of training the random slope is the middle one.
    alpha = (lower + upper) / 2 if kind == "rrelu" else slope
    return graph.add("Elu" if kind == "elu" else "LeakyRelu", [x], node.name, x.shape, alpha=alpha)


def slopes(graph, node, x):
    """PReLU's slopes, a channel each or one for all, in the shape that lays them along the channels."""
    graph.rank(node, x, 2, 3, 4, 5)
    name, gamma = graph.array(node, 1, "gamma", (None,))
    if len(gamma) != 1:
        graph.same(node, x.shape[1], len(gamma))
    return graph.weight(node, name, gamma.reshape((len(gamma),) + (1,) * (len(x.shape) - 2)))


@operator("Pooling")
def pooling(graph, node):
    kind = node.word("pool_type", "max", ("max", "avg"))
    full = node.word("pooling_convention", "valid", ("valid", "full")) == "full"
    count_pad = node.boolean("count_include_pad", True) and kind == "avg"
    node.word("layout", "None", LAYOUTS)
    if node.boolean("global_pool", False):
        node.unread -= {"kernel", "stride", "pad"}
        x = graph.data(node)
        graph.rank(node, x, 3, 4, 5)
        name = "GlobalMaxPool" if kind == "max" else "GlobalAveragePool"
        return graph.add(name, [x], node.name, x.shape[:2] + [1] * (len(x.shape) - 2))
    kernel = node.kernel()
    stride, pad = node.sides("stride", len(kernel), 1, 1), node.sides("pad", len(kernel), 0)
    x = graph.image(node, len(kernel))
    if full and count_pad and any(pad):
        # MXNet counts what pads the picture, but not what only rounds its size up; ONNX counts both or neither.
        raise node.wrong("count_include_pad", "False where pooling_convention is full and there is padding")
    # One short of a step more, and the size that is rounded down is the one that MXNet rounds up. ceil_mode would be
    # the same, did runtimes agree on it.
    ends = [before + step - 1 if full else before for before, step in zip(pad, stride)]
    if any(end >= side for end, side in zip(ends, kernel)):
        raise node.error(
            f"with kernel {kernel}, stride {stride}, pad {pad} a window may lie beside the picture; this is not converted"
        )
    shape, sides = x.shape[:2] + [None] * len(kernel), {"kernel_shape": kernel, "strides": stride, "pads": pad + ends}
    if kind == "max":
        return graph.add("MaxPool", [x], node.name, shape, **sides)
    return graph.add("AveragePool", [x], node.name, shape, count_include_pad=int(count_pad and not full), **sides)


SUMS = {
    "elemwise_add": "Add", "_plus": "Add", "_Plus": "Add", "_add": "Add", "elemwise_sub": "Sub", "_minus": "Sub",
    "_Minus": "Sub", "_sub": "Sub", "elemwise_mul": "Mul", "_mul": "Mul", "_Mul": "Mul", "elemwise_div": "Div",
    "_div": "Div", "_Div": "Div",
}  # fmt: skip
BROADCASTS = {
    "broadcast_add": "Add", "broadcast_plus": "Add", "broadcast_sub": "Sub", "broadcast_minus": "Sub",
    "broadcast_mul": "Mul", "broadcast_div": "Div",
}  # fmt: skip


@operator(*SUMS)
def element_wise(graph, node):
    x, y = graph.data(node, 0), graph.data(node, 1)
    graph.rank(node, y, len(x.shape))
    shape = [graph.same(node, one, other) for one, other in zip(x.shape, y.shape)]
    return graph.add(SUMS[node.operator], [x, y], node.name, shape)


@operator("add_n", "ElementWiseSum", "_sum")
def add_n(graph, node):
    node.integer("num_args", None)
    total = graph.data(node)
    shape = total.shape
    terms = [graph.data(node, place) for place in range(len(node.inputs))]
    for term in terms:
        graph.rank(node, term, len(shape))
        shape = [graph.same(node, one, other) for one, other in zip(shape, term.shape)]
    return graph.add("Sum", terms, node.name, shape)


@operator(*BROADCASTS)
def broadcast(graph, node):
    x, y = graph.data(node, 0), graph.data(node, 1)
    graph.rank(node, y, len(x.shape))
    shape = [two_sides(graph, node, one, other) for one, other in zip(x.shape, y.shape)]
    return graph.add(BROADCASTS[node.operator], [x, y], node.name, shape)


def two_sides(graph, node, one, other):
    """A side of what two tensors make, of which either may be repeated."""
    if 1 in (one, other):
        return other if one == 1 else one
    if isinstance(one, int) or isinstance(other, int):
        return graph.same(node, one, other)
    # One of two open sides may turn out to be 1.
    return one if one == other else None


# What a number does to a tensor; with an r it comes first.
SCALARS = {
    "plus": "Add",
    "minus": "Sub",
    "rminus": "Sub",
    "mul": "Mul",
    "div": "Div",
    "rdiv": "Div",
    "maximum": "Max",
    "minimum": "Min",
}


@operator(*(f"_{name}_scalar" for name in SCALARS))
def scalar(graph, node):
    x, kind = graph.data(node), node.operator.split("_")[1]
    number = graph.constant(f"{node.name}_scalar", node.real("scalar", NEEDED), np.float32)
    return graph.add(SCALARS[kind], [number, x] if kind[0] == "r" else [x, number], node.name, x.shape)


@operator("clip")
def clip(graph, node):
    x = graph.data(node)
    limits = [graph.constant(f"{node.name}_{key}", node.real(key, NEEDED), np.float32) for key in ("a_min", "a_max")]
    return graph.add("Clip", [x, *limits], node.name, x.shape)


@operator("_copy", "identity", "BlockGrad", "stop_gradient", "Dropout")
def identity(graph, node):
    node.word("mode", "training", ("training",))
    node.integers("axes", ())
    return graph.data(node)


@operator("Concat", "concat")
def concat(graph, node):
    parts = [graph.data(node, place) for place in range(len(node.inputs))]
    node.integer("num_args", None)
    shape = list(graph.data(node).shape)
    axis = one_axis(graph, node, "dim", 1, len(shape))
    for part in parts:
        graph.rank(node, part, len(shape))
        for other in set(range(len(shape))) - {axis}:
            shape[other] = graph.same(node, shape[other], part.shape[other])
    sides = [graph.side(part.shape[axis]) for part in parts]
    shape[axis] = sum(sides) if all(isinstance(side, int) for side in sides) else None
    if shape[axis] is not None and shape[axis] > MOST_INTEGER:
        raise node.error("its result is too large: the symbol is damaged; fetch it again")
    return graph.add("Concat", parts, node.name, shape, axis=axis)


def one_axis(graph, node, key, default, axes):
    axis = node.integer(key, default)
    if not -axes <= axis < axes:
        raise node.wrong(key, f"an axis of {axes}")
    return axis % axes


@operator("Crop")
def crop(graph, node):
    x = graph.image(node, 2)
    if node.integer("num_args") not in (1, 2) or len(node.inputs) != node.integer("num_args"):
        raise node.wrong("num_args", "the number of inputs, 1 or 2")
    offset, sides = node.sides("offset", 2, 0), node.sides("h_w", 2, 0)
    center = node.boolean("center_crop", False)
    axes = graph.constant(f"{node.name}_axes", [2, 3])
    if len(node.inputs) == 2:
        like = graph.image(node, 2, place=1)
        size, sides = plane(graph, node, like, "size"), like.shape[2:]
    elif min(sides) < 1:
        raise node.wrong("h_w", "sides of at least 1")
    else:
        size = graph.constant(f"{node.name}_size", sides)
    if center:
        room = graph.add("Sub", [plane(graph, node, x, "room"), size], f"{node.name}_rest", [2])
        starts = graph.add("Div", [room, graph.constant(f"{node.name}_two", [2])], f"{node.name}_starts", [2])
    else:
        starts = graph.constant(f"{node.name}_starts", offset)
    ends = graph.add("Add", [starts, size], f"{node.name}_ends", [2]) if center or any(offset) else size
    return graph.add("Slice", [x, starts, ends, axes], node.name, x.shape[:2] + list(sides))


def plane(graph, node, x, name):
    """Height and width of a tensor, as numbers of the graph."""
    shape = graph.add("Shape", [x], f"{node.name}_{name}_shape", [4])
    ends = [graph.constant(f"{node.name}_{name}_{edge}", [at]) for edge, at in (("from", 2), ("to", 4))]
    return graph.add("Slice", [shape, *ends], f"{node.name}_{name}", [2])


@operator("Reshape", "reshape")
def reshape(graph, node):
    x, target = graph.data(node), list(node.integers("shape"))
    # All remaining sides as they are; as many zeros mean the same.
    if target[-1:] == [-2]:
        target[-1:] = [0] * (len(x.shape) - len(target) + 1)
    if not target or min(target) < -1 or target.count(-1) > 1:
        raise node.wrong("shape", "0, one -1, -2 as the last, and numbers")
    if node.boolean("reverse", False):
        raise node.wrong("reverse", "False")
    # Up to here MXNet's numbers mean what ONNX's do: a 0 is the side in its own place, whatever stands before it.
    if any(side == 0 and axis >= len(x.shape) for axis, side in enumerate(target)):
        raise node.error(
            f"shape={tuple(target)} keeps more axes than the {len(x.shape)} of {x.name!r}: the symbol is damaged; fetch it again"
        )
    shape = [x.shape[axis] if side == 0 else None if side < 0 else side for axis, side in enumerate(target)]
    return graph.add("Reshape", [x, graph.constant(f"{node.name}_shape", target)], node.name, shape)


@operator("Flatten", "flatten")
def flatten(graph, node):
    x = graph.data(node)
    shape = [x.shape[0], x.shape[1] if len(x.shape) == 2 else None]
    return graph.add("Flatten", [x], node.name, shape, axis=1)


@operator("transpose")
def transpose(graph, node):
    x = graph.data(node)
    axes = node.integers("axes", ()) or tuple(range(len(x.shape)))[::-1]
    if sorted(axes) != list(range(len(x.shape))):
        raise node.wrong("axes", f"an order of {len(x.shape)} axes")
    return graph.add("Transpose", [x], node.name, [x.shape[axis] for axis in axes], perm=axes)


@operator("slice_axis")
def slice_axis(graph, node):
    x = graph.data(node)
    axis, begin = one_axis(graph, node, "axis", NEEDED, len(x.shape)), node.integer("begin")
    end = MOST_INTEGER if node.text("end", NEEDED) == "None" else node.integer("end")
    shape = list(x.shape)
    had = graph.side(shape[axis])
    shape[axis] = len(range(had)[begin:end]) if isinstance(had, int) else None
    if shape[axis] == 0:
        raise node.error(f"nothing is left of {had} from {begin} to {end}: do both files belong together?")
    ends = [graph.constant(f"{node.name}_{name}", [number]) for name, number in (("begin", begin), ("end", end), ("axis", axis))]
    return graph.add("Slice", [x, *ends], node.name, shape)


@operator("SoftmaxActivation")
def softmax_activation(graph, node):
    return softmax_over(graph, node, node.word("mode", "instance", ("instance", "channel")) == "channel")


@operator("SoftmaxOutput", "Softmax")
def softmax_output(graph, node):
    last = node.boolean("preserve_shape", False)
    channels = node.boolean("multi_output", False)
    return softmax_over(graph, node, channels, last)


def softmax_over(graph, node, channels, last=False):
    x = graph.data(node)
    if not channels and not last:
        # Over all numbers of a picture; MXNet's back ends differ in what these are, once there are more axes.
        graph.rank(node, x, 2)
    if len(x.shape) < 2:
        raise node.error(f"{x.name!r} has no channels")
    return graph.add("Softmax", [x], node.name, x.shape, axis=1 if channels else -1)


@operator("softmax")
def softmax(graph, node):
    x = graph.data(node)
    node.word("temperature", "None", ("None", "1", "1.0"))
    node.word("dtype", "None", ("None", "float32"))
    node.word("use_length", "False", ("False", "0"))
    return graph.add("Softmax", [x], node.name, x.shape, axis=one_axis(graph, node, "axis", -1, len(x.shape)))


# ---------------------------------------------------------------- command line


def convert(symbol, parameters):
    """The ONNX model of a symbol file and a parameter file."""
    model = Graph(Symbol(symbol), read_parameters(parameters)).model()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ConversionError(f"the net does not fit together: {error}; do both files belong together?") from None
    return model


def write(model, out):
    """A file in its place is a whole file."""
    if not out.parent.is_dir():
        raise ConversionError(f"there is no folder {out.parent} to write {out.name} into: make it first")
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        file = Path(work) / "model.onnx"
        onnx.save(model, str(file))
        os.replace(file, out)


def arguments():
    parser = argparse.ArgumentParser(
        prog="mxnet-to-onnx.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("symbol", type=Path, metavar="SYMBOL", help="the net, NAME-symbol.json")
    parser.add_argument("parameters", type=Path, metavar="PARAMS", help="its weights, NAME-0000.params")
    parser.add_argument("out", type=Path, metavar="OUT", help="the ONNX file to write")
    return parser.parse_args()


def main():
    options = arguments()
    try:
        write(convert(options.symbol, options.parameters), options.out)
    except (ConversionError, OSError) as error:
        say(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
