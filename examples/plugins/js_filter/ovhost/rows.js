/** What a plugin's code sees of the data: declared columns, rows of values, a place in the stream, seeded randomness. */

/** This row cannot be used; the others are good. Throw it with a message that says what was seen and what is allowed. */
export class RowError extends Error {}

/** A saved state does not fit. `restore` throws it. */
export class StateError extends Error {}

/** The plugin does what its declaration does not allow. */
export class Defect extends Error {}

const column = (type) => (name) => ({ name, type, required: true, optional: () => ({ name, type, required: false }) });

/** A column of text. `.optional()`: a host without it is fine, and rows have no value. */
export const utf8 = column("utf8");
/** A column of raw bytes (Uint8Array). */
export const bytes = column("bytes");
/** A column of small integers, 0 to 255; booleans are 0 and 1. */
export const u8s = column("u8s");
/** A column of integers from 0 to 2**32 - 1. */
export const u32s = column("u32s");
/** A column of 64-bit integers, exact up to 2**53. */
export const s64s = column("s64s");
/** A column of 32-bit floats, as scores are. */
export const f32s = column("f32s");
/** A column of 64-bit floats. */
export const f64s = column("f64s");
/** A column with a list of integers per row. */
export const u32Lists = column("u32-lists");
/** A column with a list of floats per row. */
export const f32Lists = column("f32-lists");

const INTEGERS = { u8s: [0, 255], u32s: [0, 2 ** 32 - 1], s64s: [Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER] };

/** `value` as the column's type takes it; undefined and null: the row has none. */
export function checked(column, value) {
  const { name, type } = column;
  if (value === undefined || value === null) return null;
  if (type in INTEGERS) {
    const number = typeof value === "boolean" ? Number(value) : value;
    const [low, high] = INTEGERS[type];
    if (Number.isInteger(number) && number >= low && number <= high) return number;
  } else if (type === "f32s" || type === "f64s") {
    if (typeof value === "number") return value;
  } else if (type === "utf8") {
    if (typeof value === "string") return value;
  } else if (Array.isArray(value) || ArrayBuffer.isView(value)) {
    return value;
  }
  throw new Defect(`the column \`${name}\` is ${type}, and a row set ${JSON.stringify(value)}`);
}

/** One row: `row.get("text")` is its value of a column, null where it has none. */
export class Row {
  #columns;

  constructor(columns, index) {
    this.#columns = columns;
    this.index = index;
  }

  get(name) {
    const values = this.#columns.get(name);
    if (values === undefined) throw new Defect(`the column \`${name}\` was read, and \`reads\` does not name it`);
    return values[this.index];
  }

  /** The value of a text column as JSON, null where there is none. Throws `RowError` where it is no JSON. */
  json(name) {
    const value = this.get(name);
    if (value === null) return null;
    try {
      return JSON.parse(value);
    } catch (error) {
      throw new RowError(`column \`${name}\` is not JSON: ${error.message}`);
    }
  }
}

const MASK = (1n << 64n) - 1n;

function mix(z) {
  z = (z + 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** A small deterministic generator (SplitMix64). Not for secrets. */
export class Rng {
  #state;

  constructor(seed) {
    this.#state = BigInt(seed) & MASK;
  }

  /** Sixty-four even bits, as a BigInt. */
  nextU64() {
    const value = mix(this.#state);
    this.#state = (this.#state + 0x9e3779b97f4a7c15n) & MASK;
    return value;
  }

  /** An even integer below `bound`; 0 for a bound of 0. */
  below(bound) {
    return Number((this.nextU64() * BigInt(bound)) >> 64n);
  }

  /** An even number in [0, 1). */
  unit() {
    return Number(this.nextU64() >> 11n) / 2 ** 53;
  }

  /** Puts an array in random order. */
  shuffle(items) {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [items[i], items[j]] = [items[j], items[i]];
    }
  }
}

/** What a row knows besides its columns: its place in the stream, its randomness, the values that it adds. */
export class Ctx {
  #runSeed;
  #writes;

  constructor(runSeed, ordinal, writes) {
    this.#runSeed = runSeed;
    this.#writes = writes;
    this.ordinal = ordinal;
    this.values = {};
  }

  /**
   * A generator seeded by the run and the row: the same whatever batch or worker the row comes in. The run's seed reaches
   * JavaScript rounded to 53 bits, so the values are not those of a Rust plugin.
   */
  rng() {
    return new Rng(mix(BigInt(this.#runSeed) ^ mix(BigInt(this.ordinal))));
  }

  /** Adds this row's value of a column that `writes` names. */
  set(name, value) {
    const column = this.#writes.find((one) => one.name === name);
    if (column === undefined) {
      const names = this.#writes.map((one) => one.name).join(", ");
      throw new Defect(`the column \`${name}\` was set, and \`writes\` names only [${names}]`);
    }
    this.values[name] = checked(column, value);
  }
}
