"""Probes of entity types for `experiments.entity_heads`, for pronouns, names and nouns apart."""

from dataclasses import replace
from typing import Any

import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentence, Sentences

from .. import lab
from .probe_choice import best_head
from .relation_choice import ENDS, span, spanned

TAGS = {"pronoun": "PRON", "proper": "PROPN", "nominal": "NOUN"}
"""Tag of the words that are asked for, by kind of mention."""

SHOWN = ("accuracy", "lexical", "majority", "gain", "selectivity", "unseen")


def of_kind(sentences: Sentences, kind: str) -> Sentences:
    """Return sentences whose words have the type of their smallest mention, if their tag is of this kind of mention."""

    def marked(one: Sentence) -> Sentence:
        nothing = (None,) * len(one.words)
        pairs = zip(one.labels.get("upos", nothing), one.labels.get("entity", nothing), strict=True)
        types = tuple(entity if tag == TAGS[kind] else None for tag, entity in pairs)
        return replace(one, labels={"type": types}, links={})

    return Sentences(tuple(map(marked, sentences)), sentences.files)


def types(sentences: Sentences) -> set[str]:
    """Return the types that words have in each of both halves of the documents."""
    halves = (jh.half_of(sentences, half) for half in (0, 1))
    found = [{value for one in half for value in one.labels["type"] if value is not None} for half in halves]
    return found[0] & found[1]


def probes(model: jh.Model, sentences: Sentences, seed: int) -> pd.DataFrame:
    """Return for each kind of mention the head whose output gives the entity's type best, beside random weights."""
    random, rows = jh.random_weights(model, seed), []
    for kind in TAGS:
        marked = of_kind(sentences, kind)
        if len(types(marked)) < 2:
            continue  # nothing to tell apart
        table, null = (jh.probe(own, marked, "type", seed=seed) for own in (model, random))
        row = {"mention": kind, **best_head(table, "accuracy", seed)}
        other = best_head(null, "accuracy", seed)
        row |= {f"random{end}": other[f"accuracy{end}"] for end in ("", "_low", "_high")}
        rows.append(row | {"words": table.provenance["units_in_test"], "types": len(table.provenance["classes"])})
    return pd.DataFrame(rows)


def section(found: pd.DataFrame) -> str:
    """Return the page's section on entity types."""
    if found.empty:
        return ""
    words = "; ".join(
        f"{row['mention']}: {row['head']} {span(row, 'accuracy')}, {span(row, 'gain')} beyond the words"
        for row in found.to_dict("records")
    )
    names = [name for name in (*SHOWN, "random") if name in found]
    columns: Any = found[["mention", "head", "types", "words", "documents"] + [n + e for n in names for e in ENDS]]
    return f"""
## What kind of entity: probes by kind of mention

Read from one head's output by a linear probe: {words}.

{lab.markdown(spanned(columns, tuple(names)), ".2f")}

The type (of the smallest mention) of pronouns, of words of names, and of nouns. Probes are trained on one half of the
documents; of the other half's, one half chooses the head by accuracy and the rest reports it. "lexical": the most
frequent type of each word in training; "gain": accuracy less the better of "lexical" and "majority"; "selectivity":
accuracy less that on labels drawn for each word; "unseen": accuracy on words that training lacks; "random": accuracy of
the best head of random weights, one draw. "words": of the whole test half.
"""
