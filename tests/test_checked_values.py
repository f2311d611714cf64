"""Values that a cast, JAX's clamped indices or NaN would turn into a wrong answer are refused as they came, by name."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from jaxheads.data import tasks
from jaxheads.models.stack import Stack
from jaxheads.objectives import Reads

from .good_calls import CONFIG, E, T, batch, edges, model, other, task
from .good_values import made_once

NAN, INF = float("nan"), float("inf")


@dataclass(frozen=True)
class Own:
    """A user's objective: by default the first logit at the last position."""

    rows: Any = None
    columns: Any = None
    target: Any = None
    weight: Any = None
    function: Callable[[Any, Any], Any] = lambda read, reads: read[:, 0, 0]
    name: str = "mine"

    def reads(self, model: jh.Model, batch: jh.Batch) -> Reads:
        rows: Any = np.full((len(batch), 1), T - 1) if self.rows is None else self.rows
        return Reads(rows, self.columns, self.target, self.weight)

    @property
    def value(self) -> Callable[[Any, Any], Any]:
        return self.function


def full(value: Any, *shape: int) -> np.ndarray:
    return np.full(shape or (E, 1), value)


OBJECTIVES = {
    "column beyond the vocabulary": (Own(columns=full(99)), r"columns of objective 'mine' must lie in 0\.\.36, got 99"),
    "negative column": (Own(columns=full(-1)), r"columns .* got -1"),
    "row beyond the end": (Own(rows=full(T)), r"rows .* must lie in 0\.\.5, got 6"),
    "negative row": (Own(rows=full(-1)), r"rows .* got -1"),
    "fractions": (Own(rows=full(1.0)), "rows .* must be integers"),
    "target beyond the vocabulary": (Own(target=full(37)), r"target .* must lie in 0\.\.36"),
    "one example's reads": (Own(rows=full(1, 1, 1)), r"rows .* must be \[examples, n\] for 4 examples"),
    "weights of another shape": (Own(weight=full(1.0, E, 2)), "weight .* must have the shape of its rows"),
    "weights that are NaN": (Own(weight=full(NAN)), "weight .* must be finite"),
    "complex weights": (Own(weight=full(1j)), "weight .* must be real"),
    "complex values": (
        Own(function=lambda read, reads: jax.lax.complex(read[:, 0, 0], read[:, 0, 0])),
        "must return a real number .*complex64",
    ),
    "one value for all": (Own(function=lambda read, reads: read.sum()), r"'mine': `value` must return .*shape \(\)"),
    "a value for each token": (Own(function=lambda read, reads: read[:, 0]), r"shape \(4, 37\)"),
    "truths": (Own(function=lambda read, reads: read[:, 0, 0] > 0), "array of bool"),
    "a function that fails": (Own(function=lambda read, reads: read[:, 0, 0, 0]), "'mine'.* it raised"),
}


@pytest.fixture
def _nothing_runs(monkeypatch: pytest.MonkeyPatch):
    def ran(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a layer ran")

    for make in (model, other, task):  # may run
        make()
    monkeypatch.setattr(Stack, "run", ran)
    monkeypatch.setattr(Stack, "run_layer", ran)


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(("objective", "message"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_what_an_objective_reads_and_returns_is_checked_before_anything_runs(objective: jh.Objective, message: str):
    with pytest.raises(ValueError, match=message):
        jh.ablate(model(), batch(), objective, "zero")


ASKING: dict[str, Callable[[Any], object]] = {
    **{
        name: lambda objective, name=name: getattr(jh, name)(model(), batch(), objective)
        for name in ("importance", "direct_parts", "direct_effects", "relevance", "faithfulness")
    },
    **{
        name: lambda objective, name=name: getattr(jh, name)(model(), batch(), other(), objective)
        for name in ("patch", "attribute", "paths", "all_paths", "patch_edges")
    },
    "knock_out": lambda objective: jh.knock_out(model(), batch(), objective, T - 1, 0),
    "share": lambda objective: jh.share(model(), batch(), objective, np.zeros((2, 2, 2), int)),
    "interactions": lambda objective: jh.interactions(model(), batch(), objective, [(0, 0), (1, 1)], "zero"),
    "circuit": lambda objective: jh.circuit(model(), batch(), objective, [(0, 0)], "zero"),
    "search_circuits": lambda objective: jh.search_circuits(model(), batch(), objective, [0.1], reference=other()),
    "keep_edges": lambda objective: jh.keep_edges(model(), batch(), other(), objective, edges()),
    "a stream": lambda objective: jh.ablate(model(), iter([(batch(), objective)]), None, "zero"),
}


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize("asked", ASKING.values(), ids=ASKING)
def test_every_function_that_takes_an_objective_checks_it(asked: Callable[[Any], object]):
    with pytest.raises(ValueError, match="columns of objective 'mine'"):
        asked(Own(columns=full(99)))


def test_a_users_objective_answers_as_the_built_in_one():
    own: Any = Own(columns=full(7))
    ours = jh.ablate(model(), batch(), own, "zero")
    theirs = jh.ablate(model(), batch(), jh.logit(7), "zero")
    np.testing.assert_allclose(ours.values, theirs.values, atol=1e-6)


METRICS = {
    "a matrix": (lambda pattern, example: (pattern, True), (), r"metric 'mine'.*a number \[\].*shape \(6, 6\)"),
    "no counts": (lambda pattern, example: pattern.sum(), (), "whether it counts"),
    "complex": (lambda pattern, example: (jax.lax.complex(pattern[0, 0], pattern[0, 0]), True), (), "complex64"),
    "counts that are no truth": (lambda pattern, example: (pattern.sum(), pattern.sum()), (), "boolean"),
    "fewer entries than labels": (lambda pattern, example: (pattern[0, :2], pattern[0, :2] > 0), (0, 1, 2), r"\[3\]"),
    "an error": (lambda pattern, example: (pattern[0, 0, 0], True), (), "'mine'.* it raised IndexError"),
}


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(("function", "labels", "message"), METRICS.values(), ids=METRICS)
def test_what_a_metric_returns_is_checked_before_anything_runs(function: Any, labels: tuple[int, ...], message: str):
    with pytest.raises(ValueError, match=message):
        jh.measure(model(), batch(), jh.Metric("mine", function, best_of=labels))


IDS = {"tokens": [[1, 2]]}
FIELDS = {
    "ids beyond 32 bits": ({"tokens": np.array([[2**32 + 5]])}, "tokens must fit 32 bits, got 4294967301"),
    "unsigned ids": ({"tokens": np.array([[2**63]], np.uint64)}, "tokens must fit 32 bits"),
    "floats": ({"tokens": [[1.0]]}, "tokens must be integers, got float64"),
    "truths": ({"tokens": [[True]]}, "tokens must be integers, got bool"),
    "objects": ({"tokens": [[None]]}, "tokens must be an array"),
    "ragged": ({"tokens": [[1], [1, 2]]}, "tokens must be an array, or lists of equal length"),
    "additive mask": ({**IDS, "mask": [[0.0, -INF]]}, "mask must be booleans.*-inf.*by mask == 0"),
    "NaN in a mask": ({**IDS, "mask": [[1, NAN]]}, "mask must be booleans"),
    "half a mask": ({**IDS, "mask": [[1, 0.5]]}, "mask must be booleans.*got 0.5"),
    "words for a mask": ({**IDS, "mask": [["yes", "no"]]}, "mask must be booleans"),
    "lengths for a mask": ({**IDS, "mask": [[2, 1]]}, "mask must be booleans.*got 2"),
    "types beyond 32 bits": ({**IDS, "token_types": [[0, 2**40]]}, "token_types must fit 32 bits"),
    "fractions of words": ({**IDS, "words": [[0.0, 1.5]]}, "words must be integers"),
    "words beyond 32 bits": ({**IDS, "words": [[0, 2**40]]}, "words must fit 32 bits"),
    "targets' mask": ({**IDS, "targets": [[1]], "target_mask": [[0.5]]}, "target_mask must be booleans"),
    "pixels beyond float32": ({"pixels": np.full((1, 2, 2, 3), 1e300)}, "pixels must be finite in float32"),
    "marks beyond float32": ({**IDS, "marks": {"a": [[2**24 + 1, 0]]}}, "mark 'a' must hold numbers up to"),
    "marks without names": ({**IDS, "marks": [[1, 0]]}, "marks must be arrays by name"),
}


@pytest.mark.parametrize(("fields", "message"), FIELDS.values(), ids=FIELDS)
def test_fields_of_a_batch_are_checked_before_they_are_cast(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jh.Batch(**fields)


def test_columns_numpys_integers_and_masks_of_0_and_1_are_taken():
    ids = np.ones((1, 3), np.uint8)
    wanted = np.array([[True, True, False]])
    for mask in (wanted, wanted.astype(int), wanted.astype(float), wanted.tolist(), jnp.asarray(wanted)):
        np.testing.assert_array_equal(jh.Batch(ids, mask).mask, wanted)
    assert jh.Batch(pd.DataFrame(ids), clusters=pd.Series([3])).tokens.dtype == jnp.int32
    options: Any = {"level": np.float32(0.9), "seed": np.int64(3), "memory": np.uint32(2**30)}
    assert jh.measure(model(), batch(), "entropy", **options).examples == E


@pytest.mark.parametrize("examples", [[-1], [E], [0.5], [True] * E])
def test_examples_are_taken_by_an_index_that_there_is(examples: list[Any]):
    with pytest.raises(ValueError, match=r"examples must be whole numbers in 0\.\.3"):
        batch().take(examples)


def test_a_value_that_is_first_made_while_a_test_traces_serves_all_others():
    mean = made_once(lambda: jnp.arange(3.0).mean())
    assert jax.jit(lambda: mean() + 1)() == 2
    assert float(mean()) == 1


def test_the_fields_of_traced_batches_are_checked_by_type():
    run = jax.jit(lambda ids, mask: jh.run(model(), jh.Batch(ids, mask)).output)
    ids, mask = jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3), bool)
    assert run(ids, mask).shape == (2, 3, 37)
    with pytest.raises(ValueError, match="tokens must be integers"):
        run(ids.astype(jnp.float32), mask)
    with pytest.raises(ValueError, match="mask must be booleans"):
        run(ids, mask.astype(jnp.float32))


Z = jnp.zeros((1, 1, 1, 1, 1))
EDITS = {
    "an amount that is NaN": (lambda: jh.zero_heads(model(), [(0, 0)], amount=NAN), "amount must be finite"),
    "several amounts": (lambda: jh.zero_heads(model(), [(0, 0)], amount=[1, 0]), "amount must be one number"),
    "a gate that is NaN": (lambda: jh.gate(model(), full(NAN, 2, 2)), "gates_LN must be finite"),
    "another run's layers": (lambda: jh.patch_heads(model(), [(1, 0)], {"z": Z}), "seen need a leading axis of all 2"),
    "a weight that is NaN": (lambda: run(jh.SiteEdit(jnp.array([0]), Z + NAN, Z, "z", "decoder")), "must be finite"),
    "a layer twice": (
        lambda: run(jh.SiteEdit(jnp.array([0, 0]), jnp.tile(Z, (2, 1, 1, 1, 1)), Z, "z", "decoder")),
        "named once",
    ),
    "lists": (lambda: run(jh.SiteEdit([0], 1.0, 0.0, "z", "decoder")), "must be an array"),  # pyright: ignore
    "signs that are NaN": (lambda: jh.probability_difference([1, 2], [1, NAN]), "signs must be finite"),
    "where by halves": (lambda: jh.loss(full(0.5, E, T)), "where must be booleans"),
}


def run(edit: jh.SiteEdit) -> jh.Run:
    return jh.run(model(), batch(), (), edit)


@pytest.mark.parametrize(("build", "message"), EDITS.values(), ids=EDITS)
def test_amounts_gates_signs_and_weights_are_finite(build: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        build()


def test_traced_amounts_and_gates_pass():
    def change(amount: Any) -> Any:
        return run(jh.zero_heads(model(), [(0, 0)], amount=amount)).output.sum()

    assert jnp.isfinite(jax.grad(change)(0.5))
    assert jax.vmap(change)(jnp.arange(2.0)).shape == (2,)
    assert jax.jit(lambda gates_LN: jh.gate(model(), gates_LN).weight.sum())(jnp.ones((2, 2))) == 0


@pytest.mark.parametrize("dtype", ["int32", int, bool, np.int8, np.complex64, "float64", "float31", None])
def test_weights_have_a_type_that_they_can_be_computed_in(dtype: Any):
    for build in (lambda: jh.init(CONFIG, dtype=dtype), lambda: jh.load("no-such-model", dtype=dtype)):
        with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16"):
            build()


TRAININGS = {
    "a context that is too short": ({"max_position_embeddings": 4}, {}, "takes up to 4 tokens; got 8"),
    "a vocabulary that is too small": ({"vocab_size": 4}, {}, "vocab_size 4, but .* ids run from 0 to 8"),
    "a negative seed": ({}, {"runs": [{"seed": -1}]}, r"seed of runs\[0\]"),
    "a seed that is a fraction": ({}, {"runs": [{"seed": 0.5}]}, r"seed of runs\[0\]"),
    "a rate that is NaN": ({}, {"runs": [{"seed": 0, "rate": NAN}]}, r"runs\[0\]\['rate'\] must be a finite number"),
}


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(("changes", "options", "message"), TRAININGS.values(), ids=TRAININGS)
def test_a_training_that_can_not_learn_its_task_is_refused(changes: Any, options: Any, message: str):
    with pytest.raises(ValueError, match=message):
        jh.train.train(task().model_config(d_model=8, n_heads=2, **changes), task(), 2, **options)


@pytest.mark.usefixtures("_nothing_runs")
def test_a_model_of_another_kind_than_the_task_is_refused():
    with pytest.raises(ValueError, match="takes pixels; the batch has tokens"):
        jh.train.train(tasks.Corners().model_config(), task(), 2)
    with pytest.raises(ValueError, match="predicts 1 tokens or classes; the targets of corners run from 0 to 1"):
        jh.train.train(tasks.Corners().model_config(num_labels=1), tasks.Corners(), 2)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: jh.measure("gpt2", batch()), r"load it first: jh\.load\('gpt2'\)"),  # pyright: ignore
        (
            lambda: jh.measure(model(), "a text"),
            r"unnamed has no tokenizer \(the model was built without one\); give token ids",
        ),  # pyright: ignore
        (lambda: jh.measure(model(), np.ones((2, 3), int)), r"token ids: jh\.Batch\(tokens=…\)"),  # pyright: ignore
        (lambda: jh.ablate(model(), batch(), jh.loss), r"not called: jh\.loss\(…\)"),  # pyright: ignore
        (lambda: jh.ablate(model(), batch(), jh.loss(), sets=[(0, 0)]), "name each entry"),  # pyright: ignore
        (lambda: jh.faithfulness(model(), batch(), jh.loss(), "random"), r"write \('random',\)"),
        (lambda: jh.ablate(model(), batch(), jh.loss(), "zeros"), "did you mean 'zero'"),  # pyright: ignore
        (lambda: jh.run(model(), batch(), "patern"), "did you mean 'pattern'"),
        (lambda: jh.measure(model(), batch(), stack="decodr"), "did you mean 'decoder'"),
        (lambda: jh.measure(model(), batch(), "inductoin"), "did you mean 'induction'"),
        (lambda: jh.measure(model(), batch(), devices=8), r"make one: jax\.sharding\.Mesh"),  # pyright: ignore
        (lambda: jh.measure(model(), batch(), level=95), "95 % is 0.95"),
    ],
)
def test_an_error_says_how_to_mend_it(call: Callable[[], object], hint: str):
    with pytest.raises(ValueError, match=hint):
        call()
    with pytest.raises(TypeError, match="did you mean 'memory'"):
        jh.measure(model(), batch(), memroy=1)  # pyright: ignore


@pytest.mark.parametrize("names", [jh.METRICS, tasks.TASKS], ids=["metrics", "tasks"])
def test_a_misspelt_name_gets_the_nearest_one(names: Any):
    with pytest.raises(KeyError, match=r"inducton.* is not known; known are .*did you mean 'induction'"):
        names["inducton"]
    assert "nonesuch" not in names
    assert names.get("nonesuch") is None
    assert pickle.loads(pickle.dumps(names)).keys() == names.keys()
