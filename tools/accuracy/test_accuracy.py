"""Tests of the arithmetic in accuracy.py; `make test-tools` runs them.

They need neither the program nor a model.
"""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path

import numpy as np

import accuracy
from accuracy import Transform

FACE = [[40, 40], [60, 40], [50, 50], [42, 60], [58, 60]]
PHOTO = Path("photo.jpg")


class Detections(unittest.TestCase):
    def test_detections_above_the_threshold_are_kept_and_counted(self):
        text = "0--Event/a.jpg\n3\n1 2 3 4 0.9\n1 2 3 4 0.5\n5 6 7 8 0.51\n"
        self.assertEqual(accuracy.filter_detections(text, 0.5), "0--Event/a.jpg\n2\n1 2 3 4 0.9\n5 6 7 8 0.51\n")
        self.assertEqual(accuracy.filter_detections("a.jpg\n0\n", 0.5), "a.jpg\n0\n")

    def test_files_without_detections_are_kept(self):
        with tempfile.TemporaryDirectory() as directory:
            predictions, kept = Path(directory) / "all", Path(directory) / "kept"
            for event in ("0--A", "1--B"):
                (predictions / event).mkdir(parents=True)
                (predictions / event / "a.txt").write_text(f"{event}/a.jpg\n1\n1 2 3 4 0.3\n")
            accuracy.keep_above(predictions, kept, 0.5)
            self.assertEqual((kept / "1--B/a.txt").read_text(), "1--B/a.jpg\n0\n")
            self.assertEqual(len(list(kept.glob("*/*.txt"))), 2)

    def test_found_and_false_are_recovered_as_integers(self):
        # 675 of 1819 faces are found by 772 detections that count.
        entry = {"faces": 1819, "recall": 675 / 1819, "precision": 675 / 772}
        self.assertEqual(accuracy.found_and_false(entry), (675, 97))
        self.assertEqual(accuracy.found_and_false({"faces": 9, "recall": 1.0, "precision": 1.0}), (9, 0))

    def test_without_a_true_detection_the_number_of_false_ones_is_unknown(self):
        self.assertEqual(accuracy.found_and_false({"faces": 9, "recall": 0.0, "precision": 0.0}), (0, None))


class Transforms(unittest.TestCase):
    def moved(self, transform, point, size=(100, 80)):
        matrix = transform.matrix(*size)
        return (matrix[:, :2] @ point + matrix[:, 2]).tolist()

    def assert_moved(self, transform, point, to):
        np.testing.assert_allclose(self.moved(transform, point), to, atol=1e-9)

    def test_points_rotate_about_the_centre_and_shift_by_fractions_of_the_size(self):
        self.assert_moved(Transform(), [10, 20], [10, 20])
        self.assert_moved(Transform(scale=2), [60, 40], [70, 40])
        # Counter-clockwise in the image.
        self.assert_moved(Transform(degrees=90), [60, 40], [50, 30])
        self.assert_moved(Transform(shift=(0.1, -0.5)), [50, 40], [60, 0])

    def test_pixels_move_as_points_do(self):
        image = np.zeros((80, 100, 3), np.uint8)
        image[28:33, 68:73] = 255
        for transform in (Transform(degrees=30, scale=1.2), Transform(degrees=-6, shift=(0.05, 0.1)), Transform(scale=0.5)):
            transformed = transform.apply(image)[..., 0]
            rows, cols = np.nonzero(transformed > 150)
            np.testing.assert_allclose([cols.mean(), rows.mean()], self.moved(transform, [70, 30]), atol=0.7)

    def test_brightness_saturates(self):
        image = np.full((16, 16, 3), 200, np.uint8)
        self.assertTrue((Transform(brightness=(1.3, 0)).apply(image) == 255).all())
        self.assertTrue((Transform(brightness=(1, -40)).apply(image) == 160).all())
        self.assertTrue((Transform(brightness=(0.1, -40)).apply(image) == 0).all())

    def test_a_face_at_the_edge_is_not_inside(self):
        self.assertTrue(accuracy.is_inside(np.array(FACE), 100, 100))
        self.assertFalse(accuracy.is_inside(np.array(FACE) + [25, 0], 100, 100))
        self.assertFalse(accuracy.is_inside(np.array(FACE) - [0, 21], 100, 100))

    def test_truth_lines_name_the_transformed_image_and_its_points(self):
        transforms = [Transform(), Transform(shift=(0.1, 0)), Transform(shift=(0.4, 0))]
        lines = list(accuracy.truth_lines(PHOTO, (100, 100), [FACE], transforms))
        self.assertEqual(len(lines), 2, "the third face is outside the image")
        self.assertTrue(lines[0].startswith("0-photo.png,40.0000,40.0000,60.0000,40.0000,"))
        self.assertTrue(lines[1].startswith("1-photo.png,50.0000,40.0000,"))


class Times(unittest.TestCase):
    def test_every_second_round_is_in_reverse_order(self):
        order = []
        with contextlib.redirect_stderr(io.StringIO()):
            measured = accuracy.interleaved({"a": 0, "b": 0}, 3, lambda name: order.append(name) or len(order))
        self.assertEqual(("".join(order), measured), ("abbaab", {"a": [1, 4, 5], "b": [2, 3, 6]}))

    def test_ratios_are_within_rounds(self):
        # In the second round the machine is half as fast.
        ratio = accuracy.ratios({"a": [1, 2, 1], "b": [3, 6, 3.3]}, "a")
        self.assertEqual((ratio["a"]["median"], ratio["b"]["median"], ratio["b"]["max"]), (1, 3, 3.3))


class Document(unittest.TestCase):
    def test_only_the_part_between_the_markers_is_replaced(self):
        document = f"# Words\n\n{accuracy.BEGIN}\nold\n{accuracy.END}\n\nMore words.\n"
        new = accuracy.replace_figures(document, "new\n")
        self.assertEqual(new, f"# Words\n\n{accuracy.BEGIN}\n\nnew\n\n{accuracy.END}\n\nMore words.\n")
        self.assertEqual(accuracy.replace_figures(new, "new"), new)
        for broken in ("# Words\n", accuracy.BEGIN, accuracy.END):
            with self.assertRaisesRegex(accuracy.AccuracyError, "no lines"):
                accuracy.replace_figures(broken, "new")

    def test_the_committed_document_has_its_markers(self):
        accuracy.replace_figures((accuracy.ROOT / "docs/accuracy.md").read_text(), "")

    def test_a_model_without_landmarks_has_dashes(self):
        self.assertEqual(accuracy.landmark_cells(None), ["-"] * 4)
        nothing = {"nme": None, "faces": 0, "found": 0}
        cells = accuracy.landmark_cells({"mild": {"nme": 0.0301, "faces": 95, "found": 94}, "strong": nothing})
        self.assertEqual(cells, ["0.030", "1 of 95", "-", "0 of 0"])

    def test_models_with_a_fixed_size_are_measured_at_one_size(self):
        models = {name: {"fixed_size": [640, 640] if "640" in name else None} for name in accuracy.MODELS}
        self.assertEqual(accuracy.models_at("VGA", models), list(accuracy.MODELS))
        self.assertFalse([name for name in accuracy.models_at("native", models) if "640" in name])


class Missing(unittest.TestCase):
    def test_missing_data_is_named_on_one_line(self):
        before = accuracy.IMAGES
        self.addCleanup(setattr, accuracy, "IMAGES", before)
        accuracy.IMAGES = accuracy.ROOT / "nowhere"
        with self.assertRaises(accuracy.AccuracyError) as caught:
            accuracy.require()
        self.assertRegex(str(caught.exception), r"^missing: .*nowhere.*$")


if __name__ == "__main__":
    unittest.main()
