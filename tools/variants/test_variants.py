"""Tests of variants.py. `make test-tools` runs them; they need the built program and what `make setup` fetched.

Models and pictures of an error's test are made here; everything else is the default model and the fetched photos.
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
FIXED = variants.ROOT.parent / "shared" / "models" / "retinaface_biubug6_fixed640.onnx"


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


def outlets(model):
    opened = session(model)
    return [(value.name, value.type, value.shape) for value in (*opened.get_inputs(), *opened.get_outputs())]


def picture():
    return cv2.imread(str(PHOTOS[0]))


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.program = variants.Program()
        cls.model = variants.load(MODEL)
        cls.contract = cls.program.contract(MODEL)
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)

    def path(self, name, content=b""):
        path = Path(self.folder.name) / name
        path.write_bytes(content)
        return path

    def assertFails(self, words, call, *arguments):
        with self.assertRaises(variants.VariantError) as caught:
            call(*arguments)
        for word in words:
            self.assertIn(word, str(caught.exception))


class Preprocessing(Case):
    def test_sizes_are_those_of_the_programs_letterbox(self):
        # The cases of src/letterbox.rs.
        self.assertEqual(variants.letterbox(1920, 1080, 640), ((640, 360), (640, 384)))
        self.assertEqual(variants.letterbox(1080, 1920, 640), ((360, 640), (384, 640)))
        self.assertEqual(variants.letterbox(333, 17, 0), ((333, 17), (333, 17)))
        self.assertEqual(variants.letterbox(1000, 3000, fixed=(640, 640)), ((213, 640), (640, 640)))
        # Rounded to the nearest, 426.88.
        self.assertEqual(variants.letterbox(1000, 667, 640), ((640, 427), (640, 448)))

    def test_pixels_are_put_in_order_shifted_and_scaled_and_padding_is_zero(self):
        bgr = np.full((32, 64, 3), (10, 20, 30), np.uint8)
        contract = {"order": "RGB", "mean": [1, 2, 3], "scale": 0.5, "fixed_size": [64, 64]}
        tensor = variants.preprocess(bgr, contract)
        self.assertEqual(tensor.shape, (1, 3, 64, 64))
        self.assertEqual(tensor[0, :, 0, 0].tolist(), [14.5, 9.0, 3.5])
        self.assertEqual(np.abs(tensor[0, :, 32:]).max(), 0)
        bgr_first = variants.preprocess(bgr, {**contract, "order": "BGR"})
        self.assertEqual(bgr_first[0, :, 31, 63].tolist(), [4.5, 9.0, 13.5])

    def test_the_model_gives_on_it_the_scores_that_the_program_finds(self):
        unsure = 0
        for size in (160, 320, 640):
            tensor = variants.preprocess(picture(), self.contract, size)
            scores = session(MODEL).run(["conf"], {"input": tensor})[0][0, :, 1]
            options = compare_options(input_size=size, score_threshold=0.03)
            for face in self.program.detect(MODEL, PHOTOS[:1], options)[0]:
                self.assertLess(np.abs(scores - face["score"]).min(), 1e-4)
                unsure += face["score"] < 0.99
        # Others would be 1 with any preprocessing.
        self.assertGreater(unsure, 3)


class Making(Case):
    def test_lifting_gives_a_valid_model_with_equal_outputs(self):
        lifted = variants.lift(self.model)
        self.assertLess(variants.opset(self.model), variants.MIN_OPSET)
        self.assertGreaterEqual(variants.opset(lifted), variants.MIN_OPSET)
        onnx.checker.check_model(lifted, full_check=True)
        tensor = variants.preprocess(picture(), self.contract, 320)
        was, is_now = (session(model).run(None, {"input": tensor}) for model in (MODEL, lifted))
        for a, b in zip(was, is_now):
            self.assertLess(np.abs(a - b).max(), 1e-5)

    def test_lifting_leaves_the_model_it_is_given_alone(self):
        before = self.model.SerializeToString()
        variants.lift(self.model)
        self.assertEqual(self.model.SerializeToString(), before)

    def test_both_variants_are_valid_load_and_keep_inputs_and_outputs(self):
        with tempfile.TemporaryDirectory() as folder:
            files = variants.make(MODEL, Path(folder), variants.KINDS, make_options(), self.program)
            self.assertEqual([file.name for file in files], ["retinaface_mnet025_fp16.onnx", "retinaface_mnet025_int8.onnx"])
            self.assertEqual(sorted(os.listdir(folder)), [file.name for file in files])
            for file, kind in zip(files, variants.KINDS):
                onnx.checker.check_model(str(file), full_check=True)
                self.assertEqual(self.program.contract(file), self.contract)
                # Symbolic dimensions are named anew where a file is converted; inputs and outputs are not.
                self.assertEqual([o[:2] for o in outlets(file)], [o[:2] for o in outlets(MODEL)])
                properties = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
                self.assertEqual(properties["retinaface.variant"], kind)
                self.assertLess(file.stat().st_size, 0.6 * MODEL.stat().st_size)
                result = variants.compare(MODEL, file, PHOTOS, compare_options(), self.program)
                self.assertEqual((result["faces"]["fp32"], result["faces"]["missed"]), (6, 0))
                # They are variants indeed, not copies.
                self.assertGreater(result["drift"]["score"]["max"], 0)
                self.assertLess(result["drift"]["box_1_minus_iou"]["max"], 0.15)

    def test_what_a_model_says_of_itself_stays_with_its_variants(self):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "said.onnx"
            model = onnx.load(str(MODEL))
            onnx.helper.set_model_props(model, {"retinaface.mean": "1,2,3"})
            onnx.save(model, str(source))
            [file] = variants.make(source, Path(folder) / "out", ["fp16"], make_options(), self.program)
            self.assertEqual(self.program.contract(file)["mean"], [1, 2, 3])

    def test_fp16_has_half_precision_weights_and_int8_whole_numbers_a_scale_a_channel(self):
        halves = {tensor.data_type for tensor in variants.make_fp16(self.model).graph.initializer if len(tensor.dims) == 4}
        self.assertEqual(halves, {onnx.TensorProto.FLOAT16})
        made = variants.make_int8(self.model, self.contract, [picture()], make_options())
        kinds = {tensor.name: tensor for tensor in made.graph.initializer}
        weights = [tensor for tensor in kinds.values() if len(tensor.dims) == 4 and tensor.data_type == onnx.TensorProto.INT8]
        self.assertGreater(len(weights), 40)
        for tensor in weights:
            self.assertEqual(list(kinds[tensor.name.replace("_quantized", "_scale")].dims), tensor.dims[:1])

    def test_what_is_kept_stays_float(self):
        def float_convolutions(keep):
            made = variants.make_int8(self.model, self.contract, [picture()], make_options(keep=keep))
            floats = {tensor.name for tensor in made.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
            return {node.name for node in made.graph.node if node.op_type == "Conv" and node.input[1] in floats}

        lifted = variants.lift(self.model)
        stem, heads = ({node.name for node in part(lifted)} for part in (variants.stem, variants.heads))
        # The stem ends with the convolution that makes an eighth; the heads are three a stride.
        self.assertEqual((len(stem), len(heads)), (8, 9))
        self.assertIn("/fx/stage1/stage1.4/stage1.4.0/stage1.4.0.0/Conv", stem)
        self.assertTrue(all("_head" in name for name in heads))
        self.assertEqual(float_convolutions(["none"]), set())
        self.assertEqual(float_convolutions(["stem", "heads"]), stem | heads)
        self.assertEqual(float_convolutions(["/bbox_head/*"]), {name for name in heads if "bbox" in name})

    def test_every_way_of_calibrating_works_on_pictures_of_several_sizes(self):
        pictures = [picture(), picture()[:200], cv2.imread(str(PHOTOS[1]))]
        made = [variants.make_int8(self.model, self.contract, pictures, make_options(method=method)).SerializeToString()
                for method in variants.METHODS]  # fmt: skip
        self.assertEqual(len(set(made)), 3)

    @unittest.skipUnless(FIXED.exists() or os.environ.get("CI") == "true", f"{FIXED} is not there")
    def test_a_file_of_one_size_that_onnx_runtime_optimised_is_taken_apart(self):
        original = variants.load(FIXED)
        self.assertIn("FusedConv", {node.op_type for node in original.graph.node})
        with tempfile.TemporaryDirectory() as folder:
            for file in variants.make(FIXED, Path(folder), variants.KINDS, make_options(), self.program):
                result = variants.compare(FIXED, file, PHOTOS, compare_options(), self.program)
                self.assertEqual((result["faces"]["fp32"], result["faces"]["missed"]), (6, 0))
                self.assertEqual(result["speed"]["input"], [1, 3, 640, 640])


class Comparing(Case):
    def face(self, x, y, side, score=0.9):
        return {"score": score, "box": {"x": x, "y": y, "w": side, "h": side}, "landmarks": [[x + 1.0, y]] * 5}

    def test_a_model_agrees_with_itself(self):
        clip = MEDIA / "single_face.mp4"
        result = variants.compare(MODEL, MODEL, [*PHOTOS, clip], compare_options(), self.program)
        self.assertEqual((result["pictures"], result["faces"]["fp32"]), (4, 8))
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

    def test_a_face_is_matched_once_and_with_its_best_partner(self):
        ours = [self.face(0, 0, 100), self.face(30, 0, 100)]
        self.assertEqual(variants.match(ours, [self.face(28, 0, 100)]), [(1, 0)])
        self.assertEqual(sorted(variants.match(ours, ours[::-1])), [(0, 1), (1, 0)])
        self.assertEqual(variants.match(ours, [self.face(0, 51, 100)]), [])

    def test_without_any_face_nothing_is_divided_by_nothing(self):
        result = variants.agreement([[]], [[]])
        self.assertIsNone(result["faces_over_24_px"]["missed_percent"])
        self.assertIsNone(result["drift"]["score"])


class Errors(Case):
    def test_files_that_are_no_model(self):
        text = self.path("text.onnx", b"no model at all" * 20)
        self.assertFails([str(text), "not an ONNX file"], variants.load, text)
        cut = self.path("cut.onnx", MODEL.read_bytes()[: MODEL.stat().st_size // 2])
        self.assertFails([str(cut), "not an ONNX file"], variants.load, cut)
        self.assertFails(["/nowhere.onnx", "does not exist"], variants.load, Path("/nowhere.onnx"))

    def test_a_model_that_is_no_known_detector_is_told_in_the_programs_words(self):
        value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for n in ("in", "out")]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["in"], ["out"])], "graph", value[:1], value[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
        file = self.path("other.onnx", model.SerializeToString())
        self.assertFails(["not a detector that is known"], variants.make, file, Path(self.folder.name), ["fp16"], make_options(), self.program)

    def test_a_model_of_foreign_operators(self):
        model = copy.deepcopy(self.model)
        model.graph.node[10].domain, model.graph.node[10].op_type = "com.microsoft.nchwc", "Conv"
        self.assertFails(["com.microsoft.nchwc", "as its framework exported it"], variants.lift, model)

    def test_pictures_that_are_not_there_or_are_none(self):
        empty = Path(self.folder.name) / "empty"
        empty.mkdir(exist_ok=True)
        self.assertFails([str(empty), "no picture"], variants.list_files, [empty])
        self.assertFails(["/nowhere", "does not exist"], variants.list_files, [Path("/nowhere")])
        self.assertFails(["neither a picture nor a clip"], variants.list_files, [MODEL])
        for name in ("broken.jpg", "broken.mp4"):
            broken = self.path(name, b"neither")
            self.assertFails([str(broken), "leave it out"],
                             list, variants.read_all([broken], 2))  # fmt: skip

    def test_a_program_that_is_not_built_or_is_none(self):
        nowhere = {"CARGO_TARGET_DIR": self.folder.name, "PATH": self.folder.name}
        with mock.patch.dict(os.environ, nowhere):
            self.assertFails(["make build", "--program"], variants.Program)
        self.assertFails(["--program"], variants.Program, self.path("none"))

    def test_nodes_that_are_not_there(self):
        self.assertFails(["/nowhere/*", "--keep"], variants.float_nodes, self.model, ["/nowhere/*"])

    def test_a_provider_that_is_not_there(self):
        with mock.patch.object(onnxruntime, "get_available_providers", return_value=["CPUExecutionProvider"]):
            self.assertFails(["cuda", "onnxruntime-gpu"], variants.sessions, [MODEL], 1, "cuda")

    def test_the_command_line_says_what_is_wrong_on_one_line_with_status_2(self):
        script = Path(variants.__file__)
        for arguments, words in (
            (["make", MODEL, self.folder.name], "--calibration"),
            (["compare", MODEL, "/nowhere.onnx", PHOTOS[0]], "/nowhere.onnx"),
            (["make", MODEL, self.folder.name, "--calibration", "/nowhere"], "/nowhere"),
        ):
            done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertIn(words, done.stderr)

    def test_wrong_sizes_on_the_command_line(self):
        for text in ("640", "0x32", "640x360", "axb"):
            with self.assertRaises(variants.argparse.ArgumentTypeError):
                variants.size(text)
        self.assertEqual(variants.size("640x384"), (640, 384))
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit):
            with mock.patch.object(sys, "argv", ["variants.py", "compare", "a", "b", "c", "--score-threshold", "2"]):
                variants.arguments()


if __name__ == "__main__":
    unittest.main()
