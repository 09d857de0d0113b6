"""Unit tests without a component: `python3 -m unittest`."""

import unittest

import ovhost
from app import {{Type}}


class Rules(unittest.TestCase):
    """What is kept, and why not."""

    def test_rows_are_kept_and_dropped(self):
        rows = [{"text": "a red square"}, {"text": "red"}, {"text": "red red red red"}, {"text": None}]
        judged = ovhost.try_filter({{Type}}, {}, rows)
        self.assertEqual([one.answer.keep for one in judged], [True, False, False, False])
        self.assertEqual([one.answer.reason for one in judged], ["", "too few words", "repetitive", "no text"])
        self.assertEqual(judged[2].added, {"word-variety": 0.25})

    def test_a_wrong_configuration_is_refused(self):
        with self.assertRaises(ovhost.ConfigError) as caught:
            ovhost.try_filter({{Type}}, {"min_variety": 2.0}, [])
        self.assertEqual(caught.exception.findings, [("/min_variety", "must be from 0 to 1")])


if __name__ == "__main__":
    unittest.main()
