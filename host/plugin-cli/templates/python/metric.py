"""{{name}}: right within a tolerance where both are numbers, else right where the texts are the same but for case.

Each row gets the column `relaxed-match`, 0 or 1; the value is their mean.
"""

import math
import re
from dataclasses import dataclass

import ovhost

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


@dataclass
class Config:
    """What a recipe may say under `config`."""

    tolerance: float = ovhost.option(0.05, "How far a number may be off, as a share of the right one; at least 0.")


class {{Type}}(ovhost.Metric):
    """The plugin. Its state counts rows and right ones, so it adds up in any order."""

    name = "{{name}}"
    summary = "Share of answers that are right, numbers within a tolerance."
    config = Config
    reads = [ovhost.utf8("prediction"), ovhost.utf8("references")]
    writes = [ovhost.u8s("relaxed-match")]
    outputs = [ovhost.Info("relaxed-accuracy", unit="share")]

    def __init__(self, config, assets):
        findings = ovhost.Findings()
        findings.require(config.tolerance >= 0, "/tolerance", "must be at least 0")
        findings.finish()
        self.tolerance = config.tolerance

    def empty(self):
        return {"rows": 0, "right": 0}

    def score(self, ctx, row, state):
        references = row.json("references")
        if not isinstance(references, list) or not references:
            raise ovhost.RowError("`references` must be a list of at least one text")
        prediction = row["prediction"] or ""
        right = any(self._matches(prediction, str(reference)) for reference in references)
        ctx.set("relaxed-match", right)
        state["rows"] += 1
        state["right"] += right

    def _matches(self, prediction, reference):
        said, want = number(prediction), number(reference)
        if said is not None and want is not None:
            return abs(said - want) <= self.tolerance * abs(want)
        return prediction.strip().lower() == reference.strip().lower()

    def merge(self, state, other):
        state["rows"] += other["rows"]
        state["right"] += other["right"]

    def finalize(self, state):
        rows = state["rows"]
        if rows == 0:
            return [ovhost.Value("relaxed-accuracy", math.nan, 0)]
        share = state["right"] / rows
        return [ovhost.Value("relaxed-accuracy", share, rows, math.sqrt(share * (1 - share) / rows))]


def number(text):
    """The number that a text is (`1,200`, `35%`), or None."""
    text = text.strip().replace(",", "").removesuffix("%")
    return float(text) if NUMBER.fullmatch(text) else None


Lifecycle, Metric = ovhost.export({{Type}})
