// Unit tests without a component: `npm test`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ConfigError, tryFilter } from "./ovhost/index.js";
import { NearTemplate, distance, plain } from "./plugin.js";

test("distances are those of the whole table", () => {
  const whole = (a, b) => {
    if (a === "" || b === "") return a.length + b.length;
    const [x, y] = [a.slice(1), b.slice(1)];
    return a[0] === b[0] ? whole(x, y) : 1 + Math.min(whole(x, b), whole(a, y), whole(x, y));
  };
  for (const [a, b] of [["kitten", "sitting"], ["abc", "abc"], ["", "ab"], ["flaw", "lawn"], ["ab", "ba"]]) {
    assert.equal(distance([...a], [...b]), whole(a, b) / Math.max(a.length, b.length), `${a} ${b}`);
  }
});

test("a bound ends early and changes no answer below it", () => {
  const [a, b] = [[..."photo 0 of 0"], [..."a red square on a white ground"]];
  assert.equal(distance(a, b, 0.2), 0.2);
  assert.equal(distance([..."abcdefghij"], [..."abcdefghix"], 0.2), 0.1);
});

test("digits, spaces and case do not matter", () => {
  assert.equal(plain("  IMG_2931.JPG \n"), "img_0.jpg");
  const judged = tryFilter(NearTemplate, {}, [{ text: "Photo 14  of 30" }, { text: "A red square on white" }]);
  assert.deepEqual(judged.map((one) => one.answer.reason), ["template", ""]);
  assert.equal(judged[0].added["template-distance"], 0);
});

test("wrong configurations are refused with all findings", () => {
  const wrong = (error) => error instanceof ConfigError && error.findings.map(([at]) => at).join() === "/max_distance,/templates/1";
  assert.throws(() => tryFilter(NearTemplate, { max_distance: 1, templates: ["a", " "] }, []), wrong);
});
