/** Plugins without a component, for unit tests: rows as objects in, plain answers out. */

import { fromUtf8, toUtf8 } from "./columns.js";
import { Assets, canonical, resolve } from "./config.js";
import { Packing } from "./plugin.js";
import { Ctx, Defect, Row, RowError } from "./rows.js";

function make(plugin, config, assets = {}) {
  const bytes = (data) => (typeof data === "string" ? Uint8Array.from(toUtf8(data)) : data);
  const files = new Map(Object.entries(assets).map(([name, data]) => [name, bytes(data)]));
  return new plugin(resolve(plugin.about.config ?? {}, config), new Assets(files, fromUtf8));
}

function answer({ reads = [], writes = [] }, rows, judge, seed = 1) {
  return rows.map((row, i) => {
    const unknown = Object.keys(row).filter((name) => !reads.some((column) => column.name === name));
    if (unknown.length > 0) throw new Defect(`the plugin does not read [${unknown.join(", ")}]`);
    const ctx = new Ctx(seed, i, writes);
    const columns = new Map(reads.map(({ name }) => [name, [row[name] ?? null]]));
    try {
      return { answer: judge(ctx, new Row(columns, 0)), added: ctx.values, error: null };
    } catch (error) {
      if (!(error instanceof RowError)) throw error;
      return { answer: null, added: ctx.values, error: error.message };
    }
  });
}

/** Judges rows with the filter class: { answer, added, error } per row; `answer` is `KEEP` or `drop(reason)`. */
export function tryFilter(plugin, config, rows, assets) {
  const made = make(plugin, config, assets);
  return answer(plugin.about, rows, (ctx, row) => made.row(ctx, row));
}

/** Renders rows: { answer, added, error } per row. */
export function tryPrompt(plugin, config, rows, mode = "train", assets = {}) {
  const made = make(plugin, config, assets);
  return answer(plugin.about, rows, (ctx, row) => made.render(ctx, mode, row));
}

/** Scores rows; the values by name. The state of every other row goes through JSON, as it does in a run. */
export function tryMetric(plugin, config, rows, assets) {
  const made = make(plugin, config, assets);
  const halves = [made.empty(), made.empty()];
  const scored = rows.flatMap((row, i) => answer(plugin.about, [row], (ctx, one) => made.score(ctx, one, halves[i % 2])));
  made.merge(halves[0], JSON.parse(canonical(halves[1])));
  const values = Object.fromEntries(made.finalize(halves[0]).map((value) => [value.name, value]));
  return { scored, values };
}

/** Packs samples of the given lengths, ids from 0; checks the contract; gives the bins of `push` and those of `flush`. */
export function tryPacker(plugin, config, lengths, { capacity, maxItems = 0, maxOpen = 0 }, assets = {}) {
  const limits = { capacity, maxItems, maxOpen };
  const [pushed, flushed] = [new Packing(), new Packing()];
  const made = make(plugin, config, assets);
  made.start(limits);
  made.push(lengths.map((length, id) => ({ id, length, patches: 0 })), pushed);
  const fresh = make(plugin, config, assets);
  fresh.start(limits);
  fresh.restore(JSON.parse(canonical(made.state())));
  fresh.flush(flushed);
  for (const bin of [...pushed.bins, ...flushed.bins]) {
    const total = bin.reduce((sum, id) => sum + lengths[id], 0);
    if (total > capacity) throw new Defect(`a bin of ${total} tokens`);
    if (maxItems > 0 && bin.length > maxItems) throw new Defect(`a bin of ${bin.length} samples`);
  }
  const back = [pushed, flushed].flatMap((out) => [...out.bins.flat(), ...out.dropped]).sort((a, b) => a - b);
  if (canonical(back) !== canonical(lengths.map((_, id) => id))) throw new Defect("every sample must come back exactly once");
  return { pushed: pushed.bins, flushed: flushed.bins };
}
