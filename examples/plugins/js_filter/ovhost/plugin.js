/** The four kinds of plugin, and what their methods take and give. */

import { RowError } from "./rows.js";

/**
 * What all kinds have in common. A plugin says who it is in `static about`:
 *
 *     static about = {
 *       name: "min_words", summary: "One sentence for ovhost-plugin inspect.",
 *       version: "0.1.0", license: "Apache-2.0", homepage: "",  // of the component; may be left out
 *       config: { min_words: option.integer(3, "Fewest words.") },
 *       reads: [utf8("text")], writes: [], assets: [],
 *     };
 *
 * The constructor takes the resolved configuration and the assets; throw `ConfigError` (collect with `Findings`).
 */
export class Plugin {
  static about = {};
}

/** The row goes on. */
export const KEEP = Object.freeze({ keep: true, reason: "" });

/** The row is dropped. Drops are counted by reason, so put no value of the row into it. */
export const drop = (reason) => ({ keep: false, reason });

/** Keeps or drops rows. */
export class Filter extends Plugin {
  /** `KEEP` or `drop(reason)`; throw `RowError` where the row cannot be judged. `ctx.set` adds a value. */
  row(_ctx, _row) {
    throw new Error("a filter writes row(ctx, row)");
  }
}

/** A filter that remembers rows. Its manifest says `world = "stateful-filter-plugin"`. */
export class StatefulFilter extends Filter {
  /** What it remembers, as JSON. */
  state() {
    throw new Error("a filter with state writes state()");
  }

  /** Continues from `state`. Throw `StateError` where it does not fit. */
  restore(_state) {
    throw new Error("a filter with state writes restore(state)");
  }
}

/** Finished bins and given-up samples of one call. */
export class Packing {
  bins = [];
  dropped = [];

  /** Adds a finished bin. An empty one is ignored. */
  bin(ids) {
    if (ids.length > 0) this.bins.push([...ids]);
  }

  /** Gives a sample up; the host counts it as a reject. */
  giveUp(id) {
    this.dropped.push(id);
  }
}

/** Groups samples into bins. Every sample pushed comes back exactly once: in a bin, or given up. */
export class Packer extends Plugin {
  /** Begins a stream and forgets any earlier one. `limits`: capacity (tokens), maxItems, maxOpen (samples; 0: any number). */
  start(_limits) {
    throw new Error("a packer writes start(limits)");
  }

  /** Takes samples ({ id, length, patches }), in order; finished bins go to `out.bin`. */
  push(_items, _out) {
    throw new Error("a packer writes push(items, out)");
  }

  /** The stream ends: gives the open samples, all or some; called again until none is open. */
  flush(_out) {
    throw new Error("a packer writes flush(out)");
  }

  /** The open samples and whatever else continues the stream exactly, as JSON. */
  state() {
    throw new Error("a packer writes state()");
  }

  /** Continues from `state`, in a started packer. Throw `StateError` where it does not fit. */
  restore(_state) {
    throw new Error("a packer writes restore(state)");
  }
}

/** A piece of text. */
export const text = (value) => ({ tag: "text", val: value });
/** The row's image of that index, from 0. */
export const image = (index) => ({ tag: "image", val: index });
/** The row's video of that index, from 0. */
export const video = (index) => ({ tag: "video", val: index });
/** One special token of the tokenizer; only in segments, and named by `specialTokens`. */
export const special = (token) => ({ tag: "special", val: token });

const piece = (one) => (typeof one === "string" ? text(one) : one);

/** A message of parts (`text`, `image`, `video`, or plain strings). `train`: the loss covers it and the end of the turn. */
export const message = (role, parts, train = false) => ({ role, parts: parts.map(piece), train });

/** A segment of `text`, `special`, `image`, `video`, or a plain string. */
export const segment = (one, train = false) => ({ piece: piece(one), train });

/** Turns a row into what the model reads. */
export class Prompt extends Plugin {
  /** Special tokens that its segments use. */
  specialTokens() {
    return [];
  }

  /** Further strings that end an answer when the model generates. */
  stopStrings() {
    return [];
  }

  /** A list of messages, or a list of segments. `mode` is "train", or "generate": up to where the model is to answer. */
  render(_ctx, _mode, _row) {
    throw new Error("a prompt writes render(ctx, mode, row)");
  }
}

/** The score needs a judge: messages of [role, text]. `judged` is called with its answer in the column `judgement`. */
export const askJudge = (...messages) => ({ ask: messages });

/** Scores answers. Its state is JSON that can be added to another's: prefer counts, which add up in any order. */
export class Metric extends Plugin {
  /** The values that `finalize` gives: { name, higherIsBetter, low, high, unit }. */
  outputs() {
    throw new Error("a metric writes outputs()");
  }

  /** The state before any row. */
  empty() {
    throw new Error("a metric writes empty()");
  }

  /** Adds a row to `state`; its own score goes to `ctx.set`. Throw `RowError` where it cannot be scored. */
  score(_ctx, _row, _state) {
    throw new Error("a metric writes score(ctx, row, state)");
  }

  /** Adds a row with the judge's answer in the column `judgement`. */
  judged(_ctx, _row, _state) {
    throw new RowError("this metric asks no judge");
  }

  /** Adds `other` to `state`. */
  merge(_state, _other) {
    throw new Error("a metric writes merge(state, other)");
  }

  /** The values of everything that was scored: { name, value, count, stderr }. NaN over no rows. */
  finalize(_state) {
    throw new Error("a metric writes finalize(state)");
  }
}
