"""What does each head look at between words: parts of speech, dependencies, distances, offsets, rare words?

    python -m experiments.structure --treebank PATH [--model NAME] [--sentences N] [--quick] [--out DIR]

After Vig & Belinkov 2019 (arXiv 1906.04284, sections 4.2 to 4.4: GPT-2 small, 10,000 sentences of Wikipedia with tags
and trees by spaCy) and Voita et al. 2019 (arXiv 1905.09418, section 5: positional and rare-word heads of a translator).
Here tags and trees are gold, patterns are between words, and each head is chosen on one half of the documents and
reported on the other. Three baselines go the same way: even attention to the visible words; random weights, whose
attention has no knowledge of words; labels of other sentences (trees of another sentence of the same length, tags in
another order of their sentence). In a causal model the correlation of distance and alignment is over heads, with an
interval by resampling documents.

A treebank in CoNLL-U with documents is needed: for English the file `en_ewt-ud-dev.conllu` of
https://github.com/UniversalDependencies/UD_English-EWT (CC BY-SA 4.0). Without one, --quick reads sentences of the
package's own, by templates: they show that it works, and nothing else.

Found: see results/structure, whose first lines say it. Cost on 2 cores: minilm-l6, 2,001 sentences, two minutes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentences

from . import lab
from .support.relation_choice import span, spanned
from .support.treebanks import TreebankOptions

DEPENDENCIES, POSITIONAL, RARE = "dependency_alignment", "positional_share", "rare_word"

PUBLISHED = {
    "NOUN_share": "0.43 (mean of heads 0.21): GPT-2 small, Vig & Belinkov 2019 [P]",
    DEPENDENCIES: "0.42: GPT-2 small, Vig & Belinkov 2019 [P]",
    RARE: "0.66: a translator's encoder, Voita et al. 2019, table 1 [S]",
}
"""Values of the best head in the papers, which chose and reported on the same sentences."""

NULLS = ("random weights", "other labels")

MOST = 2048
"""Sentences whose numbers tables keep one by one."""

DRAWS = 500
"""Resamples of the documents for the interval of a correlation."""


@dataclass(frozen=True)
class Options(TreebankOptions):
    """Options.

    Attributes:
        language: of the words, as wordfreq names it.
    """

    out: Path = Path("results/structure")
    language: str = "en"

    def check(self) -> None:
        """Raise ValueError without a treebank, unless the run is quick, and for more sentences than are kept."""
        super().check()
        if self.sentences > MOST:
            raise ValueError(f"--sentences: expected at most {MOST}, whose numbers are kept one by one")


def mislabelled(sentences: Sentences, seed: int) -> Sentences:
    """Return the sentences with trees of other sentences of the same length, and their tags in another order."""
    rng, found = np.random.default_rng(seed), jh.shuffled_links(sentences, seed)
    orders = [rng.permutation(len(one.words)) for one in found]
    moved = (
        replace(one, labels={name: tuple(own[index] for index in order) for name, own in one.labels.items()})
        for one, order in zip(found, orders, strict=True)
    )
    return Sentences(tuple(moved), sentences.files, sentences.label_names)


def best_heads(table: jh.HeadTable, nulls: dict[str, jh.HeadTable], seed: int, least: float) -> pd.DataFrame:
    """Return for each column the head that one half of the documents chose, its value on the other, and the nulls'.

    Args:
        least: tags with less even attention than this are left out.
    """
    rows: list[dict[str, Any]] = []
    for name in table.metrics:
        bases: Any = table.frame.get(f"{name}_base")
        base = np.nan if bases is None else float(bases.iloc[0])
        if name == "distance" or base < least:
            continue
        best: Any
        [best] = jh.held_out(table, name, 1, seed=seed).reset_index().to_dict("records")
        row: dict[str, Any] = {"measure": name, "layer": best["layer"], "head": best["head"]}
        row |= {"value": best[name], "value_low": best[f"{name}_low"], "value_high": best[f"{name}_high"]}
        mean: Any = table.frame[name].mean()
        row |= {"n": best[f"{name}_n"], "even": base, "mean of heads": mean}
        for kind, null in nulls.items():
            if kind == "random weights" or name not in (POSITIONAL, RARE):
                own = jh.held_out(null, name, 1, seed=seed).iloc[0]
                row |= {kind: own[name], f"{kind} high": own[f"{name}_high"]}
        rows.append({**row, "published": PUBLISHED.get(name, "")})
    return pd.DataFrame(rows)


def correlation(table: jh.HeadTable, first: str, second: str, seed: int) -> dict[str, float]:
    """Return the correlation of two columns over heads, with an interval by resampling documents."""
    assert table.per_example is not None, "at most 2,048 sentences are kept"
    both_2EH = table.per_example[[table.metrics.index(name) for name in (first, second)]].reshape(
        2, len(table.per_example[0]), -1
    )
    labels = np.arange(both_2EH.shape[1]) if table.clusters is None else table.clusters
    documents = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    rng, draws = np.random.default_rng(seed), []
    sums_2DH = np.stack([np.nansum(both_2EH[:, own], axis=1) for own in documents], axis=1)
    counts_2DH = np.stack([np.isfinite(both_2EH[:, own]).sum(axis=1) for own in documents], axis=1)
    for draw in range(DRAWS + 1):
        chosen = np.arange(len(documents)) if draw == 0 else rng.integers(0, len(documents), len(documents))
        means_2H = sums_2DH[:, chosen].sum(axis=1) / counts_2DH[:, chosen].sum(axis=1)
        draws.append(float(np.corrcoef(means_2H)[0, 1]))
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return {"r": draws[0], "r_low": float(low), "r_high": float(high)}


def by_layer(table: jh.HeadTable) -> pd.DataFrame:
    """Return the means of each layer's heads."""
    shown = ("NOUN_share", "VERB_share", DEPENDENCIES, "distance", POSITIONAL)
    means: Any = table.frame.groupby("layer")[[name for name in shown if name in table.metrics]].mean()
    return means.reset_index()


def nouns_in_words(best: Any) -> str:
    """Return the sentence about the head that looks at nouns; none without nouns."""
    for row in best[best["measure"] == "NOUN_share"].to_dict("records"):
        return (
            f"The head that looks most at nouns, L{row['layer']}H{row['head']}, spends {span(row, 'value')} of its "
            f"attention on them; even attention {row['even']:.2f}, the mean of heads {row['mean of heads']:.2f}.\n"
        )
    return ""


def page(table: jh.HeadTable, best: pd.DataFrame, related: dict[str, float], layers: pd.DataFrame, model: str) -> str:
    """Return the page for readers."""
    trees: Any = {row["measure"]: row for row in best.to_dict("records")}[DEPENDENCIES]
    source = ", ".join(table.provenance["files"]) or "the package's own, by templates: no finding"
    positional: Any = (table.frame[f"{POSITIONAL}_low"] > 0.9).sum()
    clear: Any = (best["value_low"] > best[["random weights high", "other labels high"]].max(axis=1)).sum()
    beyond = "more than" if trees["value_low"] > trees["other labels high"] else "not clearly more than"
    sees = "earlier words alone" if table.provenance["causal"] else "all words"
    return f"""# What the heads of {model} look at between words

The head whose attention follows dependencies most, L{trees["layer"]}H{trees["head"]}, spends {span(trees, "value")} of
it between words that the tree joins (n = {trees["n"]} documents that did not choose it), {beyond} what the best head
has with trees of other sentences of the same length, {trees["other labels"]:.2f}, which know where words are and not
what they are. Even attention has {trees["even"]:.2f}, the best head of random weights {trees["random weights"]:.2f}.

{nouns_in_words(best)}
In {clear} of {len(best)} measures the chosen head's interval lies above those of the nulls' heads. {positional} of
{len(table.frame)} heads are positional (share of one offset above 0.9, by the lower end of its interval).

Over heads, alignment with dependencies goes with distance by r = {span(related, "r")} (documents resampled; the heads
are those of this model, not a sample). Vig & Belinkov 2019: −0.73 in GPT-2 small [P].

{table.provenance["examples"]} sentences ({source}). A word sees {sees}. Patterns are between words; special tokens
neither give nor receive, and attention to the first position is left out. Every sentence weighs the same; Vig &
Belinkov sum over the corpus.

## Heads chosen on one half of the documents, with their values on the other

Even: attention spread over the visible words. Random weights, other labels: values of the head that these choose, in
the same way; what depends on no label has nothing to shuffle, and its null is random weights alone. Rare words have
more pieces, whose attention is summed: random weights look at them, too. Published values are of other models, and of
heads chosen and reported on the same sentences.

{lab.markdown(spanned(best.drop(columns=[f"{kind} high" for kind in NULLS]), ("value",)), ".2f")}

## Means of the heads of each layer

{lab.markdown(layers, ".2f")}
"""


def run(options: Options) -> lab.Results:
    """Measure the model, random weights, and the model with other labels."""
    sentences, model = options.read(options.treebank), jh.load(options.model)
    named: dict[str, Any] = {"language": options.language, "seed": options.seed, "resume": options.unfinished}
    table = jh.structure(model, sentences, **named)
    table = replace(table, provenance={**table.provenance, "causal": model.stack().causal})
    nulls = {
        "random weights": jh.structure(jh.random_weights(model, options.seed), sentences, **named),
        "other labels": jh.structure(model, mislabelled(sentences, options.seed), **named),
    }
    best = best_heads(table, nulls, options.seed, 0.0 if options.quick else 0.02)
    related, layers = correlation(table, "distance", DEPENDENCIES, options.seed), by_layer(table)
    about = lab.provenance(model, files=dict(sentences.files), sentences=len(sentences), seed=options.seed)
    tables = {"best-heads": best, "layers": layers, "correlation": pd.DataFrame([related])}
    text = page(table, best, related, layers, model.name)
    return lab.Results(text, about, tables, heads={"structure": replace(table, per_example=None, clusters=None)})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
