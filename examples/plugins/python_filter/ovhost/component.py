"""Makes of plugin classes what a component exports: the contract's columns and records in and out."""

import importlib
import json
from dataclasses import asdict

from .config import Assets, ConfigError, canonical, parse, schema
from .log import Err, call, defect, seal
from .plugin import Ask, Filter, Item, Limits, Metric, Packer, Packing, Prompt, Segment, StatefulFilter, Verdict
from .rows import Ctx, Defect, Row, RowError, StateError


def _bindings(name):
    """A module that componentize-py makes of the contract; None in a unit test."""
    try:
        return importlib.import_module(f"wit_world.{name}")
    except ModuleNotFoundError:
        return None


_lifecycle, _types = _bindings("exports.lifecycle"), _bindings("imports.types")

#: The contract's name of each type, and what the bindings call it.
_CASES = {
    "utf8": "Utf8", "bytes": "Bytes", "u8s": "U8s", "u32s": "U32s", "s64s": "S64s", "f32s": "F32s", "f64s": "F64s",
    "u32-lists": "U32Lists", "f32-lists": "F32Lists",
}
_TYPES = {case: name for name, case in _CASES.items()}
_RAGGED = {"utf8": "RaggedU8", "bytes": "RaggedU8", "u32-lists": "RaggedU32", "f32-lists": "RaggedF32"}
_NOTHING = {"utf8": "", "bytes": b"", "u32-lists": [], "f32-lists": [], "f32s": 0.0, "f64s": 0.0}


def _decode(column, rows):
    """A column of the contract as one value per row."""
    kind, value = _TYPES[type(column.data).__name__.removeprefix("ColumnData_")], column.data.value
    if kind in _RAGGED:
        data, at = value.data, value.offsets
        if kind == "utf8" and data.isascii():
            # One conversion for all rows; positions of characters are those of bytes.
            data = data.decode("ascii")
            values = [data[at[i] : at[i + 1]] for i in range(rows)]
        elif kind == "utf8":
            values = [data[at[i] : at[i + 1]].decode() for i in range(rows)]
        else:
            values = [data[at[i] : at[i + 1]] for i in range(rows)]
    else:
        values = list(value)
    if column.valid is not None:
        values = [value if valid else None for value, valid in zip(values, column.valid)]
    return kind, values


def _encode(column, values):
    """One value per row (None: the row has none) as a column of the contract."""
    valid = None if all(value is not None for value in values) else bytes(value is not None for value in values)
    values = [_NOTHING.get(column.type, 0) if value is None else value for value in values]
    if column.type in _RAGGED:
        if column.type == "utf8":
            values = [value.encode() for value in values]
        offsets, end = [0], 0
        for value in values:
            end += len(value)
            offsets.append(end)
        flat = b"".join(values) if column.type in ("utf8", "bytes") else [item for value in values for item in value]
        values = getattr(_types, _RAGGED[column.type])(offsets, flat)
    elif column.type == "u8s":
        values = bytes(values)
    data = getattr(_types, f"ColumnData_{_CASES[column.type]}")(values)
    return _types.Column(column.name, data, valid)


def _failed(kind, message):
    return Err(_types.PluginError(getattr(_types.ErrorKind, kind), message, None))


def _kind(plugin):
    return next(kind for kind in (Filter, Packer, Prompt, Metric) if issubclass(plugin, kind))


def export(*plugins):
    """The classes that a component of these plugins exports, to be assigned at the top of the main module:

        Lifecycle, Filter = ovhost.export(MyFilter)
        Lifecycle, Filter, FilterState = ovhost.export(MyStatefulFilter)
        Lifecycle, Packer = ovhost.export(MyPacker)        # Prompt and Metric alike
    """
    kind = _kind(plugins[0])
    if any(_kind(plugin) is not kind for plugin in plugins):
        raise Defect("the plugins of one component are of one kind")
    made = {}

    class Lifecycle:
        """Who the plugins are, and how one of them is configured."""

        def describe(self):
            """The contract's `describe`."""
            return call(lambda: _description(plugins))

        def init(self, entry, config, assets):
            """The contract's `init`."""

            def make():
                plugin = next(plugin for plugin in plugins if plugin.name == entry)
                parsed = parse(plugin.config, json.loads(config or "{}"))
                # Before the plugin has its hands on it: the run records what was asked for.
                resolved = canonical(asdict(parsed))
                made["plugin"] = plugin(parsed, Assets({asset.name: asset.data for asset in assets}))
                made["state"] = made["plugin"].empty() if kind is Metric else None
                return resolved

            try:
                return call(make)
            except ConfigError as error:
                raise Err([_types.Diagnostic(at, text, True) for at, text in error.findings]) from None

    parts = {Filter: _filter_parts, Packer: _packer_parts, Prompt: _prompt_parts, Metric: _metric_parts}
    return (Lifecycle, *parts[kind](made, any(issubclass(plugin, StatefulFilter) for plugin in plugins)))


def _description(plugins):
    first = plugins[0]
    entries = []
    for plugin in plugins:
        streaming = issubclass(plugin, (Packer, StatefulFilter))
        entries.append(
            _lifecycle.Entry(
                plugin.name,
                plugin.summary,
                json.dumps(schema(plugin.config)),
                [_lifecycle.ColumnNeed(column.name, column.required) for column in plugin.reads],
                [column.name for column in plugin.writes],
                list(plugin.assets),
                _lifecycle.StateModel.STREAMING if streaming else _lifecycle.StateModel.PURE,
                0,
            )
        )
    return _lifecycle.Description(first.name, first.version, first.license, first.homepage, entries)


def _columns(plugin, batch):
    """The batch's columns as lists of values, checked against `reads`."""
    wanted = {column.name: column for column in plugin.reads}
    columns = {}
    for column in batch.columns:
        kind, columns[column.name] = _decode(column, batch.rows)
        if column.name in wanted and wanted[column.name].type != kind:
            message = f"column `{column.name}` is {kind}; this plugin reads it as {wanted[column.name].type}"
            raise _failed("BAD_INPUT", f"{plugin.name}: {message}")
    for column in plugin.reads:
        if column.name not in columns:
            if column.required:
                raise _failed("BAD_INPUT", f"{plugin.name}: the required column `{column.name}` is missing")
            columns[column.name] = [None] * batch.rows
    return columns


def _each(plugin, ctx, batch, judge):
    """Runs `judge(ctx, row)` over a batch: its answers (None where a row failed), the row errors, the added columns."""
    seal()
    columns = _columns(plugin, batch)
    writes = {column.name: column for column in plugin.writes}
    added = {name: [None] * batch.rows for name in writes}
    answers, errors = [], []
    for i in range(batch.rows):
        at = Ctx(ctx.run_seed, ctx.first_row + i, writes)
        try:
            answers.append(judge(at, Row(columns, i)))
        except RowError as error:
            answers.append(None)
            errors.append(_types.RowError(i, str(error)))
        except Exception as error:
            defect(error, i)
            raise
        for name, value in at.values.items():
            added[name][i] = value
    return answers, errors, [_encode(column, added[column.name]) for column in plugin.writes]


def _save(plugin, state):
    return canonical({"plugin": plugin.name, "state": state}).encode()


def _load(plugin, data):
    try:
        saved = json.loads(bytes(data))
        if saved["plugin"] == plugin.name:
            return saved["state"]
        message = f"is of `{saved['plugin']}`"
    except (ValueError, KeyError, TypeError) as error:
        message = f"is unreadable: {error}"
    raise _failed("BAD_INPUT", f"{plugin.name}: the saved state {message}")


def _restore(plugin, data):
    state = _load(plugin, data)
    try:
        call(lambda: plugin.restore(state))
    except StateError as error:
        raise _failed("BAD_INPUT", f"{plugin.name}: {error}") from None


def _filter_parts(made, stateful):
    wit = _bindings("exports.filter")

    class Exported:
        """The contract's `filter`."""

        def process(self, ctx, batch):
            """Judges a batch."""
            plugin = made["plugin"]

            def judge(at, row):
                verdict = plugin.row(at, row)
                if not isinstance(verdict, Verdict):
                    raise Defect(f"row() must return KEEP or drop(reason), not {verdict!r}")
                return verdict

            verdicts, errors, add = _each(plugin, ctx, batch, judge)
            reasons = list(dict.fromkeys(v.reason for v in verdicts if v is not None and not v.keep))
            # The contract has room for 256 reasons; the last place takes all that are too many.
            if len(reasons) > 256:
                reasons = [*reasons[:255], "another reason (the plugin gives too many)"]
            place = {reason: i for i, reason in enumerate(reasons)}
            keep = bytes(v is not None and v.keep for v in verdicts)
            reason = [place.get(v.reason, 255) if v is not None and not v.keep else 0 for v in verdicts] if reasons else []
            short = [reason.encode()[:128].decode(errors="ignore") for reason in reasons]
            return wit.Decisions(keep, reason, short, add, errors)

    class State:
        """The contract's `filter-state`."""

        def save(self):
            """The state as bytes."""
            return _save(made["plugin"], call(made["plugin"].state))

        def restore(self, state):
            """Continues from bytes."""
            _restore(made["plugin"], state)

    return (Exported, State) if stateful else (Exported,)


def _packer_parts(made, _stateful):
    wit = _bindings("exports.packer")

    def answer(out):
        offsets, ids = [0], []
        for one in out.bins:
            ids.extend(one)
            offsets.append(len(ids))
        return wit.Packing(offsets, ids, out.dropped)

    def ready(call):
        if not made.get("started"):
            raise _failed("BAD_INPUT", f"{made['plugin'].name}: `{call}` before `start`")
        return made["plugin"]

    class Exported:
        """The contract's `packer`."""

        def start(self, limits):
            """Begins a stream."""
            ours = Limits(limits.capacity, limits.max_items_per_bin, limits.max_open_items)
            try:
                call(lambda: made["plugin"].start(ours))
            except ConfigError as error:
                raise _failed("BAD_CONFIG", f"{made['plugin'].name}: {error}") from None
            made["started"] = True

        def push(self, ctx, items):
            """Takes samples."""
            plugin, out = ready("push"), Packing()
            columns = {column.name: _decode(column, items.rows)[1] for column in items.columns}
            patches = columns.get("patches") or [0] * items.rows
            rows = zip(columns["id"], columns["length"], patches)
            # Ids cross as signed and come back as unsigned integers.
            call(lambda: plugin.push([Item(i & ((1 << 64) - 1), length, n or 0) for i, length, n in rows], out))
            return answer(out)

        def flush(self):
            """Ends the stream."""
            plugin, out = ready("flush"), Packing()
            call(lambda: plugin.flush(out))
            return answer(out)

        def save(self):
            """The state as bytes."""
            plugin = ready("save")
            return _save(plugin, call(plugin.state))

        def restore(self, state):
            """Continues from bytes."""
            _restore(ready("restore"), state)

    return (Exported,)


def _prompt_parts(made, _stateful):
    wit = _bindings("exports.prompt")

    def rendered(items):
        if items and isinstance(items[0], Segment):
            return wit.Rendered_Segments([wit.Segment(_piece("Piece", s.piece), s.train) for s in items])
        parts = [wit.Message(m.role, [_piece("Part", part) for part in m.parts], m.train) for m in items]
        return wit.Rendered_Conversation(parts)

    def _piece(family, piece):
        case, value = piece
        if not hasattr(wit, f"{family}_{case}"):
            raise Defect("a message holds text, images and videos; special tokens go into segments")
        return getattr(wit, f"{family}_{case}")(value)

    class Exported:
        """The contract's `prompt`."""

        def special_tokens(self):
            """Special tokens that segments use."""
            return list(made["plugin"].special_tokens)

        def stop_strings(self):
            """Strings that end an answer."""
            return list(made["plugin"].stop_strings)

        def render(self, ctx, mode, batch):
            """Renders a batch."""
            plugin, name = made["plugin"], mode.name.lower()
            items, errors, _ = _each(plugin, ctx, batch, lambda at, row: rendered(plugin.render(at, name, row)))
            return wit.Output([rendered([]) if item is None else item for item in items], errors)

    return (Exported,)


def _metric_parts(made, _stateful):
    wit = _bindings("exports.metric")

    def scored(ctx, batch, score):
        answers, errors, columns = _each(made["plugin"], ctx, batch, lambda at, row: score(at, row, made["state"]))
        asks = [wit.JudgeRequest(i, ask.messages) for i, ask in enumerate(answers) if isinstance(ask, Ask)]
        return wit.Scored(columns, errors, asks)

    class Exported:
        """The contract's `metric`."""

        def outputs(self):
            """The values that `finalize` gives."""
            return [wit.Info(i.name, i.higher_is_better, i.low, i.high, i.unit) for i in made["plugin"].outputs]

        def reset(self):
            """Forgets all rows."""
            made["state"] = call(made["plugin"].empty)

        def update(self, ctx, batch):
            """Scores a batch."""
            return scored(ctx, batch, made["plugin"].score)

        def judged(self, ctx, batch):
            """Scores a batch with the judge's answers."""
            return scored(ctx, batch, made["plugin"].judged)

        def save(self):
            """The state as bytes."""
            return _save(made["plugin"], made["state"])

        def merge(self, state):
            """Adds another's state."""
            other = _load(made["plugin"], state)
            call(lambda: made["plugin"].merge(made["state"], other))

        def finalize(self):
            """The values."""
            values = call(lambda: made["plugin"].finalize(made["state"]))
            return [wit.Value(v.name, v.value, v.count, v.stderr) for v in values]

    return (Exported,)
