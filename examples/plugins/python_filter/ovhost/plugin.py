"""The four kinds of plugin, and what their methods take and give."""

from dataclasses import dataclass

from .config import NoConfig
from .rows import RowError


class Plugin:
    """What all kinds have in common. Set these, and write `__init__(self, config, assets)`."""

    #: Name of the plugin: what a recipe says when a component holds several.
    name = ""
    #: One sentence for `ovhost-plugin inspect`.
    summary = ""
    #: Version, licence (SPDX) and home page of the component; those of the first plugin count.
    version = "0.1.0"
    license = "Apache-2.0"
    homepage = ""
    #: Columns that it reads; no other reaches it.
    reads = []
    #: Columns that its rows may set.
    writes = []
    #: Names of files that it wants whole when it is made.
    assets = []
    #: A dataclass of `option`s.
    config = NoConfig

    def __init__(self, config, assets):
        """Makes the plugin, once, before any data. Raise `ConfigError` (collect with `Findings`) for what is wrong."""


@dataclass(frozen=True)
class Verdict:
    """What becomes of a row: `KEEP`, or `drop(reason)`."""

    keep: bool
    reason: str = ""


#: The row goes on.
KEEP = Verdict(True)


def drop(reason):
    """The row is dropped. Drops are counted by reason, so put no value of the row into it."""
    return Verdict(False, reason)


class Filter(Plugin):
    """Keeps or drops rows."""

    def row(self, ctx, row):
        """`KEEP` or `drop(reason)`; raise `RowError` where the row cannot be judged. `ctx.set` adds a value."""
        raise NotImplementedError


class StatefulFilter(Filter):
    """A filter that remembers rows. Its manifest says `world = "stateful-filter-plugin"`."""

    def state(self):
        """What it remembers, as JSON (dicts with sorted keys come out; lists, numbers, strings)."""
        raise NotImplementedError

    def restore(self, state):
        """Continues from `state`. Raise `StateError` where it does not fit."""
        raise NotImplementedError


@dataclass(frozen=True)
class Item:
    """A sample: an id that is unique in the stream, its tokens, its vision patches (0 unless `reads` names `patches`)."""

    id: int
    length: int
    patches: int = 0


@dataclass(frozen=True)
class Limits:
    """Bounds of a bin: tokens, samples (0: any number), and how many samples may be held back (0: any number)."""

    capacity: int
    max_items: int = 0
    max_open: int = 0


class Packing:
    """Finished bins and given-up samples of one call."""

    def __init__(self):
        self.bins, self.dropped = [], []

    def bin(self, ids):
        """Adds a finished bin. An empty one is ignored."""
        ids = list(ids)
        if ids:
            self.bins.append(ids)

    def give_up(self, id_):
        """Gives a sample up; the host counts it as a reject."""
        self.dropped.append(id_)


class Packer(Plugin):
    """Groups samples into bins. Every sample pushed comes back exactly once: in a bin, or given up."""

    def start(self, limits):
        """Begins a stream and forgets any earlier one. Raise `ConfigError` where the limits cannot work."""
        raise NotImplementedError

    def push(self, items, out):
        """Takes samples, in order; finished bins go to `out.bin`."""
        raise NotImplementedError

    def flush(self, out):
        """The stream ends: gives the open samples, all or some; called again until none is open."""
        raise NotImplementedError

    def state(self):
        """The open samples and whatever else continues the stream exactly, as JSON."""
        raise NotImplementedError

    def restore(self, state):
        """Continues from `state`, in a started packer. Raise `StateError` where it does not fit."""
        raise NotImplementedError


def text(value):
    """A piece of text."""
    return ("Text", value)


def image(index):
    """The row's image of that index, from 0."""
    return ("Image", index)


def video(index):
    """The row's video of that index, from 0."""
    return ("Video", index)


def special(token):
    """One special token of the tokenizer; only in segments, and named by `special_tokens`."""
    return ("Special", token)


@dataclass(frozen=True)
class Message:
    """A turn of a conversation. `train`: the loss covers its content and the end of the turn."""

    role: str
    parts: list
    train: bool


@dataclass(frozen=True)
class Segment:
    """A stretch of finished input."""

    piece: tuple
    train: bool


def message(role, *parts, train=False):
    """A message of parts (`text`, `image`, `video`, or a plain string)."""
    return Message(role, [text(part) if isinstance(part, str) else part for part in parts], train)


def segment(piece, train=False):
    """A segment of `text`, `special`, `image`, `video`, or a plain string."""
    return Segment(text(piece) if isinstance(piece, str) else piece, train)


class Prompt(Plugin):
    """Turns a row into what the model reads."""

    #: Special tokens that its segments use.
    special_tokens = []
    #: Further strings that end an answer when the model generates.
    stop_strings = []

    def render(self, ctx, mode, row):
        """A list of messages, or a list of segments. `mode` is "train", or "generate": up to where the model is to answer."""
        raise NotImplementedError


@dataclass(frozen=True)
class Info:
    """A value that a metric gives: its range, and whether more is better."""

    name: str
    higher_is_better: bool = True
    low: float | None = 0.0
    high: float | None = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Value:
    """A value over `count` rows. Over no rows it is NaN, else finite."""

    name: str
    value: float
    count: int
    stderr: float | None = None


@dataclass(frozen=True)
class Ask:
    """A judge model must answer first."""

    messages: list


def ask_judge(*messages):
    """The score needs a judge: messages of (role, text). `judged` is called with its answer in the column `judgement`."""
    return Ask(list(messages))


class Metric(Plugin):
    """Scores answers. Its state is JSON that can be added to another's: prefer counts, which add up in any order."""

    #: The values that `finalize` gives.
    outputs = []

    def empty(self):
        """The state before any row."""
        raise NotImplementedError

    def score(self, ctx, row, state):
        """Adds a row to `state`; its own score goes to `ctx.set`. Raise `RowError` where it cannot be scored."""
        raise NotImplementedError

    def judged(self, ctx, row, state):
        """Adds a row with the judge's answer in the column `judgement`."""
        raise RowError("this metric asks no judge")

    def merge(self, state, other):
        """Adds `other` to `state`."""
        raise NotImplementedError

    def finalize(self, state):
        """The values of everything that was scored."""
        raise NotImplementedError
