/** Makes of plugin classes what a component exports: the contract's columns and records in and out. */

import { decode, encode, fromUtf8, toUtf8 } from "./columns.js";
import { Assets, ConfigError, canonical, resolve, schema } from "./config.js";
import { Filter, Metric, Packer, Packing, Prompt, StatefulFilter } from "./plugin.js";
import { Ctx, Defect, Row, RowError, StateError } from "./rows.js";

/** What is thrown on purpose: `payload` is the contract's record. */
class Answer {
  constructor(payload) {
    this.payload = payload;
  }
}

/** What a method gave, which must be the answer itself. */
function atOnce(answer) {
  if (typeof answer?.then === "function") throw new Defect(`a method gave ${shown(answer)}`);
  return answer;
}

const failed = (kind, message) => new Answer({ kind, message, detail: null });

/** Puts words in the place of traps: what a component cannot do is said, not only refused. */
function seal(log) {
  const refuse = (name) => () => {
    throw new Defect(`${name} is not for plugins: answers must not depend on time or chance; use ctx.rng() for randomness`);
  };
  Math.random = refuse("Math.random");
  const clock = refuse("the clock");
  globalThis.Date = new Proxy(Date, {
    construct: (target, args) => (args.length === 0 ? clock() : new target(...args)),
    apply: clock,
    get: (target, name) => (name === "now" ? clock : target[name]),
  });
  globalThis.performance = { now: clock };
  const say = (level) => (...words) => log.log(level, words.map(shown).join(" "), []);
  globalThis.console = { debug: say("debug"), log: say("info"), info: say("info"), warn: say("warn"), error: say("error") };
}

/** A value in words: what `String` makes of an object says nothing. */
function shown(word) {
  if (typeof word === "string") return word;
  if (word instanceof Error) return String(word);
  if (typeof word?.then === "function") return "a promise (the method is async; a plugin answers at once)";
  return JSON.stringify(word) ?? String(word);
}

/**
 * The exports of a component of these plugins, of one kind:
 *
 *     export const { lifecycle, filter } = component(log, MyFilter);              // packer, prompt and metric alike
 *     export const { lifecycle, filter, filterState } = component(log, MyStatefulFilter);
 */
export function component(log, ...plugins) {
  seal(log);
  const kinds = new Map([[Filter, filterExports], [Packer, packerExports], [Prompt, promptExports], [Metric, metricExports]]);
  const kindOf = (plugin) => [...kinds.keys()].find((kind) => plugin.prototype instanceof kind);
  const kind = kindOf(plugins[0]);
  if (kind === undefined || plugins.some((plugin) => kindOf(plugin) !== kind)) {
    throw new Defect("the plugins of a component extend Filter, Packer, Prompt or Metric, all the same");
  }
  /** The one configured plugin, and a metric's state. */
  const made = {};
  /** Runs code of the plugin. What it throws without meaning to is a defect: the host shows it, and the instance ends. */
  const guarded = (run) => (...args) => {
    try {
      return run(...args);
    } catch (error) {
      if (error instanceof Answer) throw error.payload;
      const at = String(error?.stack ?? "").split("\n").map((line) => line.trim()).find((line) => line && !line.includes("/ovhost/"));
      const row = made.row === undefined ? "" : `, row ${made.row} of the batch`;
      log.log("error", `${shown(error)} (${at ?? "no place"}${row})`, []);
      throw error;
    }
  };
  const lifecycle = {
    describe: () => describe(plugins),
    init(entry, config, assets) {
      const plugin = plugins.find((one) => one.about.name === entry);
      try {
        const values = resolve(plugin.about.config ?? {}, JSON.parse(config || "{}"));
        // Before the plugin has its hands on it: the run records what was asked for.
        const resolved = canonical(values);
        made.plugin = new plugin(values, new Assets(new Map(assets.map((one) => [one.name, one.data])), fromUtf8));
        made.about = { reads: [], writes: [], ...plugin.about };
        if (kind === Metric) made.state = made.plugin.empty();
        return resolved;
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
        throw new Answer(error.findings.map(([path, message]) => ({ path, message, fatal: true })));
      }
    },
  };
  const exported = { lifecycle, ...kinds.get(kind)(made) };
  if (!plugins.some((plugin) => plugin.prototype instanceof StatefulFilter)) delete exported.filterState;
  for (const face of Object.values(exported)) {
    for (const [name, run] of Object.entries(face)) face[name] = guarded(run);
  }
  return exported;
}

function describe(plugins) {
  const entries = plugins.map((plugin) => {
    const { name, summary, config = {}, reads = [], writes = [], assets = [] } = plugin.about;
    const streaming = plugin.prototype instanceof Packer || plugin.prototype instanceof StatefulFilter;
    return {
      name,
      summary,
      configSchema: JSON.stringify(schema(config)),
      reads: reads.map((one) => ({ name: one.name, required: one.required })),
      writes: writes.map((one) => one.name),
      assets,
      state: streaming ? "streaming" : "pure",
      preferRows: 0,
    };
  });
  const { name, version = "0.1.0", license = "Apache-2.0", homepage = "" } = plugins[0].about;
  return { name, version, license, homepage, entries };
}

/** The batch's columns as values by name, checked against `reads`. */
function columnsOf({ name, reads }, batch) {
  const columns = new Map();
  for (const column of batch.columns) {
    const want = reads.find((one) => one.name === column.name);
    if (want !== undefined && want.type !== column.data.tag) {
      const message = `column \`${column.name}\` is ${column.data.tag}; this plugin reads it as ${want.type}`;
      throw failed("bad-input", `${name}: ${message}`);
    }
    columns.set(column.name, decode(column, batch.rows));
  }
  for (const want of reads) {
    if (columns.has(want.name)) continue;
    if (want.required) throw failed("bad-input", `${name}: the required column \`${want.name}\` is missing`);
    columns.set(want.name, new Array(batch.rows).fill(null));
  }
  return columns;
}

/** Runs `judge(ctx, row)` over a batch: its answers (null where a row failed), the row errors, the added columns. */
function each(made, ctx, batch, judge) {
  const columns = columnsOf(made.about, batch);
  const { writes } = made.about;
  const added = new Map(writes.map((column) => [column.name, new Array(batch.rows).fill(null)]));
  const [answers, errors] = [[], []];
  for (let i = 0; i < batch.rows; i++) {
    made.row = i;
    const at = new Ctx(ctx.runSeed, ctx.firstRow + i, writes);
    try {
      answers.push(judge(at, new Row(columns, i)));
    } catch (error) {
      if (!(error instanceof RowError)) throw error;
      answers.push(null);
      errors.push({ row: i, message: error.message });
    }
    for (const [name, value] of Object.entries(at.values)) added.get(name)[i] = value;
  }
  made.row = undefined;
  return { answers, errors, columns: writes.map((column) => encode(column, added.get(column.name))) };
}

const save = (made, state) => Uint8Array.from(toUtf8(canonical({ plugin: made.about.name, state })));

function load(made, bytes) {
  const { name } = made.about;
  let saved;
  try {
    saved = JSON.parse(fromUtf8(Uint8Array.from(bytes)));
  } catch (error) {
    throw failed("bad-input", `${name}: the saved state is unreadable: ${error.message}`);
  }
  if (saved?.plugin !== name) throw failed("bad-input", `${name}: the saved state is of \`${saved?.plugin}\``);
  return saved.state;
}

function restore(made, bytes) {
  const state = load(made, bytes);
  try {
    made.plugin.restore(state);
  } catch (error) {
    throw error instanceof StateError ? failed("bad-input", `${made.about.name}: ${error.message}`) : error;
  }
}

function filterExports(made) {
  const process = (ctx, batch) => {
    const { answers, errors, columns } = each(made, ctx, batch, (at, row) => {
      const verdict = atOnce(made.plugin.row(at, row));
      if (typeof verdict?.keep !== "boolean") throw new Defect(`row() must return KEEP or drop(reason), not ${shown(verdict)}`);
      return verdict;
    });
    const dropped = (verdict) => verdict !== null && !verdict.keep;
    let reasons = [...new Set(answers.filter(dropped).map((verdict) => verdict.reason))];
    // The contract has room for 256 reasons of 128 bytes; the last place takes all that are too many.
    const place = new Map(reasons.map((reason, i) => [reason, Math.min(i, 255)]));
    if (reasons.length > 256) reasons = [...reasons.slice(0, 255), "another reason (the plugin gives too many)"];
    return {
      keep: Uint8Array.from(answers, (verdict) => (verdict?.keep ? 1 : 0)),
      reason: reasons.length === 0 ? [] : answers.map((verdict) => (dropped(verdict) ? place.get(verdict.reason) : 0)),
      reasons: reasons.map(short),
      add: columns,
      errors,
    };
  };
  const filterState = { save: () => save(made, made.plugin.state()), restore: (bytes) => restore(made, bytes) };
  return { filter: { process }, filterState };
}

function short(reason) {
  let [out, bytes] = ["", 0];
  for (const one of reason) {
    bytes += toUtf8(one).length;
    if (bytes > 128) break;
    out += one;
  }
  return out;
}

function packerExports(made) {
  const ready = (call) => {
    if (!made.started) throw failed("bad-input", `${made.about.name}: \`${call}\` before \`start\``);
    return made.plugin;
  };
  const answer = ({ bins, dropped }) => {
    const offsets = [0];
    for (const bin of bins) offsets.push(offsets[offsets.length - 1] + bin.length);
    return { offsets, ids: bins.flat(), dropped };
  };
  const packer = {
    start({ capacity, maxItemsPerBin, maxOpenItems }) {
      try {
        made.plugin.start({ capacity, maxItems: maxItemsPerBin, maxOpen: maxOpenItems });
      } catch (error) {
        throw error instanceof ConfigError ? failed("bad-config", `${made.about.name}: ${error.message}`) : error;
      }
      made.started = true;
    },
    push(_ctx, batch) {
      const [plugin, out] = [ready("push"), new Packing()];
      const columns = new Map(batch.columns.map((column) => [column.name, decode(column, batch.rows)]));
      const [ids, lengths, patches] = ["id", "length", "patches"].map((name) => columns.get(name));
      plugin.push(ids.map((id, i) => ({ id, length: lengths[i], patches: patches?.[i] ?? 0 })), out);
      return answer(out);
    },
    flush() {
      const [plugin, out] = [ready("flush"), new Packing()];
      plugin.flush(out);
      return answer(out);
    },
    save: () => save(made, ready("save").state()),
    restore: (bytes) => {
      ready("restore");
      restore(made, bytes);
    },
  };
  return { packer };
}

function promptExports(made) {
  const rendered = (items) => ({ tag: items.length > 0 && "piece" in items[0] ? "segments" : "conversation", val: items });
  const prompt = {
    specialTokens: () => made.plugin.specialTokens(),
    stopStrings: () => made.plugin.stopStrings(),
    render(ctx, mode, batch) {
      const { answers, errors } = each(made, ctx, batch, (at, row) => rendered(atOnce(made.plugin.render(at, mode, row))));
      return { items: answers.map((one) => one ?? rendered([])), errors };
    },
  };
  return { prompt };
}

function metricExports(made) {
  const scored = (score) => (ctx, batch) => {
    const { answers, errors, columns } = each(made, ctx, batch, (at, row) => atOnce(made.plugin[score](at, row, made.state)));
    const needsJudge = answers.flatMap((one, row) => (one?.ask ? [{ row, messages: one.ask }] : []));
    return { perRow: columns, errors, needsJudge };
  };
  const metric = {
    outputs: () => made.plugin.outputs().map((one) => ({ higherIsBetter: true, low: 0, high: 1, unit: "", ...one })),
    reset() {
      made.state = made.plugin.empty();
    },
    update: scored("score"),
    judged: scored("judged"),
    save: () => save(made, made.state),
    merge: (bytes) => made.plugin.merge(made.state, load(made, bytes)),
    finalize: () => made.plugin.finalize(made.state).map((one) => ({ stderr: null, ...one })),
  };
  return { metric };
}
