"""Tests of recogniser.py; a test of the elements runs them with the plugin that it has built.

    make examples
    . ./env.sh
    target/examples/venv/bin/python -m unittest discover -s examples

The people are in the directory RETINAFACE_TEST_DATA (default: ../shared). Without them, a test is
skipped; with CI=true it fails.
"""

import contextlib
import io
import os
import tempfile
import unittest
from pathlib import Path

import numpy as np
import recogniser
from recogniser import Gst

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / ".fetch" / "media"
TEST_DATA = (ROOT / os.environ.get("RETINAFACE_TEST_DATA", "../shared")).resolve()
IDENTITIES = TEST_DATA / "eval" / "identity"


def setUpModule():
    Gst.init(None)
    if Gst.ElementFactory.find("facealign") is None:
        raise AssertionError("GStreamer does not find the plugin: run `. ./env.sh`")
    # Keeps the model open.
    setUpModule.detector = Gst.ElementFactory.make("retinaface")
    setUpModule.detector.set_state(Gst.State.PAUSED)


def tearDownModule():
    setUpModule.detector.set_state(Gst.State.NULL)


class Gallery(unittest.TestCase):
    def read(self, files):
        """Reads a gallery with these pictures: their paths in it and their contents."""
        known = recogniser.Recogniser(recogniser.SFACE)
        with tempfile.TemporaryDirectory() as directory:
            for name, content in files.items():
                file = Path(directory, name)
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(content)
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                recogniser.read_gallery(directory, known)
        return known, errors.getvalue()

    def test_names_are_those_of_files_and_directories(self):
        photo = (MEDIA / "single_face.jpg").read_bytes()
        known, errors = self.read({"Ann.jpg": photo, "Ann__2.JPG": photo, "Bob B/a.jpg": photo, "notes.txt": b""})
        self.assertEqual((known.names, known.embeddings.shape, errors), (["Ann", "Ann", "Bob B"], (3, 128), ""))
        np.testing.assert_allclose(np.linalg.norm(known.embeddings, axis=1), 1, atol=1e-5)

    def test_unusable_pictures_are_left_out_with_their_reason(self):
        photo = (MEDIA / "single_face.jpg").read_bytes()
        grey = b"P5 64 64 255\n" + bytes([128] * 64 * 64)
        known, errors = self.read({"Ann.jpg": photo, "text.png": b"no picture", "grey.bmp": grey})
        self.assertEqual(known.names, ["Ann"])
        self.assertIn("text.png", errors)
        self.assertIn("grey.bmp", errors)
        self.assertEqual(errors.count("\n"), 2)

    def test_a_gallery_without_a_face_is_an_error(self):
        with self.assertRaisesRegex(RuntimeError, "add NAME.jpg"):
            self.read({"text.txt": b""})

    def test_the_largest_face_of_a_picture_counts(self):
        samples = recogniser.samples(str(MEDIA / "multi_face.jpg"), recogniser.CROPS)
        faces = [recogniser.face_of(sample) for sample in samples]
        largest = max(faces, key=lambda face: face.box[2] * face.box[3])
        self.assertEqual(len(faces), 5)
        np.testing.assert_array_equal(recogniser.crop_of_picture(MEDIA / "multi_face.jpg"), largest.crop)


class Faces(unittest.TestCase):
    def test_matrices_map_landmarks_to_the_template_and_back(self):
        # ArcFace, 112 x 112: eyes, nose, mouth corners.
        template = [[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]]
        for sample in recogniser.samples(str(MEDIA / "multi_face.jpg"), recogniser.CROPS):
            face = recogniser.face_of(sample)
            in_crop = np.c_[face.landmarks, np.ones(5)] @ face.crop_from_frame.T
            self.assertLess(np.abs(in_crop - template).max(), 8)
            back = np.c_[in_crop, np.ones(5)] @ face.frame_from_crop.T
            np.testing.assert_allclose(back, face.landmarks, atol=1e-3)

    def read(self, structure):
        """Reads each field with the method of docs/python.md and returns the methods."""
        methods = {"GstValueArray": "get_array", "GstFraction": "get_fraction"}
        used = {}
        for field in map(structure.nth_field_name, range(structure.n_fields())):
            kind = structure.get_field_type(field).name
            value = getattr(structure, methods.get(kind, "get_value"))(field)
            if kind in methods:
                self.assertTrue(value[0], field)
                # docs/python.md says so. With gst-python, get_value reads these, too.
                with contextlib.suppress(TypeError):
                    self.assertIn("overrides", type(structure.get_value(field)).__module__)
            self.assertIsNotNone(value, field)
            used[field] = kind
            nested = [value] if kind == "GstStructure" else []
            if field == "faces":
                nested = [value.array.get_nth(index) for index in range(value.array.n_values)]
            for inner in nested:
                used.update(self.read(inner))
        return used

    def test_each_field_is_read_by_the_method_of_the_documentation(self):
        model = ROOT / "tests" / "fixtures" / "models" / "landmarks68.onnx"
        faces = f'retinaface ! facelandmarks model-file="{model}"'
        for elements, meta, fields in (
            (f"{faces} ! facealign", "RetinaFaceCropMeta", {"face", "crop-from-frame", "age-ns", "points", "pose"}),
            (f"{faces} ! videoconvert", "RetinaFaceFrameMeta", {"faces", "roi", "pixel-aspect-ratio", "landmarks"}),
        ):
            sample = next(recogniser.samples(str(MEDIA / "multi_face.jpg"), elements))
            used = self.read(sample.get_buffer().get_custom_meta(meta).get_structure())
            self.assertLessEqual(fields, set(used))
            self.assertEqual(used["points"], "GBytes")

    def test_numbers_of_another_field_are_an_error(self):
        sample = next(recogniser.samples(str(MEDIA / "single_face.jpg"), recogniser.CROPS))
        origin = sample.get_buffer().get_custom_meta("RetinaFaceCropMeta").get_structure()
        with self.assertRaises(KeyError):
            recogniser.numbers(origin, "frame-width")

    def test_faces_of_one_person_are_more_similar_than_those_of_two(self):
        if not IDENTITIES.is_dir():
            self.assertNotEqual(os.environ.get("CI"), "true", f"{IDENTITIES} does not exist; CI requires it")
            self.skipTest(f"{IDENTITIES} does not exist")
        for people in ("lfw10", "bbt8"):
            known = recogniser.Recogniser(recogniser.SFACE)
            with tempfile.TemporaryDirectory() as directory:
                # PERSON__000.jpg and so on: three pictures of each person.
                for file in IDENTITIES.joinpath(people).glob("*__00[0-2].*"):
                    Path(directory, file.name).symlink_to(file)
                recogniser.read_gallery(directory, known)
            names = np.array(known.names)
            self.assertGreaterEqual(len(names), 20)
            similarities = known.embeddings @ known.embeddings.T
            same, other = names[:, None] == names, ~np.eye(len(names), dtype=bool)
            # 0.72 and 0.13 with all pictures of lfw10, 0.56 and 0.04 with those of bbt8.
            self.assertGreater(similarities[same & other].mean(), similarities[~same].mean() + 0.4)
            closest = names[np.where(other, similarities, -1).argmax(axis=1)]
            self.assertGreaterEqual((closest == names).mean(), 0.9)
            self.assertLess((similarities[~same] >= recogniser.SAME_PERSON).mean(), 0.01)


if __name__ == "__main__":
    unittest.main()
