"""Evidence for the names that the field uses for heads, each beside its null.

The survey of Zheng et al. 2025 ("Attention heads of large language models") lists the names. What earns each here:

| role | an example's score | null |
|---|---|---|
| previous_token, next_token, self_token | attention at that offset, on natural inputs | random weights |
| sink | attention to the first token; it yields to every other role | random weights |
| positional | share of arg-maxes at one other fixed offset (Voita et al. 2019) | random weights |
| duplicate_token, induction | on random tokens that are said twice (Olsson et al. 2022) | other tokens, shuffled |
| retrieval | whether its arg-max copies the answer from a fact (Wu et al. 2024) | random weights |
| name_mover | attention to a name times whether its OV circuit raises that name (Wang et al. 2022) | other names |
| copy_suppression | whether its OV circuit lowers a token's own logit most (McDougall et al. 2023) | other tokens |
| successor | whether its OV circuit raises a word's successor most (Gould et al. 2023) | other successors |
| entity | share of attention to words of named entities | shuffled among words |
| nsubj_to_head, … | whether a word's arg-max is its gold head or dependent (Clark et al. 2019) | best fixed offset |

The roles of OV circuits are read from weights: they say what a head does with a token that it looks at. A role that a
stack can't have, or whose inputs its tokenizer has no words for, is left out, and the reason is given.

Dimension key: E examples, D draws of the null, P pairs of tokens, L layers, N heads.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

import numpy as np

from ..arguments import at_least, checked
from ..data.needles import needle_prompts
from ..data.prompts import ioi_prompts
from ..data.successors import successor_pairs
from ..evidence.nulls import shuffled_pairs
from ..evidence.roles import Evidence, share_interval
from ..execution.resources import Options, shares_options
from ..measure.patterns.metric import Metric, fits
from ..measure.patterns.registry import METRICS
from ..measure.patterns.scoring import measure
from ..measure.patterns.tokens import retrieval, token_class
from ..measure.weights.token_pair_maps import token_maps
from ..measure.words.relations import relations
from ..measure.words.structure import structure
from ..models.inputs.batch import Batch
from ..models.inputs.sentences import Sentences
from ..models.inputs.vocabulary import ordinary_tokens
from ..models.model import Model
from ..models.random_weights import random_weights
from ..models.stack import Stack
from ..provenance import provenance
from ..statistics import mean_interval
from ..tables import Column, HeadTable
from . import inputs as inputs_module
from .inputs import first_token
from .sources import LEAST, Inputs, inputs_of

ON_PROSE = (
    "entropy",
    "confidence",
    "distance",
    "previous_token",
    "next_token",
    "self_token",
    "first_token",
    "positional_share",
)
"""Metrics measured on prose; next_token only for models that attend to it."""

ON_REPEATS = ("duplicate_token", "induction")
ROLE_OF = {
    "previous_token": "previous_token",
    "next_token": "next_token",
    "self_token": "self_token",
    "first_token": "sink",
    "positional_share": "positional",
}
"""The role that a metric on natural inputs earns."""

METRIC_OF = {role: metric for metric, role in ROLE_OF.items()}
"""The metric of a role on natural inputs."""

YIELDING = ("sink",)
"""Roles of heads that have nothing else to do."""

TOKENS = 96
"""Tokens of the text whose suppression is asked of each head."""

COPIED, SUPPRESSED = 5, 10
"""Among how many tokens a copied one is (Wang et al. 2022), and a suppressed one (McDougall et al. 2023)."""


class Found(NamedTuple):
    """Evidence, the tables that hold its scores, and the reasons why other roles are left out."""

    evidence: list[Evidence]
    tables: list[HeadTable]
    left_out: list[str]


@shares_options(without=("level", "clusters"))
@checked(examples=at_least(8))
def role_evidence(
    model: Model,
    sentences: Sentences | None = None,
    *,
    text: str | os.PathLike | None = None,
    examples: int = 32,
    **options: Unpack[Options],
) -> list[Evidence]:
    """Return the evidence of all roles that a stack can have, each with its null: `jh.name_heads(jh.role_evidence(m))`.

    The module's docstring lists the roles, what earns each, and the nulls. Roles that the stack or its tokenizer can't
    have are not among them; `left_out` in the provenance of `jh.function_scores` and of the atlas says why. Heads of
    "sink" have often nothing else to do: `jh.name_heads(…, yielding=("sink",))`.

    Args:
        sentences: with links "deprel" or labels "entity" (`jh.data.conllu`), for syntactic relations and entities.
        text: a UTF-8 file of prose, passages separated by blank lines; the package's 64 passages when left out.
        examples: of repeated random tokens, and of the prompts with facts and names.
        options: shared by all questions: stack, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a model that reads no text, or a text with too few tokens.
        FileNotFoundError: for a missing text.
    """
    chosen, seed = model.stack(options.get("stack")), options.get("seed", 0)
    inputs = inputs_of(model, chosen, text=text, images=None, audio=None, measured=examples, seed=seed)
    found = [pattern_evidence(model, inputs, **options)]
    if inputs.repeats is not None:
        found.append(token_evidence(model, inputs.batches, examples=examples, **options))
    if sentences is not None:
        found.append(sentence_evidence(model, sentences, **options))
    return [entry for part in found for entry in part.evidence]


@shares_options(without=("level", "clusters"))
@checked(examples=at_least(8))
def function_scores(
    model: Model, *, text: str | os.PathLike | None = None, examples: int = 32, **options: Unpack[Options]
) -> HeadTable:
    """Score every head as a retrieval head, name mover, copy suppressor and successor, as one table.

    Args:
        text: a UTF-8 file of prose, whose words are those that may be suppressed; see `jh.role_evidence`.
        examples: prompts with facts, and with names.
        options: shared by all questions: stack, seed, memory, devices, progress, resume.

    Returns:
        Columns `retrieval` (Wu et al. 2024), `name_mover` (Wang et al. 2022), `copy_suppression` (McDougall et al.
        2023) and `successor` (Gould et al. 2023), from 0 to 1, of those whose words the tokenizer has; the module's
        docstring says what each is. `…_null` is the mean over draws of the null's best head.

    Raises:
        ValueError: for a model that is no decoder with logits, or whose tokenizer has the words of none.
    """
    chosen, seed = model.stack(options.get("stack")), options.get("seed", 0)
    inputs = inputs_of(model, chosen, text=text, images=None, audio=None, measured=examples, seed=seed)
    found = token_evidence(model, inputs.batches, examples=examples, **options)
    if not found.evidence:
        raise ValueError(f"no function can be scored: {'; '.join(found.left_out)}")
    columns, extras = {}, {}
    for entry in found.evidence:
        scores_ELN, null_DELN = np.asarray(entry.scores), entry.draws
        interval = mean_interval(scores_ELN, clusters=_labels(entry), within=(0, 1))
        columns[entry.role] = Column(*interval, range=(0, 1))
        extras[f"{entry.role}_null"] = np.full(scores_ELN.shape[1:], null_DELN.mean(axis=1).max(axis=(1, 2)).mean())
    about = provenance(model, text=inputs.source, examples=examples, seed=seed, left_out=found.left_out)
    return HeadTable.from_columns("function_scores", chosen.name, columns, about, extras=extras)


def pattern_evidence(model: Model, inputs: Inputs, **options: Unpack[Options]) -> Found:
    """Return the evidence of roles by attention patterns: on natural inputs and, where there are any, on repeats."""
    stack, draws = model.stack(options.get("stack")), inputs_module.DRAWS
    metrics, roles = (visible(stack, names) for names in (ON_PROSE, tuple(ROLE_OF)))
    seed, batches = options.get("seed", 0), inputs.batches
    tables = [measure(model, batches, metrics, **options)]
    by_chance = [measure(random_weights(model, seed + draw), batches, roles, **options) for draw in range(draws)]
    evidence = [
        Evidence.from_tables(tables[0], by_chance, "random weights", metric=name, role=ROLE_OF[name]) for name in roles
    ]
    if "positional_share" in roles:
        evidence[-1] = _at_other_offsets(evidence[-1], tables[0])
    if inputs.repeats is not None:
        batch, nulls = inputs.repeats.batch, inputs.repeats.nulls
        tables.append(measure(model, [batch], ON_REPEATS, **options))
        # The model reads the null, but heads are scored at the positions of the repeats, which the null doesn't have.
        shuffled = [measure(model, [null], ON_REPEATS, scored_as=[batch], **options) for null in nulls]
        evidence += [Evidence.from_tables(tables[1], shuffled, "shuffled repeats", metric=role) for role in ON_REPEATS]
    return Found(evidence, tables, [])


def role_table(evidence: Evidence) -> HeadTable:
    """Return the scores of every head for one role, with their intervals over all examples."""
    scores_ELN = np.asarray(evidence.scores)
    labels = _labels(evidence)
    interval = share_interval(scores_ELN, clusters=labels)
    # The range is that of examples, too.
    column = Column(*interval, scores_ELN, range=(-np.inf, np.inf) if evidence.ratio else (0.0, 1.0))
    about = {"null": evidence.null_kind}
    return HeadTable.from_columns(
        evidence.role, evidence.stack, {evidence.role: column}, about, squeeze=True, clusters=labels
    )


def _labels(evidence: Evidence) -> np.ndarray | None:
    """Return the clusters of an evidence's examples as whole numbers, or None."""
    return None if evidence.clusters is None else np.unique(np.asarray(evidence.clusters), return_inverse=True)[1]


def visible(stack: Stack, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics that a stack's positions and its mask allow: a causal stack attends to no next token."""
    fitting = [name for name in metrics if fits(METRICS[name], stack)]
    return tuple(name for name in fitting if not (name == "next_token" and stack.causal))


def _at_other_offsets(evidence: Evidence, table: HeadTable) -> Evidence:
    """Return evidence of fixed offsets without the heads at −1, 0 and 1, whose roles have names of their own."""
    own = np.isin(table.grid("positional_offset").astype(float), (-1, 0, 1))
    scores = np.where(own, np.nan, np.asarray(evidence.scores))
    # Of few heads, shares repeat by chance; whether examples do is told by the other roles, which have all heads.
    clusters = np.arange(len(scores)) if evidence.clusters is None else evidence.clusters
    return replace(evidence, scores=scores, clusters=clusters)


def token_evidence(model: Model, text: Sequence[Batch], *, examples: int, **options: Unpack[Options]) -> Found:
    """Return the evidence of roles by what heads do with tokens: in a decoder with logits over its vocabulary."""
    stack, network = model.stack(options.get("stack")), model.network
    if network.unembedding is None or network.classes_of is not None or not stack.causal or len(model.stacks) > 1:
        reason = "retrieval, name movers, copy suppression and successors need a decoder of one stack with logits"
        return Found([], [], [f"{reason}; {model.name} is none"])
    makers: dict[str, Callable[[], Evidence]] = {
        "retrieval": lambda: _retrieval(model, examples, **options),
        "name_mover": lambda: _name_mover(model, examples, **options),
        "copy_suppression": lambda: _copy_suppression(model, text, **options),
        "successor": lambda: _successor(model, **options),
    }
    evidence, left_out = [], []
    for role, make in makers.items():
        try:
            evidence.append(make())
        except ValueError as reason:  # a tokenizer without the words, tokens without an embedding of their own
            left_out.append(f"{role}: {reason}")
    return Found(evidence, [], left_out)


def sentence_evidence(model: Model, sentences: Sentences, *, least: int = 20, **options: Unpack[Options]) -> Found:
    """Return the evidence of syntactic relations and of attention to entities, of labelled sentences.

    Args:
        least: relations of fewer words are left out; see `jh.relations`.
    """
    evidence, tables, left_out = [], [], []
    if any("deprel" in one.links for one in sentences):
        table = relations(model, sentences, least=least, **options)
        tables.append(table)
        evidence += _relations(table)
    else:
        left_out.append("syntactic relations: the sentences have no links 'deprel'")
    try:
        evidence.append(_entity(model, sentences, **options))
    except ValueError as reason:
        left_out.append(f"entity: {reason}")
    return Found(evidence, tables, left_out)


def _relations(table: HeadTable) -> list[Evidence]:
    """Return the evidence of each relation and direction: its share, beside that of the best fixed offset."""
    assert table.per_example is not None, "relations keep a row a document"
    rows = dict(zip(table.metrics, np.asarray(table.per_example, np.float64), strict=True))
    documents, null = np.arange(len(next(iter(rows.values())))), "the best fixed offset"
    return [
        Evidence(name, rows[name], rows[name] - rows[f"{name}_gain"], null, table.stack, documents, ratio=True)
        for name in rows
        if f"{name}_gain" in rows
    ]


def _entity(model: Model, sentences: Sentences, **options: Unpack[Options]) -> Evidence:
    """Return the evidence of attention to words of named entities; in the null they change places with other words."""
    named = [one for one in sentences if any(one.labels.get("entity", ()))]
    if len(named) < LEAST:
        raise ValueError(f"expected {LEAST} sentences or more with a label 'entity' of words, got {len(named)}")
    rng = np.random.default_rng(options.get("seed", 0))
    tables = []
    for draw in range(1 + inputs_module.DRAWS):
        labels = [["named" if label else "other" for label in one.labels["entity"]] for one in named]
        mixed = labels if draw == 0 else [rng.permutation(np.array(words)).tolist() for words in labels]
        made = [replace(one, labels={"named": tuple(words)}) for one, words in zip(named, mixed, strict=True)]
        tables.append(structure(model, Sentences(tuple(made), sentences.files), tags="named", **options))
    own, *drawn = tables
    return Evidence.from_tables(own, drawn, "shuffled among words", metric="named_share", role="entity")


def _marked(prompts: Any, marks: dict[str, np.ndarray]) -> Batch:
    return Batch(prompts.tokens, prompts.mask, marks={name: mark.astype(float) for name, mark in marks.items()})


def _rows(table: HeadTable, number: int = 0) -> np.ndarray:
    """Return one metric's values by example, `[E,L,N]`."""
    assert table.per_example is not None
    rows = np.asarray(table.per_example, np.float64)
    return rows[number] if rows.ndim == 4 else rows


def _retrieval(model: Model, examples: int, **options: Unpack[Options]) -> Evidence:
    seed = options.get("seed", 0)
    prompts = needle_prompts(model.tokenizer, examples=examples, seed=seed, bos=_begins(model))
    batch = _marked(prompts, {"needle": prompts.needle, "answer": prompts.answer})
    metric: Metric = retrieval("needle", "answer")
    own, *drawn = [
        measure(each, [batch], [metric], **options)
        for each in (model, *(random_weights(model, seed + draw) for draw in range(inputs_module.DRAWS)))
    ]
    return Evidence.from_tables(own, drawn, "random weights", role="retrieval")


def _name_mover(model: Model, examples: int, **options: Unpack[Options]) -> Evidence:
    prompts = ioi_prompts(model.tokenizer, examples=examples, seed=options.get("seed", 0), bos=_begins(model))
    at_T = np.arange(prompts.tokens.shape[1])
    marks = {"io": at_T == prompts.io[:, None], "end": at_T == prompts.end[:, None]}
    attention_ELN = _rows(measure(model, [_marked(prompts, marks)], [token_class("io", "end")], **options))
    names, of_prompt = np.unique(prompts.indirect_object, return_inverse=True)
    hits_DPLN = _hits(model, names, names, "maps", COPIED, **options)
    score_DELN = np.clip(attention_ELN, 0, 1) * hits_DPLN[:, of_prompt]
    # prompts of one name share what its OV circuit does
    return Evidence("name_mover", score_DELN[0], score_DELN[1:], "other names", _stack(model, options), of_prompt)


def _copy_suppression(model: Model, text: Sequence[Batch], **options: Unpack[Options]) -> Evidence:
    ids = np.unique(np.concatenate([np.asarray(batch.tokens)[np.asarray(batch.mask)] for batch in text]))
    ids = np.intersect1d(ids, ordinary_tokens(model.tokenizer, model.config.vocab_size))
    if len(ids) < 8:
        raise ValueError(f"the text has {len(ids)} different words that count, and 8 are needed")
    tokens = np.random.default_rng(options.get("seed", 0)).permutation(ids)[:TOKENS]
    hits_DPLN = _hits(model, tokens, tokens, "suppresses", SUPPRESSED, **options)
    return Evidence("copy_suppression", hits_DPLN[0], hits_DPLN[1:], "other tokens", _stack(model, options))


def _successor(model: Model, **options: Unpack[Options]) -> Evidence:
    series = successor_pairs(model.tokenizer)
    if sum(map(len, series.values())) < 16:
        raise ValueError("expected 16 or more words with a successor, one token each, and the tokenizer has fewer")
    pairs = np.concatenate(list(series.values()))
    # Targets change places within their series: a head that raises any month after a month is none.
    shuffled = [
        np.concatenate([shuffled_pairs(own, options.get("seed", 0) + draw)[:, 1] for own in series.values()])
        for draw in range(inputs_module.DRAWS)
    ]
    hits = _hits_of(model, pairs[:, 0], [pairs[:, 1], *shuffled], "maps", 1, candidates=np.unique(pairs), **options)
    return Evidence("successor", hits[0], hits[1:], "other successors", _stack(model, options))


def _hits(
    model: Model, source: np.ndarray, target: np.ndarray, column: str, top: int, **options: Unpack[Options]
) -> np.ndarray:
    """Return which pairs each head's OV circuit moves, and which with shuffled targets, `[1+D,P,L,N]`."""
    pairs, seed = np.stack([source, target], axis=1), options.get("seed", 0)
    shuffled = [shuffled_pairs(pairs, seed + draw)[:, 1] for draw in range(inputs_module.DRAWS)]
    return _hits_of(model, source, [target, *shuffled], column, top, **options)


def _hits_of(
    model: Model,
    source: np.ndarray,
    targets: Sequence[np.ndarray],
    column: str,
    top: int,
    *,
    candidates: np.ndarray | None = None,
    **options: Unpack[Options],
) -> np.ndarray:
    """Return which pairs of a source with each of its targets are moved, `[targets,P,L,N]`, ranked in one pass."""
    pairs = np.concatenate([np.stack([source, target], axis=1) for target in targets])
    table = token_maps(model, pairs, top=top, candidates=candidates, stack=options.get("stack"))
    hits = _rows(table, table.metrics.index(column))
    return hits.reshape(len(targets), len(source), *hits.shape[1:])


def _begins(model: Model) -> bool:
    """Whether texts begin with the tokenizer's BOS."""
    return first_token(model) is not None and model.tokenizer.bos_token_id is not None


def _stack(model: Model, options: Options) -> str:
    return model.stack(options.get("stack")).name
