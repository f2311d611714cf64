"""The page of `experiments.syntax_heads`: sentences and tables from the numbers of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentences

from .. import lab
from .relation_choice import above, span, spanned

CLARK = {
    "det": ("det", 94.3, 51.7),
    "nsubj": ("nsubj", 58.5, 45.5),
    "obj": ("dobj", 86.8, 40.0),
    "amod": ("amod", 75.6, 68.3),
    "compound": ("nn", 70.4, 70.2),
    "advmod": ("advmod", 48.8, 40.2),
    "aux": ("aux", 81.1, 71.5),
    "nmod:poss": ("poss", 80.5, 47.7),
    "ccomp": ("ccomp", 48.8, 12.4),
    "mark": ("mark", 50.7, 14.5),
    "compound:prt": ("prt", 99.1, 91.4),
}
"""By relation: Stanford's name, accuracy of BERT-base's best head, of the best offset (Clark et al. 2019, table 1)."""

VOITA = {
    ("nsubj", "to dependent"): (45, 35),
    ("nsubj", "to head"): (52, 35),
    ("obj", "to dependent"): (78, 41),
    ("obj", "to head"): (73, 41),
    ("amod", "to dependent"): (74, 72),
    ("amod", "to head"): (82, 72),
    ("advmod", "to dependent"): (48, 46),
    ("advmod", "to head"): (52, 46),
}
"""Accuracy of a translator's best encoder head (WMT), and of the most frequent position: Voita et al. 2019, table 1."""

TEN = 0.1
"""Gain that makes a head syntactic (Voita et al. 2019: "at least 10 % higher"; taken as points)."""


def page(
    model: jh.Model,
    sentences: Sentences,
    heads: pd.DataFrame,
    nulls: Mapping[str, pd.DataFrame],
    proved: pd.DataFrame | None,
) -> str:
    """Return the page for readers."""
    ordered: Any = heads.sort_values("gain", ascending=False)
    best = ordered.iloc[0].to_dict()
    documents = len({one.document for one in sentences})
    source = ", ".join(sentences.files) or "sentences of the package's own, by templates: no finding"
    sees = " It sees earlier words alone, so that only relations to these count." if model.stack().causal else ""
    return f"""# Which heads of {model.name} look along syntactic relations

In {above(heads, TEN)} of {len(heads)} relations and directions the head that one half of the documents chose gains more
than ten points over the best fixed offset on the other half, by the lower end of its 95 % interval; in
{above(heads, 0)} it gains anything. With random weights these numbers are {above(nulls["random"], TEN)} and
{above(nulls["random"], 0)}, with the trees of other sentences of the same length {above(nulls["shuffled"], TEN)} and
{above(nulls["shuffled"], 0)}. The largest gain: {best["relation"]} {best["direction"]}, head
L{best["layer"]}H{best["head"]}, {span(best, "share")} against {best["base"]:.2f}, gain {span(best, "gain")}
(n = {best["words"]} words of {best["n"]} documents).

Of {len(heads)} intervals some 2.5 % lie above 0 by chance alone. {len(sentences)} sentences of {documents} documents
({source}).{sees} Intervals are over documents.
{proof_words(proved, model)}
## Relations, the largest gain first

A word is right if its arg-max, among the other words of its sentence, is its head ("to head"), or any of its dependents
by this relation ("to dependent"). Head, share, gain and mass are of the half that did not choose; base is the share of
the best offset, which the other half chose. The last columns are the gains of the heads that the nulls choose.

{lab.markdown(shown(ordered), ".2f")}

## Beside published numbers

{lab.markdown(published(heads), ".2f")}

Clark et al. 2019, table 1 [P]: BERT-base, Wall Street Journal with Stanford Dependencies, the better of the two
directions, head and offset chosen on the sentences that it reports. Voita et al. 2019, table 1 [S]: encoder of a
translator, WMT, relations by CoreNLP. Other models, other text and other schemes: that a number here is lower or higher
says nothing about either model. Clark et al.'s row for passive auxiliaries is left out: it differs between the paper
and its code. Of an object "to head" is object → verb, "to dependent" verb → object.

## What is not shown

A share is not a use: a head may look along a relation without anything reading it. The treebank's relations are one
scheme of several, and words that one relation always joins at one distance can't be told from an offset at all.
"""


def shown(heads: pd.DataFrame) -> pd.DataFrame:
    """Return the rows for the page."""
    names = "L" + heads["layer"].astype(str) + "H" + heads["head"].astype(str)
    columns = ["relation", "direction", "share", "share_low", "share_high", "base", "offset", "gain", "gain_low"]
    columns += ["gain_high", "mass", "words", "n", "gain_random", "gain_shuffled"]
    chosen: Any = heads[columns]
    table = spanned(chosen, ("share", "gain"))
    table.insert(2, "head", names.to_list())
    return table.rename(columns={"n": "documents"})


def published(heads: pd.DataFrame) -> pd.DataFrame:
    """Return our better direction beside Clark et al.'s, and both directions beside Voita et al.'s."""
    rows = []
    for relation, own in heads.groupby("relation", sort=False):
        for entry in own.sort_values("share", ascending=False).to_dict("records"):
            better, name = entry["share"] == own["share"].max(), str(relation)
            clark, voita = CLARK.get(name) if better else None, VOITA.get((name, str(entry["direction"])))
            if clark or voita:
                theirs = "" if clark is None else f"{clark[0]} {clark[1] / 100:.2f} ({clark[2] / 100:.2f})"
                rows.append(
                    {
                        "relation": relation,
                        "direction": entry["direction"],
                        "ours": span(entry, "share"),
                        "offset": entry["base"],
                        "Clark et al.": theirs,
                        "Voita et al.": "" if voita is None else f"{voita[0] / 100:.2f} ({voita[1] / 100:.2f})",
                    }
                )
    return pd.DataFrame(rows, columns=["relation", "direction", "ours", "offset", "Clark et al.", "Voita et al."])


def proof_words(proved: pd.DataFrame | None, model: jh.Model) -> str:
    """Return the section on what the heads' edges do to the loss, or why there is none."""
    if proved is None:
        return """
No causal effect is reported: the model has no language-model head, and so no behaviour of its own that a relation
serves.
"""
    rows, table = [], []
    groups: Any = proved.groupby(["relation", "direction"], sort=False)
    for (relation, direction), own in groups:
        head, gap = (own[own["head"] == own["head"].iloc[at]].iloc[0].to_dict() for at in (0, -1))
        for name in ("ablated", "edge", "other_edge"):
            if np.sign(gap[f"{name}_low"]) == np.sign(gap[f"{name}_high"]) != 0:
                rows.append(f"{relation} {direction}, {name}: {span4(gap, name)} more than its controls")
        for entry in (head, *own.iloc[1:].to_dict("records")):
            cells = {name: span4(entry, name) for name in ("ablated", "edge", "other_edge")}
            where = str(entry["head"])
            name = where if where == "difference" else f"L{where.replace('.', 'H')}"
            table.append({"relation": f"{relation} {direction}", "head": name, **cells, "n": entry["edge_n"]})
    what = "the token after the word that looks" if model.causal else "the word that looks, masked"
    words = "; ".join(rows) or "none of them differs from its controls"
    compared = 3 * len(groups)
    return f"""
## Put to the proof

Change of the loss, in nats, of {what}, on sentences that chose nothing: {words}
(of {compared} differences, of which one in twenty has an interval without 0 by chance alone).
The first row of each relation is the head, the next are other heads of its layer, "difference" is the head less their
mean. "edge": the relation's edges are knocked out; "other_edge": as many from the same words to others that they see.

{lab.markdown(pd.DataFrame(table))}
"""


def span4(row: Mapping[str, Any], name: str) -> str:
    """Return a number with its interval, to four digits after the point."""
    return f"{row[name]:+.4f} [{row[f'{name}_low']:+.4f}, {row[f'{name}_high']:+.4f}]"
