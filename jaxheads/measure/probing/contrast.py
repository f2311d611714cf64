"""Changes of every head between sentences that differ in one property, beside control edits that leave it.

Dimension key: B pairs, C words that both sentences share, T tokens of one (S of keys), L layers, N heads, H head
dimension, G documents.
"""

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from jax import Array

from ...checks import shown
from ...execution.cost import FLOAT
from ...execution.lengths import lengthened
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import LENGTHS, SentenceBatches
from ...models.inputs.batch import Batch
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.network import Network, forward
from ...objectives import Objective
from ...programs import compiled
from ...progress import progress as show_progress
from ...provenance import provenance
from ...statistics import mean_interval
from ...tables import Column, HeadTable
from ..direct.direct_effects import direct_effects
from ..example_chunks import choose_chunks, run_examples
from .units import documents

RANGES = {"js": (0.0, float(np.log(2))), "z": (0.0, np.inf), "logit": (-np.inf, np.inf)}
"""The least and largest value of columns."""


@shares_options(without=("clusters",))
def contrast(
    model: Model,
    sentences: Sentences,
    changed: Sentences,
    control: Sentences | None = None,
    *,
    objective: Objective | None = None,
    **options: Unpack[Options],
) -> HeadTable:
    """Measure what a changed property of sentences moves in every head: one row a head.

    Only words that both sentences of a pair share are read, matched in their order, so that words may be added, left
    out or replaced. A word of several pieces is one: attention to it is the sum, from it the mean over its pieces.

    Args:
        changed: each sentence with the property changed (another number, a negation).
        control: each sentence with an edit of equal length that leaves the property (another noun, another adverb).
        objective: a linear objective that both sentences of a pair are read by, the same for all, such as
            `jh.logit_difference(" is", " are")`.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        Means over sentences, with intervals over documents: `js`, the Jensen–Shannon divergence of the patterns in
        nats, what is no shared word as one key, averaged over the shared words; `z`, ‖Δz‖ averaged over these words, as
        a share of the mean ‖z‖ of the sentence; with an objective `logit`, the signed change of what the head adds to
        it directly (see `jh.direct_effects`). With a control also `control_js`, …, and `js_excess`, …: what the
        property moves beyond the control.

    Raises:
        ValueError: for sentences of different numbers, pairs that share no word, a stack whose positions are not
            tokens, or an objective that `jh.direct_effects` refuses.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    if stack.is_cross or stack.queries.kind != "tokens":
        raise ValueError(f"pairs of sentences are of tokens; the {stack.name} of {model.name} reads something else")
    edits = {"": changed} | ({} if control is None else {"control_": control})
    for name, other in edits.items():
        if len(other) != len(sentences):
            raise ValueError(
                f"{name.rstrip('_') or 'changed'}: expected {len(sentences)} sentences, one for each; got {len(other)}"
            )
    kept = _kept(model, sentences, *edits.values())
    values: dict[str, np.ndarray] = {}
    label = f"contrasts in {stack.layers * stack.heads} heads of {model.name}"
    with show_progress(len(kept) * len(edits), label, resources.progress) as advance:
        for prefix, other in edits.items():
            for indices, first, second in _batches(model, sentences, other, kept):
                pairs = _Pairs(model, stack.name, first, second, _shared(sentences, other, indices))
                read = pairs.measured(resources, int(indices[0]))
                if objective is not None:
                    read["logit"] = pairs.direct(objective, options)
                for name, own in read.items():
                    room = values.setdefault(prefix + name, np.full((len(sentences), *own.shape[1:]), np.nan))
                    room[indices] = own
                advance(len(indices))
    about = {"pairs": len(kept), "left_out_as_too_long": len(sentences) - len(kept), "files": dict(sentences.files)}
    details = provenance(
        model,
        **about,
        **{"stack": stack.name, "control": control is not None, "objective": getattr(objective, "name", None)},
        **{"level": options.get("level", 0.95), "seed": options.get("seed", 0)},
    )
    kept_values = {name: own[kept] for name, own in values.items()}
    return _table(stack.name, kept_values, documents(sentences, len(sentences))[kept], details)


def _table(stack: str, values: Mapping[str, np.ndarray], clusters: np.ndarray, details: dict[str, Any]) -> HeadTable:
    names = [name for name in values if not name.startswith("control_")]
    excess = {
        f"{name}_excess": values[name] - values[f"control_{name}"] for name in names if f"control_{name}" in values
    }
    columns = {}
    for name, own in (dict(values) | excess).items():
        low, high = RANGES[name.removeprefix("control_").removesuffix("_excess")]
        within = (low - high, high - low) if name.endswith("_excess") else (low, high)
        interval = mean_interval(own, clusters=clusters, within=within, level=details["level"])
        columns[name] = Column(*interval, own, range=within)
    return HeadTable.from_columns("contrast", stack, columns, details, clusters=clusters)


def _kept(model: Model, *sentences: Sentences) -> np.ndarray:
    """Return the indices of the pairs whose sentences all fit the model's context."""
    fits = [set(SentenceBatches(model, own).kept.tolist()) for own in sentences]
    kept = np.array(sorted(set.intersection(*fits)), int)
    if not len(kept):
        raise ValueError(f"sentences: expected pairs that fit the context of {model.name}, got none")
    return kept


def _batches(
    model: Model, sentences: Sentences, other: Sentences, kept: np.ndarray
) -> Iterator[tuple[np.ndarray, Batch, Batch]]:
    """Yield pairs in batches of nearly equal lengths: their indices, and both sentences."""
    for own, first in SentenceBatches(model, sentences.take(kept.tolist())):
        indices = kept[own]
        second = model.encode(other.take(indices.tolist()))
        length, context = -(-second.tokens.shape[1] // LENGTHS) * LENGTHS, model.config.max_position_embeddings
        yield indices, first, lengthened(second, tokens=length if context is None else min(length, context))


def _shared(sentences: Sentences, other: Sentences, indices: np.ndarray) -> list[tuple[list[int], list[int]]]:
    """Return the words that both sentences of each pair share, as indices in each, matched in their order."""
    shared = []
    for index in indices:
        words, others = sentences[int(index)].words, other[int(index)].words
        blocks = difflib.SequenceMatcher(None, words, others, autojunk=False).get_matching_blocks()
        pairs = [(block.a + step, block.b + step) for block in blocks for step in range(block.size)]
        if not pairs:
            raise ValueError(f"pair {index}: {shown(' '.join(words))} and {shown(' '.join(others))} share no word")
        shared.append(([first for first, _ in pairs], [second for _, second in pairs]))
    return shared


class _Pairs:
    """Pairs of sentences of one batch.

    Args:
        shared: for each pair the words of either sentence that both share.
    """

    def __init__(
        self, model: Model, stack: str, first: Batch, second: Batch, shared: list[tuple[list[int], list[int]]]
    ):
        self.model, self.stack, self.batches = model, model.stack(stack), (first, second)
        C = -(-max(len(own) for own, _ in shared) // LENGTHS) * LENGTHS
        self.members = tuple(
            _members(batch, [pair[side] for pair in shared], C) for side, batch in enumerate(self.batches)
        )
        self.size = C

    def measured(self, resources: Resources, number: int) -> dict[str, np.ndarray]:
        """Return `js` and `z` of each pair, `[B,L,N]`."""
        stack, (first, second), C = self.stack, self.batches, self.size
        result = np.full((len(first), stack.layers, stack.heads, 2), np.nan)
        inputs = (first.model_inputs, second.model_inputs)

        def compute(examples: np.ndarray) -> Array:
            taken = (*(own.take(examples) for own in inputs), *(own[examples] for own in self.members))
            placed = (resources.devices.examples(part) for part in taken)
            return _program()(resources.network(self.model), *placed, stack=stack.name)

        def add(examples: np.ndarray, values: np.ndarray) -> None:
            result[examples] = values

        numbers = stack.layers * stack.heads * 2 * C * (C + 1 + stack.head_size)
        longer = max(inputs, key=lambda batch: batch.tokens.shape[1])
        run_examples(
            choose_chunks(resources, self.model, stack, longer, example_bytes=FLOAT * numbers),
            len(first),
            compute,
            add,
            resources=resources,
            journal=resources.journal("contrast", self.model, inputs, self.members, stack.name),
            first=number,
        )
        return {"js": result[..., 0], "z": result[..., 1]}

    def direct(self, objective: Objective, options: Options) -> np.ndarray:
        """Return the change of what each head adds directly to the objective, `[B,L,N]`."""
        own: Any = {name: value for name, value in options.items() if name in ("memory", "devices")}
        tables = [
            direct_effects(self.model, batch, objective, stack=self.stack.name, progress=False, **own)
            for batch in (batch.without("words", "labels") for batch in self.batches)
        ]
        first, second = (np.asarray(table.per_example, np.float64) for table in tables)
        return second - first


def _members(batch: Batch, words: list[list[int]], width: int) -> np.ndarray:
    """Return which tokens belong to each of these words, `[B,C,T]`."""
    chosen = np.full((len(words), width), -2)
    for row, own in zip(chosen, words, strict=True):
        row[: len(own)] = own
    return ((np.asarray(batch.words)[:, None] == chosen[..., None]) & np.asarray(batch.mask)[:, None]).astype(
        np.float32
    )


@cache
def _program() -> Any:
    return compiled(_moved, static_argnames="stack")


def _moved(network: Network, first: Batch, second: Batch, first_BCT: Array, second_BCT: Array, *, stack: str) -> Array:
    """Return `js` and `z` of each pair, `[B,L,N,2]`."""
    (p, z, there), (q, other, also) = (
        _read(network, batch, member, stack) for batch, member in ((first, first_BCT), (second, second_BCT))
    )
    # A word that shares its only token with another has none of its own.
    counts_BC = (there & also).astype(jnp.float32)
    middle = (p + q) / 2
    js = (_entropy(middle) - (_entropy(p) + _entropy(q)) / 2).clip(0.0)
    change, size = (jnp.sqrt(jnp.square(x).sum(axis=-1)) for x in (other - z, z))

    def mean(x_LBNC: Array) -> Array:
        return (x_LBNC * counts_BC[None, :, None]).sum(axis=-1) / counts_BC.sum(axis=1).clip(1.0)[None, :, None]

    lengths = mean(size)
    share = jnp.where(lengths > 0, mean(change) / jnp.where(lengths > 0, lengths, 1.0), 0.0)
    return jnp.moveaxis(jnp.stack([mean(js), share], axis=-1), 0, 1)


def _read(network: Network, batch: Batch, member_BCT: Array, stack: str) -> tuple[Array, Array, Array]:
    """Return the patterns between words `[L,B,N,C,C+1]`, the rest last, and their `z` `[L,B,N,C,H]`; and which are."""
    count_BC = member_BCT.sum(axis=-1)
    mean_BCT = member_BCT / count_BC.clip(1.0)[..., None]

    def read(seen: Mapping[str, Array]) -> tuple[Array, Array]:
        rows_BNCS = jnp.einsum("bct,bnts->bncs", mean_BCT, seen["pattern"].astype(jnp.float32))
        words_BNCD = jnp.einsum("bncs,bds->bncd", rows_BNCS, member_BCT)
        rest = (rows_BNCS.sum(axis=-1) - words_BNCD.sum(axis=-1)).clip(0.0)
        pattern = jnp.concatenate([words_BNCD, rest[..., None]], axis=-1)
        return pattern, jnp.einsum("bct,btnh->bnch", mean_BCT, seen["z"].astype(jnp.float32))

    pattern, z = forward(network, batch, read={stack: read})[1][stack]
    return pattern, z, count_BC > 0


def _entropy(p: Array) -> Array:
    return -jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0).sum(axis=-1)
