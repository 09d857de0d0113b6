"""Unit tests without a component: `python3 -m unittest`."""

import unittest

import ovhost
from app import {{Type}}


class Bins(unittest.TestCase):
    """What goes together."""

    def test_samples_go_where_they_fit_best(self):
        pushed, flushed = ovhost.try_packer({{Type}}, {}, [6, 5, 4, 3], ovhost.Limits(10))
        self.assertEqual((pushed, flushed), ([[0, 2]], [[1, 3]]))

    def test_the_fullest_bin_makes_room(self):
        pushed, flushed = ovhost.try_packer({{Type}}, {"open_bins": 1}, [6, 5, 4], ovhost.Limits(10))
        self.assertEqual((pushed, flushed), ([[0]], [[1, 2]]))

    def test_a_wrong_configuration_is_refused(self):
        with self.assertRaises(ovhost.ConfigError) as caught:
            ovhost.try_packer({{Type}}, {"open_bins": 0}, [], ovhost.Limits(10))
        self.assertEqual(caught.exception.findings, [("/open_bins", "must be at least 1")])


if __name__ == "__main__":
    unittest.main()
