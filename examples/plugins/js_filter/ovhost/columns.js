/** The contract's columns as one value per row, and back. */

const RAGGED = new Set(["utf8", "bytes", "u32-lists", "f32-lists"]);

const NOT_ASCII = /[^\x00-\x7f]/;

/** Bytes as a string of as many characters. The bound keeps the call's arguments off the stack's end. */
function characters(data) {
  let out = "";
  for (let i = 0; i < data.length; i += 4096) out += String.fromCharCode.apply(null, data.subarray(i, i + 4096));
  return out;
}

/**
 * Text of UTF-8 bytes (as characters), which the host has checked. The interpreter has no TextDecoder, and a loop over bytes in
 * JavaScript takes ten times as long as these functions of its own.
 */
const text = (bytes) => (NOT_ASCII.test(bytes) ? decodeURIComponent(escape(bytes)) : bytes);

/** Text of UTF-8 bytes. */
export const fromUtf8 = (data) => text(characters(data));

/** UTF-8 bytes of text. Half of a surrogate pair becomes U+FFFD, as everywhere. */
export function toUtf8(text) {
  const out = [];
  for (const one of text) {
    let code = one.codePointAt(0);
    if (code >= 0xd800 && code <= 0xdfff) code = 0xfffd;
    if (code < 0x80) out.push(code);
    else if (code < 0x800) out.push(0xc0 | (code >> 6), 0x80 | (code & 0x3f));
    else if (code < 0x10000) out.push(0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
    else out.push(0xf0 | (code >> 18), 0x80 | ((code >> 12) & 0x3f), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f));
  }
  return out;
}

/** One value per row, null where there is none. */
export function decode({ data: { tag, val }, valid }, rows) {
  const values = new Array(rows);
  const whole = tag === "utf8" ? characters(val.data) : "";
  const ascii = !NOT_ASCII.test(whole);
  for (let i = 0; i < rows; i++) {
    if (valid !== null && valid[i] === 0) values[i] = null;
    else if (!RAGGED.has(tag)) values[i] = val[i];
    else if (tag !== "utf8") values[i] = val.data.slice(val.offsets[i], val.offsets[i + 1]);
    else {
      const cut = whole.slice(val.offsets[i], val.offsets[i + 1]);
      values[i] = ascii ? cut : text(cut);
    }
  }
  return values;
}

/** One value per row (null: none) as a column of the contract. */
export function encode({ name, type }, values) {
  const valid = values.includes(null) ? Uint8Array.from(values, (value) => (value === null ? 0 : 1)) : null;
  if (!RAGGED.has(type)) {
    const flat = values.map((value) => value ?? 0);
    return { name, data: { tag: type, val: type === "u8s" ? Uint8Array.from(flat) : flat }, valid };
  }
  const offsets = [0];
  const data = [];
  for (const value of values) {
    for (const item of type === "utf8" ? toUtf8(value ?? "") : (value ?? [])) data.push(item);
    offsets.push(data.length);
  }
  const bytes = type === "utf8" || type === "bytes";
  return { name, data: { tag: type, val: { offsets, data: bytes ? Uint8Array.from(data) : data } }, valid };
}
