"""Lines to the host's log, and words in the place of traps: what a component cannot do is said, not only refused."""

import builtins
import sys

from .config import ConfigError
from .rows import Defect, RowError, StateError

try:
    from componentize_py_types import Err
    from wit_world.imports import log as _log
except ModuleNotFoundError:
    # A unit test.
    Err, _log = None, None


def in_unit_test():
    """Whether this is no component."""
    return _log is None


def _line(level, words):
    if _log is None:
        builtins.print(f"{level}:", *words, file=sys.stderr)
    else:
        _log.log(getattr(_log.Level, level), " ".join(str(word) for word in words), [])


def info(*words):
    """A line that belongs in every run's log."""
    _line("INFO", words)


def warn(*words):
    """A line that the user should act on."""
    _line("WARN", words)


class _Lines:
    """Standard output and error of a component: lines of the host's log."""

    def __init__(self, say):
        self._say, self._held = say, ""

    def write(self, some):
        *lines, self._held = (self._held + some).split("\n")
        for line in lines:
            self._say(line)
        return len(some)

    def flush(self):
        """Lines go out when they end."""


class _NoMoreImports:
    """The last finder: says what a component cannot do, instead of a trap without a word."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """No module can be found any more."""
        raise ImportError(f"`import {name}` comes too late: a component has no files; import it at the top of a module")


def _refuse(name):
    def refused(*_args, **_named):
        raise Defect(f"{name} is not for plugins: answers must not depend on time or chance; use ctx.rng() for randomness")

    return refused


def seal():
    """Puts words in the place of traps, once, before the first call."""
    if isinstance(sys.stdout, _Lines):
        return
    sys.stdout, sys.stderr = _Lines(info), _Lines(warn)
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"] + [_NoMoreImports]
    for module, names in {
        "time": ["time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"],
        "random": ["random", "randint", "randrange", "choice", "choices", "sample", "shuffle", "uniform", "gauss", "getrandbits"],
    }.items():
        if module in sys.modules:
            for name in names:
                setattr(sys.modules[module], name, _refuse(f"{module}.{name}"))


def _where(error):
    """The innermost place of the project's own code, without reading any file."""
    at, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/ovhost/" not in code.co_filename or not at:
            at = f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return at


def defect(error, row=None):
    """Tells the host what the plugin raised without meaning to; the trap that follows has no text of its own."""
    if isinstance(sys.stderr, _Lines):
        # The interpreter prints a traceback when it ends, and has no files to read the lines of.
        sys.stderr = _Lines(lambda line: None)
    place = _where(error) if row is None else f"{_where(error)}, row {row} of the batch"
    _line("ERROR", [f"{type(error).__name__}: {error} ({place})"])


def call(function):
    """Runs code of the plugin. What it raises without meaning to is a defect: the host shows it, and the instance ends."""
    seal()
    try:
        return function()
    except (Err, ConfigError, RowError, StateError):
        raise
    except Exception as error:
        defect(error)
        raise
