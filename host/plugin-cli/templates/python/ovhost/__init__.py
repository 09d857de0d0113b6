"""Write ovhost plugins in Python: rows and values instead of columns and offsets.

    host -- columns --> export(...) --> Row --> your class (Filter, Packer, Prompt or Metric)
         <- columns --             <-- keep / drop(reason), bins, messages, scores

A plugin is a class that says what it reads and does its work row by row; `export` makes of it what the component exports.
The same class runs without a component through `try_filter`, `try_packer`, `try_prompt`, `try_metric`: use them in unit tests.

A component has no files, no clock, no network and no randomness but `ctx.rng()`, so

* import modules at the top of a file: they are read when the component is built, and cannot be read later;
* never let the order of a `set` reach an answer: its hash seed is drawn when the component is built;
* `print` writes a line to the host's log.

This package is part of ovhost and the same in every project; `ovhost-plugin doctor --update-sdk` brings the present one.
"""

from .component import export
from .config import ConfigError, Findings, option
from .log import info, warn
from .plugin import (
    KEEP, Filter, Info, Item, Limits, Message, Metric, Packer, Packing, Plugin, Prompt, Segment, StatefulFilter, Value, Verdict,
    ask_judge, drop, image, message, segment, special, text, video,
)
from .rows import (
    Column, Ctx, Rng, Row, RowError, StateError, bytes_, f32_lists, f32s, f64s, s64s, u8s, u32_lists, u32s, utf8,
)
from .testing import Answered, try_filter, try_metric, try_packer, try_prompt
