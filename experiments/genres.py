"""Do heads keep their roles in other genres, in lower case, with typing errors, with other words, in another order?

    python -m experiments.genres --treebank PATH [--model NAME] [--sentences N] [--quick] [--out DIR]

Roles: a syntactic relation (as in `experiments.syntax_heads`), the previous token, the earlier copy of a token, the
token after it (induction; chosen on random repeats). A relation's role, its head and its offset are chosen on one half
of the documents of the text as it is. The other half reports them there and in the same sentences changed by
`jh.data.corrupted`, document by document. Effects: of a causal model what mean ablation of each role's head does to the
loss, and for all heads the derivative of the loss by their gates; of an encoder without a head for words, how far mean
ablation turns the sentence's vector. Both are taken anew on each changed text, with means of that text. For genres,
roles are chosen on all other genres and reported on the one left out; whether genres differ beyond their documents is
tested by permuting documents.

A treebank in CoNLL-U with documents is needed, and with genres for what is said of them: for English
`en_gum-ud-dev.conllu` of https://github.com/UniversalDependencies/UD_English-GUM (mostly CC BY-NC-SA 4.0). Without one,
--quick reads sentences of the package's own, by templates: they show that it works, and nothing else.

Found: see results/genres and results/genres-smollm2-135m, whose first lines say it.

Cost: 6 minutes of CPU for MiniLM, 11 for 400 sentences of SmolLM2.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentences, conllu, corrupted

from . import lab
from .support import own_sentences
from .support.genres_page import page
from .support.genres_readings import batches, by_genre, change, interval, rank, spread_between
from .support.genres_roles import (
    CONDITIONS,
    INTACT,
    KINDS,
    Corpus,
    Role,
    base_of,
    best,
    effects,
    pattern_roles,
    relation_roles,
)


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        treebank: a file in CoNLL-U.
        model: zoo name, hub id or directory.
        sentences: sentences at most: the first ones of a random order.
        longest: longer sentences, in words, are left out.
        fewest: relations with fewer words in the half that chooses are left out.
        effects: sentences of each half, at most, that effects are taken on.
        typos: share of the words of four letters and more that are mistyped.
        seed: of the sentences, the halves, the changes and the permutations.
    """

    least: ClassVar = {"seed": 0, "sentences": 16, "effects": 16}
    out: Path = Path("results/genres")
    treebank: Path | None = None
    model: str = "minilm-l6"
    sentences: int = 1600
    longest: int = 40
    fewest: int = 30
    effects: int = 64
    typos: float = 0.2
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError without a treebank, unless the run is quick, or for a share of typing errors above 1."""
        super().check()
        if self.treebank is None and not self.quick:
            raise ValueError("--treebank: expected a file in CoNLL-U (--quick runs without one)")
        if self.typos > 1:
            raise ValueError(f"--typos: expected a share of the words, 0 to 1, got {self.typos:g}")


def read(options: Options) -> Corpus:
    """Return the sentences that are asked for, as they are and changed."""
    every = own_texts() if options.treebank is None else conllu(options.treebank)
    fits = every.where(lambda one: 4 <= len(one.words) <= options.longest and bool(one.links.get("deprel")))
    order = np.random.default_rng(options.seed).permutation(len(fits))[: options.sentences]
    # Sorted by length, neighbours make batches with little padding.
    chosen = fits.take(sorted(order.tolist(), key=lambda index: (len(fits[index].words), index)))
    if any(one.document is None for one in chosen):
        raise ValueError(f"{options.treebank}: expected a document for each sentence (`newdoc id`, or in `sent_id`)")
    texts = {kind: corrupted(chosen, kind, share=options.typos, seed=options.seed) for kind in KINDS}
    fewest, effects = (5, 8) if options.quick else (options.fewest, options.effects)
    return Corpus({INTACT: chosen, **texts}, options.seed, fewest, effects, options.unfinished)


def own_texts() -> Sentences:
    """Return sentences of the package's own in two genres, which differ in nothing but their names."""
    made = [
        replace(one, properties={"genre": ("first", "second")[int(str(one.document).split()[-1]) % 2]})
        for one in own_sentences.trees()
    ]
    return Sentences(tuple(made))


def null_roles(model: jh.Model, corpus: Corpus) -> pd.DataFrame:
    """Return how many relations are roles with random weights, and with the trees of other sentences."""
    text = corpus.texts[INTACT]
    asked = {
        "random weights": (jh.random_weights(model, corpus.seed), text),
        "trees of other sentences": (model, jh.shuffled_links(text, corpus.seed)),
    }
    rows = []
    for name, (null, own) in asked.items():
        # Without some sentences the halves must still be those of all.
        part = replace(corpus, texts={INTACT: own})
        found = list(relation_roles(null, part, {INTACT: own}))
        gains = [row["gain_low"] > 0 for role in found for row in survival(role, part, (INTACT,))]
        rows.append({"null": name, "roles": len(found), "gain on the other half": int(sum(gains))})
    return pd.DataFrame(rows)


def survival(role: Role, corpus: Corpus, conditions: Sequence[str] = CONDITIONS) -> Iterator[dict[str, Any]]:
    """Yield a row for each condition: a role's head on the documents that did not choose it."""
    limits = None if role.kind == "effect" else (0.0, 1.0)
    choosing, reporting = corpus.halves
    held = reporting & (role.heads[INTACT].head(*role.head).counts > 0)
    for condition in conditions:
        own, intact = (role.heads[name].head(*role.head) for name in (condition, INTACT))
        about = {"role": role.name, "kind": role.kind, "layer": role.head[0], "head": role.head[1], "text": condition}
        row = about | lab.bounds("value", interval(own, held, limits)) | lab.bounds("change", change(own, intact, held))
        base = role.base(condition, choosing)
        if base is not None:
            row |= lab.bounds("gain", interval(own - base, held, (-1.0, 1.0))) | {"base": float(base.mean(held))}
        if role.kind != "effect":
            row["rank"] = rank(role.heads[condition], held, *role.head)
        yield row | {"count": int(own.counts[held].sum())}


def means_of(roles: Sequence[Role], corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Yield for each condition the mean share of the relations' heads, and how many still gain."""
    choosing, reporting = corpus.halves
    rows = {
        condition: np.mean([role.heads[condition].head(*role.head).rows(reporting) for role in roles], axis=0)
        for condition in CONDITIONS
    }
    bases = {
        condition: np.mean([base_of(role, condition, choosing).rows(reporting) for role in roles], axis=0)
        for condition in CONDITIONS
    }
    for condition, own in rows.items():
        gains = [row for role in roles for row in survival(role, corpus, (condition,))]
        row = {"text": condition, "roles": len(roles), "gaining": sum(row["gain_low"] > 0 for row in gains)}
        row |= {"first of all heads": sum(row["rank"] == 1 for row in gains)}
        wide = (-np.inf, np.inf)
        row |= lab.bounds("share", jh.statistics.mean_interval(own, within=wide)) | {"base": bases[condition].mean()}
        row |= lab.bounds("gain", jh.statistics.mean_interval(own - bases[condition], within=wide))
        yield row | lab.bounds("change", jh.statistics.mean_interval(own - rows[INTACT], within=wide))


def across_genres(role: Role, corpus: Corpus) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return a row for each genre, with the head that the others chose, and what genres have in common."""
    rows, gains = [], []
    heads = role.heads[INTACT]
    for genre, inside in by_genre(corpus.genres):
        head = role.head if role.kind == "effect" else best(heads, ~inside)
        own = heads.head(*head)
        if not own.counts[inside].sum():
            continue
        row = {"role": role.name, "genre": genre, "layer": head[0], "head": head[1], "value": float(own.mean(inside))}
        base = role.base(INTACT, ~inside)
        gains.append((own if base is None else own - base).mean(inside))
        if base is not None:
            row |= {"base": float(base.mean(inside)), "gain": float(gains[-1])}
        if role.kind != "effect":
            row["rank"] = rank(heads, inside, *head)
        documents = int((own.counts[inside] > 0).sum())
        rows.append(row | {"count": int(own.counts[inside].sum()), "documents": documents})
    mean = jh.statistics.mean_interval(np.array(gains), within=(-np.inf, np.inf))
    row = {"role": role.name, "kind": role.kind, **lab.bounds("mean", mean)}
    row |= {"least": min(gains), "most": max(gains), "above 0": int(np.sum(np.array(gains) > 0))}
    row["one head"] = len({(row["layer"], row["head"]) for row in rows}) == 1
    return rows, row | spread_between(heads.head(*role.head), corpus.genres, corpus.seed)


def run(options: Options) -> lab.Results:
    """Read all roles and effects on each text, and report them on the other half of the documents and by genre."""
    corpus, model = read(options), jh.load(options.model)
    related = list(relation_roles(model, corpus, corpus.texts))
    roles = [*related, *pattern_roles(model, corpus)]
    heads = list(dict.fromkeys(role.head for role in roles))
    served, agreed = effects(model, corpus, heads)
    survived = pd.DataFrame(row for role in (*roles, *served) for row in survival(role, corpus))
    together = pd.DataFrame(means_of(related, corpus)) if related else pd.DataFrame()
    tables = {"survival": survived, "relations": together, "agreement": agreed, "nulls": null_roles(model, corpus)}
    if len(set(corpus.genres)) > 1:
        both = [across_genres(role, corpus) for role in (*roles, *served)]
        tables["genres"] = pd.DataFrame(row for rows, _ in both for row in rows)
        summary = pd.DataFrame(row for _, row in both)
        known: Any = summary["p"].notna()
        summary.loc[known, "q"] = jh.statistics.false_discovery(summary.loc[known, "p"].to_numpy())
        tables["across-genres"] = summary
    text = corpus.texts[INTACT]
    about = lab.provenance(
        model,
        files=dict(text.files),
        sentences=len(text),
        typos=options.typos,
        seed=options.seed,
        longest=options.longest,
    )
    both = zip(*(_tokens(model, corpus.texts[name]) for name in (INTACT, "lower")), strict=True)
    cased = any(not np.array_equal(*own) for own in both)
    sizes = {
        "sentences": len(text),
        "documents": len(corpus.documents),
        "genres": len(set(corpus.genres)),
        "cased": cased,
    }
    return lab.Results(page(model, tables, sizes, sorted(text.files), options.typos), about, tables)


def _tokens(model: jh.Model, sentences: Sentences) -> Iterator[np.ndarray]:
    return (np.asarray(batch.tokens) for batch in batches(model, sentences))


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
