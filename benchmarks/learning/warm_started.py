"""A program of examples/ in which each graph starts from the one before it, for the ablation.

python benchmarks/learning/warm_started.py PROGRAM.py ARGUMENTS

The sampler does not offer this: its state would have to hold the graph before. So such a run cannot be taken up again.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import batchsampler_ext


class WarmStartedSampler(batchsampler_ext.ProximityBatchSampler):
    _graph_before: batchsampler_ext.ProximityGraph | None = None

    def _request(self, *args: Any) -> Any:
        request = super()._request(*args)
        return request._replace(graph_options={**request.graph_options, "warm_start": self._graph_before})

    def _take(self, made: Any, seconds_waited: float) -> Any:
        self._graph_before = made.graph
        return super()._take(made, seconds_waited)


if __name__ == "__main__":
    batchsampler_ext.ProximityBatchSampler = WarmStartedSampler  # type: ignore[misc]  # what the program imports
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
