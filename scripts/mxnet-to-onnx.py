#!/usr/bin/env python3
"""Converts a RetinaFace model of InsightFace from MXNet to ONNX, with dynamic batch and image size.

    python3 -m venv /tmp/convert && /tmp/convert/bin/pip install numpy onnx
    /tmp/convert/bin/python scripts/mxnet-to-onnx.py mnet.25-symbol.json mnet.25-0000.params mnet.25.onnx

SYMBOL is the network (`NAME-symbol.json`), PARAMS its weights (`NAME-0000.params`). MXNet is not
needed. OUT has the outputs of the symbol with their names and order
(`face_rpn_cls_prob_reshape_stride32` and so on), as `RetinaFace.detect` of InsightFace reads them.
The input `data` is unchanged, too: for mnet.25 RGB, 0 to 255.

The model computes what MXNet computes in inference: dropout is the identity, batch normalisation
uses the moving statistics, and SoftmaxOutput is a softmax. Outputs for training only, losses and
labels, are removed and listed on standard error. Nothing is folded: each operator is converted to
equivalent ONNX operators, and weights keep their names and values.

These operators are supported: convolution and deconvolution, batch normalisation, pooling with both
conventions, crop, upsampling, softmax, reshape and element-wise operators. They cover the detectors
of InsightFace (rcnn/symbol in detection/retinaface) except deformable convolution, which ONNX has
only since opset 19. An unsupported operator or attribute is an error. mnet.25 was compared with
another conversion, and each operator with an implementation in NumPy. Larger networks were not
tested.

Exit status: 0 success, 2 an error.
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

# Magic numbers of a list of arrays and of an array (src/ndarray/ndarray.cc of MXNet). The oldest
# format of an array has none and begins with the number of axes.
LIST_MAGIC = 0x112
V1_MAGIC, V2_MAGIC, V3_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
# Limit of NumPy 1.
MAX_AXES = 32
# Indexed by MXNet's type flag.
TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
# Limit of protocol buffers and therefore of an ONNX file.
MAX_BYTES = 2**31 - 1
# Limit of an integer attribute: MXNet stores most of them in 32 bits.
MAX_INTEGER = 2**31 - 1
# Every node repeats the names of its inputs: long names would make a large file from a small one.
MAX_NAME_LENGTH = 256

# MXNet's name of the image input; any other variable without a value is a missing parameter.
IMAGE_INPUT = "data"
LAYOUTS = ("None", "NCW", "NCHW", "NCDHW")
AXES = ("batch", "channels", "height", "width")

# Moving statistics of Gluon layers: suffix in the symbol, for example of mnet.25, and in the
# weights.
GLUON_NAMES = (("_moving_mean", "_running_mean"), ("_moving_var", "_running_var"))

# Operators whose inputs after the first are labels for training.
LABELLED = {"SoftmaxOutput", "Softmax"}
LOSSES = {"MakeLoss", "make_loss"}
# Attributes without effect on inference: for training, and for the execution by MXNet.
WITHOUT_EFFECT = {
    "workspace", "cudnn_tune", "cudnn_off", "momentum", "use_global_stats", "min_calib_range", "max_calib_range", "p",
    "grad_scale", "ignore_label", "use_ignore", "normalization", "out_grad", "smooth_alpha", "is_int", "lr_mult",
    "wd_mult", "force_mirroring", "ctx_group", "output_mean_var",
}  # fmt: skip


class ConversionError(Exception):
    """An error with its remedy, on one line."""


def report(text):
    # Names from the files can contain line breaks.
    print("mxnet-to-onnx:", " ".join(str(text).split()), file=sys.stderr, flush=True)


def read_file(path):
    # Reading a device or a pipe may never end.
    if not path.is_file():
        raise ConversionError(f"{path} is not a file: pass NAME-symbol.json and NAME-0000.params")
    return path.read_bytes()


# ---------------------------------------------------------------- parameters


class Reader:
    """Reads binary data; it never allocates more than the file contains."""

    def __init__(self, data, file):
        self.data, self.file, self.position = data, file, 0

    def remaining(self):
        return len(self.data) - self.position

    def take(self, size, what):
        if size > self.remaining():
            raise ConversionError(f"{self.file} is truncated: {what} needs {size} bytes, {self.remaining()} are left; download it again")
        self.position += size
        return self.data[self.position - size : self.position]

    def numbers(self, form, count, what):
        return struct.unpack(f"<{count}{form}", self.take(count * struct.calcsize(f"<{form}"), what))


def read_shape(reader, what):
    """Reads the magic number and the shape of an array; None if the array has no data."""
    (magic,) = reader.numbers("I", 1, what)
    dimension = "q" if magic in (V1_MAGIC, V2_MAGIC, V3_MAGIC) else "I"
    if magic in (V2_MAGIC, V3_MAGIC) and reader.numbers("i", 1, what) != (0,):
        raise ConversionError(f"{what} of {reader.file} is sparse or damaged: save dense arrays")
    (axes,) = (magic,) if dimension == "I" else reader.numbers("i", 1, what)
    # In version 3 an array without axes is a scalar; in older ones it is an uninitialised array.
    if axes == (-1 if magic == V3_MAGIC else 0):
        return None
    if not 0 <= axes <= MAX_AXES:
        raise ConversionError(
            f"{what} of {reader.file} has neither a known format nor a valid number of axes ({axes}): download it again"
        )
    shape = reader.numbers(dimension, axes, what)
    if any(dim < 1 for dim in shape):
        raise ConversionError(f"{what} of {reader.file} has the invalid shape {shape}: download it again")
    return shape


def read_array(reader, what):
    shape = read_shape(reader, what)
    if shape is None:
        return None
    # Type and index of the device.
    reader.numbers("i", 2, what)
    (flag,) = reader.numbers("i", 1, what)
    if not 0 <= flag < len(TYPES):
        raise ConversionError(f"{what} of {reader.file} has the type {flag}, which MXNet 1 does not define: save it as float32")
    kind = np.dtype(TYPES[flag])
    return np.frombuffer(reader.take(math.prod(shape) * kind.itemsize, what), kind).reshape(shape)


def read_parameters(path):
    """The arrays of a .params file by name, without the prefix `arg:` or `aux:`."""
    reader = Reader(memoryview(read_file(path)), path)
    # The second value is reserved.
    if reader.remaining() < 16 or reader.numbers("Q", 2, "the header")[0] != LIST_MAGIC:
        raise ConversionError(f"{path} is not a parameter file of MXNet, or is truncated: pass NAME-0000.params")
    # A wrong count cannot exhaust the memory: each array takes bytes of the file.
    arrays = [read_array(reader, f"array {index}") for index in range(*reader.numbers("Q", 1, "the number of arrays"))]
    names = [read_name(reader, index) for index in range(*reader.numbers("Q", 1, "the number of names"))]
    if len(names) != len(arrays):
        raise ConversionError(f"{path} has {len(arrays)} arrays and {len(names)} names: save it with mx.model.save_checkpoint")
    if reader.remaining():
        raise ConversionError(f"{path} has {reader.remaining()} bytes after its end: it is damaged; download it again")
    if len(set(names)) != len(names):
        raise ConversionError(f"{path} has two arrays with the same name: save it with mx.model.save_checkpoint")
    return {name: array for name, array in zip(names, arrays) if array is not None}


def read_name(reader, index):
    (length,) = reader.numbers("Q", 1, f"name {index}")
    try:
        kind, _, name = bytes(reader.take(length, f"name {index}")).decode().partition(":")
    except UnicodeDecodeError:
        raise ConversionError(f"name {index} of {reader.file} is not valid UTF-8: it is damaged; download it again") from None
    if kind not in ("arg", "aux") or not name:
        raise ConversionError(
            f"name {index} of {reader.file} does not begin with arg: or aux:; save it with mx.model.save_checkpoint"
        )
    return name


# ---------------------------------------------------------------- symbol

REQUIRED = object()
NUMBER = re.compile(r"[+-]?\d{1,10}L?")
REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Node:
    """An operator or a variable of the network.

    Attributes that no converter reads are errors, because they could change the result.
    """

    def __init__(self, operator, name, attributes, inputs):
        self.operator, self.name, self.inputs = operator, name, inputs
        self.attributes = attributes
        self.unread = {key for key in attributes if not key.startswith("__")} - WITHOUT_EFFECT

    def is_variable(self):
        return self.operator == "null"

    def error(self, text):
        return ConversionError(f"{self.operator} {self.name!r}: {text}")

    def unsupported(self, key, supported):
        return self.error(f"{key}={self.attributes.get(key)!r} is not supported: the converter accepts {supported}")

    def text(self, key, default):
        self.unread.discard(key)
        if key not in self.attributes and default is REQUIRED:
            raise self.error(f"{key} is missing: the symbol is damaged; download it again")
        return self.attributes.get(key)

    def choice(self, key, default, choices):
        text = self.text(key, default)
        value = default if text is None else text
        if value not in choices:
            raise self.unsupported(key, " or ".join(map(str, choices)))
        return value

    def boolean(self, key, default):
        return self.choice(key, str(default), ("True", "False", "true", "false", "1", "0")) in ("True", "true", "1")

    def real(self, key, default):
        text = self.text(key, default)
        if text is None:
            return default
        number = float(text) if REAL.fullmatch(text.strip()) else math.inf
        if abs(number) > float(np.finfo(np.float32).max):
            raise self.unsupported(key, "numbers in 32 bits")
        return number

    def integers(self, key, default=REQUIRED):
        """A tuple of integers; a single integer is a tuple with one element."""
        text = self.text(key, default)
        if text is None:
            return default
        inner = text.strip()
        if inner[:1] + inner[-1:] in ("()", "[]"):
            inner = inner[1:-1].strip()
            inner = inner[:-1] if inner.endswith(",") else inner
        parts = [part.strip() for part in inner.split(",")] if inner else []
        if len(parts) > MAX_AXES or not all(map(NUMBER.fullmatch, parts)):
            raise self.unsupported(key, f"up to {MAX_AXES} integers")
        numbers = tuple(int(part.rstrip("L")) for part in parts)
        if any(abs(number) > MAX_INTEGER for number in numbers):
            raise self.unsupported(key, "integers in 32 bits")
        return numbers

    def integer(self, key, default=REQUIRED, minimum=-MAX_INTEGER):
        numbers = self.integers(key, default)
        if numbers is default:
            return default
        if len(numbers) != 1 or numbers[0] < minimum:
            raise self.unsupported(key, "an integer" if minimum < 0 else f"an integer of at least {minimum}")
        return numbers[0]

    def per_axis(self, key, axes, default, minimum=0):
        """An integer for each spatial axis; in MXNet an empty tuple means the default."""
        numbers = self.integers(key, ()) or (default,) * axes
        if len(numbers) != axes or min(numbers) < minimum:
            raise self.unsupported(key, f"{axes} integers of at least {minimum}")
        return list(numbers)

    def kernel(self):
        kernel = self.integers("kernel")
        if not 1 <= len(kernel) <= 3 or min(kernel) < 1:
            raise self.unsupported("kernel", "one to three integers of at least 1")
        return list(kernel)

    def finish(self):
        if self.unread:
            raise self.error(f"the attribute {min(self.unread)!r} is not supported by the converter")


class Symbol:
    """A network in MXNet's format: nodes in topological order, and the outputs (heads)."""

    def __init__(self, path):
        self.path = path
        try:
            content = json.loads(read_file(path))
        except (ValueError, RecursionError):
            raise self.damaged("it is not JSON") from None
        if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("nodes", "heads")):
            raise self.damaged("it has no nodes and heads")
        self.nodes = []
        for node in content["nodes"]:
            self.nodes.append(self.read_node(node))
        self.heads = self.edges(content["heads"], "the network")
        if not self.heads:
            raise self.damaged("it has no outputs")

    def damaged(self, why):
        return ConversionError(f"{self.path} is not a symbol file of MXNet ({why}): pass NAME-symbol.json")

    def read_node(self, content):
        index = len(self.nodes)
        if not isinstance(content, dict) or not all(self.is_name(content.get(key)) for key in ("op", "name")):
            raise self.damaged(f"node {index} has no op and name")
        attributes = {}
        # The key depends on the version of MXNet.
        for key in ("param", "attr", "attrs"):
            part = content.get(key, {})
            if not isinstance(part, dict) or not all(isinstance(value, str) for value in part.values()):
                raise self.damaged(f"the attributes of node {index} are not strings")
            attributes.update(part)
        return Node(content["op"], content["name"], attributes, self.edges(content.get("inputs", []), f"node {index}"))

    @staticmethod
    def is_name(value):
        # isprintable() also rejects lone surrogates, which cannot be encoded in the file.
        return isinstance(value, str) and 0 < len(value) <= MAX_NAME_LENGTH and value.isprintable()

    def edges(self, content, reader):
        """Indices of the input nodes, which must precede the reader: there are no cycles."""
        if not isinstance(content, list):
            raise self.damaged(f"the inputs of {reader} are not a list")
        for edge in content:
            if not isinstance(edge, list) or len(edge) not in (2, 3) or not all(type(number) is int for number in edge):
                raise self.damaged(f"an input of {reader} is not a pair of integers")
            if not 0 <= edge[0] < len(self.nodes):
                raise self.damaged(f"{reader} reads node {edge[0]}, which does not come before it")
            if edge[1] != 0:
                name = self.nodes[edge[0]].name
                raise ConversionError(
                    f"{reader} of {self.path} reads output {edge[1]} of {name!r}; only the first output is supported"
                )
        return [edge[0] for edge in content]

    def inference_inputs(self, index):
        """The inputs of a node in inference."""
        node = self.nodes[index]
        return node.inputs[:1] if node.operator in LABELLED else node.inputs

    def ancestors(self, heads):
        """The nodes `heads` and everything that they are computed from, in order."""
        found = set(heads)
        for index in range(len(self.nodes) - 1, -1, -1):
            if index in found:
                found.update(self.inference_inputs(index))
        return sorted(found)


# ---------------------------------------------------------------- graph

# A dimension is a number, a name in AXES if it is that of the input image, or None if unknown.
Tensor = namedtuple("Tensor", "name shape")
OPERATORS = {}


def operator(*names):
    """Registers a converter of these operators: from the graph and a node to the node's tensor."""

    def register(function):
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def gluon_parameters(symbol, parameters):
    """Parameters with Gluon's names, by their names in the symbol."""
    found = {}
    for node in symbol.nodes:
        for suffix, gluon_suffix in GLUON_NAMES:
            name = node.name[: -len(suffix)] + gluon_suffix
            if node.is_variable() and node.name.endswith(suffix) and name in parameters:
                found[node.name] = parameters[name]
    return found


class Graph:
    """The ONNX graph under construction."""

    def __init__(self, symbol, parameters):
        self.symbol, self.parameters = symbol, {**gluon_parameters(symbol, parameters), **parameters}
        # tensors: by node index. weights: arrays by name. converted: names of the weights by
        # parameter, shape and variant.
        self.nodes, self.tensors, self.weights, self.converted = [], {}, {}, {}
        # Names in use, with the suffix for the next duplicate. Weights keep their names.
        self.names = {node.name: 2 for node in symbol.nodes if node.is_variable()}
        self.channels = AXES[1]
        self.image_name = self.find_image()
        # Names of the graph's input and outputs.
        self.interface = {self.image_name}
        heads = self.heads()
        self.make(heads)
        self.outputs = [self.output(index) for index in heads]

    def find_image(self):
        missing = [node.name for node in self.symbol.nodes if node.is_variable() and node.name not in self.parameters]
        if not missing:
            raise ConversionError(f"{self.symbol.path} has no input: every variable has a value")
        return IMAGE_INPUT if IMAGE_INPUT in missing else missing[0]

    def heads(self):
        """The outputs of inference: those that are computed from the image and are not losses."""
        reachable = set()
        for index, node in enumerate(self.symbol.nodes):
            if (node.is_variable() and node.name == self.image_name) or reachable.intersection(self.symbol.inference_inputs(index)):
                reachable.add(index)
        kept, removed = [], []
        for index in self.symbol.heads:
            node = self.symbol.nodes[index]
            (kept if index in reachable and node.operator not in LOSSES else removed).append(index)
        if not kept:
            raise ConversionError(
                f"no output of {self.symbol.path} is computed from {self.image_name!r} in inference: pass the symbol of a detector"
            )
        if removed:
            report(f"removed outputs for training: {', '.join(self.symbol.nodes[index].name for index in removed)}")
        return kept

    def make(self, heads):
        for index in self.symbol.ancestors(heads):
            node = self.symbol.nodes[index]
            if node.is_variable():
                continue
            if node.operator not in OPERATORS:
                raise node.error(f"the operator {node.operator} is not supported by the converter")
            self.tensors[index] = OPERATORS[node.operator](self, node)
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

    def array(self, node, position, what, shape):
        """Name and array of a parameter; checks its shape, in which None is any size."""
        if position >= len(node.inputs):
            raise node.error(f"it has {len(node.inputs)} inputs and no {what}: the symbol is damaged; download it again")
        variable = self.symbol.nodes[node.inputs[position]]
        if not variable.is_variable():
            raise node.error(f"its {what} is computed by {variable.name!r}; only parameters are supported")
        array = self.parameters.get(variable.name)
        if array is None:
            raise node.error(f"its {what} {variable.name!r} is missing from the parameters: use a symbol and parameters that belong together")
        if array.ndim != len(shape) or any(dim not in (None, actual) for dim, actual in zip(shape, array.shape)):
            expected = " x ".join("any" if dim is None else str(dim) for dim in shape)
            raise node.error(
                f"its {what} {variable.name!r} has the shape {array.shape} instead of {expected}: "
                "use a symbol and parameters that belong together"
            )
        return variable.name, array

    def parameter(self, node, position, what, shape):
        return self.weight(node, *self.array(node, position, what, shape))

    def weight(self, node, name, array, variant=None):
        """Adds a parameter, or an array derived from it that `variant` identifies."""
        key = (name, array.shape, variant)
        if key not in self.converted:
            if array.dtype.kind != "f":
                raise node.error(f"the parameter {name!r} is of {array.dtype}; save it as float32")
            self.converted[key] = self.unique(name) if name in self.weights else name
            with np.errstate(over="ignore"):
                self.weights[self.converted[key]] = array.astype(np.float32)
        return Tensor(self.converted[key], list(array.shape))

    def data(self, node, position=0):
        """A data input of a node: a computed tensor, the image, or a parameter."""
        if position >= len(node.inputs):
            raise node.error(f"it has {len(node.inputs)} inputs, too few: the symbol is damaged; download it again")
        index = node.inputs[position]
        if index in self.tensors:
            return self.tensors[index]
        name = self.symbol.nodes[index].name
        if name in self.parameters:
            return self.weight(node, name, self.parameters[name])
        if name == self.image_name:
            return Tensor(name, list(AXES))
        raise node.error(f"its input {name!r} is missing from the parameters: use a symbol and parameters that belong together")

    def resolve(self, dim):
        """A dimension, with the number of channels of the image if it is known."""
        return self.channels if dim == AXES[1] else dim

    def same(self, node, one, other):
        """The dimension that two tensors share; an error if the dimensions differ."""
        one, other = self.resolve(one), self.resolve(other)
        if AXES[1] in (one, other) and isinstance(one, int) != isinstance(other, int):
            self.channels = one if isinstance(one, int) else other
            return self.channels
        if isinstance(one, int) and isinstance(other, int) and one != other:
            raise node.error(f"it has the dimension {one} instead of {other}: use a symbol and parameters that belong together")
        return one if one == other or isinstance(one, int) else other if isinstance(other, int) else None

    def image(self, node, axes, channels=None, position=0):
        """A data input with batch, channels and `axes` spatial axes."""
        x = self.data(node, position)
        self.rank(node, x, 2 + axes)
        if channels is not None:
            self.same(node, x.shape[1], channels)
        return x

    @staticmethod
    def rank(node, x, *expected):
        if len(x.shape) not in expected:
            raise node.error(f"{x.name!r} has {len(x.shape)} axes instead of {' or '.join(map(str, expected))}")

    def output(self, index):
        """The tensor of an output node, with the name of the node if it is unused."""
        name = self.symbol.nodes[index].name
        tensor = self.tensors.get(index) or Tensor(self.image_name, list(AXES))
        if tensor.name in self.interface or tensor.name != name:
            tensor = self.add("Identity", [tensor], name, tensor.shape)
        self.interface.add(tensor.name)
        return tensor

    def value_info(self, tensor):
        kinds = AXES if len(tensor.shape) == len(AXES) else [f"axis{axis}" for axis in range(len(tensor.shape))]
        dims = [
            f"{tensor.name}_{kind}" if self.resolve(dim) is None else self.resolve(dim) for kind, dim in zip(kinds, tensor.shape)
        ]
        return onnx.helper.make_tensor_value_info(tensor.name, onnx.TensorProto.FLOAT, dims)

    def model(self):
        if sum(array.nbytes for array in self.weights.values()) >= MAX_BYTES:
            raise ConversionError("the weights exceed the size limit of an ONNX file: pass the files of a detector")
        graph = onnx.helper.make_graph(
            self.nodes,
            "retinaface",
            [self.value_info(Tensor(self.image_name, list(AXES)))],
            [self.value_info(tensor) for tensor in self.outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        opset = onnx.helper.make_operatorsetid("", OPSET)
        return onnx.helper.make_model(graph, opset_imports=[opset], producer_name=PRODUCER, ir_version=IR_VERSION)


# ---------------------------------------------------------------- operators


def symmetric(pads):
    """ONNX's padding at start and end from MXNet's padding of both."""
    return [*pads, *pads]


def window(node):
    """Kernel, strides, dilations, padding and groups of a convolution, as attributes of ONNX."""
    node.choice("layout", "None", LAYOUTS)
    kernel = node.kernel()
    return {
        "kernel_shape": kernel,
        "strides": node.per_axis("stride", len(kernel), 1, 1),
        "dilations": node.per_axis("dilate", len(kernel), 1, 1),
        "pads": symmetric(node.per_axis("pad", len(kernel), 0)),
        "group": node.integer("num_group", 1, 1),
    }


def divided(node, count, groups, what):
    if count % groups:
        raise node.error(f"{count} {what} are not a multiple of {groups} groups: the symbol is damaged; download it again")
    return count // groups


@operator("Convolution")
def convolution(graph, node):
    attributes, filters = window(node), node.integer("num_filter", minimum=1)
    divided(node, filters, attributes["group"], "filters")
    inputs = [graph.parameter(node, 1, "weight", (filters, None, *attributes["kernel_shape"]))]
    x = graph.image(node, len(attributes["kernel_shape"]), inputs[0].shape[1] * attributes["group"])
    if not node.boolean("no_bias", False):
        inputs.append(graph.parameter(node, 2, "bias", (filters,)))
    return graph.add("Conv", [x, *inputs], node.name, [x.shape[0], filters] + [None] * (len(x.shape) - 2), **attributes)


@operator("Deconvolution")
def deconvolution(graph, node):
    attributes, filters = window(node), node.integer("num_filter", minimum=1)
    adj = node.per_axis("adj", len(attributes["kernel_shape"]), 0)
    if any(node.integers("target_shape", ())):
        raise node.unsupported("target_shape", "an output size that follows from the input")
    if any(padding >= stride for padding, stride in zip(adj, attributes["strides"])):
        raise node.unsupported("adj", "integers below the stride")
    shape = (None, divided(node, filters, attributes["group"], "filters"), *attributes["kernel_shape"])
    inputs = [graph.parameter(node, 1, "weight", shape)]
    divided(node, inputs[0].shape[0], attributes["group"], "channels")
    x = graph.image(node, len(adj), inputs[0].shape[0])
    if not node.boolean("no_bias", True):
        inputs.append(graph.parameter(node, 2, "bias", (filters,)))
    shape = [x.shape[0], filters] + [None] * len(adj)
    return graph.add("ConvTranspose", [x, *inputs], node.name, shape, output_padding=adj, **attributes)


@operator("UpSampling")
def upsampling(graph, node):
    scale = node.integer("scale", minimum=1)
    kind = node.choice("sample_type", REQUIRED, ("nearest", "bilinear"))
    node.choice("multi_input_mode", "concat", ("concat", "sum"))
    x = graph.image(node, 2)
    if kind == "nearest":
        node.integer("num_filter", None)
        if node.integer("num_args", 1) != 1:
            raise node.unsupported("num_args", "1")
        scales = graph.constant(f"{node.name}_scales", [1, 1, scale, scale], np.float32)
        return graph.add("Resize", [x, "", scales], node.name, [*x.shape[:2], None, None], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    # MXNet implements it as a depthwise deconvolution with a weight, too.
    node.integer("num_args", 2)
    filters, kernel = node.integer("num_filter", minimum=1), 2 * scale - scale % 2
    weight = graph.parameter(node, 1, "weight", (filters, 1, kernel, kernel))
    graph.same(node, x.shape[1], filters)
    return graph.add("ConvTranspose", [x, weight], node.name, [x.shape[0], filters, None, None], kernel_shape=[kernel] * 2,
                     strides=[scale] * 2, pads=[scale // 2] * 4, group=filters)  # fmt: skip


@operator("FullyConnected")
def fully_connected(graph, node):
    units, x = node.integer("num_hidden", minimum=1), graph.data(node)
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
        raise node.unsupported("axis", "1")
    name, gamma = graph.array(node, 1, "gamma", (None,))
    graph.same(node, x.shape[1], len(gamma))
    # With fix_gamma MXNet uses ones instead of the stored gamma.
    fixed = node.boolean("fix_gamma", True)
    scale = graph.weight(node, name, np.ones_like(gamma, np.float32), "ones") if fixed else graph.weight(node, name, gamma)
    others = [
        graph.parameter(node, position, what, gamma.shape)
        for position, what in ((2, "beta"), (3, "moving mean"), (4, "moving variance"))
    ]
    return graph.add("BatchNormalization", [x, scale, *others], node.name, x.shape, epsilon=node.real("eps", 1e-3))


ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}


@operator("Activation")
def activation(graph, node):
    x = graph.data(node)
    return graph.add(ACTIVATIONS[node.choice("act_type", REQUIRED, tuple(ACTIVATIONS))], [x], node.name, x.shape)


@operator("relu", "sigmoid", "tanh", "softsign")
def activation_by_name(graph, node):
    x = graph.data(node)
    return graph.add(ACTIVATIONS[node.operator], [x], node.name, x.shape)


@operator("LeakyReLU")
def leaky_relu(graph, node):
    x, kind = graph.data(node), node.choice("act_type", "leaky", ("leaky", "elu", "prelu", "rrelu", "selu"))
    slope, lower, upper = node.real("slope", 0.25), node.real("lower_bound", 0.125), node.real("upper_bound", 0.334)
    if kind == "prelu":
        return graph.add("PRelu", [x, slopes(graph, node, x)], node.name, x.shape)
    if kind == "selu":
        return graph.add("Selu", [x], node.name, x.shape)
    # In inference the random slope is the mean of its bounds.
    alpha = (lower + upper) / 2 if kind == "rrelu" else slope
    return graph.add("Elu" if kind == "elu" else "LeakyRelu", [x], node.name, x.shape, alpha=alpha)


def slopes(graph, node, x):
    """Slopes of PReLU, one or one per channel, in a shape that broadcasts along the channels."""
    graph.rank(node, x, 2, 3, 4, 5)
    name, gamma = graph.array(node, 1, "gamma", (None,))
    if len(gamma) != 1:
        graph.same(node, x.shape[1], len(gamma))
    return graph.weight(node, name, gamma.reshape((len(gamma),) + (1,) * (len(x.shape) - 2)))


@operator("Pooling")
def pooling(graph, node):
    kind = node.choice("pool_type", "max", ("max", "avg"))
    full = node.choice("pooling_convention", "valid", ("valid", "full")) == "full"
    count_pad = node.boolean("count_include_pad", True) and kind == "avg"
    node.choice("layout", "None", LAYOUTS)
    if node.boolean("global_pool", False):
        node.unread -= {"kernel", "stride", "pad"}
        x = graph.data(node)
        graph.rank(node, x, 3, 4, 5)
        name = "GlobalMaxPool" if kind == "max" else "GlobalAveragePool"
        return graph.add(name, [x], node.name, x.shape[:2] + [1] * (len(x.shape) - 2))
    kernel = node.kernel()
    stride, pad = node.per_axis("stride", len(kernel), 1, 1), node.per_axis("pad", len(kernel), 0)
    x = graph.image(node, len(kernel))
    if full and count_pad and any(pad):
        # MXNet counts the padding, but not the extension that rounds the size up; ONNX counts both
        # or neither.
        raise node.unsupported("count_include_pad", "False with pooling_convention=full and padding")
    # Extra padding of stride - 1 makes rounding down equivalent to MXNet's rounding up. ceil_mode
    # is not used, because runtimes disagree about it.
    ends = [padding + step - 1 if full else padding for padding, step in zip(pad, stride)]
    if any(end >= size for end, size in zip(ends, kernel)):
        raise node.error(
            f"with kernel {kernel}, stride {stride}, pad {pad} a window may lie outside the image, which is not supported"
        )
    shape, attributes = x.shape[:2] + [None] * len(kernel), {"kernel_shape": kernel, "strides": stride, "pads": pad + ends}
    if kind == "max":
        return graph.add("MaxPool", [x], node.name, shape, **attributes)
    return graph.add("AveragePool", [x], node.name, shape, count_include_pad=int(count_pad and not full), **attributes)


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
    terms = [graph.data(node, position) for position in range(len(node.inputs))]
    for term in terms:
        graph.rank(node, term, len(shape))
        shape = [graph.same(node, one, other) for one, other in zip(shape, term.shape)]
    return graph.add("Sum", terms, node.name, shape)


@operator(*BROADCASTS)
def broadcast(graph, node):
    x, y = graph.data(node, 0), graph.data(node, 1)
    graph.rank(node, y, len(x.shape))
    shape = [broadcast_dim(graph, node, one, other) for one, other in zip(x.shape, y.shape)]
    return graph.add(BROADCASTS[node.operator], [x, y], node.name, shape)


def broadcast_dim(graph, node, one, other):
    """The dimension of the result of broadcasting two dimensions."""
    if 1 in (one, other):
        return other if one == 1 else one
    if isinstance(one, int) or isinstance(other, int):
        return graph.same(node, one, other)
    # One of two unknown dimensions may be 1.
    return one if one == other else None


# Operators of a tensor and a scalar; with the prefix r the scalar is the first operand.
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
    number = graph.constant(f"{node.name}_scalar", node.real("scalar", REQUIRED), np.float32)
    return graph.add(SCALARS[kind], [number, x] if kind[0] == "r" else [x, number], node.name, x.shape)


@operator("clip")
def clip(graph, node):
    x = graph.data(node)
    limits = [graph.constant(f"{node.name}_{key}", node.real(key, REQUIRED), np.float32) for key in ("a_min", "a_max")]
    return graph.add("Clip", [x, *limits], node.name, x.shape)


@operator("_copy", "identity", "BlockGrad", "stop_gradient", "Dropout")
def identity(graph, node):
    node.choice("mode", "training", ("training",))
    node.integers("axes", ())
    return graph.data(node)


@operator("Concat", "concat")
def concat(graph, node):
    parts = [graph.data(node, position) for position in range(len(node.inputs))]
    node.integer("num_args", None)
    shape = list(graph.data(node).shape)
    axis = one_axis(graph, node, "dim", 1, len(shape))
    for part in parts:
        graph.rank(node, part, len(shape))
        for other in set(range(len(shape))) - {axis}:
            shape[other] = graph.same(node, shape[other], part.shape[other])
    dims = [graph.resolve(part.shape[axis]) for part in parts]
    shape[axis] = sum(dims) if all(isinstance(dim, int) for dim in dims) else None
    if shape[axis] is not None and shape[axis] > MAX_INTEGER:
        raise node.error("its result is too large: the symbol is damaged; download it again")
    return graph.add("Concat", parts, node.name, shape, axis=axis)


def one_axis(graph, node, key, default, axes):
    axis = node.integer(key, default)
    if not -axes <= axis < axes:
        raise node.unsupported(key, f"an axis of {axes}")
    return axis % axes


@operator("Crop")
def crop(graph, node):
    x = graph.image(node, 2)
    if node.integer("num_args") not in (1, 2) or len(node.inputs) != node.integer("num_args"):
        raise node.unsupported("num_args", "the number of inputs, 1 or 2")
    offset, dims = node.per_axis("offset", 2, 0), node.per_axis("h_w", 2, 0)
    center = node.boolean("center_crop", False)
    axes = graph.constant(f"{node.name}_axes", [2, 3])
    if len(node.inputs) == 2:
        like = graph.image(node, 2, position=1)
        size, dims = plane(graph, node, like, "size"), like.shape[2:]
    elif min(dims) < 1:
        raise node.unsupported("h_w", "integers of at least 1")
    else:
        size = graph.constant(f"{node.name}_size", dims)
    if center:
        room = graph.add("Sub", [plane(graph, node, x, "room"), size], f"{node.name}_rest", [2])
        starts = graph.add("Div", [room, graph.constant(f"{node.name}_two", [2])], f"{node.name}_starts", [2])
    else:
        starts = graph.constant(f"{node.name}_starts", offset)
    ends = graph.add("Add", [starts, size], f"{node.name}_ends", [2]) if center or any(offset) else size
    return graph.add("Slice", [x, starts, ends, axes], node.name, x.shape[:2] + list(dims))


def plane(graph, node, x, name):
    """Height and width of a tensor, computed in the graph."""
    shape = graph.add("Shape", [x], f"{node.name}_{name}_shape", [4])
    ends = [graph.constant(f"{node.name}_{name}_{edge}", [at]) for edge, at in (("from", 2), ("to", 4))]
    return graph.add("Slice", [shape, *ends], f"{node.name}_{name}", [2])


@operator("Reshape", "reshape")
def reshape(graph, node):
    x, target = graph.data(node), list(node.integers("shape"))
    # -2 keeps all remaining dimensions, which zeros express, too.
    if target[-1:] == [-2]:
        target[-1:] = [0] * (len(x.shape) - len(target) + 1)
    if not target or min(target) < -1 or target.count(-1) > 1:
        raise node.unsupported("shape", "0, one -1, -2 at the end, and positive integers")
    if node.boolean("reverse", False):
        raise node.unsupported("reverse", "False")
    # The remaining values mean the same in ONNX: 0 keeps the dimension at its own position.
    if any(dim == 0 and axis >= len(x.shape) for axis, dim in enumerate(target)):
        raise node.error(
            f"shape={tuple(target)} keeps more axes than the {len(x.shape)} of {x.name!r}: the symbol is damaged; download it again"
        )
    shape = [x.shape[axis] if dim == 0 else None if dim < 0 else dim for axis, dim in enumerate(target)]
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
        raise node.unsupported("axes", f"a permutation of {len(x.shape)} axes")
    return graph.add("Transpose", [x], node.name, [x.shape[axis] for axis in axes], perm=axes)


@operator("slice_axis")
def slice_axis(graph, node):
    x = graph.data(node)
    axis, begin = one_axis(graph, node, "axis", REQUIRED, len(x.shape)), node.integer("begin")
    end = MAX_INTEGER if node.text("end", REQUIRED) == "None" else node.integer("end")
    shape = list(x.shape)
    had = graph.resolve(shape[axis])
    shape[axis] = len(range(had)[begin:end]) if isinstance(had, int) else None
    if shape[axis] == 0:
        raise node.error(f"the slice from {begin} to {end} of {had} is empty: use a symbol and parameters that belong together")
    ends = [graph.constant(f"{node.name}_{name}", [number]) for name, number in (("begin", begin), ("end", end), ("axis", axis))]
    return graph.add("Slice", [x, *ends], node.name, shape)


@operator("SoftmaxActivation")
def softmax_activation(graph, node):
    return softmax_over(graph, node, node.choice("mode", "instance", ("instance", "channel")) == "channel")


@operator("SoftmaxOutput", "Softmax")
def softmax_output(graph, node):
    last = node.boolean("preserve_shape", False)
    channels = node.boolean("multi_output", False)
    return softmax_over(graph, node, channels, last)


def softmax_over(graph, node, channels, last=False):
    x = graph.data(node)
    if not channels and not last:
        # Over all values of an image. With more than two axes, MXNet's back ends differ.
        graph.rank(node, x, 2)
    if len(x.shape) < 2:
        raise node.error(f"{x.name!r} has no channels")
    return graph.add("Softmax", [x], node.name, x.shape, axis=1 if channels else -1)


@operator("softmax")
def softmax(graph, node):
    x = graph.data(node)
    node.choice("temperature", "None", ("None", "1", "1.0"))
    node.choice("dtype", "None", ("None", "float32"))
    node.choice("use_length", "False", ("False", "0"))
    return graph.add("Softmax", [x], node.name, x.shape, axis=one_axis(graph, node, "axis", -1, len(x.shape)))


# ---------------------------------------------------------------- command line


def convert(symbol, parameters):
    """The ONNX model of a symbol file and a parameter file."""
    model = Graph(Symbol(symbol), read_parameters(parameters)).model()
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ConversionError(f"the network is inconsistent: {error}; use a symbol and parameters that belong together") from None
    return model


def write(model, out):
    """Writes the file with a rename, so that it is never incomplete."""
    if not out.parent.is_dir():
        raise ConversionError(f"the directory {out.parent} for {out.name} does not exist: create it first")
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        file = Path(work) / "model.onnx"
        onnx.save(model, str(file))
        os.replace(file, out)


def arguments():
    parser = argparse.ArgumentParser(
        prog="mxnet-to-onnx.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("symbol", type=Path, metavar="SYMBOL", help="the network, NAME-symbol.json")
    parser.add_argument("parameters", type=Path, metavar="PARAMS", help="its weights, NAME-0000.params")
    parser.add_argument("out", type=Path, metavar="OUT", help="the ONNX file to write")
    return parser.parse_args()


def main():
    options = arguments()
    try:
        write(convert(options.symbol, options.parameters), options.out)
    except (ConversionError, OSError) as error:
        report(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
