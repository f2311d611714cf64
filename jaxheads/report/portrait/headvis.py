"""A portrait in the open directory format of HeadVis (Luger, Kamath et al. 2026), which its page and Neuronpedia read.

    config.json                     what there is
    scatter_data.json               a row of numbers for each head
    heads/L5H1.json                 sampled texts of one head
    server_config.json              empty: there is no server
    attributions/manifest.json      empty

The format is that of the docstrings of HeadVis's `data_pipeline.py`. Sums, sampling and names are those of
Neuronpedia's `compute-head-metrics.py`, but for its warm-up: buckets have the quantiles of all texts. HeadVis's
induction score counts the query itself where it follows its own copy ("A A"), and its entropy and distance count the
first row: read them beside jaxheads's own numbers, which are further columns of the scatter.

Dimension key: L layers, N heads, T positions, K kept keys.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write_atomically
from .portrait import Portrait
from .strongest_keys import Text
from .words_of_numbers import meaning_of

BUCKETS, OF_BUCKET, OF_TOP = 5, 3, 10
"""Buckets of equal frequency of the largest weight, and texts of each and of the highest."""

LEAST_WEIGHT = 0.005
"""Smallest weight that is kept."""

DISTANCES = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
"""Edges of the bins of distances between query and key."""

BINS, RANKED = 20, 50
"""Bins of the largest weights of all texts, and tokens of each side."""

METRICS = {
    "self_attention_score": "Mean attention to the same token.",
    "previous_token_score": "Mean attention to the token before.",
    "pattern_entropy": "Mean entropy of a row of the pattern, in nats.",
    "qk_distance": "Mean distance of query and key, weighted by attention.",
    "qk_distance_variance": "Variance of that distance.",
    "induction_score": "Mean attention to the tokens after earlier copies of the query's token.",
}
"""HeadVis's metrics, in words."""


def write_headvis(portrait: Portrait, directory: str | os.PathLike[str], seed: int = 0) -> list[Path]:
    """Write the directory that HeadVis reads as its `data/`, and return the files' paths.

    Args:
        seed: of the texts that are drawn from the lower buckets.

    Raises:
        ValueError: for a portrait without texts: of images, of recordings, or of cross-attention.
        OSError: for a file that can't be written.
    """
    if not portrait.texts:
        raise ValueError(
            f"HeadVis shows heads on texts; the {portrait.stack} of {portrait.model} reads others: its page has them"
        )
    folder, (layers, heads) = Path(directory), portrait.shape
    own = {name: portrait.tables.table.grid(name).astype(float) for name in portrait.tables.table.metrics}
    metrics = headvis_metrics(portrait.texts)
    scatter = [
        {"layer": layer, "head": head}
        | {name: _number(grid[layer, head]) for name, grid in (own | metrics).items()}
        # Neuronpedia's name of the same number.
        | {"prev_token_score": _number(metrics["previous_token_score"][layer, head])}
        for layer in range(layers)
        for head in range(heads)
    ]
    largest = np.stack([_largest(text) for text in portrait.texts])
    rng = np.random.default_rng(seed)
    files: dict[str, Any] = {
        "config.json": _config(portrait, list(own)),
        "scatter_data.json": scatter,
        "server_config.json": {},
        "attributions/manifest.json": {},
    }
    for layer in range(layers):
        for head in range(heads):
            sampled = sample(largest[:, layer, head], rng)
            files[f"heads/L{layer}H{head}.json"] = _head(portrait.texts, sampled, layer, head, largest[:, layer, head])
    return [write_atomically(folder / name, f"{json.dumps(content)}\n".encode()) for name, content in files.items()]


def headvis_metrics(texts: Sequence[Text]) -> dict[str, np.ndarray]:
    """Return HeadVis's six metrics of every head, `[L,N]` each; NaN where nothing could be counted."""
    sums: dict[str, np.ndarray] = {
        name: np.asarray(sum(text.sums[name].astype(np.float64) for text in texts)) for name in texts[0].sums
    }
    positions, repeats = float(sums["positions"]), float(sums["repeats"])
    distance = sums["qk_distance"] / positions
    previous = sums["prev_token_score"] / max(1.0, positions - len(texts))
    unknown = np.full_like(distance, np.nan)
    return {
        "self_attention_score": sums["self_attention_score"] / positions,
        "previous_token_score": previous,
        "pattern_entropy": sums["pattern_entropy"] / positions,
        "qk_distance": distance,
        "qk_distance_variance": sums["qk_distance_variance"] / positions - distance**2,
        "induction_score": sums["induction_score"] / repeats if repeats else unknown,
    }


def sample(largest: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return (bucket from 1, number of a text) of the texts of one head: the top of the highest bucket, some of others.

    Args:
        largest: the head's largest weight in each text.
    """
    edges = np.quantile(largest, np.linspace(0, 1, BUCKETS + 1)[1:-1])
    bucket = 1 + np.searchsorted(edges, largest, side="right")
    sampled = []
    for number in range(BUCKETS, 0, -1):
        inside = np.flatnonzero(bucket == number)
        if number == BUCKETS:
            chosen = inside[np.argsort(-largest[inside], kind="stable")][:OF_TOP]
        else:
            chosen = rng.permutation(inside)[:OF_BUCKET]
        sampled += [(number, int(text)) for text in chosen]
    return sampled


def _largest(text: Text) -> np.ndarray:
    """Return the largest weight outside the first row and column of each head, `[L,N]`."""
    inside = np.where(text.keys > 0, text.weights, np.float16(0))[:, :, 1:]
    return inside.max(axis=(2, 3), initial=0).astype(np.float64)


def _sequence(text: Text, number: int, bucket: int, layer: int, head: int, largest: float) -> dict[str, Any]:
    weights, keys = text.weights[layer, head].astype(np.float64), text.keys[layer, head].astype(int)
    length = len(text.tokens)
    kept = weights >= LEAST_WEIGHT
    indices = (np.arange(length)[:, None] * length + keys)[kept]
    order = np.argsort(indices)
    return {
        "sequence_id": number,
        "interval": bucket,
        "tokens": text.tokens,
        "attention_indices": indices[order].tolist(),
        "attention_values": np.round(weights[kept][order], 4).tolist(),
        "seq_len": length,
        "max_activation": _number(largest),
    }


def _head(
    texts: Sequence[Text], sampled: Sequence[tuple[int, int]], layer: int, head: int, largest: np.ndarray
) -> dict[str, Any]:
    sequences = [
        _sequence(texts[number], number, bucket, layer, head, float(largest[number])) for bucket, number in sampled
    ]
    by_distance = np.zeros(len(DISTANCES) - 1)
    by_token: dict[str, Counter[str]] = {"query": Counter(), "key": Counter()}
    for sequence in sequences:
        query, key = np.divmod(np.array(sequence["attention_indices"], int), sequence["seq_len"])
        values = np.array(sequence["attention_values"])
        by_distance += np.histogram(np.abs(query - key), DISTANCES, weights=values)[0]
        for side, places in (("query", query), ("key", key)):
            for place, value in zip(places.tolist(), values.tolist(), strict=True):
                by_token[side][sequence["tokens"][place]] += value
    counts, edges = np.histogram(largest, BINS, (0, 1))
    return {
        "sequences": sequences,
        "qk_distance_histogram": {"bin_edges": DISTANCES, "bin_values": np.round(by_distance, 4).tolist()},
        **{
            f"top_{side}_tokens": [
                {"token": token, "weight": round(weight, 4)} for token, weight in own.most_common(RANKED)
            ]
            for side, own in by_token.items()
        },
        "histogram": {"bin_edges": np.round(edges, 4).tolist(), "bin_values": counts.tolist()},
        "statistics": {"n_samples": len(sequences), "mean_max_activation": _number(largest.mean())},
    }


def _config(portrait: Portrait, own: Sequence[str]) -> dict[str, Any]:
    (layers, heads), about = portrait.shape, portrait.tables.table.provenance
    return {
        "model_name": portrait.model,
        "dataset_name": about["text"],
        "heads": [[layer, head] for layer in range(layers) for head in range(heads)],
        "n_layers": layers,
        "n_heads": heads,
        "n_intervals": BUCKETS,
        "metrics": [*METRICS, *own],
        "metric_descriptions": {**METRICS, **{name: meaning_of(name, about["ablations"]) for name in own}},
        "head_data_pattern": "L{layer}H{head}.json",
        "has_umap": False,
        "umap_heads": [],
        "custom_plots": [
            {"key": "qk_distance_histogram", "label": "Q-K distance"},
            {"key": "histogram", "label": "Largest weight of each text"},
        ],
        "custom_tables": [
            {"key": "top_query_tokens", "label": "Top query tokens"},
            {"key": "top_key_tokens", "label": "Top key tokens"},
        ],
        "statistics_display": {
            "n_samples": {"label": "Texts shown", "format": "default"},
            "mean_max_activation": {"label": "Mean largest weight", "format": "default"},
        },
        "pipeline_config": {
            "model_name": portrait.model,
            "dataset_name": about["text"],
            "n_sequences": len(portrait.texts),
            "weights": about["weights"],
            "versions": about["versions"],
        },
    }


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
