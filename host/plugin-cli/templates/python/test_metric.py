"""Unit tests without a component: `python3 -m unittest`."""

import unittest

import ovhost
from app import {{Type}}


class Scores(unittest.TestCase):
    """What counts as right."""

    def test_numbers_have_a_tolerance_and_texts_have_none(self):
        said = [("104", "100"), ("106", "100"), ("1,000", "1000"), ("A Cat ", "a cat"), ("cat", "a cat")]
        rows = [{"prediction": said, "references": f'["{want}"]'} for said, want in said]
        scored, values = ovhost.try_metric({{Type}}, {}, rows)
        self.assertEqual([one.added["relaxed-match"] for one in scored], [1, 0, 1, 1, 0])
        self.assertEqual((values["relaxed-accuracy"].value, values["relaxed-accuracy"].count), (0.6, 5))

    def test_a_row_without_references_counts_nowhere(self):
        (one,), values = ovhost.try_metric({{Type}}, {}, [{"prediction": "x", "references": "[]"}])
        self.assertIn("at least one text", one.error)
        self.assertEqual(values["relaxed-accuracy"].count, 0)


if __name__ == "__main__":
    unittest.main()
