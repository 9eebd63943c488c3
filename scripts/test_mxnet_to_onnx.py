"""Tests of mxnet-to-onnx.py; `make test-tools` runs them.

The tests write small networks in the formats of MXNet and compare the converted models with simple
implementations in NumPy. The published mnet.25 is compared with another conversion, which is in the
directory RETINAFACE_TEST_DATA (default: ../shared). These tests are skipped if the files do not
exist, and fail in CI.
"""

import contextlib
import importlib.util
import io
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "mxnet-to-onnx.py"
TEST_DATA = (ROOT / os.environ.get("RETINAFACE_TEST_DATA", "../shared")).resolve()
MODELS = TEST_DATA / "models"
SYMBOL, PARAMETERS = MODELS / "mxnet" / "mnet.25-symbol.json", MODELS / "mxnet" / "mnet.25-0000.params"
REFERENCE = MODELS / "retinaface_insightface_mnet025.onnx"
PHOTOS = [ROOT / ".fetch" / "media" / name for name in ("multi_face.jpg", "single_face.jpg")]

# The file name is not a valid module name.
specification = importlib.util.spec_from_file_location("mxnet_to_onnx", SCRIPT)
mxnet_to_onnx = importlib.util.module_from_spec(specification)
specification.loader.exec_module(mxnet_to_onnx)

V1, V2, V3, OLDEST = 0xF993FAC8, 0xF993FAC9, 0xF993FACA, None
FLAGS = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def packed_array(array, version=V2):
    """An array in one of the formats of MXNet's NDArray::Save."""
    header = {V1: struct.pack("<Ii", V1, array.ndim), V2: struct.pack("<Iii", V2, 0, array.ndim),
            V3: struct.pack("<Iii", V3, 0, array.ndim), OLDEST: struct.pack("<I", array.ndim)}[version]  # fmt: skip
    dims = struct.pack(f"<{array.ndim}{'I' if version is OLDEST else 'q'}", *array.shape)
    return header + dims + struct.pack("<iii", 1, 0, FLAGS[str(array.dtype)]) + array.tobytes()


def packed_list(arrays, names):
    encoded = [name.encode() for name in names]
    return b"".join([struct.pack("<QQQ", 0x112, 0, len(arrays)), *arrays, struct.pack("<Q", len(names)),
                     *(struct.pack("<Q", len(name)) + name for name in encoded)])  # fmt: skip


class Net:
    """A network under construction."""

    def __init__(self):
        self.nodes, self.parameters, self.heads = [], {}, []
        self.data = self.variable("data")

    def variable(self, name, values=None, kind="arg"):
        if values is not None:
            self.parameters[f"{kind}:{name}"] = np.asarray(values, np.float32)
        return self.node("null", name)

    def node(self, operator, name, *inputs, **attributes):
        self.nodes.append({"op": operator, "name": name, "inputs": [[index, 0, 0] for index in inputs]})
        if attributes:
            self.nodes[-1]["attrs"] = {key: str(value) for key, value in attributes.items()}
        return len(self.nodes) - 1

    def batch_norm(self, name, data, gamma, beta, mean, variance, **attributes):
        kinds = ("gamma", gamma, "arg"), ("beta", beta, "arg"), ("moving_mean", mean, "aux"), ("moving_var", variance, "aux")
        statistics = [self.variable(f"{name}_{what}", values, kind) for what, values, kind in kinds]
        return self.node("BatchNorm", name, data, *statistics, **attributes)

    def symbol(self):
        heads = self.heads or [len(self.nodes) - 1]
        return {
            "nodes": self.nodes,
            "arg_nodes": [],
            "heads": [[head, 0, 0] for head in heads],
            "attrs": {"mxnet_version": ["int", 10300]},
        }

    def packed(self, version=V2):
        return packed_list([packed_array(array, version) for array in self.parameters.values()], list(self.parameters))


def session(model):
    file = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Case(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def files(self, symbol, packed):
        """Writes both files; the symbol may be invalid text."""
        files = self.directory / "net-symbol.json", self.directory / "net-0000.params"
        files[0].write_text(symbol if isinstance(symbol, str) else json.dumps(symbol))
        files[1].write_bytes(packed)
        return files

    def convert(self, net, version=V2):
        return mxnet_to_onnx.convert(*self.files(net.symbol(), net.packed(version)))

    def run_net(self, net, data, version=V2):
        model = self.convert(net, version)
        onnx.checker.check_model(model, full_check=True)
        return session(model).run(None, {"data": data})

    def assert_output(self, net, data, expected, tolerance=1e-5):
        (got,) = self.run_net(net, data)
        self.assertEqual(got.shape, expected.shape)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)

    def error(self, symbol, packed):
        """Converts invalid files and returns the error, which is one line with exit status 2."""
        files, stderr = self.files(symbol, packed), io.StringIO()
        arguments = ["mxnet-to-onnx.py", *map(str, files), str(self.directory / "out.onnx")]
        with contextlib.redirect_stderr(stderr), mock.patch.object(sys, "argv", arguments):
            status = mxnet_to_onnx.main()
        self.assertEqual(status, 2)
        self.assertFalse((self.directory / "out.onnx").exists())
        self.assertEqual(stderr.getvalue().count("\n"), 1, stderr.getvalue())
        return stderr.getvalue()

    def assert_error(self, net, *messages):
        error = self.error(net.symbol(), net.packed())
        for message in messages:
            self.assertIn(message, error)


# ---------------------------------------------------------------- reference implementations


def convolve(x, weight, stride, pad, dilate=(1, 1), groups=1):
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    filters, channels, rows, columns = weight.shape
    height = (x.shape[2] - dilate[0] * (rows - 1) - 1) // stride[0] + 1
    width = (x.shape[3] - dilate[1] * (columns - 1) - 1) // stride[1] + 1
    out = np.zeros((len(x), filters, height, width))
    for n, f, i, j in np.ndindex(out.shape):
        first = f // (filters // groups) * channels
        top, left = i * stride[0], j * stride[1]
        window = x[
            n,
            first : first + channels,
            top : top + dilate[0] * (rows - 1) + 1 : dilate[0],
            left : left + dilate[1] * (columns - 1) + 1 : dilate[1],
        ]
        out[n, f, i, j] = (window * weight[f]).sum()
    return out


def deconvolve(x, weight, stride, pad, adj=(0, 0), groups=1):
    channels, filters, rows, columns = weight.shape
    height, width = (
        (side - 1) * step + kernel + more for side, step, kernel, more in zip(x.shape[2:], stride, (rows, columns), adj)
    )
    out = np.zeros((len(x), filters * groups, height, width))
    for n, c, i, j in np.ndindex(x.shape):
        first = c // (channels // groups) * filters
        top, left = i * stride[0], j * stride[1]
        out[n, first : first + filters, top : top + rows, left : left + columns] += x[n, c, i, j] * weight[c].astype(np.float64)
    return out[:, :, pad[0] : height - pad[0], pad[1] : width - pad[1]]


def pool(x, kernel, stride, pad, full, kind, count_pad=True):
    """Pooling as in src/operator/nn/pool.h of MXNet."""
    rounded = np.ceil if full else np.floor
    sides = [int(rounded((side + 2 * p - k) / s)) + 1 for side, k, s, p in zip(x.shape[2:], kernel, stride, pad)]
    out = np.zeros((*x.shape[:2], *sides))
    for n, c, i, j in np.ndindex(out.shape):
        starts = [at * s - p for at, s, p in zip((i, j), stride, pad)]
        ends = [min(start + k, side + p) for start, k, side, p in zip(starts, kernel, x.shape[2:], pad)]
        cells = np.prod([end - start for start, end in zip(starts, ends)])
        window = x[n, c, max(starts[0], 0) : ends[0], max(starts[1], 0) : ends[1]].astype(np.float64)
        out[n, c, i, j] = window.max() if kind == "max" else window.sum() / (cells if count_pad else window.size)
    return out


def softmax_of(x, axis):
    powers = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


# ---------------------------------------------------------------- operators


class Operators(Case):
    def test_convolution_with_groups_dilation_and_bias(self):
        weight, bias, x = noise(6, 2, 3, 2), noise(6, seed=1), noise(2, 4, 9, 8, seed=2)
        for biased in (True, False):
            net = Net()
            inputs = [net.variable("w", weight)] + ([net.variable("b", bias)] if biased else [])
            net.node("Convolution", "conv", net.data, *inputs, kernel=(3, 2), stride=(2, 1), pad=(1, 0), dilate=(1, 3),
                     num_filter=6, num_group=2, no_bias=not biased, workspace=1024, layout="None")  # fmt: skip
            expected = convolve(x, weight, (2, 1), (1, 0), (1, 3), 2) + (bias[:, None, None] if biased else 0)
            self.assert_output(net, x, expected)

    def test_convolution_defaults_to_a_bias_and_strides_of_one(self):
        weight, bias, x = noise(2, 3, 3, 3), noise(2, seed=1), noise(1, 3, 5, 6, seed=2)
        net = Net()
        net.node("Convolution", "conv", net.data, net.variable("w", weight), net.variable("b", bias), kernel=(3, 3), num_filter=2)
        self.assert_output(net, x, convolve(x, weight, (1, 1), (0, 0)) + bias[:, None, None])

    def test_deconvolution(self):
        weight, bias, x = noise(4, 3, 3, 4), noise(6, seed=1), noise(2, 4, 5, 3, seed=2)
        net = Net()
        net.node("Deconvolution", "up", net.data, net.variable("w", weight), net.variable("b", bias), kernel=(3, 4),
                 stride=(2, 3), pad=(1, 1), adj=(1, 0), num_filter=6, num_group=2, no_bias=False)  # fmt: skip
        self.assert_output(net, x, deconvolve(x, weight, (2, 3), (1, 1), (1, 0), 2) + bias[:, None, None])

    def test_bilinear_upsampling_by_either_operator(self):
        # The weight of mx.init.Bilinear.
        ramp = 1 - np.abs(np.arange(4) / 2 - 0.75)
        weight, x = np.tile(np.outer(ramp, ramp), (3, 1, 1, 1)).astype(np.float32), noise(1, 3, 5, 4, seed=1)
        expected = deconvolve(x, weight, (2, 2), (1, 1), groups=3)
        for operator, attributes in (
            ("Deconvolution", {"kernel": (4, 4), "stride": (2, 2), "pad": (1, 1), "num_group": 3}),
            ("UpSampling", {"scale": 2, "sample_type": "bilinear", "num_args": 2}),
        ):
            net = Net()
            net.node(operator, "up", net.data, net.variable("w", weight), num_filter=3, **attributes)
            self.assert_output(net, x, expected)
        # Linear interpolation between pixel centres.
        np.testing.assert_allclose(expected[0, 0, 2, 3], x[0, 0, :2, 1:3].ravel() @ [0.1875, 0.0625, 0.5625, 0.1875], rtol=1e-5)

    def test_nearest_upsampling(self):
        x = noise(2, 3, 4, 5)
        for scale in (1, 2, 3, 7):
            net = Net()
            net.node("UpSampling", "up", net.data, scale=scale, sample_type="nearest", num_args=1, workspace=512)
            self.assert_output(net, x, x.repeat(scale, 2).repeat(scale, 3), 0)

    def test_batch_norm_defaults_to_a_gamma_of_one_and_an_eps_of_a_thousandth(self):
        gamma, beta, mean, variance = noise(3), noise(3, seed=1), noise(3, seed=2), noise(3, seed=3) ** 2
        x = noise(2, 3, 4, 5, seed=4)

        def expected(gamma, eps):
            return (x - mean[:, None, None]) / np.sqrt(variance[:, None, None].astype(float) + eps) * gamma + beta[:, None, None]

        for attributes, scale, eps in (
            ({}, 1, 1e-3),
            ({"fix_gamma": False, "eps": "2e-05", "use_global_stats": True}, gamma[:, None, None], 2e-5),
            ({"fix_gamma": "True", "eps": "1e-05", "momentum": 0.9}, 1, 1e-5),
        ):
            net = Net()
            net.batch_norm("bn", net.data, gamma, beta, mean, variance, **attributes)
            self.assert_output(net, x, expected(scale, eps))

    def test_fix_gamma_does_not_affect_another_layer_with_the_same_gamma(self):
        net, x = Net(), noise(1, 2, 3, 3)
        first = net.batch_norm("a", net.data, [2, 3], [0, 0], [0, 0], [1, 1], fix_gamma=False, eps=0)
        shared = net.nodes[first]["inputs"]
        net.node("BatchNorm", "b", first, *(index for index, _, _ in shared[1:]), eps=0)
        self.assert_output(net, x, x * np.array([2, 3])[:, None, None])

    def test_moving_statistics_with_gluon_names(self):
        net, x = Net(), noise(1, 2, 3, 3)
        net.batch_norm("bn", net.data, [1, 1], [0, 0], [1, 2], [4, 9], eps=0)
        for old, new in (("moving_mean", "running_mean"), ("moving_var", "running_var")):
            net.parameters[f"aux:bn_{new}"] = net.parameters.pop(f"aux:bn_{old}")
        self.assert_output(net, x, (x - np.array([1, 2])[:, None, None]) / np.array([2, 3])[:, None, None])
        self.assertLessEqual({"bn_moving_mean", "bn_moving_var"}, {weight.name for weight in self.convert(net).graph.initializer})

    def test_activations(self):
        x = noise(2, 3, 4, 5) * 3
        wide = x.astype(np.float64)
        slopes = noise(3, seed=1)
        exponential = np.exp(np.minimum(wide, 0)) - 1
        for operator, attributes, expected in (
            ("Activation", {"act_type": "relu"}, np.maximum(wide, 0)),
            ("Activation", {"act_type": "sigmoid"}, 1 / (1 + np.exp(-wide))),
            ("Activation", {"act_type": "tanh"}, np.tanh(wide)),
            ("Activation", {"act_type": "softrelu"}, np.log1p(np.exp(wide))),
            ("Activation", {"act_type": "softsign"}, wide / (1 + np.abs(wide))),
            ("relu", {}, np.maximum(wide, 0)),
            ("sigmoid", {}, 1 / (1 + np.exp(-wide))),
            ("tanh", {}, np.tanh(wide)),
            ("softsign", {}, wide / (1 + np.abs(wide))),
            ("LeakyReLU", {}, np.where(wide > 0, wide, wide * 0.25)),
            ("LeakyReLU", {"act_type": "leaky", "slope": 0.1}, np.where(wide > 0, wide, wide * 0.1)),
            ("LeakyReLU", {"act_type": "elu", "slope": 0.5}, np.where(wide > 0, wide, exponential * 0.5)),
            ("LeakyReLU", {"act_type": "selu"}, 1.0507009873554805 * np.where(wide > 0, wide, exponential * 1.6732632423543772)),
            ("LeakyReLU", {"act_type": "rrelu", "lower_bound": 0.2, "upper_bound": 0.4}, np.where(wide > 0, wide, wide * 0.3)),
            ("LeakyReLU", {"act_type": "prelu"}, np.where(wide > 0, wide, wide * slopes[:, None, None])),
            ("clip", {"a_min": -1, "a_max": "2.5"}, np.clip(wide, -1, 2.5)),
        ):
            with self.subTest(operator, **attributes):
                net = Net()
                inputs = [net.variable("gamma", slopes)] if attributes.get("act_type") == "prelu" else []
                net.node(operator, "act", net.data, *inputs, **attributes)
                self.assert_output(net, x, expected)

    def test_prelu_with_one_slope_and_after_a_fully_connected_layer(self):
        net, x = Net(), noise(2, 3, 2, 2)
        first = net.node("LeakyReLU", "one", net.data, net.variable("slope", [0.5]), act_type="prelu")
        units, slopes = noise(4, 12, seed=1), noise(4, seed=2)
        fc = net.node("FullyConnected", "fc", first, net.variable("w", units), num_hidden=4, no_bias=True)
        net.node("LeakyReLU", "act", fc, net.variable("slopes", slopes), act_type="prelu")
        flat = np.where(x > 0, x, x / 2).reshape(2, -1) @ units.T.astype(np.float64)
        self.assert_output(net, x, np.where(flat > 0, flat, flat * slopes))

    def test_pooling_with_both_conventions_and_many_sizes(self):
        for kernel, stride, pad in (
            ((2, 2), (2, 2), (0, 0)),
            ((3, 3), (2, 2), (0, 0)),
            ((3, 3), (2, 2), (1, 1)),
            ((3, 4), (1, 2), (1, 2)),
            ((3, 3), (3, 3), (0, 0)),
        ):
            for convention, kind, count_pad in itertools.product(("valid", "full"), ("max", "avg"), (True, False)):
                if (convention, kind, count_pad) == ("full", "avg", True) and any(pad):
                    continue
                net = Net()
                net.node("Pooling", "pool", net.data, kernel=kernel, stride=stride, pad=pad, pool_type=kind,
                         pooling_convention=convention, count_include_pad=count_pad)  # fmt: skip
                ran = session(self.convert(net))
                for height, width in itertools.product(range(4, 9), range(4, 9)):
                    with self.subTest(
                        kernel=kernel, stride=stride, pad=pad, convention=convention, kind=kind, size=(height, width)
                    ):
                        x = noise(1, 2, height, width)
                        (got,) = ran.run(None, {"data": x})
                        expected = pool(x, kernel, stride, pad, convention == "full", kind, count_pad)
                        self.assertEqual(got.shape, expected.shape)
                        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    def test_global_pooling_ignores_its_kernel(self):
        x = noise(2, 3, 5, 4)
        for kind, expected in (("max", x.max((2, 3), keepdims=True)), ("avg", x.mean((2, 3), keepdims=True))):
            net = Net()
            net.node("Pooling", "pool", net.data, kernel=(7, 7), global_pool=True, pool_type=kind)
            self.assert_output(net, x, expected)

    def test_binary_operators(self):
        x, y = noise(2, 3, 4, 5), noise(1, 3, 1, 1, seed=1)
        names = {"add": (np.add, "elemwise_add", "_plus", "_Plus"), "sub": (np.subtract, "elemwise_sub", "_minus"),
                 "mul": (np.multiply, "elemwise_mul", "_mul"), "div": (np.divide, "elemwise_div", "_div")}  # fmt: skip
        for name, (compute, *same) in names.items():
            for operator in same:
                net = Net()
                net.node(operator, "two", net.data, net.node("relu", "r", net.data))
                with np.errstate(divide="ignore"):
                    self.assert_output(net, x, compute(x, np.maximum(x, 0)))
            net = Net()
            net.node(f"broadcast_{name}", "two", net.data, net.variable("y", y))
            self.assert_output(net, x, compute(x, y))

    def test_add_n(self):
        net, x = Net(), noise(1, 2, 3, 3)
        net.node("add_n", "sum", net.data, net.node("relu", "r", net.data), net.data, num_args=3)
        self.assert_output(net, x, 2 * x + np.maximum(x, 0))

    def test_scalar_operators(self):
        x = noise(1, 2, 3, 3)
        for name, expected in (
            ("plus", x + 2.5),
            ("minus", x - 2.5),
            ("rminus", 2.5 - x),
            ("mul", x * 2.5),
            ("div", x / 2.5),
            ("rdiv", 2.5 / x),
            ("maximum", np.maximum(x, 2.5)),
            ("minimum", np.minimum(x, 2.5)),
        ):
            net = Net()
            net.node(f"_{name}_scalar", "number", net.data, scalar="2.5")
            self.assert_output(net, x, expected)

    def test_concat(self):
        net, x = Net(), noise(2, 3, 4, 5)
        net.node("Concat", "both", net.data, net.node("relu", "r", net.data), num_args=2)
        self.assert_output(net, x, np.concatenate([x, np.maximum(x, 0)], 1), 0)

    def test_crop_to_the_size_of_a_second_input(self):
        for attributes, at in (
            ({}, lambda rest: (0, 0)),
            ({"offset": (1, 2)}, lambda rest: (1, 2)),
            ({"center_crop": True}, lambda rest: (rest[0] // 2, rest[1] // 2)),
        ):
            net = Net()
            small = net.node("Pooling", "small", net.data, kernel=(3, 3), stride=(2, 2), pool_type="max")
            net.node("Crop", "crop", net.data, small, num_args=2, **attributes)
            ran = session(self.convert(net))
            for height, width in ((7, 8), (10, 9), (6, 21)):
                x = noise(2, 3, height, width)
                rows, columns = (height - 3) // 2 + 1, (width - 3) // 2 + 1
                top, left = at((height - rows, width - columns))
                (got,) = ran.run(None, {"data": x})
                np.testing.assert_array_equal(got, x[:, :, top : top + rows, left : left + columns])

    def test_crop_to_a_fixed_size(self):
        x = noise(2, 3, 7, 8)
        for attributes, expected in (({"offset": (2, 1)}, x[:, :, 2:6, 1:4]), ({"center_crop": True}, x[:, :, 1:5, 2:5])):
            net = Net()
            net.node("Crop", "crop", net.data, num_args=1, h_w=(4, 3), **attributes)
            self.assert_output(net, x, expected, 0)

    def test_softmax_of_a_head_between_reshapes(self):
        # Two anchors per cell: background of both, then face of both.
        net = Net()
        score = net.node(
            "Convolution",
            "score",
            net.data,
            net.variable("w", noise(4, 3, 1, 1)),
            net.variable("b", noise(4, seed=1)),
            kernel=(1, 1),
            num_filter=4,
        )
        split = net.node("Reshape", "split", score, shape="(0, 2, -1, 0)")
        softmax = net.node("SoftmaxActivation", "softmax", split, mode="channel")
        net.node("Reshape", "prob", softmax, shape="(0, 4, -1, 0)")
        model = self.convert(net)
        self.assertEqual(dims(model.graph.output[0]), ["batch", 4, "prob_height", "prob_width"])
        ran = session(model)
        for shape in ((1, 3, 2, 3), (2, 3, 5, 7), (3, 3, 1, 4)):
            x = noise(*shape, seed=2)
            scores = convolve(x, noise(4, 3, 1, 1), (1, 1), (0, 0)) + noise(4, seed=1)[:, None, None]
            expected = np.empty_like(scores)
            for anchor in range(2):
                expected[:, anchor::2] = softmax_of(scores[:, anchor::2], 1)
            np.testing.assert_allclose(ran.run(None, {"data": x})[0], expected, rtol=1e-5)

    def test_reshape(self):
        x = noise(2, 6, 4, 5)
        for shape, expected in (
            ((0, 2, -1), (2, 2, 60)),
            ((0, 0, -1), (2, 6, 20)),
            ((0, -2), (2, 6, 4, 5)),
            ((0, 3, 2, -1), (2, 3, 2, 20)),
            ((-1,), (240,)),
            ((0, -1, 2, 5), (2, 12, 2, 5)),
        ):
            net = Net()
            net.node("Reshape", "shape", net.data, shape=shape)
            self.assert_output(net, x, x.reshape(expected), 0)

    def test_flatten_transpose_and_slices(self):
        x = noise(2, 6, 4, 5)
        for operator, attributes, expected in (
            ("Flatten", {}, x.reshape(2, -1)),
            ("transpose", {"axes": (0, 2, 3, 1)}, x.transpose(0, 2, 3, 1)),
            ("transpose", {}, x.transpose()),
            ("slice_axis", {"axis": 1, "begin": 1, "end": 4}, x[:, 1:4]),
            ("slice_axis", {"axis": -1, "begin": -3, "end": "None"}, x[..., -3:]),
            ("slice_axis", {"axis": 2, "begin": 0, "end": -1}, x[:, :, :-1]),
        ):
            with self.subTest(operator, **attributes):
                net = Net()
                net.node(operator, "shape", net.data, **attributes)
                self.assert_output(net, x, np.ascontiguousarray(expected), 0)

    def test_softmax_operators(self):
        x = noise(2, 6, 4, 5)
        for operator, attributes, axis in (
            ("softmax", {}, -1),
            ("softmax", {"axis": 1}, 1),
            ("SoftmaxActivation", {"mode": "channel"}, 1),
            (
                "SoftmaxOutput",
                {"multi_output": True, "use_ignore": True, "ignore_label": -1, "grad_scale": 1, "normalization": "valid"},
                1,
            ),
            ("SoftmaxOutput", {"preserve_shape": True}, -1),
        ):
            with self.subTest(operator, **attributes):
                net = Net()
                # The label has no value in inference.
                inputs = [net.variable("label")] if operator == "SoftmaxOutput" else []
                net.node(operator, "prob", net.data, *inputs, **attributes)
                self.assert_output(net, x, softmax_of(x, axis))

    def test_softmax_of_a_classifier(self):
        for operator in ("SoftmaxOutput", "SoftmaxActivation"):
            net, x, units, bias = Net(), noise(2, 3, 4, 5), noise(7, 60, seed=1), noise(7, seed=2)
            fc = net.node("FullyConnected", "fc", net.data, net.variable("w", units), net.variable("b", bias), num_hidden=7)
            net.node(operator, "prob", fc, *([net.variable("prob_label")] if operator == "SoftmaxOutput" else []))
            self.assert_output(net, x, softmax_of(x.reshape(2, -1) @ units.T.astype(np.float64) + bias, 1))

    def test_identity_operators_are_removed_except_at_an_output(self):
        net, x = Net(), noise(1, 2, 3, 3)
        last = net.node("relu", "r", net.data)
        for operator, attributes in (("Dropout", {"p": 0.5}), ("_copy", {}), ("identity", {}), ("BlockGrad", {})):
            last = net.node(operator, f"{operator}0", last, **attributes)
        self.assert_output(net, x, np.maximum(x, 0), 0)
        self.assertEqual([node.op_type for node in self.convert(net).graph.node], ["Relu", "Identity"])
        self.assertEqual([output.name for output in self.convert(net).graph.output], ["BlockGrad0"])

    def test_old_attribute_keys_and_python_2_integers(self):
        for key in ("param", "attr"):
            net, x, weight = Net(), noise(1, 2, 4, 4), noise(3, 2, 2, 2)
            net.node(
                "Convolution",
                "conv",
                net.data,
                net.variable("w", weight),
                kernel="(2L, 2L)",
                stride="[1,1]",
                pad="(0,0,)",
                num_filter="3L",
                no_bias=1,
            )
            net.nodes[-1][key] = net.nodes[-1].pop("attrs")
            self.assert_output(net, x, convolve(x, weight, (1, 1), (0, 0)))


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


# ---------------------------------------------------------------- files and graph


class Files(Case):
    def test_every_version_and_type_of_array(self):
        weight = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
        for version, kind in itertools.product((V1, V2, V3, OLDEST), ("float32", "float64", "float16")):
            self.files({}, packed_list([packed_array(weight.astype(kind), version)], ["arg:w"]))
            read = mxnet_to_onnx.read_parameters(self.directory / "net-0000.params")
            self.assertEqual(read["w"].dtype, kind)
            np.testing.assert_array_equal(read["w"], weight)

    def test_float16_and_float64_become_float32(self):
        for kind in ("float64", "float16"):
            net, x, weight = Net(), noise(1, 2, 3, 3), noise(1, 2, 1, 1).astype(np.float16)
            net.node("Convolution", "conv", net.data, net.variable("w", weight), kernel=(1, 1), num_filter=1, no_bias=True)
            net.parameters["arg:w"] = weight.astype(kind)
            self.assert_output(net, x, convolve(x, weight, (1, 1), (0, 0)))

    def test_an_uninitialised_array_is_missing(self):
        for head in (
            struct.pack("<Iii", V2, 0, 0),
            struct.pack("<Ii", V1, 0),
            struct.pack("<Iii", V3, 0, -1),
            struct.pack("<I", 0),
        ):
            self.files({}, packed_list([head], ["arg:w"]))
            self.assertEqual(mxnet_to_onnx.read_parameters(self.directory / "net-0000.params"), {})

    def test_weights_keep_names_and_values_and_unused_ones_are_removed(self):
        net = Net()
        net.variable("unused", noise(5))
        net.node(
            "Convolution",
            "conv",
            net.data,
            net.variable("conv_weight", noise(2, 3, 1, 1)),
            kernel=(1, 1),
            num_filter=2,
            no_bias=True,
        )
        model = self.convert(net)
        (weight,) = model.graph.initializer
        self.assertEqual(weight.name, "conv_weight")
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), noise(2, 3, 1, 1))

    def test_the_header_of_the_file(self):
        net = Net()
        net.node("Convolution", "conv", net.data, net.variable("w", noise(2, 3, 1, 1)), kernel=(1, 1), num_filter=2, no_bias=True)
        model = self.convert(net)
        self.assertEqual((model.ir_version, model.producer_name), (8, "retinaface mxnet-to-onnx"))
        self.assertEqual([(opset.domain, opset.version) for opset in model.opset_import], [("", 13)])
        self.assertEqual(dims(model.graph.input[0]), ["batch", 3, "height", "width"])
        self.assertEqual(dims(model.graph.output[0]), ["batch", 2, "conv_height", "conv_width"])

    def test_channels_are_inferred_through_operators_that_keep_them(self):
        net = Net()
        centred = net.node(
            "_mul_scalar", "scaled", net.node("_minus_scalar", "centred", net.data, scalar=127.5), scalar=0.0078125
        )
        net.batch_norm("bn", centred, [1] * 4, [0] * 4, [0] * 4, [1] * 4)
        self.assertEqual(dims(self.convert(net).graph.input[0]), ["batch", 4, "height", "width"])

    def test_several_outputs_keep_order_and_names_of_the_symbol(self):
        net, x = Net(), noise(1, 2, 3, 3)
        first, second = net.node("relu", "r", net.data), net.node("tanh", "t", net.data)
        net.heads = [second, first, second, net.data]
        model = self.convert(net)
        self.assertEqual([output.name for output in model.graph.output], ["t", "r", "t_2", "data_2"])
        for got, expected in zip(session(model).run(None, {"data": x}), (np.tanh(x), np.maximum(x, 0), np.tanh(x), x)):
            np.testing.assert_allclose(got, expected, rtol=1e-6)

    def test_duplicate_node_names_and_a_node_with_the_name_of_a_weight(self):
        # The R50 model has two nodes named _plus0.
        net, x = Net(), noise(1, 1, 3, 3)
        last = net.node("Convolution", "w", net.data, net.variable("w", [[[[2]]]]), kernel=(1, 1), num_filter=1, no_bias=True)
        for _ in range(3):
            last = net.node("_plus_scalar", "same", last, scalar=1)
        self.assert_output(net, x, 2 * x + 3)

    def test_training_outputs_are_removed_and_listed(self):
        net, x = Net(), noise(2, 2, 3, 4)
        label, target = net.variable("label"), net.variable("bbox_target")
        score = net.node("Reshape", "score", net.data, shape=(0, 2, -1))
        prob = net.node("SoftmaxOutput", "prob", score, label, multi_output=True)
        difference = net.node("elemwise_sub", "difference", score, target)
        net.heads = [prob, net.node("BlockGrad", "label_out", label), net.node("MakeLoss", "loss", difference)]
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            (got,) = self.run_net(net, x)
        np.testing.assert_allclose(got, softmax_of(x.reshape(2, 2, -1), 1), rtol=1e-5)
        self.assertIn("label_out, loss", stderr.getvalue())
        self.assertEqual(stderr.getvalue().count("\n"), 1)

    def test_the_program_writes_the_file_and_nothing_else(self):
        net, out = Net(), self.directory / "converted.onnx"
        net.node("relu", "r", net.data)
        files = self.files(net.symbol(), net.packed())
        done = subprocess.run([sys.executable, SCRIPT, *files, out], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertEqual(sorted(self.directory.iterdir()), sorted([*files, out]))
        onnx.checker.check_model(str(out))

    def test_missing_packages_are_named(self):
        done = subprocess.run([sys.executable, "-I", "-S", SCRIPT, "a", "b", "c"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1))
        self.assertIn("pip install numpy onnx", done.stderr)


# ---------------------------------------------------------------- errors


def small_net():
    """A network with convolution, batch normalisation and all kinds of parameters."""
    net = Net()
    conv = net.node(
        "Convolution",
        "conv",
        net.data,
        net.variable("w", noise(2, 3, 1, 1)),
        net.variable("b", noise(2)),
        kernel=(1, 1),
        num_filter=2,
    )
    net.batch_norm("bn", conv, [1, 1], [0, 0], [0, 0], [1, 1])
    return net


class Errors(Case):
    def test_truncated_parameters(self):
        net = small_net()
        for version in (V1, V2, V3, OLDEST):
            packed = net.packed(version)
            for length in range(len(packed)):
                error = self.error(net.symbol(), packed[:length])
                self.assertRegex(error, "truncated", f"{length} bytes of version {version}")

    def test_truncated_symbols(self):
        net = small_net()
        text = json.dumps(net.symbol())
        for length in range(len(text)):
            self.assertIn("not a symbol file", self.error(text[:length], net.packed()))

    def test_headers_with_counts_beyond_the_end_of_the_file(self):
        huge, net = 2**60, small_net()
        array = packed_array(noise(2, 3))
        for packed in (
            struct.pack("<QQQ", 0x112, 0, huge),
            struct.pack("<QQQ", 0x112, 0, 2**64 - 1),
            struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<Iiiqiii", V2, 0, 1, huge, 1, 0, 0),
            struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<Iii2qiii", V2, 0, 2, huge, huge, 1, 0, 0),
            struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<I2Iiii", 2, 2**32 - 1, 2**32 - 1, 1, 0, 0),
            struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<Q", huge),
            struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, huge),
        ):
            self.assertIn("truncated", self.error(net.symbol(), packed))

    def test_invalid_arrays(self):
        net = small_net()
        for array, message in (
            (struct.pack("<Iii", V2, 0, 1000), "1000"),
            (struct.pack("<Iii", V2, 0, -5), "-5"),
            (struct.pack("<I", 0xDEADBEEF), "neither a known format"),
            (struct.pack("<Iiiqiii", V2, 0, 1, 0, 1, 0, 0), "invalid shape"),
            (struct.pack("<Iiiqiii", V2, 0, 1, -1, 1, 0, 0), "invalid shape"),
            (struct.pack("<Iiiqiii", V2, 0, 1, 1, 1, 0, 99), "type 99"),
            (struct.pack("<Iii", V2, 1, 1), "sparse"),
        ):
            self.assertIn(message, self.error(net.symbol(), packed_list([array + bytes(16)], ["arg:w"])))

    def test_damaged_parameter_files(self):
        net, array = small_net(), packed_array(noise(2, 3))
        for packed, message in (
            (b"", "not a parameter file"),
            (b"PK\x03\x04" + bytes(100), "not a parameter file"),
            (net.packed() + b"\0", "after its end"),
            (packed_list([array, array], ["arg:w"]), "2 arrays and 1 names"),
            (packed_list([array, array], ["arg:w", "aux:w"]), "two arrays with the same name"),
            (packed_list([array], ["w"]), "arg: or aux:"),
            (packed_list([array], ["arg:w"])[:-1] + b"\xff", "not valid UTF-8"),
        ):
            self.assertIn(message, self.error(net.symbol(), packed))

    def test_invalid_symbol_files(self):
        relu = {"op": "relu", "name": "r", "inputs": [[0, 0, 0]]}
        data = {"op": "null", "name": "data", "inputs": []}
        texts = ["", "no json", "[]", "{}", "null", "1", '"text"', "[" * 100000, '{"nodes": ' + "9" * 5000 + "}"]
        nodes = [
            1, {"op": "null"}, {**data, "name": ""}, {**data, "name": "\ud800"}, {**data, "name": "a\nb"},
            {**data, "name": "a" * 1000}, {**data, "attrs": []}, {**data, "attrs": {"a": 1}},
            {**data, "inputs": 1}, {**data, "inputs": [[0, 0, 0]]},
        ]  # fmt: skip
        heads = [[1, 0, 0], [-1, 0, 0], 0, [0], ["0", 0, 0], [True, 0, 0], [1e300, 0, 0], [0, 0, 0, 0]]
        symbols = [
            *texts,
            *({"nodes": [node], "heads": [[0, 0, 0]]} for node in nodes),
            *({"nodes": [data], "heads": [head]} for head in heads),
            {"nodes": {}, "heads": []},
            {"nodes": [data], "heads": []},
            {"nodes": [relu, data], "heads": [[0, 0, 0]]},
            {"nodes": [data, {**relu, "inputs": [[1, 0, 0]]}], "heads": [[1, 0, 0]]},
        ]
        for symbol in symbols:
            with self.subTest(str(symbol)[:60]):
                self.assertIn("not a symbol file", self.error(symbol, Net().packed()))

    def test_an_unsupported_operator_is_named_with_its_node(self):
        net = Net()
        net.node("_contrib_DeformableConvolution", "rf_dcn", net.data)
        self.assert_error(net, "'rf_dcn'", "_contrib_DeformableConvolution", "not supported")

    def test_an_unsupported_attribute_is_an_error(self):
        net = Net()
        net.node("relu", "r", net.data, reversed=True)
        self.assert_error(net, "'r'", "'reversed'")

    def test_attributes_are_never_evaluated_as_code(self):
        marker = self.directory / "ran"
        for kernel in (
            f"__import__('os').mkdir({str(marker)!r})",
            "(3, 3) + (1,)",
            "(3, x)",
            "(1e3, 1)",
            "9" * 400,
            "(" * 5000,
            "(3,,3)",
            "(99999999999, 1)",
            "(0, 1)",
            "()",
            "1, " * 50,
        ):
            net = Net()
            net.node(
                "Convolution", "conv", net.data, net.variable("w", noise(2, 3, 3, 3)), kernel=kernel, num_filter=2, no_bias=True
            )
            self.assert_error(net, "'conv'", "kernel=")
        self.assertFalse(marker.exists())

    def test_invalid_attributes(self):
        for operator, attributes, message in (
            ("Activation", {}, "act_type is missing"),
            ("Activation", {"act_type": "swish"}, "'swish'"),
            ("LeakyReLU", {"act_type": "gelu"}, "'gelu'"),
            ("LeakyReLU", {"slope": "nan"}, "slope="),
            ("LeakyReLU", {"slope": "1e99"}, "slope="),
            ("clip", {"a_min": "inf", "a_max": 0}, "a_min="),
            ("Pooling", {"kernel": (2, 2), "pool_type": "lp"}, "'lp'"),
            ("Pooling", {"kernel": (2, 2), "pooling_convention": "same"}, "'same'"),
            ("Pooling", {"kernel": (2, 2), "stride": (0, 1)}, "stride="),
            ("Pooling", {"kernel": (2, 2), "pad": (1,)}, "pad="),
            ("Pooling", {"kernel": (2, 2), "pad": (2, 2)}, "outside the image"),
            ("Pooling", {"kernel": (2, 2), "stride": (2, 2), "pad": (1, 1), "pooling_convention": "full"}, "outside the image"),
            (
                "Pooling",
                {"kernel": (3, 3), "pad": (1, 1), "pool_type": "avg", "pooling_convention": "full"},
                "count_include_pad=",
            ),
            ("Pooling", {"kernel": (2,)}, "4 axes"),
            ("UpSampling", {"scale": 0, "sample_type": "nearest"}, "scale="),
            ("UpSampling", {"scale": 2, "sample_type": "cubic"}, "'cubic'"),
            ("UpSampling", {"scale": 2, "sample_type": "nearest", "num_args": 2}, "num_args="),
            ("Crop", {"num_args": 2}, "num_args="),
            ("Crop", {"num_args": 1}, "h_w="),
            ("Reshape", {}, "shape is missing"),
            ("Reshape", {"shape": (0, -3, 0)}, "shape="),
            ("Reshape", {"shape": (-1, -1)}, "shape="),
            ("Reshape", {"shape": (0, 0, 0, 0, 0)}, "more axes"),
            ("Reshape", {"shape": (0, -1), "reverse": True}, "reverse="),
            ("transpose", {"axes": (0, 1, 2, 2)}, "axes="),
            ("slice_axis", {"axis": 4, "begin": 0, "end": 1}, "axis="),
            ("softmax", {"temperature": 2}, "temperature="),
            ("SoftmaxActivation", {}, "4 axes"),
            ("Dropout", {"mode": "always"}, "'always'"),
            ("BatchNorm", {"axis": 3}, "axis="),
            ("elemwise_add", {}, "too few"),
            ("_mul_scalar", {}, "scalar is missing"),
        ):
            with self.subTest(operator, **attributes):
                net = Net()
                net.node(operator, "it", net.data, **attributes)
                self.assert_error(net, operator, "'it'", message)

    def test_parameters_that_are_missing_or_of_another_network(self):
        for operator, shapes, attributes, message in (
            ("Convolution", (None,), {}, "'w0' is missing"),
            ("Convolution", ((2, 3, 3, 3),), {"num_filter": 4}, "4 x any x 3 x 3"),
            ("Convolution", ((2, 3, 1, 1),), {}, "(2, 3, 1, 1)"),
            ("Convolution", ((2, 3, 3, 3),), {"no_bias": False}, "no bias"),
            ("Convolution", ((2, 3, 3, 3), (3,)), {"no_bias": False}, "(3,)"),
            ("Convolution", ((2, 3, 3, 3),), {"num_group": 3}, "groups"),
            ("Deconvolution", ((3, 2, 3, 3),), {"num_group": 2, "num_filter": 4}, "3 channels"),
            ("Deconvolution", ((3, 2, 3, 3),), {"target_shape": (9, 9)}, "target_shape="),
            ("Deconvolution", ((3, 2, 3, 3),), {"adj": (1, 1)}, "adj="),
        ):
            with self.subTest(operator, **attributes):
                net = Net()
                weights = [
                    net.variable(f"w{index}", None if shape is None else noise(*shape)) for index, shape in enumerate(shapes)
                ]
                net.node(operator, "it", net.data, *weights, **{"kernel": (3, 3), "num_filter": 2, "no_bias": True, **attributes})
                self.assert_error(net, operator, "'it'", message)

    def test_mismatched_channels(self):
        net = small_net()
        bn = len(net.nodes) - 1
        net.node("Convolution", "next", bn, net.variable("w2", noise(2, 5, 1, 1)), kernel=(1, 1), num_filter=2, no_bias=True)
        self.assert_error(net, "'next'", "5")
        net = small_net()
        net.node("LeakyReLU", "act", len(net.nodes) - 1, net.variable("slopes", noise(5)), act_type="prelu")
        self.assert_error(net, "'act'", "5")
        net = small_net()
        net.node("elemwise_add", "sum", len(net.nodes) - 1, net.data)
        self.assert_error(net, "'sum'", "belong together")

    def test_a_second_input_is_a_missing_parameter(self):
        net = Net()
        net.node("elemwise_add", "sum", net.data, net.variable("other"))
        self.assert_error(net, "'sum'", "'other' is missing")

    def test_computed_weights_and_second_outputs(self):
        net = Net()
        net.node("Convolution", "conv", net.data, net.node("relu", "r", net.data), kernel=(1, 1), num_filter=1, no_bias=True)
        self.assert_error(net, "'conv'", "computed")
        net = Net()
        net.node("relu", "r", net.data)
        net.nodes[-1]["inputs"] = [[0, 1, 0]]
        self.assert_error(net, "output 1")

    def test_a_weight_of_integers(self):
        net = Net()
        net.node("Convolution", "conv", net.data, net.variable("w", noise(1, 1, 1, 1)), kernel=(1, 1), num_filter=1, no_bias=True)
        net.parameters["arg:w"] = np.ones((1, 1, 1, 1), np.int32)
        self.assert_error(net, "'conv'", "int32")

    def test_a_network_without_an_inference_output(self):
        net = Net()
        net.heads = [net.node("MakeLoss", "loss", net.data)]
        self.assert_error(net, "no output")
        net = Net()
        net.parameters["arg:data"] = noise(1)
        self.assert_error(net, "no input")

    def test_dimensions_that_grow_without_limit(self):
        net = Net()
        last = net.batch_norm("bn", net.data, [1, 1], [0, 0], [0, 0], [1, 1])
        for index in range(200):
            last = net.node("Concat", f"c{index}", last, last, num_args=2)
        self.assert_error(net, "too large")

    def test_missing_files_and_directories(self):
        net = Net()
        net.node("relu", "r", net.data)
        files = self.files(net.symbol(), net.packed())
        for arguments, message in (
            ((self.directory / "none.json", files[1], self.directory / "out.onnx"), "none.json"),
            ((files[0], self.directory, self.directory / "out.onnx"), "is not a file"),
            ((files[0], "/dev/zero", self.directory / "out.onnx"), "/dev/zero"),
            ((*files, self.directory / "none" / "out.onnx"), "create it first"),
            ((*files, self.directory), str(self.directory)),
        ):
            done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)
            self.assertIn(message, done.stderr)

    def test_damaged_bytes_are_an_error_or_a_file_and_never_a_traceback(self):
        net, chance = small_net(), random.Random(0)
        text, packed = json.dumps(net.symbol()).encode(), net.packed()
        for turn in range(600):
            damaged = [bytearray(text), bytearray(packed)]
            target = damaged[turn % 2]
            for _ in range(chance.randint(1, 4)):
                target[chance.randrange(len(target))] = chance.randrange(256)
            files = self.directory / "a.json", self.directory / "a.params"
            for file, content in zip(files, damaged):
                file.write_bytes(content)
            with contextlib.suppress(mxnet_to_onnx.ConversionError):
                mxnet_to_onnx.convert(*files)


# ---------------------------------------------------------------- the published network


class Published(Case):
    """Compares mnet.25 with another conversion of it."""

    @classmethod
    def setUpClass(cls):
        missing = [file for file in (SYMBOL, PARAMETERS, REFERENCE) if not file.exists()]
        if missing and os.environ.get("CI") == "true":
            raise AssertionError(f"{missing[0]} does not exist; CI requires it")
        if missing:
            raise unittest.SkipTest(f"{missing[0]} does not exist")
        cls.model = mxnet_to_onnx.convert(SYMBOL, PARAMETERS)
        cls.converted, cls.reference = session(cls.model), session(str(REFERENCE))

    def assert_agrees(self, data):
        names = [output.name for output in self.reference.get_outputs()]
        for name, got, expected in zip(names, self.converted.run(names, {"data": data}), self.reference.run(names, {"data": data})):
            self.assertEqual(got.shape, expected.shape, name)
            self.assertTrue(np.isfinite(got).all(), name)
            self.assertLessEqual(np.abs(got - expected).max(), 1e-4, f"{name} at {data.shape}")

    def test_inputs_and_outputs_have_the_same_names_and_order(self):
        for method in ("get_inputs", "get_outputs"):
            converted, reference = getattr(self.converted, method)(), getattr(self.reference, method)()
            self.assertEqual([value.name for value in converted], [value.name for value in reference])
            self.assertEqual([value.shape[1] for value in converted], [value.shape[1] for value in reference])
            for value in converted:
                self.assertEqual([type(dim) for dim in value.shape], [str, int, str, str])
                self.assertEqual(value.shape[0], "batch")

    def test_noise_with_many_sizes_and_batches(self):
        for batch, height, width in (
            (1, 64, 64),
            (2, 50, 70),
            (1, 33, 47),
            (2, 320, 224),
            (3, 96, 32),
            (1, 17, 200),
            (1, 640, 640),
        ):
            self.assert_agrees(np.random.default_rng(0).uniform(0, 255, (batch, 3, height, width)).astype(np.float32))

    def test_photos(self):
        for photo in PHOTOS:
            if not photo.exists():
                self.skipTest(f"{photo} does not exist: run make setup")
            image = cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB)
            small = cv2.resize(image, (333, 251))
            for batch in ([image], [small, small[:, ::-1]]):
                self.assert_agrees(np.stack(batch).transpose(0, 3, 1, 2).astype(np.float32))

    def test_a_face_of_a_photo_is_found(self):
        if not PHOTOS[1].exists():
            self.skipTest(f"{PHOTOS[1]} does not exist: run make setup")
        image = cv2.cvtColor(cv2.resize(cv2.imread(str(PHOTOS[1])), (640, 480)), cv2.COLOR_BGR2RGB)
        names = [output.name for output in self.converted.get_outputs() if "cls_prob" in output.name]
        scores = self.converted.run(names, {"data": image.transpose(2, 0, 1)[None].astype(np.float32)})
        self.assertGreater(max(score[:, 2:].max() for score in scores), 0.9)

    def test_weights_have_the_values_of_the_file_and_the_names_of_the_symbol(self):
        parameters = mxnet_to_onnx.read_parameters(PARAMETERS)
        variables = {node["name"] for node in json.loads(SYMBOL.read_text())["nodes"] if node["op"] == "null"} - {"data"}
        weights = {weight.name: onnx.numpy_helper.to_array(weight) for weight in self.model.graph.initializer}
        self.assertLessEqual(variables, set(weights))
        for name in variables:
            stored = name.replace("moving", "running") if name not in parameters else name
            np.testing.assert_array_equal(weights[name], parameters[stored])

    def test_onnx_runtime_loads_it_without_a_warning(self):
        out = self.directory / "mnet.25.onnx"
        subprocess.run([sys.executable, SCRIPT, SYMBOL, PARAMETERS, out], check=True)
        # Ignore messages at the import, which concern the machine.
        code = "import onnxruntime, sys; print(file=sys.stderr); onnxruntime.set_default_logger_severity(2); " \
               "onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr.partition("\n")[2].strip()), (0, ""), done.stderr)

    def test_truncated_parameters_are_an_error(self):
        whole = PARAMETERS.read_bytes()
        file = self.directory / "cut.params"
        for length in (*range(0, 300), *range(300, len(whole), len(whole) // 200), *range(len(whole) - 100, len(whole))):
            file.write_bytes(whole[:length])
            with self.assertRaises(mxnet_to_onnx.ConversionError):
                mxnet_to_onnx.read_parameters(file)


if __name__ == "__main__":
    unittest.main()
