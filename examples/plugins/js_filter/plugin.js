/**
 * near_template: drops captions that are a template with a few characters changed.
 *
 * Alt texts such as "IMG_2931.jpg" or "Photo 14 of 30" come in thousands of variants, so that neither a list of exact texts nor
 * a search for duplicates finds them. Here the distance is counted in edits (Levenshtein: insert, remove or change a
 * character) by the length of the longer text; the smallest becomes the column `template-distance`, 0 to 1.
 *
 *     reason      rule
 *     no text     the row has no text, or only spaces
 *     template    a template is at most `max_distance` away
 *
 * Before that, texts lose their case, every run of digits becomes one 0, and every run of spaces one space.
 */

import { Filter, Findings, KEEP, drop, f32s, option, utf8 } from "./ovhost/index.js";

export class NearTemplate extends Filter {
  static about = {
    name: "near_template",
    summary: "Drops captions that are a template with a few characters changed.",
    config: {
      templates: option.list("string", ["img_0.jpg", "photo 0 of 0", "untitled", "image may contain: text"],
        "Texts of which many variants are to go."),
      max_distance: option.number(0.2, "Largest distance that is dropped: edits by characters, at least 0, below 1."),
    },
    reads: [utf8("text")],
    writes: [f32s("template-distance")],
  };

  constructor(config) {
    super();
    const findings = new Findings();
    const share = config.max_distance >= 0 && config.max_distance < 1;
    findings.require(share, "/max_distance", "must be at least 0 and below 1");
    findings.require(config.templates.length > 0, "/templates", "must name at least one template");
    this.templates = config.templates.map((one) => [...plain(one)]);
    this.templates.forEach((one, i) => {
      findings.require(one.length > 0, `/templates/${i}`, "an empty template would drop every short text; remove it");
    });
    findings.finish();
    this.maxDistance = config.max_distance;
  }

  row(ctx, row) {
    const text = row.get("text");
    const letters = [...plain(text ?? "")];
    if (letters.length === 0) return drop("no text");
    let nearest = 1;
    for (const template of this.templates) nearest = Math.min(nearest, distance(letters, template, nearest));
    ctx.set("template-distance", nearest);
    return nearest <= this.maxDistance ? drop("template") : KEEP;
  }
}

/** A text as it is compared. */
export function plain(text) {
  return text.toLowerCase().replace(/[0-9]+/g, "0").replace(/\s+/g, " ").trim();
}

/**
 * Edits between `a` and `b` by the length of the longer, or `bound` if it is not below. Row by row of the usual table; a row
 * whose smallest entry is too many edits already ends it, which is why long captions cost little.
 */
export function distance(a, b, bound = 1) {
  const longer = Math.max(a.length, b.length);
  if (longer === 0) return 0;
  if (Math.abs(a.length - b.length) >= bound * longer) return bound;
  let above = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const here = [i];
    let least = i;
    for (let j = 1; j <= b.length; j++) {
      const change = above[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      here.push(Math.min(change, above[j] + 1, here[j - 1] + 1));
      if (here[j] < least) least = here[j];
    }
    if (least >= bound * longer) return bound;
    above = here;
  }
  return Math.min(bound, above[b.length] / longer);
}
