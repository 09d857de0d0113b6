// Unit tests without a component: `npm test`.
import assert from "node:assert/strict";
import { test } from "node:test";

import { image, message, tryPrompt } from "./ovhost/index.js";
import { {{Type}} } from "./plugin.js";

const RECORD = JSON.stringify({ question: "What is it?", options: ["a cat", "a dog"], answer: "B" });

test("options become letters and images come first", () => {
  const [one] = tryPrompt({{Type}}, {}, [{ record: RECORD, "num-images": 1 }]);
  const asked = message("user", [image(0), "What is it?\nA. a cat\nB. a dog"]);
  assert.deepEqual(one.answer, [asked, message("assistant", ["B"], true)]);
});

test("nothing of the answer is asked", () => {
  const [one] = tryPrompt({{Type}}, {}, [{ record: RECORD }], "generate");
  assert.deepEqual(one.answer.map((turn) => turn.role), ["user"]);
});

test("a record without a question is an error of its row", () => {
  const [one] = tryPrompt({{Type}}, {}, [{ record: "{}" }]);
  assert.match(one.error, /no text `question`/);
});
