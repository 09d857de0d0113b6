"""What a plugin's code sees of the data: declared columns, rows of values, a place in the stream, seeded randomness."""

import json
from dataclasses import dataclass

_MASK = (1 << 64) - 1


class RowError(Exception):
    """This row cannot be used; the others are good. Raise it with a message that says what was seen and what is allowed."""


class StateError(Exception):
    """A saved state does not fit. `restore` raises it."""


class Defect(Exception):
    """The plugin does what its declaration does not allow."""


@dataclass(frozen=True)
class Column:
    """A column that a plugin reads or writes. `optional()`: a host without it is fine, and rows have no value."""

    name: str
    type: str
    required: bool = True

    def optional(self):
        """The same column, where the host may be without it."""
        return Column(self.name, self.type, False)


def utf8(name):
    """A column of text (`str`)."""
    return Column(name, "utf8")


def bytes_(name):
    """A column of raw bytes."""
    return Column(name, "bytes")


def u8s(name):
    """A column of small integers, 0 to 255; booleans are 0 and 1."""
    return Column(name, "u8s")


def u32s(name):
    """A column of integers from 0 to 2**32 - 1."""
    return Column(name, "u32s")


def s64s(name):
    """A column of 64-bit integers."""
    return Column(name, "s64s")


def f32s(name):
    """A column of 32-bit floats, as scores are."""
    return Column(name, "f32s")


def f64s(name):
    """A column of 64-bit floats."""
    return Column(name, "f64s")


def u32_lists(name):
    """A column with a list of integers per row."""
    return Column(name, "u32-lists")


def f32_lists(name):
    """A column with a list of floats per row."""
    return Column(name, "f32-lists")


def checked(column, value):
    """`value` as the column's type takes it."""
    kind = column.type
    integers = {"u8s": (0, 255), "u32s": (0, 2**32 - 1), "s64s": (-(2**63), 2**63 - 1)}
    if value is None:
        return None
    if kind in integers and isinstance(value, int):
        low, high = integers[kind]
        if low <= value <= high:
            return int(value)
    elif kind in ("f32s", "f64s") and isinstance(value, (int, float)):
        return float(value)
    elif kind == "utf8" and isinstance(value, str):
        return value
    elif kind == "bytes" and isinstance(value, (bytes, bytearray)):
        return bytes(value)
    elif kind in ("u32-lists", "f32-lists") and isinstance(value, (list, tuple)):
        return list(value)
    raise Defect(f"the column `{column.name}` is {kind}, and a row set {value!r}")


class Row:
    """One row: `row["text"]` is its value of a column, None where it has none."""

    __slots__ = ("_columns", "index")

    def __init__(self, columns, index):
        self._columns = columns
        self.index = index

    def __getitem__(self, name):
        values = self._columns.get(name)
        if values is None:
            raise Defect(f"the column `{name}` was read, and `reads` does not name it")
        return values[self.index]

    def json(self, name):
        """The value of a text column as JSON, None where there is none. Raises `RowError` where it is no JSON."""
        value = self[name]
        if value is None:
            return None
        try:
            return json.loads(value)
        except ValueError as error:
            raise RowError(f"column `{name}` is not JSON: {error}") from None


def _mix(z):
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


class Rng:
    """A small deterministic generator (SplitMix64); the same values as the Rust SDK's for the same seed. Not for secrets."""

    def __init__(self, seed):
        self._state = seed & _MASK

    def next_u64(self):
        """Sixty-four even bits."""
        value = _mix(self._state)
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        return value

    def below(self, bound):
        """An even integer below `bound`; 0 for a bound of 0."""
        return (self.next_u64() * bound) >> 64

    def unit(self):
        """An even float in [0, 1)."""
        return (self.next_u64() >> 11) / (1 << 53)

    def shuffle(self, items):
        """Puts a list in random order."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


class Ctx:
    """What a row knows besides its columns: its place in the stream, its randomness, the values that it adds."""

    __slots__ = ("ordinal", "_run_seed", "_writes", "values")

    def __init__(self, run_seed, ordinal, writes):
        self.ordinal = ordinal
        self._run_seed = run_seed
        self._writes = writes
        self.values = {}

    def rng(self):
        """A generator seeded by the run and the row: the same whatever batch or worker the row comes in."""
        return Rng(_mix(self._run_seed ^ _mix(self.ordinal)))

    def set(self, name, value):
        """Adds this row's value of a column that `writes` names."""
        column = self._writes.get(name)
        if column is None:
            raise Defect(f"the column `{name}` was set, and `writes` names only {sorted(self._writes)}")
        self.values[name] = checked(column, value)
