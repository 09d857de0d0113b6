"""answer_in_options: drops multiple-choice questions whose answer is none of their options.

Scraped and generated question sets have answers such as "B", "(b)", "B. a dog", "a dog" or, wrongly, "a puppy". A model that
is trained on the last learns to ignore the options. The option that is meant becomes the column `answer-option`.

    reason                      rule
    answer not in options       the answer names no option, by letter or by text
    options repeat              two options have the same text

Texts are compared after Unicode normalisation (NFKC), without case, spaces at the ends, and a full stop.
"""

import re
import unicodedata
from dataclasses import dataclass

import ovhost

#: A letter alone, as "B", "(b)" or "B.", or with what follows it, as in "B. a dog" and "B) a dog".
LETTER = re.compile(r"\(?([A-Za-z])(?:[.):]\s*(.*)|$)", re.DOTALL)


@dataclass
class Config:
    """What a recipe may say under `config`."""

    letters: bool = ovhost.option(True, "Whether an answer may be an option's letter.")
    without_options: str = ovhost.option(
        "keep", "What becomes of questions that have no options: keep or drop.", enum=["keep", "drop"]
    )
    options_key: str = ovhost.option("options", "Key of the record's options: a list, or an object by letter.", minLength=1)
    answer_key: str = ovhost.option("answer", "Key of the record's answer.", minLength=1)


class AnswerInOptions(ovhost.Filter):
    """The plugin."""

    name = "answer_in_options"
    summary = "Drops multiple-choice questions whose answer is none of their options."
    config = Config
    reads = [ovhost.utf8("record")]
    writes = [ovhost.s64s("answer-option")]

    def __init__(self, config, assets):
        findings = ovhost.Findings()
        findings.require(config.options_key != config.answer_key, "/answer_key", "must differ from options_key")
        findings.finish()
        self.config = config

    def row(self, ctx, row):
        record = row.json("record")
        if not isinstance(record, dict):
            raise ovhost.RowError("the record is no JSON object")
        options, answer = record.get(self.config.options_key), record.get(self.config.answer_key)
        if not options:
            return ovhost.KEEP if self.config.without_options == "keep" else ovhost.drop("no options")
        if isinstance(options, dict):
            options = [options[letter] for letter in sorted(options)]
        if not isinstance(options, list) or not isinstance(answer, (str, int, float)):
            raise ovhost.RowError("options must be a list or an object, and the answer a text or a number")
        texts = [plain(option) for option in options]
        if len(set(texts)) < len(texts):
            return ovhost.drop("options repeat")
        found = self.find(plain(answer), texts)
        if found is None:
            return ovhost.drop("answer not in options")
        ctx.set("answer-option", found)
        return ovhost.KEEP

    def find(self, answer, texts):
        """Index of the option that the answer names; None for none."""
        if answer in texts:
            return texts.index(answer)
        letter = LETTER.fullmatch(answer) if self.config.letters else None
        if letter is None:
            return None
        at, rest = ord(letter[1].upper()) - ord("A"), letter[2]
        # "B. a dog" must mean the same twice.
        good = at < len(texts) and (not rest or plain(rest) == texts[at])
        return at if good else None


def plain(value):
    """A text as it is compared."""
    return unicodedata.normalize("NFKC", str(value)).casefold().strip().removesuffix(".").strip()


Lifecycle, Filter = ovhost.export(AnswerInOptions)
