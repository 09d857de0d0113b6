// Unit tests without a component: `npm test`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { tryMetric } from "./ovhost/index.js";
import { {{Type}} } from "./plugin.js";

test("numbers have a tolerance and texts have none", () => {
  const said = [["104", "100"], ["106", "100"], ["1,000", "1000"], ["A Cat ", "a cat"], ["cat", "a cat"]];
  const rows = said.map(([prediction, want]) => ({ prediction, references: JSON.stringify([want]) }));
  const { scored, values } = tryMetric({{Type}}, {}, rows);
  assert.deepEqual(scored.map((one) => one.added["relaxed-match"]), [1, 0, 1, 1, 0]);
  assert.equal(values["relaxed-accuracy"].value, 0.6);
  assert.equal(values["relaxed-accuracy"].count, 5);
});

test("a row without references counts nowhere", () => {
  const { scored, values } = tryMetric({{Type}}, {}, [{ prediction: "x", references: "[]" }]);
  assert.match(scored[0].error, /at least one text/);
  assert.equal(values["relaxed-accuracy"].count, 0);
});
