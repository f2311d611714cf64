"""Linear probes of every head at once: what a label of words or sentences can be read from.

Dimension key: G documents, L layers, N heads, C classes of all tasks, E sentences.
"""

from dataclasses import replace
from typing import Any, Literal, Unpack, get_args

import numpy as np

from ...checks import finite, one_of
from ...execution.resources import Options, Resources, shares_options
from ...execution.sentence_batches import SentenceBatches
from ...models.inputs.sentences import Sentences
from ...models.model import Model
from ...models.stack import Stack
from ...progress import progress as show_progress
from ...provenance import provenance
from ...tables import HeadTable
from ..words.documents import GROUPS
from ..words.relations import share
from .features import Of, Probe
from .passes import Reading, centred_moments
from .solving import Ascent
from .units import At, Control, Units, document_part, documents

Method = Literal["ridge", "logistic"]

STEPS = 24
"""Passes over the training sentences that a logistic probe takes at most."""

NEAR = 1e-3
"""Relative length of a step at which a logistic probe has arrived."""


@shares_options(without=("clusters",))
def probe(
    model: Model,
    sentences: Sentences,
    labels: str = "upos",
    *,
    of: Of = "z",
    method: Method = "ridge",
    control: Control | None = None,
    at: At = "mean",
    test: Sentences | None = None,
    penalty: float = 1e-3,
    **options: Unpack[Options],
) -> HeadTable:
    """Train a linear probe of a label on every head at once, and test it on other documents: one row a head.

    A head's selectivity is its accuracy less that on a control task, whose labels are drawn at random for each word
    type: what a probe can learn of word types by heart it learns there, too (Hewitt & Liang 2019, section 2). All
    probes come from one pass over one half of the documents; memory grows with neither half.

    Args:
        labels: a label of words ("upos", "entity"), of links (the dependent's relation, "deprel"), or of sentences
            ("sentiment", "genre").
        of: "z", each head's output; "pattern", each head's attention by offset between words, from -8 to 8, to
            words farther away and to what is no word; "resid_post", the stream after each layer: one row a layer.
        method: "ridge", regression of each class's indicator in closed form; "logistic", a softmax, which takes up to
            24 passes in place of one.
        control: "word type", or "shuffled", a class for each unit, drawn by the frequencies of the classes; when left
            out, the first for words and the second for sentences.
        at: the tokens that stand for a unit: the mean of its pieces (a sentence: of its words' tokens), the "first"
            or the "last" (a sentence: special tokens among them).
        test: other sentences to test on; all of `sentences` then train. When left out, half of the documents.
        penalty: of the weights, relative to the mean variance of a probe's features.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Returns:
        On the test documents, with intervals over documents: `accuracy`; `control`, that of the control task;
        `selectivity`, their difference; `majority`, the share of the class that is most frequent in training;
        `lexical`, the accuracy of each word type's most frequent class (of a type unseen in training, the majority);
        `gain`, the accuracy less the better of the two; `unseen`, the accuracy on word types unseen in training, NaN
        where there are none. Shares are over words. `.per_example` has a row for each document.

    Raises:
        ValueError: for an unknown label or option, a stack whose positions are not tokens, fewer than two classes in
            training, or documents too few to be split.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    _check(model, stack, of, method, at, penalty)
    seed, level = options.get("seed", 0), options.get("level", 0.95)
    both = sentences if test is None else Sentences((*sentences.sentences, *test.sentences))
    train, tested = _parts(model, both, len(sentences) if test is not None else None, seed)
    units = Units.of(both, labels)
    counts = units.counts(train)
    if (counts > 0).sum() < 2:
        raise ValueError(f"labels: {labels!r} needs at least two classes in training, got counts {counts.tolist()}")
    tasks = (units.classes, units.control(control, counts / counts.sum(), seed))
    passes = STEPS if method == "logistic" else 1
    label = f"probes of {labels} in {stack.layers} layers of {model.name}"
    with show_progress(passes * len(train) + len(tested), label, resources.progress) as advance:
        reading = Reading(model, stack, both, units, of, at, tasks, resources, advance)
        fitted, taken = _fitted(reading, train, method, penalty)
        sums = _Sums(units, train, documents(both, GROUPS), counts)
        reading.right(tested, fitted, sums.add)
    details = provenance(
        model,
        **{"stack": stack.name, "labels": labels, "of": of, "method": method, "at": at, "penalty": penalty},
        control=control or ("word type" if units.of_words else "shuffled"),
        classes={name: int(count) for name, count in zip(units.names, counts, strict=True)},
        **{"sentences_in_training": len(train), "sentences_in_test": len(tested), **taken},
        **{"left_out_as_too_long": len(both) - len(train) - len(tested), "files": dict(both.files)},
        **{"level": level, "seed": seed},
    )
    return sums.table(stack.name, details, of, level)


def _check(model: Model, stack: Stack, of: Of, method: Method, at: At, penalty: float) -> None:
    one_of("of", of, get_args(Of))
    one_of("method", method, get_args(Method))
    one_of("at", at, get_args(At))
    finite("penalty", penalty, least=0.0)
    if stack.is_cross or stack.queries.kind != "tokens":
        kinds = f"{stack.queries.kind} look at {stack.keys.kind}"
        raise ValueError(f"probes of sentences read tokens; in the {stack.name} of {model.name} {kinds}")


def _parts(model: Model, sentences: Sentences, count: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sentences of training and of the test: the first `count` and the others, or halves of documents."""
    kept = SentenceBatches(model, sentences).kept
    part = document_part(sentences, (1, 1), seed) if count is None else (np.arange(len(sentences)) >= count).astype(int)
    train, tested = kept[part[kept] == 0], kept[part[kept] == 1]
    few = len(set(documents(sentences, len(sentences))[tested])) < 2
    if not len(train) or few:
        raise ValueError(
            f"sentences: expected some to train on, and at least two documents to test on; got {len(train)} and "
            f"{len(tested)} sentences"
        )
    return train, tested


def _fitted(reading: Reading, train: np.ndarray, method: Method, penalty: float) -> tuple[Probe, dict[str, Any]]:
    """Return the probe of the training sentences, and words on how it was found."""
    probe, moments = centred_moments(reading, train)
    if method == "ridge":
        return probe._replace(weights=moments.ridge(penalty).astype(np.float32)), {"units_in_training": moments.count}
    ascent, relative, passes = Ascent(moments, penalty), np.inf, 1
    while passes < STEPS and relative > NEAR:
        here = probe._replace(weights=ascent.at.astype(np.float32))
        relative = ascent.step(reading.sums(f"gradient-{passes}", "gradient", train, here))
        passes += 1
    about = {"units_in_training": moments.count, "passes": passes, "last_relative_step": relative}
    return probe._replace(weights=ascent.weights.astype(np.float32)), about


class _Sums:
    """Sums of what is right, by document, in bounded memory.

    Args:
        group_E: the document of each sentence.
        counts: training units of each class.
    """

    def __init__(self, units: Units, train: np.ndarray, group_E: np.ndarray, counts: np.ndarray):
        self.units, self.group_E, self.majority = units, group_E, int(counts.argmax())
        self.common = units.common(train)
        self.right: Any = None
        self.counts = np.zeros((group_E.max() + 1, 2))
        self.base = np.zeros((group_E.max() + 1, 2))

    def add(self, indices: np.ndarray, classes_BUM: np.ndarray, right_BLNUM: np.ndarray) -> None:
        """Add the units of some sentences."""
        own_BU, groups = classes_BUM[..., 0], self.group_E[indices]
        counts_BU = own_BU >= 0
        types_BU = self.units.array(self.units.types, indices, own_BU.shape[1])
        common_BU = np.where(types_BU >= 0, self.common[types_BU], -1)
        unseen_BU = counts_BU & (common_BU < 0)
        lexical_BU = np.where(common_BU < 0, self.majority, common_BU)
        right_BLNU = right_BLNUM[..., 0]
        each = (right_BLNUM * counts_BU[:, None, None, :, None]).sum(axis=3)
        unseen = (right_BLNU * unseen_BU[:, None, None]).sum(axis=3)
        read = np.concatenate([each, unseen[..., None]], axis=-1)
        if self.right is None:
            self.right = np.zeros((len(self.counts), *read.shape[1:]))
        np.add.at(self.right, groups, read)
        np.add.at(self.counts, groups, np.stack([counts_BU.sum(axis=1), unseen_BU.sum(axis=1)], axis=-1))
        base = [(counts_BU & (own_BU == other)).sum(axis=1) for other in (self.majority, lexical_BU)]
        np.add.at(self.base, groups, np.stack(base, axis=-1))

    def table(self, stack: str, details: dict[str, Any], of: Of, level: float) -> HeadTable:
        """Return the table of all that was added."""
        tested = self.counts[:, 0] > 0
        if not tested.any():
            raise ValueError("sentences: no unit of the test has the label; give more sentences")
        right, count, base = self.right[tested], self.counts[tested], self.base[tested]
        accuracy, control, unseen = (right[..., column] for column in range(3))
        majority, lexical = (np.broadcast_to(base[:, i, None, None], accuracy.shape) for i in range(2))
        best = lexical if base[:, 1].sum() > base[:, 0].sum() else majority
        zero, one = (0.0, 1.0), (-1.0, 1.0)
        columns = {
            "accuracy": share(accuracy, count[:, 0], level, zero),
            "control": share(control, count[:, 0], level, zero),
            "selectivity": share(accuracy - control, count[:, 0], level, one),
            "majority": share(majority, count[:, 0], level, zero),
        }
        if self.units.of_words:
            columns["lexical"] = share(lexical, count[:, 0], level, zero)
            columns["gain"] = share(accuracy - best, count[:, 0], level, one)
            if count[:, 1].sum() > 0:
                columns["unseen"] = share(unseen, count[:, 1], level, zero)
        else:
            columns["gain"] = share(accuracy - majority, count[:, 0], level, one)
        axes = ("layer",) if of == "resid_post" else ("layer", "head")
        if of == "resid_post":
            columns = {name: _of_layers(column) for name, column in columns.items()}
        about = {"units_in_test": int(count[:, 0].sum()), "unseen_units": int(count[:, 1].sum())}
        # Rows are documents already: no two depend on each other.
        own = np.flatnonzero(tested)
        return HeadTable.from_columns("probe", stack, columns, {**details, **about}, axes=axes, clusters=own)


def _of_layers(column: Any) -> Any:
    """Return a column of one probe a layer without the axis of probes."""
    fields = ("mean", "low", "high", "n", "per_example")
    return replace(column, **{name: np.asarray(getattr(column, name))[..., 0] for name in fields})
