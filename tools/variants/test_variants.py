"""Tests of variants.py; `make test-tools` runs them.

They need the built program and the default model and photos that `make setup` fetches. Tests of
errors make their own models and images.
"""

import contextlib
import copy
import io
import os
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import onnx
import onnxruntime

import variants

MEDIA = variants.ROOT / ".fetch" / "media"
MODEL = variants.ROOT / ".fetch" / "models" / "retinaface_mnet025.onnx"
PHOTOS = [MEDIA / "multi_face.jpg", MEDIA / "single_face.jpg"]
TEST_DATA = (variants.ROOT / os.environ.get("RETINAFACE_TEST_DATA", "../shared")).resolve()
FIXED = TEST_DATA / "models" / "retinaface_biubug6_fixed640.onnx"


def make_options(**changed):
    given = {"input_size": 320, "frames": 2, "calibration": PHOTOS, "method": "percentile", "percentile": 99.999,
             "activations": "uint8", "weights": "int8", "keep": ["stem"]}  # fmt: skip
    return types.SimpleNamespace(**{**given, **changed})


def compare_options(**changed):
    given = {"input_size": 640, "frames": 2, "score_threshold": 0.5, "provider": "cpu", "threads": 1, "rounds": 3,
             "speed_size": (320, 192)}  # fmt: skip
    return types.SimpleNamespace(**{**given, **changed})


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    file = model if isinstance(model, (str, Path)) else model.SerializeToString()
    return onnxruntime.InferenceSession(str(file) if isinstance(file, Path) else file, options, providers=["CPUExecutionProvider"])


def inputs_and_outputs(model):
    opened = session(model)
    return [(value.name, value.type, value.shape) for value in (*opened.get_inputs(), *opened.get_outputs())]


def photo():
    return cv2.imread(str(PHOTOS[0]))


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = variants.Program()
        cls.model = variants.load(MODEL)
        cls.spec = cls.program.model_spec(MODEL)
        cls.directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.directory.cleanup)

    def path(self, name, content=b""):
        path = Path(self.directory.name) / name
        path.write_bytes(content)
        return path

    def assertFails(self, messages, call, *arguments):
        with self.assertRaises(variants.VariantError) as caught:
            call(*arguments)
        for message in messages:
            self.assertIn(message, str(caught.exception))


class Preprocessing(Case):
    def test_sizes_are_those_of_the_program(self):
        # The cases of src/geometry/letterbox.rs.
        self.assertEqual(variants.letterbox(1920, 1080, 640), ((640, 360), (640, 384)))
        self.assertEqual(variants.letterbox(1080, 1920, 640), ((360, 640), (384, 640)))
        self.assertEqual(variants.letterbox(333, 17, 0), ((333, 17), (333, 17)))
        self.assertEqual(variants.letterbox(1000, 3000, fixed=(640, 640)), ((213, 640), (640, 640)))
        # 426.88, rounded to the nearest integer.
        self.assertEqual(variants.letterbox(1000, 667, 640), ((640, 427), (640, 448)))

    def test_pixels_are_normalised_in_channel_order_and_padding_is_zero(self):
        bgr = np.full((32, 64, 3), (10, 20, 30), np.uint8)
        spec = {"order": "RGB", "mean": [1, 2, 3], "scale": 0.5, "fixed_size": [64, 64]}
        tensor = variants.preprocess(bgr, spec)
        self.assertEqual(tensor.shape, (1, 3, 64, 64))
        self.assertEqual(tensor[0, :, 0, 0].tolist(), [14.5, 9.0, 3.5])
        self.assertEqual(np.abs(tensor[0, :, 32:]).max(), 0)
        bgr_first = variants.preprocess(bgr, {**spec, "order": "BGR"})
        self.assertEqual(bgr_first[0, :, 31, 63].tolist(), [4.5, 9.0, 13.5])

    def test_the_scores_are_those_of_the_program(self):
        below_one = 0
        for size in (160, 320, 640):
            tensor = variants.preprocess(photo(), self.spec, size)
            scores = session(MODEL).run(["conf"], {"input": tensor})[0][0, :, 1]
            options = compare_options(input_size=size, score_threshold=0.03)
            for face in self.program.detect(MODEL, PHOTOS[:1], options)[0]:
                self.assertLess(np.abs(scores - face["score"]).min(), 1e-4)
                below_one += face["score"] < 0.99
        # A score of about 1 does not depend on the exact preprocessing.
        self.assertGreater(below_one, 3)


class Conversion(Case):
    def test_upgrading_gives_a_valid_model_with_equal_outputs(self):
        upgraded = variants.upgrade(self.model)
        self.assertLess(variants.opset(self.model), variants.MIN_OPSET)
        self.assertGreaterEqual(variants.opset(upgraded), variants.MIN_OPSET)
        onnx.checker.check_model(upgraded, full_check=True)
        tensor = variants.preprocess(photo(), self.spec, 320)
        expected, actual = (session(model).run(None, {"input": tensor}) for model in (MODEL, upgraded))
        for a, b in zip(expected, actual):
            self.assertLess(np.abs(a - b).max(), 1e-5)

    def test_upgrading_does_not_change_its_argument(self):
        before = self.model.SerializeToString()
        variants.upgrade(self.model)
        self.assertEqual(self.model.SerializeToString(), before)

    def test_both_variants_are_valid_load_and_keep_inputs_and_outputs(self):
        with tempfile.TemporaryDirectory() as directory:
            files = variants.make(MODEL, Path(directory), variants.KINDS, make_options(), self.program)
            self.assertEqual([file.name for file in files], ["retinaface_mnet025_fp16.onnx", "retinaface_mnet025_int8.onnx"])
            self.assertEqual(sorted(os.listdir(directory)), [file.name for file in files])
            for file, kind in zip(files, variants.KINDS):
                onnx.checker.check_model(str(file), full_check=True)
                self.assertEqual(self.program.model_spec(file), self.spec)
                # A conversion renames symbolic dimensions, but not inputs and outputs.
                self.assertEqual([o[:2] for o in inputs_and_outputs(file)], [o[:2] for o in inputs_and_outputs(MODEL)])
                properties = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
                self.assertEqual(properties["retinaface.variant"], kind)
                self.assertLess(file.stat().st_size, 0.6 * MODEL.stat().st_size)
                result = variants.compare(MODEL, file, PHOTOS, compare_options(), self.program)
                self.assertEqual((result["faces"]["fp32"], result["faces"]["missed"]), (6, 0))
                # The variant is not a copy.
                self.assertGreater(result["drift"]["score"]["max"], 0)
                self.assertLess(result["drift"]["box_1_minus_iou"]["max"], 0.15)

    def test_variants_keep_the_metadata_of_their_source(self):
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory) / "metadata.onnx"
            model = onnx.load(str(MODEL))
            onnx.helper.set_model_props(model, {"retinaface.mean": "1,2,3"})
            onnx.save(model, str(source))
            [file] = variants.make(source, Path(directory) / "out", ["fp16"], make_options(), self.program)
            self.assertEqual(self.program.model_spec(file)["mean"], [1, 2, 3])

    def test_fp16_has_half_precision_weights_except_those_of_the_heads(self):
        variant = variants.make_fp16(self.model)
        floats = {tensor.name for tensor in variant.graph.initializer if len(tensor.dims) == 4 and tensor.data_type == onnx.TensorProto.FLOAT}
        halves = {tensor.name for tensor in variant.graph.initializer if len(tensor.dims) == 4 and tensor.data_type == onnx.TensorProto.FLOAT16}
        self.assertGreater(len(halves), 40)
        self.assertEqual({node.input[1] for node in variants.heads(variant)}, floats)

    def test_int8_has_one_scale_per_channel(self):
        quantised = variants.make_int8(self.model, self.spec, [photo()], make_options())
        tensors = {tensor.name: tensor for tensor in quantised.graph.initializer}
        weights = [tensor for tensor in tensors.values() if len(tensor.dims) == 4 and tensor.data_type == onnx.TensorProto.INT8]
        self.assertGreater(len(weights), 40)
        for tensor in weights:
            self.assertEqual(list(tensors[tensor.name.replace("_quantized", "_scale")].dims), tensor.dims[:1])

    def test_kept_convolutions_stay_float(self):
        def float_convolutions(keep):
            quantised = variants.make_int8(self.model, self.spec, [photo()], make_options(keep=keep))
            floats = {tensor.name for tensor in quantised.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
            return {node.name for node in quantised.graph.node if node.op_type == "Conv" and node.input[1] in floats}

        upgraded = variants.upgrade(self.model)
        stem, heads = ({node.name for node in part(upgraded)} for part in (variants.stem, variants.heads))
        # The stem ends with the convolution to stride 8; there are three heads per stride.
        self.assertEqual((len(stem), len(heads)), (8, 9))
        self.assertIn("/fx/stage1/stage1.4/stage1.4.0/stage1.4.0.0/Conv", stem)
        self.assertTrue(all("_head" in name for name in heads))
        self.assertEqual(float_convolutions(["none"]), set())
        self.assertEqual(float_convolutions(["stem", "heads"]), stem | heads)
        self.assertEqual(float_convolutions(["/bbox_head/*"]), {name for name in heads if "bbox" in name})

    def test_every_calibration_method_accepts_images_of_different_sizes(self):
        images = [photo(), photo()[:200], cv2.imread(str(PHOTOS[1]))]
        quantised = [variants.make_int8(self.model, self.spec, images, make_options(method=method)).SerializeToString()
                for method in variants.METHODS]  # fmt: skip
        self.assertEqual(len(set(quantised)), 3)

    @unittest.skipUnless(FIXED.exists() or os.environ.get("CI") == "true", f"{FIXED} does not exist")
    def test_fused_convolutions_of_a_file_with_a_fixed_size_are_split(self):
        original = variants.load(FIXED)
        self.assertIn("FusedConv", {node.op_type for node in original.graph.node})
        with tempfile.TemporaryDirectory() as directory:
            for file in variants.make(FIXED, Path(directory), variants.KINDS, make_options(), self.program):
                result = variants.compare(FIXED, file, PHOTOS, compare_options(), self.program)
                self.assertEqual((result["faces"]["fp32"], result["faces"]["missed"]), (6, 0))
                self.assertEqual(result["speed"]["input"], [1, 3, 640, 640])


class Comparison(Case):
    def face(self, x, y, side, score=0.9):
        return {"score": score, "box": {"x": x, "y": y, "w": side, "h": side}, "landmarks": [[x + 1.0, y]] * 5}

    def test_a_model_agrees_with_itself(self):
        clip = MEDIA / "single_face.mp4"
        result = variants.compare(MODEL, MODEL, [*PHOTOS, clip], compare_options(), self.program)
        self.assertEqual((result["images"], result["faces"]["fp32"]), (4, 8))
        self.assertEqual((result["faces"]["matched"], result["faces"]["missed"], result["faces"]["extra"]), (8, 0, 0))
        for name, values in result["drift"].items():
            self.assertLess(values["max"], 1e-6, name)
        self.assertTrue(0.2 < result["speed"]["ratio"] < 5)
        self.assertIn("all                      8        8        8       0      0", variants.table(result))

    def test_missed_extra_and_moved_faces_are_counted(self):
        fp32 = [[self.face(0, 0, 100), self.face(200, 0, 20), self.face(300, 0, 40, 0.7)], []]
        variant = [[self.face(2, 0, 100, 0.8), self.face(400, 0, 50)], [self.face(0, 0, 10)]]
        result = variants.agreement(fp32, variant)
        self.assertEqual(result["faces"], {"fp32": 3, "variant": 3, "matched": 1, "missed": 2, "extra": 2})
        large = result["faces_over_24_px"]
        self.assertEqual([large[key] for key in ("fp32", "variant", "matched", "missed", "extra")], [2, 2, 1, 1, 1])
        self.assertEqual((large["missed_percent"], large["best_missed_score"]), (50, 0.7))
        self.assertAlmostEqual(result["drift"]["score"]["max"], 0.1)
        self.assertAlmostEqual(result["drift"]["box_px"]["mean"], 2)
        self.assertAlmostEqual(result["drift"]["box_1_minus_iou"]["p95"], 1 - 98 / 102)
        self.assertAlmostEqual(result["drift"]["landmark_px"]["max"], 2)

    def test_a_face_is_matched_once_with_its_best_match(self):
        faces = [self.face(0, 0, 100), self.face(30, 0, 100)]
        self.assertEqual(variants.match(faces, [self.face(28, 0, 100)]), [(1, 0)])
        self.assertEqual(sorted(variants.match(faces, faces[::-1])), [(0, 1), (1, 0)])
        self.assertEqual(variants.match(faces, [self.face(0, 51, 100)]), [])

    def test_images_without_faces_have_no_statistics(self):
        result = variants.agreement([[]], [[]])
        self.assertIsNone(result["faces_over_24_px"]["missed_percent"])
        self.assertIsNone(result["drift"]["score"])


class Errors(Case):
    def test_files_that_are_not_models(self):
        text = self.path("text.onnx", b"no model at all" * 20)
        self.assertFails([str(text), "not a valid ONNX file"], variants.load, text)
        cut = self.path("cut.onnx", MODEL.read_bytes()[: MODEL.stat().st_size // 2])
        self.assertFails([str(cut), "not a valid ONNX file"], variants.load, cut)
        self.assertFails(["/nowhere.onnx", "does not exist"], variants.load, Path("/nowhere.onnx"))

    def test_an_unsupported_detector_is_an_error_of_the_program(self):
        value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for n in ("in", "out")]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["in"], ["out"])], "graph", value[:1], value[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        file = self.path("other.onnx", model.SerializeToString())
        self.assertFails(["not a detector of a known family"], variants.make, file, Path(self.directory.name), ["fp16"], make_options(), self.program)

    def test_operators_of_other_domains_are_an_error(self):
        model = copy.deepcopy(self.model)
        model.graph.node[10].domain, model.graph.node[10].op_type = "com.microsoft.nchwc", "Conv"
        self.assertFails(["com.microsoft.nchwc", "as its framework exported it"], variants.upgrade, model)

    def test_inputs_that_are_missing_or_invalid(self):
        empty = Path(self.directory.name) / "empty"
        empty.mkdir(exist_ok=True)
        self.assertFails([str(empty), "no image or clip"], variants.list_files, [empty])
        self.assertFails(["/nowhere", "does not exist"], variants.list_files, [Path("/nowhere")])
        self.assertFails(["neither an image nor a clip"], variants.list_files, [MODEL])
        for name in ("broken.jpg", "broken.mp4"):
            broken = self.path(name, b"neither")
            self.assertFails([str(broken), "leave it out"],
                             list, variants.read_all([broken], 2))  # fmt: skip

    def test_a_program_that_is_missing_or_not_executable(self):
        nowhere = {"CARGO_TARGET_DIR": self.directory.name, "PATH": self.directory.name}
        with mock.patch.dict(os.environ, nowhere):
            self.assertFails(["make build", "--program"], variants.Program)
        self.assertFails(["--program"], variants.Program, self.path("none"))

    def test_keep_must_match_a_node(self):
        self.assertFails(["/nowhere/*", "--keep"], variants.float_nodes, self.model, ["/nowhere/*"])

    def test_a_provider_that_is_not_installed(self):
        with mock.patch.object(onnxruntime, "get_available_providers", return_value=["CPUExecutionProvider"]):
            self.assertFails(["cuda", "onnxruntime-gpu"], variants.sessions, [MODEL], 1, "cuda")

    def test_errors_are_one_line_with_status_2(self):
        script = Path(variants.__file__)
        for arguments, message in (
            (["make", MODEL, self.directory.name], "--calibration"),
            (["compare", MODEL, "/nowhere.onnx", PHOTOS[0]], "/nowhere.onnx"),
            (["make", MODEL, self.directory.name, "--calibration", "/nowhere"], "/nowhere"),
        ):
            result = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
            self.assertEqual((result.returncode, result.stdout), (2, ""))
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertIn(message, result.stderr)

    def test_invalid_values_on_the_command_line(self):
        for text in ("640", "0x32", "640x360", "axb"):
            with self.assertRaises(variants.argparse.ArgumentTypeError):
                variants.size(text)
        self.assertEqual(variants.size("640x384"), (640, 384))
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            with mock.patch.object(sys, "argv", ["variants.py", "compare", "a", "b", "c", "--score-threshold", "2"]):
                variants.arguments()


if __name__ == "__main__":
    unittest.main()
