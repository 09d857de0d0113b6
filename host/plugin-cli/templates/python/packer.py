"""{{name}}: puts each sample into the fullest open bin that has room for it (best fit).

A bin leaves when it is full, or when another sample needs a new bin and `open_bins` are open already; then the fullest goes.
"""

from dataclasses import dataclass

import ovhost


@dataclass
class Config:
    """What a recipe may say under `config`."""

    open_bins: int = ovhost.option(8, "Bins that are open at a time, at least 1. More fill better and hold more back.")


class {{Type}}(ovhost.Packer):
    """The plugin. A bin is a dict of its samples' `ids` and of the tokens `used`."""

    name = "{{name}}"
    summary = "Packs by best fit into a fixed number of open bins."
    config = Config

    def __init__(self, config, assets):
        findings = ovhost.Findings()
        findings.require(config.open_bins >= 1, "/open_bins", "must be at least 1")
        findings.finish()
        self.open_bins = config.open_bins

    def start(self, limits):
        self.limits, self.bins = limits, []

    def push(self, items, out):
        for item in items:
            self._place(item, out)
            # After every sample, not at the end of the call: bins must not depend on how the stream is cut into calls.
            while self.limits.max_open and sum(len(one["ids"]) for one in self.bins) > self.limits.max_open:
                self._close_fullest(out)

    def _place(self, item, out):
        room = [one for one in self.bins if one["used"] + item.length <= self.limits.capacity]
        if room:
            one = max(room, key=lambda one: one["used"])
        else:
            if len(self.bins) == self.open_bins:
                self._close_fullest(out)
            one = {"ids": [], "used": 0}
            self.bins.append(one)
        one["ids"].append(item.id)
        one["used"] += item.length
        if one["used"] == self.limits.capacity or len(one["ids"]) == self.limits.max_items:
            self.bins.remove(one)
            out.bin(one["ids"])

    def _close_fullest(self, out):
        one = max(self.bins, key=lambda one: one["used"])
        self.bins.remove(one)
        out.bin(one["ids"])

    def flush(self, out):
        for one in self.bins:
            out.bin(one["ids"])
        self.bins = []

    def state(self):
        return self.bins

    def restore(self, state):
        if any(one["used"] > self.limits.capacity for one in state):
            raise ovhost.StateError(f"the saved bins do not fit a capacity of {self.limits.capacity}")
        self.bins = state


Lifecycle, Packer = ovhost.export({{Type}})
