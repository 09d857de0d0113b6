"""{{name}}: a question about images, with or without options, as a conversation of two messages.

The record is `{"question": "...", "answer": "...", "options": ["...", ...]}`; options become lines `A. ...`.
"""

from dataclasses import dataclass

import ovhost


@dataclass
class Config:
    """What a recipe may say under `config`."""

    instruction: str = ovhost.option("", "A line after the question and its options; empty for none.")


class {{Type}}(ovhost.Prompt):
    """The plugin."""

    name = "{{name}}"
    summary = "Asks the record's question, options in letters, images first."
    config = Config
    reads = [ovhost.utf8("record"), ovhost.u32s("num-images").optional()]

    def __init__(self, config, assets):
        self.instruction = config.instruction

    def render(self, ctx, mode, row):
        record = row.json("record")
        if not isinstance(record, dict) or not isinstance(record.get("question"), str):
            raise ovhost.RowError("the record has no text `question`")
        lines = [record["question"]]
        for letter, option in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", record.get("options") or []):
            lines.append(f"{letter}. {option}")
        if self.instruction:
            lines.append(self.instruction)
        images = [ovhost.image(i) for i in range(row["num-images"] or 0)]
        messages = [ovhost.message("user", *images, "\n".join(lines))]
        if mode == "train":
            if not isinstance(record.get("answer"), str):
                raise ovhost.RowError("the record has no text `answer`, which training needs")
            messages.append(ovhost.message("assistant", record["answer"], train=True))
        return messages


Lifecycle, Prompt = ovhost.export({{Type}})
