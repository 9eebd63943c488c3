"""Tests of keep-onnx-inputs.py and of SFace, which it makes; `make test-tools` runs them."""

import contextlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "keep-onnx-inputs.py"
SFACE = ROOT / ".fetch" / "models" / "sface.onnx"
PHOTO = ROOT / ".fetch" / "media" / "single_face.jpg"

# The file name is not a valid module name.
specification = importlib.util.spec_from_file_location("keep_onnx_inputs", SCRIPT)
keep_onnx_inputs = importlib.util.module_from_spec(specification)
specification.loader.exec_module(keep_onnx_inputs)


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def value(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def small_model():
    """out = data * weight + bias in a branch; weight, bias and a name that no node reads are inputs."""
    branch = helper.make_graph([helper.make_node("Add", ["product", "bias"], ["sum"])], "branch", [], [value("sum")])
    nodes = [
        helper.make_node("Mul", ["data", "weight"], ["product"]),
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("yes", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["out"], then_branch=branch, else_branch=branch),
    ]
    weights = [numpy_helper.from_array(np.array(values, np.float32), name) for name, values in (("weight", [2, 3]), ("bias", [5, 7]))]
    inputs = [value(name) for name in ("data", "weight", "bias", "unused")]
    graph = helper.make_graph(nodes, "small", inputs, [value("out")], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def in_float32(model):
    """The same network with each DequantizeLinear (and its Reshape) replaced by its result in float32.

    The result is computed from the values and by the definition in the graph:
    (quantised - zero point) * scale, with one zero point and scale for each block of an axis.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph, nodes = model.graph, []
    arrays = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            quantised, scale, zero = (arrays[name] for name in node.input)
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            axis, block = attributes["axis"], attributes["block_size"]

            def spread(blocks):
                return np.repeat(blocks, block, axis).take(range(quantised.shape[axis]), axis)

            arrays[node.output[0]] = (quantised.astype(np.float32) - spread(zero).astype(np.float32)) * spread(scale)
        elif node.op_type == "Reshape" and node.input[0] in arrays:
            arrays[node.output[0]] = arrays[node.input[0]].reshape(arrays[node.input[1]])
        else:
            nodes.append(node)
    read = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items() if name in read)
    return model


class KeepOnnxInputs(unittest.TestCase):
    def assert_error(self, model, keep, *parts):
        with self.assertRaises(keep_onnx_inputs.EditError) as caught:
            keep_onnx_inputs.edit(model, keep)
        for part in parts:
            self.assertIn(part, str(caught.exception))

    def test_only_the_named_input_stays_and_the_result_is_the_same(self):
        model = small_model()
        edited = onnx.ModelProto.FromString(keep_onnx_inputs.edit(model.SerializeToString(), ["data"]))
        self.assertEqual([entry.name for entry in edited.graph.input], ["data"])
        del model.graph.input[1:]
        self.assertEqual(edited, model)
        (out,) = session(edited.SerializeToString()).run(None, {"data": np.array([1, 10], np.float32)})
        np.testing.assert_array_equal(out, [7, 37])

    def test_an_input_that_a_node_needs_is_not_removed(self):
        model = small_model()
        # Only a branch reads this one.
        del model.graph.initializer[1]
        self.assert_error(model.SerializeToString(), ["data"], "'bias'", "name this input")
        keep_onnx_inputs.edit(model.SerializeToString(), ["data", "bias"])

    def test_a_missing_input_is_an_error_that_lists_the_inputs(self):
        self.assert_error(small_model().SerializeToString(), ["image"], "no input 'image'", "are 'data': name these")

    def test_damaged_bytes_are_an_error_or_a_file_and_never_another_exception(self):
        whole, chance = small_model().SerializeToString(), random.Random(0)
        damaged = [whole[:length] for length in range(len(whole))]
        for _ in range(2000):
            changed = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            damaged.append(changed)
        for content in damaged:
            with contextlib.suppress(keep_onnx_inputs.EditError):
                keep_onnx_inputs.edit(content, ["data"])

    def test_the_program_writes_one_line_per_error(self):
        with tempfile.TemporaryDirectory() as directory:
            source, out = Path(directory, "in.onnx"), Path(directory, "out.onnx")
            source.write_bytes(b"no model")
            for arguments, message in (
                ((source, out, "data"), "not an ONNX file"),
                ((Path(directory, "none"), out, "data"), "No such file"),
                ((source, out), "usage"),
            ):
                done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
                self.assertIn(message, done.stderr)
            self.assertFalse(out.exists())


class SFace(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not SFACE.exists():
            raise AssertionError(f"{SFACE} does not exist: run make setup")
        cls.model = onnx.load(SFACE)
        cls.session = session(SFACE.read_bytes())

    def test_it_has_one_image_as_its_input_and_128_numbers_as_its_output(self):
        (image,), (embedding,) = self.session.get_inputs(), self.session.get_outputs()
        self.assertEqual((image.name, image.shape, image.type), ("data", [1, 3, 112, 112], "tensor(float)"))
        self.assertEqual((embedding.shape, embedding.type), ([1, 128], "tensor(float)"))

    def test_embeddings_are_those_of_the_same_weights_in_float32(self):
        whole = session(in_float32(self.model).SerializeToString())
        photo = cv2.resize(cv2.imread(str(PHOTO)), (112, 112))[..., ::-1].transpose(2, 0, 1)
        noise = np.random.default_rng(0).integers(0, 256, (8, 3, 112, 112))
        for image in (photo, np.zeros_like(photo), *noise):
            data = {"data": image[None].astype(np.float32)}
            one, other = (run.run(None, data)[0][0].astype(np.float64) for run in (self.session, whole))
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            self.assertGreaterEqual(cosine, 0.999999)


if __name__ == "__main__":
    unittest.main()
