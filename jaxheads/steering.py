"""Steering of heads: a label's direction in their outputs, added while the model reads (Li et al. 2023, 2306.03341).

Dimension key: E sentences, B sentences of a chunk, L layers, N heads, H head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

from .arguments import checked
from .checks import finite, one_of, whole
from .execution.resources import Options, Resources, shares_options
from .execution.sentence_batches import SentenceBatches
from .measure.example_chunks import choose_chunks, run_examples
from .measure.probing.features import Probe
from .measure.probing.passes import Reading, centred_moments
from .measure.probing.solving import Moments
from .measure.probing.units import At, Units, document_part, documents
from .models.inputs.batch import Batch
from .models.inputs.sentences import Sentences
from .models.model import Model
from .models.network import Network, forward
from .models.sites import SiteEdit
from .models.stack import take_rows
from .objectives import Objective, Reads, loss
from .programs import compiled
from .progress import progress as show_progress
from .provenance import provenance
from .reads import read_out, reads_of
from .statistics import mean_interval

PARTS = ("direction", "choice", "report")
"""Parts of the sentences: half of them finds directions, a quarter chooses, a quarter reports."""


@dataclass(frozen=True, eq=False)
class Steering:
    """The answer of `steer_heads`.

    Attributes:
        frame: one row a strength, ascending: `effect` on the objective, `control`, that of directions whose labels were
            shuffled, and for a causal model `loss`, the change of the next-token loss in nats, each with `_low` and
            `_high`, on sentences that chose nothing; `n`, their number; `chosen`, whether this is the strength chosen.
        heads: (layer, head) pairs that are steered, best first.
        accuracy: of each head's direction as a classifier, on the sentences that chose the heads, `[L,N]`.
        strength: the strength chosen.
        directions: unit vectors from the other labels to the label, `[L,N,H]`.
        deviations: standard deviation of each head's output along its direction, `[L,N]`.
        provenance: plain JSON values.
    """

    frame: pd.DataFrame
    heads: tuple[tuple[int, int], ...]
    accuracy: np.ndarray
    strength: float
    directions: np.ndarray
    deviations: np.ndarray
    provenance: dict[str, Any]
    stack: str

    @checked()
    def edit(self, strength: float | None = None) -> SiteEdit:
        """Return the edit that steers, for `jh.run` or any question with `edits`: z + strength · deviation · direction.

        Args:
            strength: that which was chosen, when left out; negative to steer away from the label.
        """
        amount = self.strength if strength is None else strength
        return _edit(self.stack, self.heads, self.directions, self.deviations, amount)


@shares_options(without=("clusters",))
def steer_heads(
    model: Model,
    sentences: Sentences,
    labels: str,
    toward: str,
    objective: Objective,
    *,
    count: int = 8,
    strengths: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    most_loss: float = 0.1,
    at: At = "last",
    **options: Unpack[Options],
) -> Steering:
    """Steer the heads that hold a label towards it, and measure what that does to an objective.

    Half of the documents gives each head a direction: the mean of its output over sentences with the label less that
    over all others (Li et al. 2023, section 3; their code's "mass mean"). A quarter chooses the heads, by the accuracy
    of the boundary halfway between the two means, and the strength. The last quarter reports: their code takes the
    directions from the sentences that it reports on, too.

    Args:
        labels: a label of sentences, such as "sentiment".
        toward: the value of this label to steer towards.
        objective: the number to raise, the same for all sentences, such as `jh.logit_difference(" good", " bad")` read
            at the last token.
        count: the number of heads that are steered.
        strengths: in standard deviations of a head's output along its direction; one is chosen.
        most_loss: the strength chosen is that with the largest effect whose next-token loss rises by at most this many
            nats; of a model that is not causal, that with the largest effect. The weakest where the loss allows none.
        at: the tokens where directions are read: of each sentence its "last", its "first", or the "mean" of its words.
        options: shared by all questions: stack, level, clusters, seed, memory, devices, progress, resume.

    Raises:
        ValueError: for a label that is not of sentences, a value that no sentence has or that all have, strengths that
            are not positive, more heads than there are, or documents too few for three parts.
    """
    resources, stack = Resources.of(options), model.stack(options.get("stack"))
    seed, level = options.get("seed", 0), options.get("level", 0.95)
    whole("count", count, 1, stack.layers * stack.heads)
    for strength in strengths:
        finite("strengths", strength, least=0.0)
    finite("most_loss", most_loss, least=0.0)
    units = _two_classes(sentences, labels, toward)
    kept = SentenceBatches(model, sentences).kept
    part = document_part(sentences, (2, 1, 1), seed)[kept]
    parts = [kept[part == number] for number in range(len(PARTS))]
    if min(map(len, parts)) < 2 or len(set(documents(sentences, len(sentences))[parts[2]])) < 2:
        raise ValueError(f"sentences: expected at least two documents in each of {PARTS}, got {[*map(len, parts)]}")
    steps = len(parts[0]) + len(parts[1]) * (2 + len(strengths)) + len(parts[2]) * (1 + 2 * len(strengths))
    with show_progress(steps, f"steering heads of {model.name}", resources.progress) as advance:
        shuffled = units.control("shuffled", units.counts(parts[0]) / units.counts(parts[0]).sum(), seed)
        reading = Reading(model, stack, sentences, units, "z", at, (units.classes, shuffled), resources, advance)
        probe, moments = centred_moments(reading, parts[0])
        own, control = (_directions(moments, task) for task in range(2))
        accuracy = _accuracy(reading, parts[1], probe, moments, own[0])
        order = np.argsort(-accuracy, axis=None, kind="stable")[:count]
        layers, numbers = np.unravel_index(order, accuracy.shape)
        heads = tuple((int(layer), int(head)) for layer, head in zip(layers, numbers, strict=True))
        judge = _Judge(model, stack.name, sentences, objective, heads, resources, advance)
        ordered = sorted(map(float, strengths))
        chosen = judge.choose(parts[1], own, ordered, most_loss)
        groups = documents(sentences, len(sentences))[parts[2]]
        frame = judge.report(parts[2], own, control, ordered, groups, level)
    details = provenance(
        model,
        **{"stack": stack.name, "labels": labels, "toward": toward, "objective": objective.name, "at": at},
        **{"parts": dict(zip(PARTS, map(len, parts), strict=True)), "files": dict(sentences.files)},
        **{"most_loss": most_loss, "level": level, "seed": seed},
    )
    frame = frame.assign(chosen=frame.index == chosen)
    return Steering(frame, heads, accuracy, chosen, own[0], own[1], details, stack.name)


def _two_classes(sentences: Sentences, labels: str, toward: str) -> Units:
    """Return the sentences with class 1 where they have the label, else 0."""
    units = Units.of(sentences, labels)
    if units.of_words:
        raise ValueError(f"labels: {labels!r} is of words; steering needs a label of whole sentences")
    one_of("toward", toward, units.names)
    target = units.names.index(toward)
    classes = tuple(np.where(own < 0, own, (own == target).astype(int)) for own in units.classes)
    if len({int(own[0]) for own in classes} - {-1}) < 2:
        raise ValueError(f"labels: all sentences are {toward!r}; there is no direction from others")
    return replace(units, names=(f"not {toward}", toward), classes=classes)


def _directions(moments: Moments, task: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors from class 0 to class 1 of a task, and the deviations along them; 0 where none is."""
    means = moments.class_means[..., 2 * task : 2 * task + 2, :]
    change = means[..., 1, :] - means[..., 0, :]
    size = np.linalg.norm(change, axis=-1, keepdims=True)
    unit = np.divide(change, size, out=np.zeros_like(change), where=size > 0)
    return unit, np.sqrt(np.einsum("lnf,lnfg,lng->ln", unit, moments.covariance, unit).clip(0.0))


def _accuracy(
    reading: Reading, indices: np.ndarray, probe: Probe, moments: Moments, directions: np.ndarray
) -> np.ndarray:
    """Return the share of sentences on the right side of the boundary halfway between the class means, `[L,N]`."""
    middle = moments.class_means[..., :2, :].mean(axis=-2)
    score = np.concatenate([directions, -(directions * middle).sum(axis=-1, keepdims=True)], axis=-1)
    weights = np.stack([np.zeros_like(score), score] * 2, axis=-1)
    right, count = np.zeros(score.shape[:2]), 0

    def add(_: np.ndarray, classes: np.ndarray, read: np.ndarray) -> None:
        nonlocal right, count
        known = classes[..., 0] >= 0
        right = right + (read[..., 0] * known[:, None, None]).sum(axis=(0, 3))
        count += int(known.sum())

    reading.right(indices, probe._replace(weights=weights), add)
    return right / max(count, 1)


def _edit(
    stack: str,
    heads: Sequence[tuple[int, int]],
    directions: np.ndarray,
    deviations: np.ndarray,
    strength: float,
) -> SiteEdit:
    layers = np.unique([layer for layer, _ in heads])
    source = np.zeros((len(layers), 1, 1, *directions.shape[1:]), np.float32)
    for layer, head in heads:
        source[np.searchsorted(layers, layer), 0, 0, head] = directions[layer, head] * deviations[layer, head]
    weight = np.full((len(layers), 1, 1, 1, 1), strength, np.float32)
    return SiteEdit(jnp.asarray(layers), jnp.asarray(weight), jnp.asarray(source), "z", stack, "add")


@dataclass(frozen=True, eq=False)
class _Judge:
    """Objectives of sentences under an edit of these heads."""

    model: Model
    stack: str
    sentences: Sentences
    objective: Objective
    heads: tuple[tuple[int, int], ...]
    resources: Resources
    advance: Any

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objective, and the loss where the model has one."""
        fluent = self.model.causal and self.model.network.classes_of is None
        return (self.objective, loss()) if fluent else (self.objective,)

    def values(self, indices: np.ndarray, own: tuple[np.ndarray, np.ndarray], strength: float) -> np.ndarray:
        """Return each sentence's objectives under the edit, `[E,objectives]`."""
        edit = _edit(self.stack, self.heads, *own, strength)
        values = np.full((len(indices), len(self.objectives)), np.nan)
        for order, batch in SentenceBatches(self.model, self.sentences.take(indices.tolist())):
            inputs = batch.model_inputs
            for column, objective in enumerate(self.objectives):
                values[order, column] = self._batch(objective, inputs, edit)
            self.advance(len(order))
        return values

    def _batch(self, objective: Objective, batch: Batch, edit: SiteEdit) -> np.ndarray:
        reads, devices = reads_of(objective, self.model, batch), self.resources.devices
        result = np.full(len(batch), np.nan)

        def compute(examples: np.ndarray) -> Array:
            chunk = devices.examples((batch.take(examples), reads.take(examples)))
            return _values(self.resources.network(self.model), *chunk, devices.everywhere(edit), value=objective.value)

        def add(examples: np.ndarray, read: np.ndarray) -> None:
            result[examples] = read

        run_examples(
            choose_chunks(self.resources, self.model, self.model.stack(self.stack), batch, example_bytes=1),
            len(batch),
            compute,
            add,
            resources=self.resources,
            journal=self.resources.journal("steer_heads", self.model, batch, reads.identity, objective, edit),
        )
        return result

    def choose(
        self, indices: np.ndarray, own: tuple[np.ndarray, np.ndarray], strengths: Sequence[float], most: float
    ) -> float:
        """Return the strength with the largest mean objective, of those whose loss rises by at most `most`."""
        before = self.values(indices, own, 0.0)
        changes = {strength: (self.values(indices, own, strength) - before).mean(axis=0) for strength in strengths}
        allowed = [strength for strength, change in changes.items() if len(change) < 2 or change[1] <= most]
        return max(allowed, key=lambda strength: changes[strength][0]) if allowed else min(strengths)

    def report(
        self,
        indices: np.ndarray,
        own: tuple[np.ndarray, np.ndarray],
        control: tuple[np.ndarray, np.ndarray],
        strengths: Sequence[float],
        groups: np.ndarray,
        level: float,
    ) -> pd.DataFrame:
        """Return the effects of each strength with their intervals over documents."""
        before, rows = self.values(indices, own, 0.0), []
        for strength in strengths:
            steered, shuffled = (self.values(indices, one, strength) - before for one in (own, control))
            columns = {"effect": steered[:, 0], "control": shuffled[:, 0]}
            if before.shape[1] > 1:
                columns["loss"] = steered[:, 1]
            row: dict[str, Any] = {"strength": strength}
            for name, values in columns.items():
                mean, low, high, n = mean_interval(values, clusters=groups, level=level)
                row |= {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high), "n": int(n)}
            rows.append(row)
        return pd.DataFrame(rows).set_index("strength")


@partial(compiled, static_argnames="value")
def _values(network: Network, batch: Batch, reads: Reads, edit: SiteEdit, *, value: Any) -> Array:
    return value(read_out(network, take_rows(forward(network, batch, (edit,))[0], reads.rows), reads), reads)
