/**
 * {{name}}: puts each sample into the fullest open bin that has room for it (best fit).
 *
 * A bin leaves when it is full, or when another sample needs a new bin and `open_bins` are open already; then the fullest goes.
 */

import { Findings, Packer, StateError, option } from "./ovhost/index.js";

const fullest = (bins) => bins.reduce((best, bin) => (best === undefined || bin.used > best.used ? bin : best), undefined);

/** A bin is { ids, used }: its samples, and the tokens that they take. */
export class {{Type}} extends Packer {
  static about = {
    name: "{{name}}",
    summary: "Packs by best fit into a fixed number of open bins.",
    config: { open_bins: option.integer(8, "Bins that are open at a time, at least 1. More fill better and hold more back.") },
  };

  constructor(config) {
    super();
    const findings = new Findings();
    findings.require(config.open_bins >= 1, "/open_bins", "must be at least 1");
    findings.finish();
    this.openBins = config.open_bins;
  }

  start(limits) {
    this.limits = limits;
    this.bins = [];
  }

  push(items, out) {
    const { maxOpen } = this.limits;
    for (const item of items) {
      this.#place(item, out);
      // After every sample, not at the end of the call: bins must not depend on how the stream is cut into calls.
      while (maxOpen > 0 && this.#openItems() > maxOpen) this.#close(fullest(this.bins), out);
    }
  }

  #openItems() {
    return this.bins.reduce((sum, bin) => sum + bin.ids.length, 0);
  }

  #place(item, out) {
    const { capacity, maxItems } = this.limits;
    let bin = fullest(this.bins.filter((one) => one.used + item.length <= capacity));
    if (bin === undefined) {
      if (this.bins.length === this.openBins) this.#close(fullest(this.bins), out);
      bin = { ids: [], used: 0 };
      this.bins.push(bin);
    }
    bin.ids.push(item.id);
    bin.used += item.length;
    if (bin.used === capacity || bin.ids.length === maxItems) this.#close(bin, out);
  }

  #close(bin, out) {
    this.bins.splice(this.bins.indexOf(bin), 1);
    out.bin(bin.ids);
  }

  flush(out) {
    for (const bin of this.bins) out.bin(bin.ids);
    this.bins = [];
  }

  state() {
    return this.bins;
  }

  restore(state) {
    if (state.some((bin) => bin.used > this.limits.capacity)) {
      throw new StateError(`the saved bins do not fit a capacity of ${this.limits.capacity}`);
    }
    this.bins = state;
  }
}
