"""A question about a model: checked, then planned or answered, for one batch or for a stream of them.

A public function is a generator of `Question`s, one a batch, under one of two decorators: `question` answers them with
a table, and `sweep`, for questions whose cost is known beforehand, adds `.plan`. `run_question` answers one of them:
chunk by chunk of its examples, group by group of its cells, each finished part in the journal.

Dimension key: E examples of a batch, B examples of a chunk, C cells, M columns.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import checked, settled
from ..execution.asked import asking
from ..execution.batching import Chunks, Later, detecting_out_of_memory, run_chunks
from ..execution.cost import Cost
from ..execution.journal import Journal
from ..execution.placement import Placement
from ..execution.resources import (
    OPTIONS,
    Resources,
    bound_arguments,
    check_options,
    document,
    with_clusters,
)
from ..models.inputs.batch import Batch
from ..models.model import Model
from ..models.stack import Stack
from ..objectives import Objective, Reads, effect_range
from ..precision import DIFFERENCE_TERMS, arithmetic_used, available, products
from ..programs import platform
from ..progress import Advance
from ..progress import progress as show_progress
from ..tables import HeadTable
from .effects import EffectAccumulator, Effects, effect_provenance
from .grid import Grid, PositionTokens

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class CellGroup(NamedTuple):
    """Cells that are answered, and written to disk, together.

    Attributes:
        name: of the file.
        cells: numbers of the cells among all columns, one grid after the other.
        key: what the work needs to know of them.
    """

    name: str
    cells: np.ndarray
    key: Any = None


class Work(Protocol):
    """Results of one chunk of examples. What its groups of cells share is computed when first needed.

    Both methods send work to the devices and return a function that waits for it.
    """

    def baselines(self) -> Later[np.ndarray]:
        """Send the unedited run: its objective and, if there is one, that of the other run, `[1 or 2,B]`."""
        ...

    def effects(self, group: CellGroup) -> Later[np.ndarray]:
        """Send the runs of the group's cells: their effects, `[B,cells]`."""
        ...


class Plan(Protocol):
    """The description of a question's work before any of it is done."""

    @property
    def chunks(self) -> Chunks:
        """Examples and edited copies that run together."""
        ...

    @property
    def placement(self) -> Placement:
        """Where the weights are."""
        ...

    def cost(self) -> Cost:
        """Return operations and memory."""
        ...


@dataclass(frozen=True, eq=False)
class Question:
    """A question about one batch, checked and ready to run.

    Attributes:
        batch: the base batch, whose run is edited.
        groups: the cells, in the order in which they are answered.
        work: from the indices of a chunk's examples (the last perhaps repeated) to their results.
        identity: arrays and words that the answer depends on, beside model, batch, objective and stack.
        about: words for the table's provenance; of a stream, those of the last batch.
        unsigned: whether effects have no sign: the total then counts without its sign, too.
        extras: columns without an interval.
        copies: whether edited copies are run, which alone can be computed as differences.
        plan: what the question will do, where that is known beforehand.
        finish: makes the answer of the table, where a table is not the whole answer.
    """

    model: Model
    stack: Stack
    batch: Batch
    objective: Objective
    reads: Reads
    grid: Grid
    groups: Sequence[CellGroup]
    chunks: Chunks
    work: Callable[[np.ndarray], Work]
    resources: Resources
    identity: tuple[Any, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ("effect",)
    unsigned: bool = False
    extras: Mapping[str, ArrayLike] | None = None
    copies: bool = True
    plan: Plan | None = None
    finish: Callable[[HeadTable], Any] = lambda table: table

    @property
    def size(self) -> int:
        """The number of cells that each example is asked for."""
        return sum(len(group.cells) for group in self.groups)


class Sweep(Protocol[P, R_co]):
    """A public function that answers a question, and can plan it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def plan(self, *args: P.args, **kwargs: P.kwargs) -> Plan:
        """Return what the same call would do; nothing runs."""
        ...


def question(generator: Callable[P, Iterator[Question]]) -> Callable[P, HeadTable]:
    """Turn a generator of questions into the public function that answers them with a table."""
    return _answering(generator, HeadTable)


@overload
def sweep(generator: Callable[P, Iterator[Question]]) -> Sweep[P, HeadTable]: ...
@overload
def sweep(*, returns: type[R]) -> Callable[[Callable[P, Iterator[Question]]], Sweep[P, R]]: ...
def sweep(generator: Callable[..., Any] | None = None, *, returns: type[Any] = HeadTable) -> Any:
    """Turn a generator of questions into the public function that answers them, and give it `.plan`.

    Args:
        returns: what the questions' `finish` makes of the table.
    """
    if generator is None:
        return functools.partial(sweep, returns=returns)
    generator = checked()(generator)
    answering: Any = _answering(generator, returns)

    @functools.wraps(generator)
    def planning(*arguments: Any, **named: Any) -> Plan:
        check_options(answering, named)
        with products(available(named.get("arithmetic"), platform())):
            first = next(iter(generator(*arguments, **named)), None)
        if first is None:
            raise _empty_stream()
        if first.plan is None:
            raise ValueError(
                f"{first.objective.name} has no plan: its cost is not known beforehand, since texts that are written "
                "may end at any step"
            )
        return first.plan

    answering.plan = planning
    return answering


def plan(question: Sweep[P, Any], *args: P.args, **kwargs: P.kwargs) -> Plan:
    """Return what a sweep would do, without doing it: `jh.plan(jh.ablate, model, batch, objective).cost()`.

    Args:
        question: a sweep whose cost is known beforehand (`ablate`, `patch`, `knock_out`, `share`, `function_vectors`);
            then its own arguments. Of a stream, the first batch is planned.

    Raises:
        TypeError: for another function; nothing has run then.
        ValueError: as the question itself does.
    """
    planning = getattr(question, "plan", None)
    if planning is None:
        name = getattr(question, "__name__", repr(question))
        raise TypeError(
            f"{name} has no plan: its cost is not known beforehand. ablate, patch, knock_out, share and "
            "function_vectors have one"
        )
    return planning(*args, **kwargs)


def run_question(
    question: Question, journal: Journal | None = None, advance: Advance = lambda _: None, first: int = 0
) -> Effects:
    """Answer one question.

    Args:
        journal: keeps finished parts.
        advance: is called with the number of (example, cell) pairs just answered.
        first: the number of the batch's first example in the stream.

    Raises:
        MemoryError: if not even one example fits the device.
    """
    E, columns = len(question.batch), len(question.columns) * question.grid.size
    answer = _Answer(
        question,
        Journal(None) if journal is None else journal,
        advance,
        first,
        [np.empty(0)] * E,
        np.full((E, columns), np.nan),
    )
    run_chunks(question.chunks, E, answer.steps)
    # With a second baseline, the distance between the two runs is the effect that counts as 1.
    baseline_E, *other = np.stack(answer.baselines, axis=1)
    total_E = other[0] - baseline_E if other else None
    clusters = question.batch.cluster_labels
    if question.unsigned and total_E is not None:
        total_E = np.abs(total_E)
    return Effects(baseline_E, answer.effects_EC, total_E, clusters)


class _Answer(NamedTuple):
    """A question that is being answered; its last two fields are filled chunk by chunk."""

    question: Question
    journal: Journal
    advance: Advance
    first: int
    baselines: list[np.ndarray]
    effects_EC: np.ndarray

    def steps(self, examples: np.ndarray) -> Iterator[Later[None]]:
        """Send the parts of one chunk of examples; each step fetches, keeps and writes one."""
        question, real = self.question, np.unique(examples)
        work, count, size = question.work(examples), len(real), question.grid.size
        # Halved chunks must not find the parts of whole ones: a part's name says how many examples ran together.
        name, numbers_B1 = f"{len(examples)}-from-{self.first + real[0]}", self.first + real[:, None]
        with detecting_out_of_memory():
            baselines_2B = self.journal.later(
                f"{name}-baselines",
                lambda: _then(work.baselines(), lambda baselines_2B: baselines_2B[:, :count]),
                lambda shape: {"run": np.arange(shape[0])[:, None], "example": self.first + real[None]},
                kind="baselines",
            )
        # Each part is a step: the runs of the next one are sent before this one's results are fetched and written.
        yield _then(baselines_2B, partial(self._keep_baselines, real))
        for group in question.groups:
            cells = {axis: index[group.cells % size][None] for axis, index in question.grid.coordinates.items()}
            if len(question.columns) > 1:
                cells["column"] = np.array(question.columns)[group.cells // size][None]
            send = partial(_first_examples, count, work, group)
            with detecting_out_of_memory():
                effects_BC = self.journal.later(
                    f"{name}-{group.name}", send, {"example": numbers_B1, **cells}, kind="effects"
                )
            yield _then(effects_BC, partial(self._keep_effects, real, group.cells))

    def _keep_baselines(self, examples: np.ndarray, baselines_2B: np.ndarray) -> None:
        for position, example in enumerate(examples):
            self.baselines[example] = baselines_2B[:, position]

    def _keep_effects(self, examples: np.ndarray, cells: np.ndarray, effects_BC: np.ndarray) -> None:
        self.effects_EC[np.ix_(examples, cells)] = effects_BC
        self.advance(effects_BC.size)


def _first_examples(count: int, work: Work, group: CellGroup) -> Later[np.ndarray]:
    """Send the runs of a group: their effects, without those of examples that fill up the chunk."""
    return _then(work.effects(group), lambda effects_BC: effects_BC[:count])


def _then(result: Later[np.ndarray], use: Callable[[np.ndarray], R]) -> Later[R]:
    """Return a function that waits for a result and returns what `use` makes of it."""

    def later() -> R:
        with detecting_out_of_memory():
            array = result()
        return use(array)

    return later


def _answering(generator: Callable[..., Iterator[Question]], returns: type[Any]) -> Any:
    generator = checked()(generator)

    @functools.wraps(generator)
    def answering(*arguments: Any, **named: Any) -> Any:
        check_options(answering, named)
        arguments, named = with_clusters(generator, *settled(generator, arguments, named))
        level, seed = (named.get(option, OPTIONS[option][1]) for option in ("level", "seed"))
        questions = generator(*arguments, **named)  # checks the arguments
        # The second argument holds the inputs: one batch, or a stream of batches or of pairs.
        bound = inspect.signature(generator).bind(*arguments, **named)
        stream = not isinstance(list(bound.arguments.values())[1], Batch)
        asked = asking(generator.__name__, bound_arguments(generator, arguments, named))
        with asked, products(available(named.get("arithmetic"), platform())):
            # The first question is asked for before the bar is shown: its checks come before any long work.
            first = next(questions, None)
            if first is None:
                raise _empty_stream()
            with products("full" if arithmetic_used() in DIFFERENCE_TERMS and not first.copies else None):
                return _answer(generator.__name__, first, questions, stream=stream, level=level, seed=seed)

    document(answering, returns=returns)
    return answering


def _answer(name: str, first: Question, questions: Iterator[Question], *, stream: bool, level: float, seed: int) -> Any:
    """Answer the first and each further question, and return what `finish` makes of the table of all."""
    grid, E, resources = first.grid, len(first.batch), first.resources
    # One batch keeps all its examples; a stream keeps some thousand rows, however long it is.
    span = (0.0, np.inf) if first.unsigned else effect_range(first.objective)
    ranges = dict.fromkeys(first.columns, span)
    accumulator = EffectAccumulator(first.columns, grid.shape, None if stream else E, ranges)
    label = f"{name}: {first.size} cells × {'examples' if stream else E}"
    words, tokens = first.about, PositionTokens()
    with show_progress(None if stream else first.size * E, label, resources.progress) as advance:
        for current in chain([first], questions):
            if current.grid.shape != grid.shape:
                raise ValueError(f"all batches must give the same grid; got {grid.shape}, then {current.grid.shape}")
            number = accumulator.examples
            # The objective counts by its code and content: two of a user's may share a name.
            # The number of the first example is part of the identity: a stream may hold one batch twice.
            identity = (current.objective, current.stack.name, current.identity, number)
            journal = resources.journal(name, current.model, current.batch, current.reads, identity)
            accumulator.add(run_question(current, journal, advance, number), current.grid)
            tokens.add(current.grid.positions)
            # What a question counts over a stream, such as the fewest examples of a mean, is whole at its end.
            words = current.about
    units = dict.fromkeys(first.columns, getattr(first.objective, "unit", ""))
    about = effect_provenance(first.model, first.objective, {**words, "units": units})
    extras = {**(first.extras or {}), **tokens.column(first.model.tokenizer, grid)}
    table = accumulator.table(name, first.stack.name, grid.axes, about, level=level, seed=seed, extras=extras)
    return first.finish(table)


def _empty_stream() -> ValueError:
    return ValueError("a stream must give at least one batch, got none")
