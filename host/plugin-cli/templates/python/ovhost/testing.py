"""Plugins without a component, for unit tests: rows as dicts in, plain answers out."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from . import log
from .config import Assets, canonical, parse
from .plugin import Item, Packing
from .rows import Ctx, Defect, Row, RowError


def _folders():
    """The folders that `path` in ovhost-plugin.toml names: a component imports from them, so unit tests do."""
    # Here, since a component is to hold no more modules than it needs.
    import ast
    import re
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    try:
        manifest = (root / "ovhost-plugin.toml").read_text(encoding="utf-8")
    except OSError:
        return []
    # A list of strings is written alike in TOML and Python; Python 3.10 has no reader of TOML.
    found = re.search(r"^path\s*=\s*(\[[^\]]*\])", manifest, re.MULTILINE)
    return [str(root / folder) for folder in ast.literal_eval(found[1])] if found else []


if log.in_unit_test():
    # After the folder that the tests run in and before what is installed, which the component will not have.
    sys.path[1:1] = _folders()


@dataclass
class Answered:
    """What became of a row in a unit test: the answer (or the text of a `RowError`), and the values that it added."""

    answer: Any
    added: dict
    error: str | None = None


def _make(plugin, config, assets):
    files = {name: data.encode() if isinstance(data, str) else data for name, data in (assets or {}).items()}
    return plugin(parse(plugin.config, config or {}), Assets(files))


def _answer(plugin, rows, judge, seed=1):
    reads = {column.name for column in plugin.reads}
    writes, answered = {column.name: column for column in plugin.writes}, []
    for i, row in enumerate(rows):
        unknown = set(row) - reads
        if unknown:
            raise Defect(f"the plugin does not read {sorted(unknown)}")
        ctx = Ctx(seed, i, writes)
        try:
            answered.append(Answered(judge(ctx, Row({name: [row.get(name)] for name in reads}, 0)), ctx.values))
        except RowError as error:
            answered.append(Answered(None, ctx.values, str(error)))
    return answered


def try_filter(plugin, config, rows, assets=None):
    """Judges rows (dicts of columns) with the filter class: one `Answered` per row, `answer` is `KEEP` or `drop(reason)`."""
    made = _make(plugin, config, assets)
    return _answer(made, rows, made.row)


def try_prompt(plugin, config, rows, mode="train", assets=None):
    """Renders rows: one `Answered` per row."""
    made = _make(plugin, config, assets)
    return _answer(made, rows, lambda ctx, row: made.render(ctx, mode, row))


def try_metric(plugin, config, rows, assets=None):
    """Scores rows: one `Answered` per row, and the values. The state goes through JSON half-way, as it does in a run."""
    made = _make(plugin, config, assets)
    halves = [made.empty(), made.empty()]
    answered = []
    for i, row in enumerate(rows):
        answered += _answer(made, [row], lambda ctx, row: made.score(ctx, row, halves[i % 2]))
    made.merge(halves[0], json.loads(canonical(halves[1])))
    return answered, {value.name: value for value in made.finalize(halves[0])}


def try_packer(plugin, config, lengths, limits, assets=None):
    """Packs samples of the given lengths, ids from 0; checks the contract; gives the bins of `push` and those of `flush`."""
    made, pushed, flushed = _make(plugin, config, assets), Packing(), Packing()
    made.start(limits)
    made.push([Item(i, length) for i, length in enumerate(lengths)], pushed)
    fresh = _make(plugin, config, assets)
    fresh.start(limits)
    fresh.restore(json.loads(canonical(made.state())))
    fresh.flush(flushed)
    for one in pushed.bins + flushed.bins:
        total = sum(lengths[i] for i in one)
        assert total <= limits.capacity, f"a bin of {total} tokens"
        assert not limits.max_items or len(one) <= limits.max_items, f"a bin of {len(one)} samples"
    back = sorted(i for out in (pushed, flushed) for i in [j for one in out.bins for j in one] + out.dropped)
    assert back == list(range(len(lengths))), "every sample must come back exactly once"
    return pushed.bins, flushed.bins
