"""Tests of the arithmetic in alignment.py; `make test-tools` runs them.

They need neither the program nor a model.
"""

import unittest

import numpy as np

import alignment

POINTS = np.array([[40.0, 40], [60, 40], [50, 50], [42, 60], [58, 60]])


class Jitter(unittest.TestCase):
    def test_equal_points_have_no_jitter(self):
        self.assertEqual(alignment.deviations([POINTS] * 3), 0)

    def test_jitter_is_in_eye_distances(self):
        # Each point lies one pixel from the mean; the eyes are 20 pixels apart.
        self.assertAlmostEqual(alignment.deviations([POINTS + [1, 0], POINTS - [1, 0]]), 1 / 20)


class Recognition(unittest.TestCase):
    PEOPLE = np.array([0, 0, 1, 1, 2, 2])

    def similarities(self, genuine, impostor):
        same = self.PEOPLE[:, None] == self.PEOPLE
        # Values that differ, so that the variance is not 0.
        wave = 0.01 * np.cos(np.arange(6)[:, None] + np.arange(6))
        return np.where(same, genuine, impostor) + (wave + wave.T) / 2

    def test_separable_people_are_all_accepted(self):
        cosine, separation, *rates = alignment.measures(self.similarities(0.8, 0.1), self.PEOPLE, np.ones(3))
        self.assertAlmostEqual(cosine, 0.8, delta=0.02)
        self.assertGreater(separation, 20)
        self.assertEqual(rates, [1, 1])

    def test_equal_similarities_accept_nobody(self):
        _, separation, *rates = alignment.measures(self.similarities(0.1, 0.3), self.PEOPLE, np.ones(3))
        self.assertLess(separation, 0)
        self.assertEqual(rates, [0, 0])

    def test_a_person_who_is_drawn_twice_counts_twice(self):
        similarities = self.similarities(0.8, 0.1)
        similarities[0, 1] = similarities[1, 0] = 0.2
        once, twice = (alignment.measures(similarities, self.PEOPLE, np.array(counts))[0] for counts in ([1, 1, 1], [2, 1, 1]))
        self.assertLess(twice, once)

    def test_samples_are_the_same_for_each_setting(self):
        first, second = alignment.samples_of(10), alignment.samples_of(10)
        self.assertTrue(all(np.array_equal(a, b) for a, b in zip(first, second)))
        self.assertTrue(all(counts.sum() == 10 for counts in first))


if __name__ == "__main__":
    unittest.main()
