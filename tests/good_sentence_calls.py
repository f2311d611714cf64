"""Good calls of what reads sentences and of questions about them; see `tests/good_calls.py`."""

from typing import Any

import jaxheads as jh

from .good_values import (
    labelled_sentences,
    pairs_read,
    planted_model,
    read_sentences,
    reader,
    sentences,
    sided_sentences,
    steering,
    word_model,
    word_numbers,
    written,
)

PLANTED = {"model": planted_model, "sentences": sentences}

SENTENCE_CALLS: dict[str, dict[str, Any]] = {
    "half_of": {"sentences": sentences, "half": 0},
    "human": {"model": planted_model, "words": sentences, "values": word_numbers},
    "parse": PLANTED | {"head": (0, 0)},
    "parsing_probe": PLANTED,
    "relation_edges": {"batch": lambda: planted_model().encode(sentences())},
    "relations": PLANTED,
    "role_evidence": {"model": reader},
    "function_scores": {"model": reader},
    "reading_times": {"model": reader, "words": read_sentences, "times": lambda: word_numbers(read_sentences())},
    "surprisal": {"model": reader, "words": read_sentences},
    "word_controls": {"words": read_sentences, "model": reader},
    "shuffled_links": {"sentences": sentences, "seed": 0},
    "structure": {"model": planted_model, "sentences": sentences},
    "contrast": {"model": word_model, "sentences": labelled_sentences, "changed": labelled_sentences},
    "steer_heads": {
        "model": word_model,
        "sentences": sided_sentences,
        "labels": "side",
        "toward": "good",
        "objective": lambda: jh.logit_difference(1, 2),
        "count": 1,
    },
    "Steering.edit": {"self": steering},
    "probe": {"model": word_model, "sentences": labelled_sentences, "labels": "class"},
    "head_proof": PLANTED | {"head": (0, 0), "relation": "nsubj", "objective": lambda: jh.logit(1)},
    "masked_loss": {"where": [[True]]},
    "minimal_pair": {"bad": ["a b"]},
    "few_shot": {"pairs": [("hot", "cold"), ("big", "small"), ("in", "out")], "prompts": 2, "shots": 1},
    "brackets": {"path": lambda: written("t.txt", "(S (N a))")},
    "columns": {"path": lambda: written("t.csv", "text,label\na,b\n")},
    "corrupted": {"sentences": sentences, "kind": "lower"},
    "conllu": {"path": lambda: written("t.conllu", "1\ta\t_\tX\t_\t_\t0\troot\t_\t_\n")},
    "iob": {"path": lambda: written("t.txt", "a X B-NP O\n")},
    "pairs": {"path": lambda: written("t.jsonl", '{"sentence_good": "a", "sentence_bad": "b", "UID": "c"}')},
    "MinimalPairs.names": {"self": pairs_read, "name": "paradigm"},
    "MinimalPairs.take": {"self": pairs_read, "indices": [0]},
    "MinimalPairs.where": {"self": pairs_read, "name": "paradigm", "value": "c"},
    "sentence_batches": {"model": planted_model, "sentences": sentences},
    "Sentences.names": {"self": sentences, "label": "deprel"},
    "Sentences.take": {"self": sentences, "indices": [0]},
    "Sentences.where": {"self": sentences, "keep": lambda: bool},
}
