"""The page of `experiments.genres`: sentences and tables from the numbers of a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh

from .. import lab
from .relation_choice import span, spanned

WORDS = {
    "intact": "as it is",
    "lower": "lower case",
    "typos": "typing errors",
    "nonce": "other words",
    "shuffled": "another order",
}


def page(
    model: jh.Model, tables: Mapping[str, pd.DataFrame], sizes: Mapping[str, Any], files: list[str], typos: float
) -> str:
    """Return the page for readers."""
    source = ", ".join(files) or "sentences of the package's own, by templates: no finding"
    survived = tables["survival"]
    causal = " It sees earlier words alone, so that only relations to these count." if model.stack().causal else ""
    cased = "" if sizes["cased"] else " Its tokenizer lowers all letters: lower case is the same text to it."
    return f"""# Do the heads of {model.name} keep their roles in other text, and in other genres?

{relations_in_words(tables["relations"], tables["nulls"], sizes)}

{effects_in_words(tables["agreement"], survived, model)}

{genres_in_words(tables.get("across-genres"))}

{sizes["sentences"]} sentences of {sizes["documents"]} documents and {sizes["genres"]} genres ({source}).{causal}{cased}
Intervals: 95 %, over documents; a change is paired by documents. Every changed text has the same sentences, words of
which each keeps its gold head: in "typing errors" {typos:.0%} of the words of four letters and more are mistyped; in
"other words" every noun, name, verb, adjective and adverb is another of the corpus with the same tags; in "another
order" the words of a sentence are shuffled. One draw of each.

## All relations together

Means over the relations in which a head gains ten points on the half that chose it. "base" is the share of the best
fixed offset, chosen on the same text's other half; "gaining": relations whose gain's interval lies above 0; "first":
relations in which no other head has a larger share on this text.

{relations_table(tables["relations"])}

{lab.markdown(tables["nulls"])}

## Each relation's and pattern's head

Head and offset are those of the half that chose, on the text as it is. Behind the value: + where the gain's
interval lies above 0, * where the value differs from that of the text as it is, by the interval of the change.

{lab.markdown(by_role(survived, ("relation", "pattern")))}

Duplicate token and induction are of each sentence read twice; the induction head is chosen on random repeats.

## Effects

{effect_words(model)}

{lab.markdown(by_role(survived, ("effect",), ".4f"))}

Rank correlation over all heads of {"the derivative of the loss by their gates" if model.stack().causal else "this"},
on each text, with that of the text as it is on the half that chose. In the first row nothing but documents differs.
Intervals by the jackknife over documents.

{lab.markdown(named(spanned(tables["agreement"], ("agreement",))), ".2f")}
{genre_section(tables)}
## What is not shown

One draw of each change, one corpus, one annotation. A tree stays gold under these changes by construction: whether a
person would read the shuffled sentence so is another question. A head that loses its role may leave it to another.
"""


def relations_in_words(together: pd.DataFrame, nulls: pd.DataFrame, sizes: Mapping[str, Any]) -> str:
    """Return what becomes of the relations' heads."""
    if together.empty:
        return "No relation has a head that gains ten points over the best offset on the half that chooses."
    rows: Any = together.set_index("text").to_dict("index")
    intact = rows["intact"]
    changed = [
        f"{WORDS[name]}: {rows[name]['gaining']} ({span(rows[name], 'change')})" for name in WORDS if name != "intact"
    ]
    none = "; ".join(
        f"{row['null']}: {row['roles']} and {row['gain on the other half']}" for row in nulls.to_dict("records")
    )
    return f"""In {intact["roles"]} relations and directions a head gains ten points over the best fixed offset on one
half of the documents; on the other half {intact["gaining"]} of them gain anything, by the lower end of their
interval, with a mean share of {span(intact, "share")} against {intact["base"]:.2f} (n = {intact["share_n"]}
documents). In the same sentences, changed, so many still do, and the mean share changes by: {"; ".join(changed)}.
Nulls (found on one half, gaining on the other): {none}."""


def effects_in_words(agreed: pd.DataFrame, survived: pd.DataFrame, model: jh.Model) -> str:
    """Return whether the same heads matter."""
    rows: Any = agreed.set_index("text").to_dict("index")
    causal = model.stack().causal
    what = "the derivative of the loss by heads' gates" if causal else "how far heads turn the sentence's vector"
    parts = [f"{WORDS[name]} {span(rows[name], 'agreement')}" for name in WORDS if name != "intact"]
    own: Any = survived[survived["kind"] == "effect"]
    lost = {
        name: int((np.sign(part["change_low"]) * np.sign(part["change_high"]) > 0).sum())
        for name, part in own[own["text"] != "intact"].groupby("text")
    }
    heads = len(own[own["text"] == "intact"])
    differ = "; ".join(f"{WORDS[name]} {lost[name]}" for name in WORDS if name in lost)
    return f"""Over all heads, {what} on other documents goes with that on the documents that
chose by a rank correlation of {span(rows["intact"], "agreement")}; in changed text: {"; ".join(parts)}. Of the
{heads} heads with a role, ablation has another effect than in the text as it is, by the interval of the change, in:
{differ}."""


def genres_in_words(across: pd.DataFrame | None) -> str:
    """Return whether genres differ."""
    if across is None:
        return "The corpus names fewer than two genres: nothing is said of them."
    own: Any = across[across["kind"] == "relation"]
    parts = []
    if len(own):
        every = int((own["above 0"] == own["mean_n"]).sum())
        parts.append(
            f"Chosen on the other genres, heads gain in every genre in {every} of {len(own)} relations; the least gain "
            f"of any genre is {own['least'].min():.2f} ({own.loc[own['least'].idxmin(), 'role']})."
        )
    for kind, name in (("relation", "shares of relations"), ("pattern", "scores of patterns"), ("effect", "effects")):
        part: Any = across[(across["kind"] == kind) & across["p"].notna()]
        if len(part):
            differ = int((part["q"] < 0.05).sum())
            parts.append(f"Of {len(part)} {name}, {differ} differ between genres beyond documents.")
    return " ".join(parts) + " (Permutation of documents, false discovery rate 5 %.)"


def effect_words(model: jh.Model) -> str:
    """Return what an effect is."""
    if model.stack().causal:
        return """Change of the loss, in nats a token, when a role's head has its mean output over the same text of the
other half of the documents."""
    return """The model has no head for words: an effect is how far the mean of the last layer over a sentence's tokens
turns (1 − cosine) when a role's head has its mean output over the same text of the other half of the documents."""


def by_role(survived: pd.DataFrame, kinds: tuple[str, ...], digits: str = ".2f") -> pd.DataFrame:
    """Return one row a role, with its value on each text."""
    rows = []
    own: Any = survived[survived["kind"].isin(kinds)]
    for role, part in own.groupby("role", sort=False):
        row: dict[str, Any] = {"role": role}
        for entry in part.to_dict("records"):
            if entry["text"] == "intact":
                row["head"] = f"L{entry['layer']}H{entry['head']}"
                row |= {"count": entry["count"], "documents": entry["value_n"]}
            marks = "+" * bool(entry.get("gain_low", np.nan) > 0)
            marks += "*" * bool(np.sign(entry["change_low"]) * np.sign(entry["change_high"]) > 0)
            low, high = (format(entry[f"value_{end}"], digits) for end in ("low", "high"))
            row[WORDS[entry["text"]]] = f"{entry['value']:{digits}} [{low}, {high}]{' ' * bool(marks)}{marks}"
        rows.append(row)
    return pd.DataFrame(rows)


def genre_section(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the section on genres."""
    if "across-genres" not in tables:
        return ""
    rows = []
    for row in tables["across-genres"].to_dict("records"):
        digits = ".4f" if row["kind"] == "effect" else ".2f"
        low, high = (format(row[f"mean_{end}"], digits) for end in ("low", "high"))
        cells = {"role": row["role"], "mean": f"{row['mean']:{digits}} [{low}, {high}]"}
        cells |= {name: format(row[name], digits) for name in ("least", "most")}
        cells |= {"above 0": f"{row['above 0']} of {row['mean_n']}", "one head": "yes" if row["one head"] else "no"}
        rows.append(cells | {name: row[name] for name in ("between", "expected", "p", "q")})
    return f"""
## Genres

The head (of an effect: the role's) and the offset are chosen on all other genres. "mean": of the gain (of patterns and
effects, of the value itself) over genres, with its interval over genres; least and most: of single genres, which have
few documents each; "above 0": genres in which it is. "one head": the other genres chose the same head every time.
"between": the share of the documents' variance that genres have, beside what they have by chance ("expected"), with
p by permuting documents and q over all rows.

{lab.markdown(pd.DataFrame(rows), ".2f")}
"""


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the texts' names."""
    return table.assign(text=[WORDS[name] for name in table["text"]])


def relations_table(together: pd.DataFrame) -> str:
    """Return the table of all relations together."""
    if together.empty:
        return ""
    table = together.rename(columns={"share_n": "documents"}).drop(columns=["gain_n", "change_n"])
    return lab.markdown(named(spanned(table, ("share", "gain", "change"))), ".2f")
