"""{{name}}: drops texts of few words, and texts that say the same words again and again.

Every text that has words gets the column `word-variety`: its distinct words by all its words, 0 to 1.
"""

from dataclasses import dataclass

import ovhost


@dataclass
class Config:
    """What a recipe may say under `config`."""

    min_words: int = ovhost.option(3, "Fewest words that are kept.", minimum=0)
    min_variety: float = ovhost.option(0.5, "Smallest share of distinct words that is kept, 0 to 1.")


class {{Type}}(ovhost.Filter):
    """The plugin."""

    name = "{{name}}"
    summary = "Drops texts of few words, and texts that repeat their words."
    config = Config
    reads = [ovhost.utf8("text")]
    writes = [ovhost.f32s("word-variety")]

    def __init__(self, config, assets):
        findings = ovhost.Findings()
        findings.require(0 <= config.min_variety <= 1, "/min_variety", "must be from 0 to 1")
        findings.finish()
        self.config = config

    def row(self, ctx, row):
        words = (row["text"] or "").lower().split()
        if not words:
            return ovhost.drop("no text")
        variety = len(set(words)) / len(words)
        ctx.set("word-variety", variety)
        if len(words) < self.config.min_words:
            return ovhost.drop("too few words")
        if variety < self.config.min_variety:
            return ovhost.drop("repetitive")
        return ovhost.KEEP


Lifecycle, Filter = ovhost.export({{Type}})
