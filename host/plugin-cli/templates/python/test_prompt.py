"""Unit tests without a component: `python3 -m unittest`."""

import json
import unittest

import ovhost
from app import {{Type}}

RECORD = json.dumps({"question": "What is it?", "options": ["a cat", "a dog"], "answer": "B"})


class Messages(unittest.TestCase):
    """What the model reads."""

    def test_options_become_letters_and_images_come_first(self):
        (one,) = ovhost.try_prompt({{Type}}, {}, [{"record": RECORD, "num-images": 1}])
        asked = ovhost.message("user", ovhost.image(0), "What is it?\nA. a cat\nB. a dog")
        self.assertEqual(one.answer, [asked, ovhost.message("assistant", "B", train=True)])

    def test_nothing_of_the_answer_is_asked(self):
        (one,) = ovhost.try_prompt({{Type}}, {}, [{"record": RECORD}], mode="generate")
        self.assertEqual([message.role for message in one.answer], ["user"])

    def test_a_record_without_a_question_is_an_error_of_its_row(self):
        (one,) = ovhost.try_prompt({{Type}}, {}, [{"record": "{}"}])
        self.assertIn("no text `question`", one.error)


if __name__ == "__main__":
    unittest.main()
