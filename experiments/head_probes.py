"""Probes of heads: which heads hold parts of speech, relations and entities, beyond the word itself?

    python -m experiments.head_probes --treebank PATH [--entities PATH] [--model NAME] [--quick] [--out DIR]

After Hewitt & Liang 2019 (arXiv 1909.03368): a linear probe beside its control task, whose labels are drawn at random
for each word type; selectivity is the difference. Here the probe is a ridge regression of one head's output (or of the
stream after a layer), trained on one half of the documents; beside it stand the most frequent class of each word type
in training, and word types that training lacks. The best head is chosen on half of the other documents and reported on
the rest. Controls: random weights, and control labels shuffled over all words.

A treebank in CoNLL-U is needed: for English `en_ewt-ud-dev.conllu` of
https://github.com/UniversalDependencies/UD_English-EWT (CC BY-SA 4.0); for entities one that has them in MISC, such as
`en_gum-ud-dev.conllu` of https://github.com/UniversalDependencies/UD_English-GUM. Without one, --quick reads sentences
of the package's own, by templates: they show that it works, and nothing else.

Found: see results/head-probes, whose first lines say it. Cost on 2 cores: minilm-l6, 1,000 sentences, three minutes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentences

from . import lab
from .support.probe_choice import NAMES, best_head
from .support.relation_choice import span, spanned
from .support.treebanks import TreebankOptions

LONGEST = 60
"""Words of a sentence at most."""


@dataclass(frozen=True)
class Options(TreebankOptions):
    """Options.

    Attributes:
        entities: a file in CoNLL-U with entities in MISC.
    """

    out: Path = Path("results/head-probes")
    entities: Path | None = None
    sentences: int = 1000


def read(path: Path | None, options: Options) -> Sentences:
    """Return the sentences that are asked for, of 60 words at most."""
    return options.read(path, lambda one: len(one.words) <= LONGEST)


def probes(model: jh.Model, options: Options) -> Iterator[tuple[str, str, str, jh.HeadTable]]:
    """Yield a label, what is probed, of which model, and the table."""
    sources = [("upos", options.treebank), ("deprel", options.treebank)]
    sources += [("entity", options.entities)] if options.entities is not None else []
    random = jh.random_weights(model, options.seed)
    for label, path in sources:
        sentences = read(path, options)
        yield label, "z", "trained", jh.probe(model, sentences, label, seed=options.seed)
        yield label, "z", "random weights", jh.probe(random, sentences, label, seed=options.seed)
        if label == "upos":
            shuffled = jh.probe(model, sentences, label, control="shuffled", seed=options.seed)
            yield label, "z", "shuffled labels", shuffled
        of: Any = "resid_post"
        yield label, of, "trained", jh.probe(model, sentences, label, of=of, seed=options.seed)


def run(options: Options) -> lab.Results:
    """Probe every head and every layer for every label."""
    model = jh.load(options.model)
    found = list(probes(model, options))
    best, layers = [], []
    for label, of, weights, table in found:
        said = {"label": label, "weights": weights, "units": table.provenance["units_in_test"]}
        if of == "z":
            best.append(said | best_head(table, "selectivity", options.seed))
        else:
            frame: Any = table.frame.reset_index(level="layer").reset_index(drop=True)
            layers.append(frame.assign(label=label))
    rows, by_layer = pd.DataFrame(best), pd.concat(layers, ignore_index=True)
    files = {name: sha for *_, table in found for name, sha in table.provenance["files"].items()}
    about = lab.provenance(model, files=files, sentences=options.sentences, seed=options.seed)
    heads = {f"{label}-{of}-{weights}".replace(" ", "-"): table for label, of, weights, table in found}
    tables = {"best-heads": rows, "layers": by_layer}
    # Rows of documents would be megabytes.
    bare = {name: replace(table, per_example=None, clusters=None) for name, table in heads.items()}
    return lab.Results(page(model, rows, by_layer, heads, files), about, tables, heads=bare)


def page(
    model: jh.Model, rows: pd.DataFrame, layers: pd.DataFrame, heads: dict[str, jh.HeadTable], files: dict[str, str]
) -> str:
    """Return the page for readers."""
    by: Any = rows.set_index(["label", "weights"])
    one, random = (by.loc[("upos", name)].to_dict() for name in ("trained", "random weights"))
    table = heads["upos-z-trained"]
    above = int(np.sum(table.grid("gain_low") > 0))
    order: Any = layers[layers["label"] == "upos"]
    layer = order.loc[order["selectivity"].idxmax()].to_dict()
    source = ", ".join(files) or "sentences of the package's own, by templates: no finding"
    shown = tuple(name for name in NAMES if name in rows)
    in_layers = tuple(name for name in shown if name in layers)
    bounds = [name + end for name in in_layers for end in ("", "_low", "_high")]
    streams: Any = layers[["label", "layer", *bounds]]
    rest = rows.drop(columns="optimism")
    return f"""# What can be read from one head of {model.name}

Parts of speech: the most selective head ({one["head"]}) gives {span(one, "accuracy")} of the words their tag and
{span(one, "control")} their random control label: a selectivity of {span(one, "selectivity")}.
With random weights the most selective head has {span(random, "selectivity")}.
But the most frequent tag of each word, without any model, gives {span(one, "lexical")}:
{above} of {table.values[0].size} heads are above it (interval above 0).
The stream after layer {layer["layer"]}, all heads together, gives {span(layer, "accuracy")},
{span(layer, "gain")} above it, with a selectivity of {span(layer, "selectivity")}
(n = {one["documents"]} documents report the heads; all that did not train, {one["units"]} words, the stream).

Files: {source}. Probes are trained on one half of the documents. Of the other half's documents, half choose the head
and the rest report it. The layer is not chosen apart. Intervals: 95 %, over documents.

{lab.markdown(spanned(rest, shown), ".2f")}

`control`: accuracy on labels drawn at random for each word type (of "shuffled labels": for each word).
`lexical`: the most frequent class of each word type in training. `gain`: accuracy less the better of `lexical` and
`majority`. `unseen`: accuracy on word types that training lacks. Random weights: one draw.

## By layer, from the whole stream

{lab.markdown(spanned(streams, in_layers), ".2f")}

## What this does not show

A head's output has fewer numbers than the stream: that a head is below the most frequent tag of each word says that it
does not hold the word, not that the model lacks the tag. A probe finds what can be read, not what is used. Selectivity
depends on the probe: here linear, a ridge of 0.001 of the mean variance. Hewitt & Liang 2019 probed another model on
other text; their numbers were not read again.
"""


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
