/** Configurations: options in; their JSON Schema, resolved values and findings with JSON pointers out. */

/** The configuration or the assets cannot be used. `pointer` is a JSON pointer into it ("/min_words"; "" for all of it). */
export class ConfigError extends Error {
  constructor(pointer, message) {
    super(`${pointer || "configuration"}: ${message}`);
    this.findings = [[pointer, message]];
  }
}

/** Collects everything that is wrong with a configuration, so that a user sees all of it at once. */
export class Findings {
  #found = [];

  /** Adds a finding unless `good`. The message says what is allowed. */
  require(good, pointer, message) {
    if (!good) this.#found.push([pointer, message]);
  }

  /** Throws a `ConfigError` if there were findings. */
  finish() {
    if (this.#found.length === 0) return;
    const error = new ConfigError(...this.#found[0]);
    error.findings = this.#found;
    throw error;
  }
}

const typed = (type) => (value, description, schema = {}) => ({ default: value, description, schema: { ...type, ...schema } });

/** Options of a configuration: the default, one sentence for users, and JSON Schema keywords such as `{ minimum: 0 }`. */
export const option = {
  integer: typed({ type: "integer" }),
  number: typed({ type: "number" }),
  string: typed({ type: "string" }),
  boolean: typed({ type: "boolean" }),
  /** A list of "string", "number", "integer" or "boolean". */
  list: (items, value, description, schema = {}) => typed({ type: "array", items: { type: items } })(value, description, schema),
};

/** JSON Schema (2020-12) of a table of options. */
export function schema(options) {
  const properties = {};
  for (const [name, one] of Object.entries(options)) {
    properties[name] = { description: one.description, default: one.default, ...one.schema };
  }
  const draft = "https://json-schema.org/draft/2020-12/schema";
  return { $schema: draft, type: "object", properties, additionalProperties: false };
}

function fits(value, { type, items }) {
  if (type === "integer") return Number.isInteger(value);
  if (type === "array") return Array.isArray(value) && value.every((one) => fits(one, items));
  return typeof value === type;
}

/** The options with `values` in the place of their defaults. The host has checked them; a unit test has not. */
export function resolve(options, values) {
  const findings = new Findings();
  for (const [name, value] of Object.entries(values)) {
    const pointer = `/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    if (!(name in options)) {
      findings.require(false, pointer, `unknown key; allowed: ${Object.keys(options).join(", ")}`);
    } else {
      findings.require(fits(value, options[name].schema), pointer, `${JSON.stringify(value)} is no ${options[name].schema.type}`);
    }
  }
  findings.finish();
  const config = {};
  for (const [name, one] of Object.entries(options)) {
    // A copy: a plugin may change its configuration, and must not change the defaults.
    config[name] = structured(name in values ? values[name] : one.default);
  }
  return config;
}

const structured = (value) => JSON.parse(JSON.stringify(value));

/** JSON with sorted keys and no spaces: equal values give equal text. */
export function canonical(value) {
  const sorted = (_, one) =>
    one !== null && typeof one === "object" && !Array.isArray(one)
      ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1)))
      : one;
  return JSON.stringify(value, sorted);
}

/** The files that `assets` names, whole. `read` makes text of bytes. */
export class Assets {
  #files;
  #read;

  constructor(files, read) {
    this.#files = files;
    this.#read = read;
  }

  /** Bytes of an asset, undefined where the recipe does not give it. */
  bytes(name) {
    return this.#files.get(name);
  }

  /** Text of an asset (UTF-8). Throws `ConfigError` where the recipe does not give it. */
  text(name) {
    const data = this.#files.get(name);
    if (data === undefined) {
      throw new ConfigError("", `the asset \`${name}\` is missing; name its file under \`assets\` in the recipe`);
    }
    return this.#read(data);
  }
}
