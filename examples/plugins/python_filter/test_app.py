"""Unit tests without a component: `python3 -m unittest`."""

import json
import unittest

import ovhost
from app import AnswerInOptions


def judged(answer, options=("a cat", "a dog"), **config):
    """The verdict and the option that is meant."""
    row = {"record": json.dumps({"question": "What is it?", "options": options, "answer": answer})}
    (one,) = ovhost.try_filter(AnswerInOptions, config, [row])
    reason = one.answer.reason if one.answer else None
    return reason or one.added.get("answer-option"), one.error


class Answers(unittest.TestCase):
    """Which option is meant."""

    def test_letters_and_texts_name_options(self):
        for answer in ["B", "b", "(b)", "B.", "B. a dog", "b) A DOG.", "a dog", " A Dog. "]:
            self.assertEqual(judged(answer), (1, None), answer)

    def test_other_answers_name_none(self):
        for answer in ["a puppy", "C", "B. a cat", "", "dog"]:
            self.assertEqual(judged(answer), ("answer not in options", None), answer)
        self.assertEqual(judged("B", letters=False), ("answer not in options", None))

    def test_a_text_comes_before_a_letter(self):
        self.assertEqual(judged("a", options=["b", "a"]), (1, None))
        self.assertEqual(judged(7, options=[5, 7]), (1, None))

    def test_full_width_letters_are_letters(self):
        self.assertEqual(judged("\uff22"), (1, None))

    def test_what_is_wrong_is_said(self):
        self.assertEqual(judged("A", options=["x", "X "])[0], "options repeat")
        self.assertIn("options must be a list", judged("A", options="AB")[1])
        with self.assertRaises(ovhost.ConfigError):
            judged("A", answer_key="options")


if __name__ == "__main__":
    unittest.main()
