/**
 * Write ovhost plugins in JavaScript: rows and values instead of columns and offsets.
 *
 *     host ── columns ──► component(...) ──► Row ──► your class (Filter, Packer, Prompt or Metric)
 *          ◄─ columns ──                 ◄─ keep / drop(reason), bins, messages, scores
 *
 * A plugin is a class that says what it reads and does its work row by row; `component.js` of the project exports it. The
 * same class runs without a component through `tryFilter` and its like: use them in unit tests.
 *
 * A component has no files, no clock, no network and no randomness but `ctx.rng()`. `console.log` writes to the host's log.
 * Integers of 64 bits cross as numbers, exact up to 2**53.
 *
 * This folder is part of ovhost and the same in every project; `ovhost-plugin doctor --update-sdk` brings the present one.
 */

export { ConfigError, Findings, option } from "./config.js";
export {
  Filter, KEEP, Metric, Packer, Packing, Plugin, Prompt, StatefulFilter, askJudge, drop, image, message, segment, special,
  text, video,
} from "./plugin.js";
export { Rng, RowError, StateError, bytes, f32Lists, f32s, f64s, s64s, u32Lists, u32s, u8s, utf8 } from "./rows.js";
export { tryFilter, tryMetric, tryPacker, tryPrompt } from "./testing.js";
