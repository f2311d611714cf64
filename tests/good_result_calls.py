"""Good calls of what answers are made of, and of what shows them; see `tests/good_calls.py`."""

from typing import Any

import numpy as np

import jaxheads as jh

from .good_values import batch, circuit, grouped, model, moments, table

STEPS, CURVE = np.arange(8), np.linspace(0, 1, 8)


def lens() -> jh.JacobianLens:
    return jh.jacobian_lens(model(), batch(), skip=0)


RESULT_CALLS: dict[str, dict[str, Any]] = {
    # pictures
    "Panel.save": {"self": lambda: table().plot(), "path": "heads.png"},
    "Picture.save": {"self": lambda: table().plot().picture, "path": "heads.svg"},
    "color": {"number": 1},
    "draw_runs": {"ax": lambda: jh.plots.panels(1, (2.0, 2.0))[1][0], "at": STEPS, "values": CURVE, "label": "loss"},
    "evolution": {"steps": STEPS, "curves": {"loss": CURVE}},
    "heatmap": {"grid": np.eye(2)},
    "intervals": {"frame": lambda: table().top()},
    "panels": {"count": 2, "size": (3.0, 2.0)},
    # lenses
    "JacobianLens.head": {"self": lambda: lens(), "layer": 0, "head": 1},
    "JacobianLens.read": {"self": lambda: lens(), "layer": 0, "vector": np.ones(16)},
    # views
    "Projections.view": {"self": lambda: jh.projection_kernel(model())},
    "Circuit.view": {"self": circuit},
    "Composition.view": {"self": lambda: jh.Composition({"q": np.ones((2, 2, 2, 2))}, 0.1, (0.1, 0.1), "decoder", 0)},
    "HeadTable.view": {"self": table},
    "Relevance.view": {
        "self": lambda: jh.Relevance("gradient", {"decoder": np.eye(2, dtype=np.float32)}, None, None, {}, {})
    },
    "Run.view": {"self": lambda: jh.run(model(), batch(), "pattern")},
    "Trace.view": {"self": lambda: jh.train.Trace(STEPS, {"a": np.ones((8, 1, 2, 2))})},
    "View.save": {"self": lambda: jh.view.heatmap({"a": np.eye(2)}), "path": "heads.html"},
    "view.attention": {"patterns": np.eye(2), "tokens": ["a", "b"], "keys": ["a", "b"], "heads": [(0, 0)]},
    "view.curves": {"x": STEPS, "lines": {"a": CURVE}},
    "view.document": {"title": "a", "payloads": lambda: [jh.view.heatmap({"a": np.eye(2)}).payload]},
    "view.evolution": {"steps": STEPS, "curves": {"a": CURVE}},
    "view.graph": {"nodes": [{"name": "a", "row": 0}, {"name": "b", "row": 1}], "edges": [[0, 1]], "values": [1.0]},
    "view.heatmap": {"metrics": {"a": np.eye(2)}},
    "view.matrix": {"values": np.eye(2)},
    "view.packed": {"array": np.eye(2)},
    "view.scatter": {"metrics": {"a": np.eye(2), "b": np.eye(2)}},
    "view.tokens": {"texts": [["a", "b"]], "values": [[0.5, 1.0]]},
    # tables
    "HeadTable.from_columns": {"name": "a", "stack": "decoder", "columns": lambda: {"a": jh.tables.Column(np.eye(2))}},
    "HeadTable.range_of": {"self": table, "metric": "score"},
    "HeadTable.grid": {"self": table, "column": "score"},
    "HeadTable.top": {"self": table},
    "HeadTable.plot": {"self": table},
    "HeadTable.save": {"self": table, "directory": "no-such-directory"},
    "Run.load": {"path": "no-such-run"},
    "HeadTable.load": {"path": "no-such-table"},
    "Column": {"mean": np.eye(2)},
    "footnote": {"frame": lambda: table().frame},
    "marked": {"frame": lambda: table().frame},
    "marked_count": {"n": 3},
    "grid_index": {"stack": "decoder", "shape": (2, 2), "axes": ("layer", "head")},
    # statistics
    "GroupedRows": {},
    "GroupedRows.add": {"self": jh.statistics.GroupedRows, "values": np.ones((3, 2))},
    "GroupedRows.interval": {"self": lambda: grouped()},
    "Moments.add": {"self": jh.statistics.Moments, "values": np.ones((3, 2))},
    "Moments.merge": {"self": jh.statistics.Moments, "other": jh.statistics.Moments},
    "Moments.interval": {"self": lambda: moments()},
    "analysis_of_variance": {"values": np.arange(8.0).reshape(2, 2, 2), "factors": ["a", "b"]},
    "check_level": {"level": 0.95},
    "false_discovery": {"p_values": [0.1, 0.2]},
    "jackknife_interval": {
        "statistic": lambda: lambda means: means,
        "rows": lambda: jh.statistics.rows_of(np.arange(4.0)),
    },
    "mean_interval": {"values": np.arange(4.0)},
    "mean_p_values": {"values": np.arange(4.0)},
    "paired_p_values": {"scores": np.arange(4.0), "null": np.ones(4)},
    "partial_rank_correlation": {"first": np.arange(4.0), "second": np.arange(4.0)},
    "rank_correlation": {"first": np.arange(4.0), "second": np.arange(4.0)},
    "ratio_interval": {"values": np.arange(4.0), "whole": np.arange(1.0, 5)},
    "rows_of": {"values": np.arange(4.0)},
    "seed_effect": {"values": np.arange(6.0).reshape(2, 3)},
    "split_halves": {"count": 8, "seed": 0},
    "t_mean": {"values": np.arange(4.0)},
    "wilson": {"values": np.arange(4) % 2},
}
