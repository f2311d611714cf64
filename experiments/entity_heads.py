"""Heads beside coreference: which head looks from a mention to its antecedent, for pronouns, names and nouns?

    python -m experiments.entity_heads --treebank PATH [--model NAME] [--words N] [--quick] [--out DIR]

After Clark et al. 2019 (arXiv 1906.04341, section 4.3): a mention's head word is right if its arg-max among the other
words of the passage is the head word of one of the mention's antecedents in the passage. Passages are consecutive
sentences of one document. The head is chosen on one half of the documents and reported on the other, for each kind of
mention and for all. Beside it: the best fixed offset; two rules that read no model, the nearest earlier mention, and
the nearest earlier mention with the same word (or else the nearest); random weights; and, as antecedents, other earlier
mentions of the passage, which do not corefer: a head that looks at mentions, whichever they are, is right there too.
Probes of heads' outputs then ask for the type of entity (person, place, …), for pronouns, names and nouns apart.

A corpus with coreference in CorefUD's form is needed: for English `en_gum-ud-dev.conllu` of
https://github.com/UniversalDependencies/UD_English-GUM (mostly CC BY-NC-SA 4.0). Without one, --quick reads passages of
the package's own, by templates: they show that it works, and nothing else.

Found: see results/entity-heads, whose first lines say it. Cost on 2 cores: minilm-l6, 100 words, two minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences, conllu
from jaxheads.statistics import mean_interval

from . import lab
from .support import own_sentences
from .support.entity_heads_probes import probes, section
from .support.relation_choice import Asked, beside_nulls, chosen, span, spanned

ALL = "all"
KINDS = ("pronoun", "proper", "nominal", ALL)
CLARK = {ALL: (65, 27, 52), "pronoun": (64, 29, 47), "proper": (73, 29, 67), "nominal": (58, 19, 40)}
"""Accuracy in percent of BERT's best head, the nearest mention and the head match: Clark et al. 2019, table 2."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        treebank: a file in CoNLL-U with entities and coreference.
        model: zoo name, hub id or directory.
        words: words of a passage at most.
        seed: of the halves and the nulls.
    """

    out: Path = Path("results/entity-heads")
    treebank: Path | None = None
    model: str = "minilm-l6"
    words: int = 100
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError without a treebank, unless the run is quick."""
        super().check()
        if self.treebank is None and not self.quick:
            raise ValueError("--treebank: expected a file in CoNLL-U with coreference (--quick runs without one)")


def read(options: Options) -> Sentences:
    """Return the passages with coreference."""
    every = own_sentences.passages() if options.treebank is None else conllu(options.treebank, unit=options.words)
    found = every.where(lambda one: bool(one.links.get("coref")))
    if not len(found):
        raise ValueError(f"{options.treebank}: there is no coreference")
    return found


def relinked(sentences: Sentences, change: Callable[[Sentence], tuple[Link, ...]]) -> Sentences:
    """Return passages with other links of coreference, and without those that are left with none."""
    made = [replace(one, links={"coref": change(one)}) for one in sentences]
    return Sentences(tuple(one for one in made if one.links["coref"]), sentences.files)


def of_one_kind(one: Sentence) -> tuple[Link, ...]:
    """Return the links under one name."""
    return tuple(link._replace(label=ALL) for link in one.links["coref"])


def antecedents(one: Sentence) -> dict[int, set[int]]:
    """Return the antecedents of each mention."""
    found: dict[int, set[int]] = {}
    for link in one.links["coref"]:
        found.setdefault(link.dependent, set()).add(link.head)
    return found


def other_mentions(one: Sentence, rng: np.random.Generator) -> tuple[Link, ...]:
    """Return each mention with as many earlier mentions that are none of its antecedents, as far as there are any."""
    gold, kinds = antecedents(one), {link.dependent: link.label for link in one.links["coref"]}
    mentions = sorted({*gold, *(head for heads in gold.values() for head in heads)})
    links = []
    for dependent, heads in gold.items():
        others = [word for word in mentions if word < dependent and word not in heads]
        drawn = rng.permutation(others)[: len(heads)].tolist()
        links += [Link(dependent, int(head), kinds[dependent]) for head in drawn]
    return tuple(links)


def rules(sentences: Sentences, seed: int) -> pd.DataFrame:
    """Return the share of mentions that each rule gives an antecedent, by kind, on the half that reports."""
    rows: list[dict[str, Any]] = []
    for one in jh.half_of(sentences, 1, seed=seed):
        gold, kinds = antecedents(one), {link.dependent: link.label for link in one.links["coref"]}
        mentions = sorted({*gold, *(head for heads in gold.values() for head in heads)})
        for dependent, heads in gold.items():
            earlier = [word for word in mentions if word < dependent]
            alike = [word for word in earlier if one.words[word].lower() == one.words[dependent].lower()]
            right = {"nearest": earlier[-1] in heads, "same word": (alike or earlier)[-1] in heads}
            rows += [{"kind": kind, "document": one.document, **right} for kind in (kinds[dependent], ALL)]
    found = []
    for kind, own in pd.DataFrame(rows).groupby("kind"):
        row: dict[str, Any] = {"relation": kind}
        for rule in ("nearest", "same word"):
            values = own[rule].to_numpy(np.float64)
            row |= lab.bounds(rule, mean_interval(values, clusters=own["document"].to_numpy()))
        found.append(row)
    return pd.DataFrame(found)


def run(options: Options) -> lab.Results:
    """Choose heads by kind and for all, and report them beside rules and nulls."""
    sentences, model = read(options), jh.load(options.model)
    asked = Asked("coref", 5, options.seed, options.unfinished)
    rng = np.random.default_rng(options.seed)
    wrong = relinked(sentences, lambda one: other_mentions(one, rng))

    def by_kind(model: jh.Model, passages: Sentences) -> pd.DataFrame:
        both = [chosen(model, own, asked) for own in (passages, relinked(passages, of_one_kind))]
        frame: Any = pd.concat(both, ignore_index=True)
        return frame[frame["direction"] == "to head"].reset_index(drop=True)

    heads = by_kind(model, sentences)
    nulls = {"random": by_kind(jh.random_weights(model, options.seed), sentences), "others": by_kind(model, wrong)}
    table = beside_nulls(heads, nulls).merge(rules(sentences, options.seed), on="relation", how="left")
    about = lab.provenance(
        model, files=dict(sentences.files), passages=len(sentences), words=options.words, seed=options.seed
    )
    probed = probes(model, sentences, options.seed)
    tables = {"heads": table, **{f"null-{name}": null for name, null in nulls.items()}, "probes": probed}
    return lab.Results(page(model, sentences, table, probed), about, tables)


def page(model: jh.Model, sentences: Sentences, table: pd.DataFrame, probed: pd.DataFrame) -> str:
    """Return the page for readers."""
    source = ", ".join(sentences.files) or "passages of the package's own, by templates: no finding"
    every = table[table["relation"] == ALL].iloc[0].to_dict()
    longest = max(len(one.words) for one in sentences)
    shown = table.assign(head="L" + table["layer"].astype(str) + "H" + table["head"].astype(str))
    columns = ["relation", "head", "words", "n"]
    for name in ("share", "gain", "mass", "nearest", "same word"):
        columns += [name, f"{name}_low", f"{name}_high"]
    chosen_columns: Any = shown[[*columns, "base", "share_random", "share_others"]]
    cells = spanned(chosen_columns, ("share", "gain", "mass", "nearest", "same word"))
    return f"""# Which heads of {model.name} look from a mention to its antecedent

Head L{every["layer"]}H{every["head"]}, chosen on one half of the documents, has an antecedent as its arg-max for
{span(every, "share")} of the mentions of the other half; the best fixed offset for {every["base"]:.2f}, the nearest
earlier mention is one for {span(every, "nearest")}, the nearest with the same word for {span(every, "same word")}
(n = {every["words"]} mentions of {every["n"]} documents). The best head of random weights (one draw) has
{every["share_random"]:.2f}. With earlier mentions that do not corefer as the gold, the head chosen for them has
{every["share_others"]:.2f}.

{len(sentences)} passages of at most {longest} words ({source}); antecedents outside the
passage do not count, nor do mentions without an antecedent in it, and so a rule's mentions are those that corefer with
something: among all mentions an antecedent is harder to find. Intervals: 95 %, over documents.

{lab.markdown(cells.rename(columns={"relation": "mention", "words": "mentions", "n": "documents"}), ".2f")}

"gain" is over the best fixed offset, which the other half chose. share_random and share_others are of the heads that
these nulls choose. A head that is right for names and nouns may match words, as the rule "same word" does: only where
it is above that rule is there more to it than repetition.
{section(probed)}
## Beside published numbers

{lab.markdown(published(table), ".2f")}

Clark et al. 2019, table 2 [P]: BERT-base on CoNLL-2012, head 5-4, counted from 1; other text, other annotation and
whole documents, head chosen on the sentences that it reports.
"""


def published(table: pd.DataFrame) -> pd.DataFrame:
    """Return our shares beside Clark et al.'s."""
    rows = []
    for kind in KINDS:
        own = table[table["relation"] == kind]
        if len(own):
            head, nearest, match = (number / 100 for number in CLARK[kind])
            rows.append(
                {
                    "mention": kind,
                    "ours": span(own.iloc[0].to_dict(), "share"),
                    "BERT-base head": head,
                    "nearest": nearest,
                    "head match": match,
                }
            )
    return pd.DataFrame(rows)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
