// Unit tests without a component: `npm test`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ConfigError, tryPacker } from "./ovhost/index.js";
import { {{Type}} } from "./plugin.js";

test("samples go where they fit best", () => {
  assert.deepEqual(tryPacker({{Type}}, {}, [6, 5, 4, 3], { capacity: 10 }), { pushed: [[0, 2]], flushed: [[1, 3]] });
});

test("the fullest bin makes room", () => {
  const packed = tryPacker({{Type}}, { open_bins: 1 }, [6, 5, 4], { capacity: 10 });
  assert.deepEqual(packed, { pushed: [[0]], flushed: [[1, 2]] });
});

test("a wrong configuration is refused", () => {
  const wrong = (error) => error instanceof ConfigError && error.findings[0][0] === "/open_bins";
  assert.throws(() => tryPacker({{Type}}, { open_bins: 0 }, [], { capacity: 10 }), wrong);
});
