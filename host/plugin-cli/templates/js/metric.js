/**
 * {{name}}: right within a tolerance where both are numbers, else right where the texts are the same but for case.
 *
 * Each row gets the column `relaxed-match`, 0 or 1; the value is their mean.
 */

import { Findings, Metric, RowError, option, u8s, utf8 } from "./ovhost/index.js";

/** Its state counts rows and right ones, so it adds up in any order. */
export class {{Type}} extends Metric {
  static about = {
    name: "{{name}}",
    summary: "Share of answers that are right, numbers within a tolerance.",
    config: { tolerance: option.number(0.05, "How far a number may be off, as a share of the right one; at least 0.") },
    reads: [utf8("prediction"), utf8("references")],
    writes: [u8s("relaxed-match")],
  };

  constructor(config) {
    super();
    const findings = new Findings();
    findings.require(config.tolerance >= 0, "/tolerance", "must be at least 0");
    findings.finish();
    this.tolerance = config.tolerance;
  }

  outputs() {
    return [{ name: "relaxed-accuracy", unit: "share" }];
  }

  empty() {
    return { rows: 0, right: 0 };
  }

  score(ctx, row, state) {
    const references = row.json("references");
    if (!Array.isArray(references) || references.length === 0) {
      throw new RowError("`references` must be a list of at least one text");
    }
    const prediction = row.get("prediction") ?? "";
    const right = references.some((reference) => this.#matches(prediction, String(reference)));
    ctx.set("relaxed-match", right);
    state.rows += 1;
    state.right += right ? 1 : 0;
  }

  #matches(prediction, reference) {
    const [said, want] = [number(prediction), number(reference)];
    if (said !== null && want !== null) return Math.abs(said - want) <= this.tolerance * Math.abs(want);
    return prediction.trim().toLowerCase() === reference.trim().toLowerCase();
  }

  merge(state, other) {
    state.rows += other.rows;
    state.right += other.right;
  }

  finalize({ rows, right }) {
    if (rows === 0) return [{ name: "relaxed-accuracy", value: NaN, count: 0 }];
    const share = right / rows;
    return [{ name: "relaxed-accuracy", value: share, count: rows, stderr: Math.sqrt((share * (1 - share)) / rows) }];
  }
}

/** The number that a text is (`1,200`, `35%`), or null. */
function number(text) {
  const plain = text.trim().replaceAll(",", "").replace(/%$/, "");
  return /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?$/i.test(plain) ? Number(plain) : null;
}
