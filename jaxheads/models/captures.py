"""Runs on disk: captured values in a safetensors file, with the batch and the identity of the model they come from."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..arguments import at_least, checked
from ..files import write_atomically
from ..provenance import provenance
from .described import run_words
from .inputs.axes import TARGETS, TOKENS, Axis
from .inputs.batch import Batch, Positions
from .loading.safetensors_file import DTYPES
from .predictions import chosen_rows, likeliest, texts_of
from .sites import SiteEdit

if TYPE_CHECKING:
    import pandas as pd

    from ..view import View

_KEY = "jaxheads_run"
_BATCH, _MARKS, _SEEN = "batch.", "batch.marks.", "seen."


@dataclass(frozen=True)
class Constant:
    """A function that returns a text."""

    text: str

    def __call__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class RunSource:
    """What a run was made from.

    Attributes:
        name: the model's name.
        identity: returns a hash or a revision of its weights.
        batch: the inputs, with their masks.
        edits: the edits in words, in the order they were made.
        provenance: of a run that was loaded, that of the run that was saved.
        tokenizer: the model's, or None.
        logits: whether the output is logits, of tokens or of classes.
        labels: names of the classes by id, of a classifier; else None.
        axes: by stack, what its queries and its keys are positions of; empty for a run that was loaded.
    """

    name: str
    identity: Callable[[], str]
    batch: Batch
    edits: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Any = field(default=None, repr=False)
    logits: bool = False
    labels: Mapping[int, str] | None = None
    axes: Mapping[str, tuple[Axis, Axis]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, batch: Batch, edits: Sequence[SiteEdit]) -> "RunSource":
        """Return what a model's run of a batch, with these edits, is made from."""
        words = tuple(f"{edit.operation} at {edit.stack}.{edit.site}, {edit.layers.shape[0]} layers" for edit in edits)
        labels, logits = model.labels, model.network.unembedding is not None
        classes = None if labels is None else dict(enumerate(labels))
        axes = {name: (stack.queries, stack.keys) for name, stack in model.stacks.items()}
        return cls(model.name, model.identity, batch, words, {}, model.tokenizer, logits, classes, axes)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for pickle, which takes no functions."""
        return {**self.__dict__, "identity": Constant(self.identity())}


@partial(jax.tree_util.register_dataclass, data_fields=["output", "seen"], meta_fields=[], drop_fields=["source"])
@dataclass(frozen=True)
class Run:
    """Result of a forward pass, a pytree of arrays.

    Attributes:
        output: logits `[B,T,V]` of a language model, `[B,classes]` of a classifier, `[images, texts]` of a model that
            compares the two; the last hidden state `[B,T,D]` of a model without a head.
        seen: values at the captured sites, each with a leading layer axis, by the names in `capture`.
        source: what the run was made from: the model's name and identity, the batch, the edits in words. It is no part
            of the pytree, so that a run which `jax.tree.map` returns has None.
    """

    output: Array
    seen: dict[str, Array]
    source: RunSource | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return run_words(self)

    @property
    def tokens(self) -> list[list[str]]:
        """The text of each token that was read, by example, in the batch's columns; "" at padding.

        A word's first token has its space. Of an encoder–decoder these are the source's tokens.

        Raises:
            ValueError: for a run without a tokenizer, as one that was loaded is, or of a model that reads no tokens.
        """
        source = self._source("tokens")
        if source.tokenizer is None or source.batch.tokens is None:
            reason = "reads no tokens" if source.batch.tokens is None else "has no tokenizer, as a run that was loaded"
            raise ValueError(f"this run of {source.name} {reason}: its ids are run.source.batch.tokens")
        return texts_of(source.tokenizer, TOKENS.of(source.batch))

    @checked(k=at_least(1))
    def top(
        self, k: int = 5, positions: ArrayLike | Literal["all"] | None = None, *, tokenizer: Any = None
    ) -> "pd.DataFrame":
        """Return the `k` likeliest tokens, or classes, as texts: the columns `predicted id logit probability`.

        One row an example, position (column of the batch) and rank, from 0; by example and rank of a classifier.
        The column `token` is the text of the token at the position, after which the predicted one comes.

        Args:
            positions: one column of the batch for all examples, one for each `[B]`, or "all" real ones; each example's
                last real one when left out.
            tokenizer: of a run that was loaded; without any there are no texts.

        Raises:
            ValueError: for an output that is no logits, or positions that are not there.
        """
        source = self._source("top")
        if not source.logits:
            raise ValueError(f"top is of logits; the output of {source.name} is none")
        tokenizer = source.tokenizer if tokenizer is None else tokenizer
        if self.output.ndim == 2:
            if positions is not None:
                raise ValueError(f"positions: {source.name} answers with a class, not at positions; leave them out")
            frame = likeliest(self.output, k, source.labels)
            frame.insert(0, "example", np.repeat(np.arange(len(self.output)), len(frame) // len(self.output)))
            return frame.set_index(["example", "rank"])
        read: Positions = (TOKENS if source.batch.targets is None else TARGETS).of(source.batch)
        examples, columns = chosen_rows(read, positions)
        frame = likeliest(self.output[examples, columns], k, tokenizer if source.labels is None else source.labels)
        times = len(frame) // len(examples)
        frame.insert(0, "example", np.repeat(examples, times))
        frame.insert(1, "position", np.repeat(columns, times))
        if tokenizer is not None:
            texts = texts_of(tokenizer, read)
            frame.insert(3, "token", np.repeat([texts[b][t] for b, t in zip(examples, columns, strict=True)], times))
        return frame.set_index(["example", "position", "rank"])

    @checked(example=at_least(0))
    def view(
        self,
        stack: str | None = None,
        *,
        example: int = 0,
        heads: Sequence[tuple[int, int]] | None = None,
        notes: Mapping[tuple[int, int], str] | None = None,
        chosen: tuple[int, int] | None = None,
    ) -> "View":
        """Show the attention patterns of one example on what the model read; needs `capture="pattern"`.

        Tokens come without padding; pairs of texts by sentence, words where the batch knows them, patches over the
        image, frames over the spectrogram.

        Args:
            stack: whose patterns, where the run holds those of several.
            example: number of the example.
            heads: (layer, head) of those that are shown; all when left out.
            notes: by (layer, head), what is known of a head, such as its role with its score.
            chosen: the head that is opened first.

        Raises:
            ValueError: for a run without patterns, one that was loaded, or a stack, example or head that is not there.
        """
        from .run_views import run_view

        return run_view(self, self._source("view"), stack, example, heads, notes, chosen)

    def _source(self, what: str) -> RunSource:
        if self.source is None:
            raise ValueError(f"{what}: this run does not say what it was made from; ask the run that jh.run returned")
        return self.source

    @checked()
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write output, captured values and batch to one safetensors file, and return its path.

        Values keep their dtypes, bfloat16 too. The metadata holds the provenance, and a hash of each array. An error
        leaves an older file as it was.

        Raises:
            OSError: for a path that can't be written.
            ValueError: for values of a dtype that safetensors does not have.
        """
        return save_captures(path, self.output, self.seen, self.source)

    @classmethod
    @checked()
    def load(cls, path: str | os.PathLike[str], capture: Sequence[str] | None = None) -> "Run":
        """Read a run that `save` wrote; of its captured values only those named in `capture`, if any are.

        Raises:
            FileNotFoundError: for a missing file.
            ValueError: for another file, one that is damaged, or values that it does not hold.
        """
        return cls(*load_captures(path, capture))


def save_captures(path: str | os.PathLike[str], output: Any, seen: Mapping[str, Any], source: RunSource | None) -> Path:
    """Write one run as a safetensors file, completely or not at all; see `Run.save`."""
    arrays = {"output": output, **{_SEEN + name: array for name, array in seen.items()}}
    about: dict[str, Any] = {"format": 1, "seen": list(seen)}
    if source is not None:
        arrays |= _batch_arrays(source.batch)
        about["logits"] = source.logits
        about["provenance"] = dict(source.provenance) or provenance(source, edits=list(source.edits))
    values = {name: _plain(array) for name, array in arrays.items()}
    if odd := sorted({str(array.dtype) for array in values.values()} - set(DTYPES.values())):
        raise ValueError(f"values of {', '.join(odd)} can't be written; known are {', '.join(DTYPES.values())}")
    about["sha256"] = {name: _hash(array) for name, array in values.items()}

    def write(file: BinaryIO) -> None:
        try:
            save_file(values, file.name, {_KEY: json.dumps(about)})
        except SafetensorError as error:
            raise OSError(f"safetensors: {error}") from error

    return write_atomically(path, write)


def load_captures(
    path: str | os.PathLike[str], capture: Sequence[str] | None
) -> tuple[jax.Array, dict[str, jax.Array], RunSource | None]:
    """Return output, captured values and source of a run on disk; see `Run.load`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there, or no file: give one that Run.save wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            about = _about(path, file.metadata())
            names = list(file.keys())
            stored = [name for name in about["seen"] if _SEEN + name in names]
            wanted = stored if capture is None else [capture] if isinstance(capture, str) else list(capture)
            if missing := [name for name in wanted if name not in stored]:
                raise ValueError(f"{path} holds {', '.join(stored) or 'no captured values'}; got {', '.join(missing)}")
            read = [name for name in names if not name.startswith(_SEEN) or name.removeprefix(_SEEN) in wanted]
            arrays = {name: file.get_tensor(name) for name in read}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}): save the run again") from error
    damaged = [name for name, array in arrays.items() if _hash(array) != about["sha256"].get(name)]
    if damaged or about["sha256"].keys() != set(names) or "output" not in arrays:
        raise ValueError(f"{path} is damaged ({', '.join(damaged) or 'values are missing'}): save the run again")
    values = {name: _on_device(name, array) for name, array in arrays.items()}
    seen = {name: values[_SEEN + name] for name in wanted}
    return values["output"], seen, _source(values, about)


def _about(path: Any, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        about = json.loads((metadata or {})[_KEY])
        whole = about["format"] == 1 and isinstance(about["sha256"], dict) and isinstance(about["seen"], list)
    except (KeyError, TypeError, ValueError):
        whole, about = False, {}
    if not whole:
        raise ValueError(f"{path} is no run of this version of jaxheads: give a file that Run.save wrote")
    return about


def _source(values: Mapping[str, jax.Array], stored: Mapping[str, Any]) -> RunSource | None:
    about = stored.get("provenance")
    if not isinstance(about, dict):
        return None
    fields: dict[str, Any] = {
        name.removeprefix(_BATCH): array for name, array in values.items() if name.startswith(_BATCH)
    }
    marks = {name: fields.pop(f"marks.{name}") for name in [n[6:] for n in fields if n.startswith("marks.")]}
    batch = Batch(**fields, marks=marks or None)
    identity, edits = Constant(str(about.get("weights"))), tuple(about.get("edits", ()))
    logits = bool(stored.get("logits"))
    return RunSource(str(about.get("model")), identity, batch, edits, about, logits=logits)


def _batch_arrays(batch: Batch) -> dict[str, Any]:
    # Labels are what a reader knows of a text, no input of the run.
    others = ("marks", "labels")
    fields = {name: value for name, value in vars(batch).items() if value is not None and name not in others}
    marks = {_MARKS + name: mark for name, mark in (batch.marks or {}).items()}
    return {_BATCH + name: value for name, value in fields.items()} | marks


def _plain(array: Any) -> np.ndarray:
    """Return an array as it is written: contiguous, in the machine's byte order."""
    values = np.asarray(array)
    return np.array(values, values.dtype.newbyteorder("="), order="C", copy=None)


def _hash(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _on_device(name: str, array: np.ndarray) -> jax.Array:
    values = jnp.asarray(array)
    if values.dtype != array.dtype:
        raise ValueError(f"{name} was saved in {array.dtype}: enable it with jax.config.update('jax_enable_x64', True)")
    return values
