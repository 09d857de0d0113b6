// Unit tests without a component: `npm test`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ConfigError, tryFilter } from "./ovhost/index.js";
import { {{Type}} } from "./plugin.js";

test("rows are kept and dropped", () => {
  const rows = [{ text: "a red square" }, { text: "red" }, { text: "red red red red" }, { text: null }];
  const judged = tryFilter({{Type}}, {}, rows);
  assert.deepEqual(judged.map((one) => one.answer.keep), [true, false, false, false]);
  assert.deepEqual(judged.map((one) => one.answer.reason), ["", "too few words", "repetitive", "no text"]);
  assert.deepEqual(judged[2].added, { "word-variety": 0.25 });
});

test("a wrong configuration is refused", () => {
  const wrong = (error) => error instanceof ConfigError && error.findings[0][0] === "/min_variety";
  assert.throws(() => tryFilter({{Type}}, { min_variety: 2 }, []), wrong);
});
