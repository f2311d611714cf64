"""Heads beside syntactic relations: which head looks from a word to its subject, its object, its determiner?

    python -m experiments.syntax_heads --treebank PATH [--model NAME] [--sentences N] [--quick] [--out DIR]

After Clark et al. 2019 (arXiv 1906.04341, table 1) and Voita et al. 2019 (arXiv 1905.09418, table 1). For each relation
of a treebank and either direction, a word's arg-max among the other words of its sentence is right if it is the word's
gold head (or one of its dependents). The head is chosen on one half of the documents; its share, its gain over the best
fixed offset (which each half has from the other) and its attention mass are those of the other half. Clark et al.
choose and report on the same sentences. Two nulls go the same way: random weights, whose attention knows where words
are, and the tree of another sentence of the same length.

In a language model a head that a relation chose is then put to the proof (`jh.head_proof`): the loss of the token after
the word that looks (of a masked language model, of that word itself, masked), with the head ablated, with its edges of
the relation knocked out, with as many other edges knocked out, beside the other heads of its layer. A model without a
language-model head has no such behaviour: no effect then.

A treebank in CoNLL-U with `newdoc id` or documents in `sent_id` is needed: for English the file
`en_ewt-ud-dev.conllu` of https://github.com/UniversalDependencies/UD_English-EWT (CC BY-SA 4.0). Without one, --quick
reads sentences of the package's own, by templates: they show that it works, and nothing else.

Found: see results/syntax-heads, whose first lines say it. Cost on 2 cores: minilm-l6, 2,001 sentences, two minutes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentences

from . import lab
from .support.relation_choice import Asked, beside_nulls, chosen
from .support.syntax_heads_page import page
from .support.treebanks import TreebankOptions

PROVED, PROOF_SENTENCES, CONTROLS = 3, 96, 3
"""Relations put to the proof, sentences that each is proved on at most, and control heads."""


@dataclass(frozen=True)
class Options(TreebankOptions):
    """Options.

    Attributes:
        fewest: relations with fewer words in half of the documents are left out.
    """

    out: Path = Path("results/syntax-heads")
    fewest: int = 50


def proofs(model: jh.Model, sentences: Sentences, heads: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Return the proof of the heads that gain most on the half that chose them, on sentences of the other half."""
    reporting, frames = jh.half_of(sentences, 1, seed=options.seed), []
    for entry in heads.sort_values("gain_chosen_by", ascending=False).head(PROVED).to_dict("records"):
        relation: Any = entry["relation"]
        related = reporting.where(lambda one, name=relation: any(link.label == name for link in one.links["deprel"]))
        proof = jh.head_proof(
            model,
            related[:PROOF_SENTENCES],
            (entry["layer"], entry["head"]),
            relation,
            direction=entry["direction"].replace(" ", "_"),
            controls=min(CONTROLS, model.stack().heads - 1),
            seed=options.seed,
            resume=options.unfinished / "proofs",
        )
        frames.append(proof.reset_index().assign(relation=relation, direction=entry["direction"]))
    return pd.concat(frames, ignore_index=True)


def predicts_words(model: jh.Model) -> bool:
    """Whether a model predicts next words, or masked ones."""
    logits = model.network.unembedding is not None and model.network.classes_of is None
    return logits and (model.causal or getattr(model.tokenizer, "mask_token_id", None) is not None)


def run(options: Options) -> lab.Results:
    """Choose heads, report them beside their nulls, and put them to the proof."""
    sentences = options.read(options.treebank)
    model = jh.load(options.model)
    asked = Asked("deprel", options.fewest if options.treebank else 5, options.seed, options.unfinished)
    heads = chosen(model, sentences, asked)
    nulls = {
        "random": chosen(jh.random_weights(model, options.seed), sentences, asked),
        "shuffled": chosen(model, jh.shuffled_links(sentences, options.seed), asked),
    }
    heads = beside_nulls(heads, nulls)
    proved = proofs(model, sentences, heads, options) if predicts_words(model) else None
    about = lab.provenance(model, files=dict(sentences.files), sentences=len(sentences), seed=options.seed)
    tables = {"heads": heads, **{f"null-{name}": null for name, null in nulls.items()}}
    if proved is not None:
        tables["proof"] = proved
    text = page(model, sentences, heads, nulls, proved)
    return lab.Results(text, about, tables)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
