"""One good call of every public function that takes arguments, and the kind of each argument.

`tests/test_wrong_input.py` replaces one argument at a time by what is not of its kind.
"""

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxheads as jh
from jaxheads.data import tasks

from .good_result_calls import RESULT_CALLS
from .good_sentence_calls import SENTENCE_CALLS
from .good_values import (
    CONFIG,
    E,
    T,
    Words,
    attributed,
    bart,
    batch,
    circuit,
    clip,
    contrasted,
    edges,
    model,
    other,
    repeated,
    sample,
    sampled,
    scores,
    small_network,
    table,
    task,
    training,
)
from .good_writing_calls import WRITING_CALLS

RESULTS = set(
    """
    Backdrop
    Circuit
    Composition
    ContextScore
    ContrastCovariance
    DirectParts
    Example
    Factored
    Faithfulness
    FaithfulnessCurve
    FewShot
    FoundCircuits
    FunctionVectors
    HeadPairs
    HeadTable
    IOIPrompts
    JacobianLens
    Interval
    Moments
    NeedlePrompts
    Panel
    Parse
    Picture
    Projections
    QKAttribution
    Relevance
    RepeatedTokens
    Rows
    Run
    Sample
    Samples
    SeedEffect
    Specialisation
    Spoken
    Steering
    TextSpan
    TokenPairs
    Tokens
    Trace
    Trained
    View
    WordPattern
    Writing
    """.split()
)
"""Classes of answers, whose constructors users don't call."""

INTERNAL = {
    *("Network", "Objective", "Task", "Model", "SiteEdit", "Batch", "plan", "rehearse", "SiteEdit.apply"),
    "Batch.tree_unflatten",
    "Sampling.drawn",
    *("Link", "Sentence", "Sentences", "MinimalPairs"),
    *(
        "Example.raw_mark",
        "Example.query_mark",
        "Example.mark",
        "Example.neighbours",
        "Example.key_neighbours",
        "Example.to_sink",
        "Panel.set",
        "Picture.set",
        "Objective.reads",
        "Objective.value",
        "Task.sample",
    ),
}
"""Protocols, what only metrics and networks call, and the constructors that have tests of their own."""


def few() -> tasks.FewExamples:
    return tasks.FewExamples(tasks.Agreement(), 4)


def is_internal(name: str) -> bool:
    """Whether a test of its own, or none, is due to a public name that takes arguments."""
    own, _, method = name.partition(".")
    return (
        name in RESULTS | INTERNAL
        or own == "Network"
        or (method in ("draw", "tagged", "chain") or name == "Task.sample")
    )


def public() -> Iterator[tuple[str, Any]]:
    """Yield every public function, class and method that takes arguments, by name."""
    parts = (jh.circuits, jh.data, jh.evidence, jh.patterns, jh.plots, jh.statistics, jh.tables, jh.train, jh.weights)
    rooms = (jh, *parts, tasks, jh.view)
    seen = set()
    for room in rooms:
        for name in room.__all__:
            value = getattr(room, name)
            if isinstance(value, ModuleType) or not callable(value) or id(value) in seen:
                continue
            seen.add(id(value))
            # Views have the names of still pictures.
            yield (f"view.{name}" if room is jh.view and not inspect.isclass(value) else name), value
            if inspect.isclass(value):
                yield from ((f"{name}.{method}", getattr(value, method)) for method in vars(value) if method[0] != "_")


def made(value: Any) -> Any:
    """A value, or what a function or class without required arguments makes."""
    if not callable(value) or isinstance(value, jh.Model):
        return value
    parameters = inspect.signature(value).parameters.values()
    return value if any(own.default is own.empty and own.kind < own.VAR_POSITIONAL for own in parameters) else value()


def names_of(function: Any) -> list[str]:
    """The arguments that a function takes by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a property, a constant
        return []
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [name for name, own in parameters.items() if name != "self" and own.kind not in variable]


ASKED = {"model": model, "batch": batch, "objective": jh.loss}
PAIR = {"model": model, "clean": batch, "corrupt": other, "objective": jh.loss}
HEADS = [(0, 0), (1, 1)]
STEPS, CURVE = np.arange(8), np.linspace(0, 1, 8)

CALLS: dict[str, dict[str, Any]] = {
    # a model, its inputs, one run
    "Batch.only": {"self": batch, "kind": "tokens"},
    "Batch.marked": {"self": batch, "marks": {"noun": np.ones((E, T))}},
    "Batch.clustered": {"self": batch, "clusters": [0, 0, 1, 1]},
    "Batch.take": {"self": batch, "examples": [0, 1]},
    "Model.stack": {"self": model},
    "Model.site": {"self": model, "name": "z"},
    "Model.encode": {"self": model, "inputs": "a text"},
    "Model.check": {"self": model, "batch": batch},
    "Model.running_streams": {"self": model, "batch": batch},
    "Model.check_runs": {"self": model, "stack": lambda: model().stack(), "batch": batch},
    "Model.with_parameters": {"self": model, "parameters": lambda: nnx.state(model().network)},
    "adopt": {"config": CONFIG, "parameters": lambda: nnx.state(model().network)},
    "by_hand": {"embed": np.eye(3), "layers": [], "unembed": np.eye(3)},
    "fold_norms": {"model": model},
    "init": {"config": CONFIG},
    "load": {"source": "no-such-model"},
    "Run.save": {"self": lambda: jh.Run(jnp.ones(2), {}), "path": "no-such-run"},
    "Run.top": {"self": lambda: jh.run(model(), batch())},
    "run": {"model": model, "batch": batch},
    "placement": {"model": model},
    "shard": {"model": model, "mesh": lambda: jax.sharding.Mesh(np.array(jax.devices()[:1]), ("model",))},
    "to_hf": {"model": model, "directory": "no-such-directory"},
    "to_orbax": {"model": model, "directory": "no-such-directory"},
    "zero_shot": {"model": clip, "classes": lambda: jh.Batch([[0, 2, 1]])},
    "random_weights": {"model": model, "seed": 0},
    # edits
    "freeze": {"model": model, "site": "z", "values": np.zeros((2, E, T, 2, 8))},
    "gate": {"model": model, "gates_LN": np.ones((2, 2))},
    "mix": {"model": model, "site": "z", "source": np.zeros((1, 1, 1, 1)), "layers": 0, "batch": batch},
    "steer": {"model": model, "site": "z", "vector": np.zeros((1, 1, 1, 1)), "layers": 0, "batch": batch},
    "patch_heads": {"model": model, "heads": HEADS, "seen": lambda: {"z": jnp.zeros((2, E, T, 2, 8))}},
    "replace_heads": {"model": model, "heads": HEADS, "values": np.zeros((2, 1, 1, 1, 1))},
    "zero_heads": {"model": model, "heads": HEADS},
    # patterns and roles
    "Evidence": {"role": "a", "scores": scores, "null": scores, "null_kind": "random"},
    "Evidence.from_tables": {"scores": table, "null": table, "null_kind": "random"},
    "ByRows": {"rows": lambda pattern_TS, example: (pattern_TS.sum(), example.mask.sum(dtype=jnp.float32))},
    "Metric": {"name": "own", "function": lambda pattern_TS, example: (pattern_TS[0, 0], True)},
    "Metric.variant": {"self": lambda: jh.METRICS["induction"], "name": "other"},
    "compare_heads": {"model": model, "batch": batch},
    "head_detector": {"role": "duplicate_token_head"},
    "held_out": {"table": table},
    "icl_score": {"model": model, "batch": batch, "early": 1, "late": 3},
    "marked_share": {"mark": "noun"},
    "measure": {"model": model, "batch": batch},
    "measure_patterns": {"patterns": np.full((2, E, 2, T, T), 1 / T)},
    "name_heads": {"evidence": lambda: [jh.Evidence("a", scores(), scores(1), "random")]},
    "pool_words": {"pattern_LBNTS": np.full((2, E, 2, T, T), 1 / T), "batch": batch},
    "register": {"metric": lambda: jh.METRICS["induction"].variant("registered")},
    "resolve": {"metrics": "induction"},
    "retrieval": {"needle": "noun", "answer": "noun"},
    "samples": {"model": model, "batch": batch},
    **{f"Samples.{name}": {"self": sampled, "layer": 0, "head": 0} for name in ("of", "texts", "tokens", "components")},
    "Samples.view": {"self": sampled, "layer": 0, "head": 0},
    "Samples.save": {"self": sampled, "path": "no-such-samples"},
    "Samples.load": {"path": "no-such-samples"},
    "Samples.words": {"self": sampled, "ids": np.arange(3)},
    "shuffled_marks": {"batch": batch, "seed": 0},
    "specialisation": {
        "scores": lambda: {"a": scores(), "b": scores(1)},
        "nulls": lambda: {"a": [scores(2), scores(3)], "b": [scores(4), scores(5)]},
    },
    "text_span": {"outputs": np.eye(4), "texts": np.eye(4), "count": 2},
    "token_class": {"mark": "noun"},
    "variability": {"model": model, "batch": batch},
    "with_intervals": {"table": table, "kind": "t"},
    "alignment_error_rate": {
        "model": bart,
        "batch": lambda: jh.Batch([[2, 3]], targets=[[0, 3]]),
        "sure": np.eye(2)[None],
    },
    "attention_to": {"pattern_TS": np.eye(3), "target_TS": np.eye(3, dtype=bool)},
    "attention_sums": {"pattern_TS": np.eye(3), "target_TS": np.eye(3, dtype=bool)},
    "mean_sums": {"values_T": np.ones(3), "counts_T": np.ones(3, bool)},
    "mean": {"values_T": np.ones(3), "counts_T": np.ones(3, bool)},
    "evaluate": {
        "metrics": lambda: [jh.METRICS["induction"]],
        "pattern_BNTS": np.full((E, 2, T, T), 1 / T),
        "examples": lambda: jh.patterns.examples_of(model().stack(), batch()),
    },
    "examples_of": {"stack": lambda: model().stack(), "batch": batch},
    "fits": {"metric": lambda: jh.METRICS["induction"], "stack": lambda: model().stack()},
    "HeadPairs.clusters": {"self": lambda: jh.compare_heads(model(), batch()), "count": 2},
    "HeadPairs.embedding": {"self": lambda: jh.compare_heads(model(), batch())},
    "HeadPairs.nearest": {"self": lambda: jh.compare_heads(model(), batch())},
    # relevance and weights
    "Rules": {},
    "faithfulness": ASKED,
    "relevance": ASKED,
    "component_composition": {"model": model, "layer": 1, "head": 0},
    "composition": {"model": model},
    "projection_kernel": {"model": model},
    "salient_tokens": {"model": model, "layer": 1, "head": 0},
    "shuffled_pairs": {"pairs": [[1, 2], [3, 4], [5, 6]], "seed": 0},
    "token_maps": {"model": model, "pairs": [[1, 2], [3, 4], [5, 6]]},
    "eigenvalue_copying": {"model": model},
    "ov_circuit": {"model": model},
    "qk_circuit": {"model": model},
    "positional_kernel": {"model": model},
    "token_pairs": {"model": model, "circuit": "ov", "layer": 0, "head": 0},
    "Factored.eigenvalues": {"self": lambda: jh.ov_circuit(model())},
    "direct_effects": ASKED | {"objective": lambda: jh.logit_difference(1, 2)},
    "direct_parts": ASKED | {"objective": lambda: jh.logit_difference(1, 2)},
    "logit_copying": {"model": model, "batch": batch},
    "logit_lens": {"model": model, "batch": batch},
    "jacobian_lens": {"model": model, "batch": batch, "skip": 0},
    "name_copying": {"model": model, "batch": batch, "names": [1, 2, 3, 4]},
    "qk_attribution": {"model": model, "batch": batch, "layer": 1, "head": 0, "query": 3, "key": 1},
    "QKAttribution.top": {"self": attributed},
    "QKAttribution.by": {"self": attributed, "side": "query"},
    "head_loadings": ASKED | {"objective": lambda: jh.logit_difference(1, 2), "source": 1},
    "contrast_covariance": {"model": model, "batch": batch, "match": "noun"},
    "ContrastCovariance.subspace": {"self": contrasted, "layer": 0, "head": 0, "count": 2},
    "ContrastCovariance.rank": {"self": contrasted},
    # sweeps
    "ablate": ASKED,
    "attribute": PAIR,
    "edge_attribution": PAIR,
    "patch_edges": PAIR,
    "patch": PAIR,
    "paths": PAIR,
    "all_paths": PAIR,
    "compare_estimates": {"exact": table, "estimates": table},
    "cumulative": {"order": HEADS},
    "function_vectors": {"model": model, "clean": batch, "shuffled": other, "answers": [1, 2, 3, 4]},
    "FunctionVectors.vector": {
        "self": lambda: jh.FunctionVectors(table(), np.zeros((2, 2, 16)), np.zeros((2, 2, 16))),
    },
    "importance": ASKED,
    "interactions": ASKED | {"heads": HEADS},
    "knock_out": ASKED | {"queries": T - 1, "keys": 0},
    "share": ASKED | {"partners": [(0, 0), (0, 1)]},
    "answer_log_probability": {"answer": "a text"},
    **{name: {"start": 0, "end": 1} for name in ("answer_logit", "answer_loss")},
    **{name: {"labels": 1} for name in ("class_accuracy", "class_loss", "class_probability")},
    **{name: {} for name in ("class_logit", "kl_divergence", "logit", "loss")},
    "logit_difference": {"right": 1, "wrong": 2},
    "probability_difference": {"tokens": [1, 2], "signs": [1, -1]},
    # circuits
    "Graph": {"layers": 2, "heads": 2, "kv_heads": 2},
    "Graph.of": {"stack": lambda: model().stack()},
    "auroc": {"ranking": table, "known": HEADS},
    "circuit": ASKED | {"kept": HEADS},
    "Circuit.completeness": {"self": circuit},
    "Circuit.minimality": {"self": circuit},
    "faithfulness_curve": ASKED | {"ranking": table, "reference": other},
    "keep_edges": PAIR | {"kept": edges},
    "search_circuits": ASKED | {"thresholds": [0.1], "reference": other},
    # data
    "IOIPrompts.corrupted": {"self": lambda: jh.data.IOIPrompts(*PROMPTS), "seed": 0},
    "RepeatedTokens.shuffled": {"self": repeated, "seed": 0},
    "array_batches": {"tokens": np.ones((4, 3), int), "examples": 2},
    "ioi_prompts": {"tokenizer": Words, "examples": 2, "seed": 0, "bos": False},
    "needle_prompts": {"tokenizer": Words, "examples": 2, "seed": 0, "bos": False},
    "successor_pairs": {"tokenizer": Words},
    "passages": {},
    "two_cities": {},
    "repeated_tokens": {"vocabulary": 37, "examples": 2, "shortest": 2, "longest": 3, "seed": 0},
    "ordinary_tokens": {"model": model},
    "process_share": {"batches": lambda: [batch()]},
    "text_batches": {"model": model, "texts": ["a b"], "length": 4, "examples": 2},
    # the training lab
    "Trace.best": {"self": lambda: jh.train.Trace(STEPS, {"a": np.ones((8, 1, 2, 2))}), "name": "a"},
    "Trace.best_head": {"self": lambda: jh.train.Trace(STEPS, {"a": np.ones((8, 1, 2, 2))}), "name": "a"},
    "Trained.model": {"self": training},
    "Watch": {"network_of": lambda: lambda parameters: parameters, "batch": batch, "metrics": "induction"},
    "ablation_losses": {"network": small_network, "sample": sample},
    "adamw": {"hyper": {"rate": 1e-3}},
    "disagreement": {"network": small_network, "batch": lambda: sample().batch},
    "gated_scores": {"network": small_network, "sample": sample, "gates_GLN": np.ones((1, 2, 2)), "stack": "decoder"},
    "grid": {"seeds": [0, 1]},
    "head_importance": {"network": small_network, "sample": sample},
    "head_only": {"parameters": small_network, "layer": 0, "head": 0},
    "head_scores": {
        "network": small_network,
        "batch": lambda: sample().batch,
        "metrics": lambda: (jh.METRICS["induction"],),
    },
    "learn_gates": {"model": lambda: jh.Model(small_network()), "task": task, "steps": 2},
    "li_penalty": {},
    "llc": {"loss": lambda: lambda parameters, key: jnp.sum(parameters**2), "parameters": jnp.ones(3), "n": 10},
    "log_spaced": {"steps": 10},
    "merge_kv_heads": {"model": model, "groups": np.zeros((2, 2), int)},
    "onset": {"steps": STEPS, "curve": CURVE},
    "order": {"onsets": {"a": CURVE}},
    "phase_change": {"steps": STEPS, "loss": CURVE},
    "pruning_curve": {"network": small_network, "sample": sample, "order": HEADS},
    "pruning_order": {"network": small_network, "sample": sample, "method": "random"},
    "head_savings": {"model": model, "smaller": model},
    "remove_heads": {"model": model, "gates": np.ones((2, 2))},
    "scores": {"network": small_network, "sample": sample},
    "trace": {
        "runs": lambda: training().runs,
        "steps": [0, 2],
        "trajectory": lambda: training().trajectory,
        "function": lambda: lambda network: {},
    },
    "train": {"config": lambda: task().model_config(), "task": task, "steps": 2},
    **SENTENCE_CALLS,
    **RESULT_CALLS,
    **WRITING_CALLS,
    # tasks
    **{type(own).__name__: {} for own in tasks.TASKS.values()},
    "Examples": {"examples": lambda: sample()},
    "Examples.sample": {"self": lambda: tasks.Examples(sample()), "key": jax.random.key(0), "examples": 2},
    "FewExamples": {"task": lambda: tasks.Agreement(), "size": 4},
    "FewExamples.of_run": {"self": lambda: few(), "key": jax.random.key(0)},
    "FewExamples.sample": {"self": lambda: few(), "key": jax.random.key(0), "examples": 2},
    "FewExamples.training_set": {"self": lambda: few(), "seed": 0},
    "Captions.sample": {"self": tasks.Captions, "key": jax.random.key(0), "examples": 2},
    "Markov.bayes": {"self": tasks.Markov, "tokens": np.ones((2, 10), int)},
    "bigram": {"tokens": np.ones((2, 10), int), "states": 3},
    "unigram": {"tokens": np.ones((2, 10), int), "states": 3},
}

PROMPTS: Any = [()] * len(names_of(jh.data.IOIPrompts))
