"""The test of specialisation, by simulation: how often is it wrong, and what does it miss?

    python -m experiments.specialisation_power [--models N] [--seed S] [--quick] [--out DIR]

A simulated model has 24 heads and 4 functions. Each head has a mean score in each function, drawn from a law of chance,
and each example adds noise of its own. Random models follow the same law; where they differ, each one's scores in a
function are also shifted. Heads are then planted into the examined model.

1. Size: a random model is examined as if it were trained. The share of heads with p < 0.05; the share of models with
   any q < 0.05; the share of models in which any head is said to do anything.
2. Power: one specialist for each function, by strength, examples and draws. The share with p < 0.05, with q < 0.05,
   and whose function is named rightly.
3. False selectivity: generalists, even and uneven, weak and strong, and heads that do nothing.
4. Coverage of the intervals of selectivity and of breadth, and the bias of selectivity.

Every share has Wilson's 95 % interval over simulated models, where each counts once; means over the heads of a model
have a t interval over models.

The page states what was found, and the limits. Cost on 2 cores: about 4 minutes of CPU (200 models a cell); --quick, a
few seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.statistics import mean_interval

from . import lab

LAYERS, HEADS = 4, 6
FUNCTIONS = ("first", "second", "third", "fourth")
CONCENTRATION = 10
"""Concentration of the Beta distribution of a planted head's scores over examples: a deviation of 0.09 at 0.9."""

Scores = dict[str, np.ndarray]
Shape = tuple[int, int, int]
Law = Callable[[np.random.Generator, Shape, float], np.ndarray]


def normal(rng: np.random.Generator, shape: Shape, shift: float) -> np.ndarray:
    """Return scores of heads with means 0.1 ± 0.02 and noise of 0.05."""
    means = 0.1 + 0.02 * (shift + rng.standard_normal(shape[1:]))
    return means + 0.05 * rng.standard_normal(shape)


def beta(rng: np.random.Generator, shape: Shape, shift: float) -> np.ndarray:
    """Return heads whose mean shares of attention are Beta(0.3, 5): most near 0, a few at 0.3; noise is Beta too."""
    means = rng.beta(0.3, 5 * np.exp(-0.7 * shift), shape[1:])
    return rng.beta(np.maximum(20 * means, 1e-3), 20 * (1 - means), shape)


def noise(rng: np.random.Generator, shape: Shape, shift: float) -> np.ndarray:
    """Return heads that are all alike: single examples are Beta(0.3, 5)."""
    return rng.beta(0.3, 5 * np.exp(-0.7 * shift), shape)


def lognormal(rng: np.random.Generator, shape: Shape, shift: float) -> np.ndarray:
    """Return effects with a heavy tail: heads differ by a factor of 2.2, examples by one of 1.6."""
    means = 0.02 * np.exp(0.8 * rng.standard_normal(shape[1:]) + 0.5 * shift)
    return means * np.exp(0.5 * rng.standard_normal(shape))


LAWS: Mapping[str, tuple[Law, float]] = {
    "normal": (normal, 0.1),
    "beta": (beta, 0.3 / 5.3),
    "noise": (noise, 0.3 / 5.3),
    "lognormal": (lognormal, 0.02 * float(np.exp(0.32 + 0.125))),
}
"""Laws of chance, with their mean."""

PLANTED: Mapping[str, tuple[float, ...]] = {
    "specialist, 0.9": (0.9,),
    "one function, 0.4": (0.4,),
    "two functions, 0.9": (0.9, 0.9),
    "0.9 and three of 0.5": (0.9, 0.5, 0.5, 0.5),
    "generalist, uneven": (0.9, 0.5, 0.7, 0.8),
    "generalist, 0.9": (0.9, 0.9, 0.9, 0.9),
    "generalist, 0.5": (0.5, 0.5, 0.5, 0.5),
    "generalist, 0.3": (0.3, 0.3, 0.3, 0.3),
}
"""Mean scores of planted heads in the functions from the first on; chance in the others."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        models: simulated models in each cell of the tables.
        seed: seed of the simulation.
    """

    out: Path = Path("results/specialisation-power")
    models: int = 200
    seed: int = 0

    @property
    def repeats(self) -> int:
        """Simulated models of this run."""
        return 4 if self.quick else self.models

    @property
    def few(self) -> int:
        """Simulated models where each has several planted heads, or is large."""
        return 2 if self.quick else max(2, self.models // 3)


def simulate(
    law: str,
    count: int,
    examples: int,
    differ: float,
    rng: np.random.Generator,
    sizes: tuple[int, int, int] = (LAYERS, HEADS, len(FUNCTIONS)),
) -> list[Scores]:
    """Return models whose heads do nothing.

    Args:
        differ: the deviation between models, in the law's units.
        sizes: layers, heads of a layer, functions.
    """
    draw, (layers, heads, functions) = LAWS[law][0], sizes
    names = [*FUNCTIONS, *(f"function {number}" for number in range(len(FUNCTIONS), functions))][:functions]
    shape = (examples, layers, heads)
    return [{name: draw(rng, shape, differ * rng.standard_normal()) for name in names} for _ in range(count)]


def plant(scores: Scores, head: int, means: Sequence[float], rng: np.random.Generator, first: int = 0) -> None:
    """Give a head these mean scores in the functions from `first` on."""
    for name, mean in zip(FUNCTIONS[first:], means, strict=False):
        layer, number = divmod(head, HEADS)
        size = len(scores[name])
        scores[name][:, layer, number] = rng.beta(CONCENTRATION * mean, CONCENTRATION * (1 - mean), size)


def examine(scores: Scores, nulls: Sequence[Scores], resamples: int, seed: int) -> jh.Specialisation:
    """Return the specialisation, without the warning that a single draw earns."""
    with catch_warnings():
        simplefilter("ignore", UserWarning)
        by_function = {name: [null[name] for null in nulls] for name in scores}
        return jh.specialisation(scores, by_function, resamples=resamples, seed=seed)


def share(values: Any) -> str:
    """Return a mean over models with its interval as words."""
    interval = mean_interval(np.asarray(values, float), within=(0, 1))
    return f"{float(interval.mean):.3f} [{float(interval.low):.3f}, {float(interval.high):.3f}]"


def below(heads: Any, column: str) -> np.ndarray:
    """Return of each head whether its p or q is below 0.05."""
    return heads[column].to_numpy(float) < 0.05


Sizes = tuple[int, int, int]
Rows = Iterator[dict[str, Any]]


def size(options: Options) -> Rows:
    """Yield the rates at which heads of random models are called, by law, draws, examples and the model's sizes."""
    usual = (LAYERS, HEADS, len(FUNCTIONS))
    cells: list[tuple[Any, ...]] = [
        (law, differ, draws, examples, usual, options.repeats)
        for law in LAWS
        for differ in (0.0, 0.5)
        for draws, examples in ((1, 16), (2, 16), (4, 8), (4, 32), (10, 16))
    ]
    others = ((1, 4, 2), (1, 8, 10), (12, 12, 2), (20, 20, 6))
    cells += [(law, 0.5, 4, 16, sizes, options.few) for law in LAWS for sizes in others]
    for cell in cells:
        yield from options.keep(size_of, options.seed, *cell)


def size_of(seed: int, law: str, differ: float, draws: int, examples: int, sizes: Sizes, count: int) -> Rows:
    """Yield the rates of one cell of the table of sizes."""
    rng = np.random.default_rng(seed)
    called, corrected, anything = [], [], []
    for number in range(count):
        scores, *nulls = simulate(law, 1 + draws, examples, differ, rng, sizes)
        found = examine(scores, nulls, 0, number)
        called.append(below(found.heads.frame, "p").mean())
        corrected.append(below(found.heads.frame, "q").any())
        anything.append(np.isfinite(found.functions["breadth"].to_numpy(float)).any())
    yield {
        **{"law": law, "models differ": differ, "draws": draws, "examples": examples},
        **{"heads": sizes[0] * sizes[1], "functions": sizes[2], "heads with p < .05": share(called)},
        **{"models with q < .05": share(corrected), "models with a function": share(anything), "n": count},
    }


def power(options: Options) -> Rows:
    """Yield the rates at which planted specialists are found, one for each function."""
    sizes = [(draws, 16) for draws in (1, 2, 4, 10)] + [(4, 8), (4, 32)]
    for law in ("normal", "beta"):
        for strength in (0.25, 0.4, 0.6, 0.9):
            for draws, examples in sizes:
                yield from options.keep(power_of, options.seed, law, strength, draws, examples, options.few)


def power_of(seed: int, law: str, strength: float, draws: int, examples: int, count: int) -> Rows:
    """Yield the rates of one cell of the table of power."""
    rng = np.random.default_rng(seed)
    rates = []
    for number in range(count):
        scores, *nulls = simulate(law, 1 + draws, examples, 0.3, rng)
        for head in range(len(FUNCTIONS)):
            plant(scores, head, (strength,), rng, head)
        frame: Any = examine(scores, nulls, 0, number).heads.frame.iloc[: len(FUNCTIONS)]
        named = (frame["function"] == list(FUNCTIONS)).mean()
        rates.append([below(frame, "p").mean(), below(frame, "q").mean(), named])
    words = [share([rate[column] for rate in rates]) for column in range(3)]
    yield {
        **{"law": law, "strength": strength, "draws": draws, "examples": examples},
        **dict(zip(("p < .05", "q < .05", "function named"), words, strict=True)),
        "n": len(rates),
    }


def true_selectivity(means: Sequence[float], chance: float) -> float:
    """Return the selectivity of planted means, in functions whose best head is at 0.9."""
    beyond = np.array(means) - chance
    parts = beyond / beyond.sum()
    return float(1 + (parts * np.log(parts)).sum() / np.log(len(FUNCTIONS)))


def true_breadth(chance: float) -> float:
    """Return the breadth of the first function over all planted heads."""
    beyond = np.array([means[0] for means in PLANTED.values()]) - chance
    parts = beyond / beyond.sum()
    return float(np.exp(-(parts * np.log(parts)).sum()))


def coverage(options: Options) -> Rows:
    """Yield bias and coverage of the indices of planted heads, and how often each is called selective."""
    for law in ("normal", "lognormal", "noise", "beta"):
        for examples in (8, 16, 32):
            yield from options.keep(coverage_of, options.seed, law, examples, options.few)


def coverage_of(seed: int, law: str, examples: int, count: int) -> Rows:
    """Yield the rows of one law and number of examples."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[list[float]]] = {name: [] for name in (*PLANTED, "breadth of the first")}
    idle: list[list[float]] = []
    for number in range(count):
        scores, *nulls = simulate(law, 6, examples, 0.3, rng)
        for head, means in enumerate(PLANTED.values()):
            plant(scores, head, means, rng)
        for head in range(3):  # the other functions have specialists, too
            plant(scores, 20 + head, (0.9,), rng, head + 1)
        found = examine(scores, nulls, 200, number)
        frame: Any = found.heads.frame
        for head, (name, means) in enumerate(PLANTED.items()):
            truth = true_selectivity(means, LAWS[law][1])
            rows[name].append(_compared(frame.iloc[head], "selectivity", truth))
        breadth = found.functions.iloc[0]
        rows["breadth of the first"].append(_compared(breadth, "breadth", true_breadth(LAWS[law][1])))
        others = frame.iloc[len(PLANTED) : 20]
        idle.append([np.isfinite(others["selectivity"].to_numpy(float)).mean(), below(others, "p").mean()])
    for name, values in rows.items():
        yield {"law": law, "examples": examples, "planted": name, **_summary(values)}
    known, called = (share([row[column] for row in idle]) for column in range(2))
    does_nothing = {"has a value": known, "p < .05": called, "n": len(idle)}
    yield {"law": law, "examples": examples, "planted": "nothing", **does_nothing}


def _compared(row: Any, index: str, truth: float) -> list[float]:
    """Return truth, value, whether the interval holds the truth, its width, and whether p < .05."""
    value, low, high = (float(row[name]) for name in (index, f"{index}_low", f"{index}_high"))
    holds = float(low - 1e-6 <= truth <= high + 1e-6)
    return [truth, value, holds, high - low, float(row.get("p", np.nan) < 0.05)]


def _summary(values: list[list[float]]) -> dict[str, Any]:
    x = np.array(values)
    known = ~np.isnan(x[:, 1])
    row: dict[str, Any] = {"has a value": share(known), "p < .05": share(x[:, 4]), "n": len(x)}
    if known.sum() >= 2:
        x = x[known]
        error = x[:, 1].std(ddof=1) / np.sqrt(len(x))
        row |= {"truth": x[0, 0], "bias": f"{(x[:, 1] - x[:, 0]).mean():+.3f} ± {error:.3f}"}
        row |= {"coverage": share(x[:, 2]), "width": x[:, 3].mean()}
    return row


def picture(found: pd.DataFrame) -> "jh.plots.Picture":
    """Draw power by strength, a line for each number of draws."""
    figure, both = jh.plots.panels(2, (9, 3.5), sharey=True)
    for axes, law in zip(both, ("normal", "beta"), strict=True):
        for number, draws in enumerate((1, 2, 4, 10)):
            rows = found[(found["law"] == law) & (found["draws"] == draws) & (found["examples"] == 16)]
            for column, style in (("p < .05", "-"), ("q < .05", "--")):
                rates = [float(words.split()[0]) for words in rows[column]]
                axes.plot(
                    rows["strength"], rates, style, color=jh.plots.color(number), label=f"{draws} draws, {column}"
                )
        axes.set_title(f"chance: {law}", fontsize=9)
        axes.set_xlabel("mean score of the planted specialists")
    both[0].set_ylabel("share found")
    both[0].legend(fontsize=6)
    return figure


def page(options: Options, tables: Mapping[str, pd.DataFrame]) -> str:
    """Return the page for readers."""
    shown = {name: lab.markdown(table.astype(object).fillna("")) for name, table in tables.items()}
    rates = tables["size"].to_dict("records")

    def worst(column: str) -> str:
        row = max((row for row in rates if row["draws"] > 1), key=lambda row: float(row[column].split()[0]))
        sizes = f"{row['heads']} heads, {row['functions']} functions"
        return f"{row[column]} ({row['law']}, {row['draws']} draws, {row['examples']} examples, {sizes})"

    return f"""# Size, power and coverage of the test of specialisation

Simulated models of {LAYERS} × {HEADS} heads and {len(FUNCTIONS)}
functions, unless said otherwise; the file has the laws. Brackets: 95 % intervals over n simulated models, which are the
Monte-Carlo error.

## Size: random models as input

With two draws or more, the highest rate of heads with p < .05 is {worst("heads with p < .05")}; of models with
any q < .05, {worst("models with q < .05")}; of models in which any head is said to do anything,
{worst("models with a function")}. Each should be at most .05. "Models differ" is the deviation between random
models: 0.5 is half the spread of heads (normal), a factor of 1.4 (beta, noise) or of 1.3 (lognormal).

{shown["size"]}

## Power: one specialist for each function

Its mean score is the strength, chance in the other functions; models differ by 0.3.

{shown["power"]}

## Selectivity of planted heads, six models of the law as nulls but one examined

"Has a value": the head is surely beyond chance in some function (breadth: some head is). Bias and coverage are over
those. Truth: the selectivity of the planted means, with 0 for chance.

{shown["coverage"]}

## Limits

- One draw doesn't show how models differ. Where they do, p is too small: rows with 1 draw above.
- p under 1 / (1 + draws × heads) is extrapolated, down to the square of that; its exact size is not to be read.
- Where random models differ by factors (beta, lognormal), few draws make the rates exceed .05 somewhat: the shift of
  another model is taken to be normal.
- A head that is weaker than chance's own best heads has no selectivity, whatever it does. Where chance is as skewed as
  in "beta", a mean of 0.3 is within chance; it counts as 0, which raises the selectivity of a head with 0.9 elsewhere,
  and lowers the breadth of a function beyond its interval.
- Intervals tell the doubt of the examples and of chance, for heads that have a value; they don't allow for heads that
  were missed.
- All laws are of independent heads. The null is as large as the model.
"""


def run(options: Options) -> lab.Results:
    """Simulate all three tables."""
    tables = {}
    for name, rows in (("size", size), ("power", power), ("coverage", coverage)):
        tables[name] = pd.DataFrame(rows(options))
        print(f"{name}: {len(tables[name])} cells", flush=True)
    about = {"models": options.repeats, "seed": options.seed, "heads": LAYERS * HEADS, "functions": len(FUNCTIONS)}
    return lab.Results(page(options, tables), about, tables, {"power": picture(tables["power"])})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
