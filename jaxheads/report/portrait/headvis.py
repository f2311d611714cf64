"""A portrait in the open directory format of HeadVis (Luger, Kamath et al. 2026), which its page and Neuronpedia read.

    config.json                     what there is
    scatter_data.json               a row of numbers for each head
    heads/L5H1.json                 sampled texts of one head
    server_config.json              empty: there is no server
    attributions/manifest.json      empty

The format is that of the docstrings of HeadVis's `data_pipeline.py`; texts are those of `jaxheads.samples`, the top and
some of five ranges of scores, as Neuronpedia's `compute-head-metrics.py` has them. Numbers are the atlas's, under
HeadVis's names where it has them: theirs count a query that follows its own copy ("A A") as induction, and the first
row in entropy and distance.

Dimension key: L layers, N heads, T positions.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_atomically
from ...measure.sampling.answer import HeadSample, Samples
from .portrait import Portrait
from .words_of_numbers import meaning_of

LEAST_WEIGHT = 0.005
"""Smallest weight that is kept."""

DISTANCES = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
"""Edges of the bins of distances between query and key."""

RANKED = 50
"""Tokens of each side."""

NAMES = {
    "self_token": "self_attention_score",
    "previous_token": "previous_token_score",
    "entropy": "pattern_entropy",
    "distance": "qk_distance",
    "induction": "induction_score",
}
"""HeadVis's names of metrics that the atlas has."""


def write_headvis(portrait: Portrait, directory: str | os.PathLike[str]) -> list[Path]:
    """Write the directory that HeadVis reads as its `data/`, and return the files' paths.

    Raises:
        ValueError: for a portrait without texts: of images, of recordings, or of cross-attention.
        OSError: for a file that can't be written.
    """
    sampled = portrait.samples
    if sampled is None:
        raise ValueError(
            f"HeadVis shows heads on texts; the {portrait.stack} of {portrait.model} reads others: its page has them"
        )
    folder, table = Path(directory), portrait.tables.table
    grids = {NAMES.get(name, name): table.grid(name).astype(float) for name in table.metrics}
    if "previous_token" in table.metrics:  # Neuronpedia's name
        grids["prev_token_score"] = grids["previous_token_score"]
    scatter = [
        {"layer": layer, "head": head} | {name: _number(grid[layer, head]) for name, grid in grids.items()}
        for layer, head in sampled.samples
    ]
    files: dict[str, Any] = {
        "config.json": _config(portrait, sampled),
        "scatter_data.json": scatter,
        "server_config.json": {},
        "attributions/manifest.json": {},
    }
    for layer, head in sampled.samples:
        files[f"heads/L{layer}H{head}.json"] = _head(sampled, layer, head)
    return [write_atomically(folder / name, f"{json.dumps(content)}\n".encode()) for name, content in files.items()]


def _sequence(sampled: Samples, sample: HeadSample, buckets: int) -> dict[str, Any]:
    assert sample.queries is not None, "the stack reads tokens"
    length = len(sample.queries)
    kept = (sample.top_keys >= 0) & (sample.top_weights >= LEAST_WEIGHT)
    indices = (np.arange(length)[:, None] * length + sample.top_keys)[kept]
    order = np.argsort(indices)
    return {
        "sequence_id": sample.example,
        "interval": buckets if sample.kind == "top" else 1 + int(sample.kind.split()[1]),
        "tokens": sampled.words(sample.queries),
        "attention_indices": indices[order].tolist(),
        "attention_values": np.round(sample.top_weights[kept][order].astype(np.float64), 4).tolist(),
        "seq_len": length,
        "max_activation": _number(sample.score),
    }


def _head(sampled: Samples, layer: int, head: int) -> dict[str, Any]:
    sequences = [_sequence(sampled, own, sampled.provenance["buckets"]) for own in sampled.samples[layer, head]]
    by_distance = np.zeros(len(DISTANCES) - 1)
    by_token: dict[str, Counter[str]] = {"query": Counter(), "key": Counter()}
    for sequence in sequences:
        query, key = np.divmod(np.array(sequence["attention_indices"], int), sequence["seq_len"])
        values = np.array(sequence["attention_values"])
        by_distance += np.histogram(np.abs(query - key), DISTANCES, weights=values)[0]
        for side, places in (("query", query), ("key", key)):
            for place, value in zip(places.tolist(), values.tolist(), strict=True):
                by_token[side][sequence["tokens"][place]] += value
    counts = sampled.weights[layer, head]
    return {
        "sequences": sequences,
        "qk_distance_histogram": {"bin_edges": DISTANCES, "bin_values": np.round(by_distance, 4).tolist()},
        **{
            f"top_{side}_tokens": [
                {"token": token, "weight": round(weight, 4)} for token, weight in own.most_common(RANKED)
            ]
            for side, own in by_token.items()
        },
        "histogram": {"bin_edges": np.linspace(0, 1, len(counts) + 1).round(4).tolist(), "bin_values": counts.tolist()},
        "statistics": {"n_samples": len(sequences), "n_texts": sampled.examples},
    }


def _config(portrait: Portrait, sampled: Samples) -> dict[str, Any]:
    (layers, heads), about = portrait.shape, portrait.tables.table.provenance
    described = {NAMES.get(name, name): meaning_of(name, about["ablations"]) for name in portrait.tables.table.metrics}
    return {
        "model_name": portrait.model,
        "dataset_name": about["text"],
        "heads": [[layer, head] for layer in range(layers) for head in range(heads)],
        "n_layers": layers,
        "n_heads": heads,
        "n_intervals": sampled.provenance["buckets"],
        "metrics": list(described),
        "metric_descriptions": described,
        "head_data_pattern": "L{layer}H{head}.json",
        "has_umap": False,
        "umap_heads": [],
        "custom_plots": [
            {"key": "qk_distance_histogram", "label": "Q-K distance"},
            {"key": "histogram", "label": "Largest weight of each query"},
        ],
        "custom_tables": [
            {"key": "top_query_tokens", "label": "Top query tokens"},
            {"key": "top_key_tokens", "label": "Top key tokens"},
        ],
        "statistics_display": {
            "n_samples": {"label": "Texts shown", "format": "default"},
            "n_texts": {"label": "Texts that they were chosen from", "format": "default"},
        },
        "pipeline_config": {
            "model_name": portrait.model,
            "dataset_name": about["text"],
            "n_sequences": sampled.examples,
            "weights": about["weights"],
            "versions": about["versions"],
        },
    }


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
