/**
 * {{name}}: drops texts of few words, and texts that say the same words again and again.
 *
 * Every text that has words gets the column `word-variety`: its distinct words by all its words, 0 to 1.
 */

import { Filter, Findings, KEEP, drop, f32s, option, utf8 } from "./ovhost/index.js";

export class {{Type}} extends Filter {
  static about = {
    name: "{{name}}",
    summary: "Drops texts of few words, and texts that repeat their words.",
    config: {
      min_words: option.integer(3, "Fewest words that are kept.", { minimum: 0 }),
      min_variety: option.number(0.5, "Smallest share of distinct words that is kept, 0 to 1."),
    },
    reads: [utf8("text")],
    writes: [f32s("word-variety")],
  };

  constructor(config) {
    super();
    const findings = new Findings();
    findings.require(config.min_variety >= 0 && config.min_variety <= 1, "/min_variety", "must be from 0 to 1");
    findings.finish();
    this.config = config;
  }

  row(ctx, row) {
    const words = (row.get("text") ?? "").toLowerCase().match(/\S+/g) ?? [];
    if (words.length === 0) return drop("no text");
    const variety = new Set(words).size / words.length;
    ctx.set("word-variety", variety);
    if (words.length < this.config.min_words) return drop("too few words");
    if (variety < this.config.min_variety) return drop("repetitive");
    return KEEP;
  }
}
