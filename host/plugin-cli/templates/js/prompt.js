/**
 * {{name}}: a question about images, with or without options, as a conversation of two messages.
 *
 * The record is `{"question": "...", "answer": "...", "options": ["...", ...]}`; options become lines `A. ...`.
 */

import { Prompt, RowError, image, message, option, u32s, utf8 } from "./ovhost/index.js";

export class {{Type}} extends Prompt {
  static about = {
    name: "{{name}}",
    summary: "Asks the record's question, options in letters, images first.",
    config: { instruction: option.string("", "A line after the question and its options; empty for none.") },
    reads: [utf8("record"), u32s("num-images").optional()],
  };

  constructor(config) {
    super();
    this.instruction = config.instruction;
  }

  render(_ctx, mode, row) {
    const record = row.json("record");
    if (typeof record?.question !== "string") throw new RowError("the record has no text `question`");
    const options = (record.options ?? []).slice(0, 26).map((one, i) => `${String.fromCharCode(65 + i)}. ${one}`);
    const lines = [record.question, ...options];
    if (this.instruction !== "") lines.push(this.instruction);
    const images = Array.from({ length: row.get("num-images") ?? 0 }, (_, i) => image(i));
    const messages = [message("user", [...images, lines.join("\n")])];
    if (mode === "train") {
      if (typeof record.answer !== "string") {
        throw new RowError("the record has no text `answer`, which training needs");
      }
      messages.push(message("assistant", [record.answer], true));
    }
    return messages;
  }
}
