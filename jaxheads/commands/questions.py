"""The commands `jaxheads measure`, `ablate` and `patch`: one question about the heads of a model on a data set."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from ..files import check_writable, write_atomically
from ..measure.patterns.registry import resolve
from ..measure.patterns.scoring import measure
from ..models.inputs.batch import Batch
from ..models.load import load
from ..models.model import Model
from ..objectives import LogitDifference, logit_difference, loss
from ..sweep.exact.ablate import ablate
from ..sweep.exact.patch import patch
from ..tables import HeadTable, marked
from .data_files import read_columns
from .options import Ablate, Measure, OnData, Patch

SHOWN = 10
"""Heads printed at the end."""

Columns = Mapping[str, Sequence[Any]]


def ask(options: OnData, command: str) -> None:
    """Answer the question, save the table and print the leading heads.

    Raises:
        ValueError: for data, answers or options that do not fit the model.
        OSError: for files that can't be read or written.
    """
    if isinstance(options, Measure) and options.metrics:
        resolve(options.metrics)  # a wrong name is told before the model is fetched
    names = [getattr(options, name) for name in _columns_of(options)]
    columns = read_columns(options.data, list(dict.fromkeys(names)), options.limit)
    source = Path(options.model).name.removesuffix(".gguf")
    out = options.out or Path(f"{command}-{source}")
    check_writable(out)
    model = load(options.model)
    unfinished = out / ".unfinished"
    devices = Mesh(np.array(jax.devices()), ("data",)) if jax.device_count() > 1 else None
    shared = {name: getattr(options, name) for name in ("stack", "level", "seed", "memory", "arithmetic")}
    table = _answer(options, model, columns, **shared, devices=devices, progress=True, resume=unfinished)
    # Equal examples make two runs paired, whatever the models and their tokens.
    digest = hashlib.sha256(json.dumps([columns[name] for name in names], default=str).encode()).hexdigest()
    about = {"data": options.data, "data_columns": names, "examples_sha256": digest, **table.provenance}
    table = dataclasses.replace(table, name=command, provenance=about)
    written = table.save(out)
    said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    said = {name: value for name, value in said.items() if name not in ("config", "out") and value is not None}
    written.append(write_atomically(out / "run.json", (json.dumps(said, indent=2) + "\n").encode()))
    shutil.rmtree(unfinished, ignore_errors=True)
    shown = marked(table.top(n=SHOWN, absolute=command != "measure").reset_index())
    print(f"{shown.to_markdown(index=False, floatfmt='.4g')}\n\n{len(written)} files in {out}")


def _columns_of(options: OnData) -> list[str]:
    """Return the options that name a column which this question reads."""
    skipped = set()
    if isinstance(options, Ablate) and options.objective == "loss":
        skipped = {"right", "wrong"}
    if options.clusters is None:
        skipped.add("clusters")
    return [name for name in options.columns if name not in skipped]


def _answer(options: OnData, model: Model, columns: Columns, **shared: Any) -> HeadTable:
    if isinstance(options, Measure):
        return measure(
            model, _batch(options, model, columns, "column"), options.metrics or None, of=options.of, **shared
        )
    if isinstance(options, Ablate):
        batch = _batch(options, model, columns, "column")
        objective = loss() if options.objective == "loss" else _difference(options, model, columns)
        return ablate(model, batch, objective, options.method, by=options.by, **shared)
    assert isinstance(options, Patch)
    clean, corrupt = _pair(options, model, columns)
    objective = _difference(options, model, columns)
    words: dict[str, Any] = {"site": options.site, "by": options.by, "direction": options.direction}
    return patch(model, clean, corrupt, objective, **words, **shared)


def _batch(options: OnData, model: Model, columns: Columns, name: str) -> Batch:
    """Encode a column, with its clusters."""
    texts = list(map(str, columns[getattr(options, name)]))
    batch = model.encode(texts, max_length=options.max_length)
    if options.clusters is None:
        return batch
    return batch.clustered(pd.factorize(np.asarray(columns[options.clusters], object))[0])


def _pair(options: Patch, model: Model, columns: Columns) -> tuple[Batch, Batch]:
    """Encode the clean and the corrupt texts, token for token.

    Raises:
        ValueError: for a pair of different lengths, with its row and its tokens.
    """
    clean, corrupt = (_batch(options, model, columns, name) for name in ("clean", "corrupt"))
    lengths = [np.asarray(batch.mask).sum(axis=1) for batch in (clean, corrupt)]
    unequal = np.flatnonzero(lengths[0] != lengths[1])
    if unequal.size:
        row = int(unequal[0])
        texts = [columns[getattr(options, name)][row] for name in ("clean", "corrupt")]
        pieces = [model.tokenizer.tokenize(str(text)) for text in texts]
        raise ValueError(
            f"patching puts token for token, but {unequal.size} pairs differ in length, first row {row + 1}: "
            f"{lengths[0][row]} tokens {pieces[0]} and {lengths[1][row]} tokens {pieces[1]}"
        )
    return clean, corrupt


def _difference(options: Ablate | Patch, model: Model, columns: Columns) -> LogitDifference:
    right, wrong = (_answers(model, name, columns[name]) for name in (options.right, options.wrong))
    return logit_difference(right, wrong)


def _answers(model: Model, name: str, answers: Sequence[Any]) -> np.ndarray:
    """Return the token of each answer; whole numbers are token ids.

    Raises:
        ValueError: for an answer that is not one token, with its pieces.
    """
    if all(isinstance(answer, int) for answer in answers):
        return np.asarray(answers, np.int32)
    ids = []
    for row, answer in enumerate(map(str, answers), 1):
        own = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        if len(own) != 1:
            pieces = model.tokenizer.convert_ids_to_tokens(own)
            raise ValueError(
                f"column {name!r}, row {row}: expected one token, with its leading blank where it has one; {answer!r} "
                f"is {len(own)}: {pieces}"
            )
        ids.append(own[0])
    return np.asarray(ids, np.int32)
