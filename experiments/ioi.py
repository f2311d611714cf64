"""Which heads tell a decoder that, when Mary and John went out, John gave the drink to Mary?

The question of Wang et al. 2022 (arXiv 2211.00593), asked of any decoder: how far it prefers the indirect object (IO)
to the subject (S) at the last token (END), which heads it needs for that, and where those look from END.

    python -m experiments.ioi [--model NAME] [--examples N] [--quick] [--out DIR] [--seed S]

Cost on SmolLM2-135M, 2 cores: ablation and looks a little over 2 minutes for the default 32 prompts; path patching and
the circuit (see `experiments.ioi_paths`) more than 4 minutes beside.

Found on SmolLM2-135M (results/ioi-smollm2-135m; seed 0, 95 % bootstrap intervals over prompts):

- It solves the task: logit difference 4.52 [3.76, 5.29], IO above S in 31 of 32 prompts, P(IO) 0.42. With three
  unrelated names (ABC) the same difference is -0.52 [-1.11, 0.16]: no preference.
- Two heads look from END at the subject's second mention and cost most when they are replaced, on prompts that they
  were not chosen on: 20.0 (effect -1.91 [-2.48, -1.39], attention to S2 0.76) and 23.3 (-1.76 [-2.29, -1.29], 0.54).
  With 19.2 they are the leading heads that resemble S-inhibition.
- A head that looks at IO works against the answer: 24.4 (+0.76 [0.04, 1.55], attention to IO 0.70), like the paper's
  negative name movers. What resembles a name mover, 23.7 (attention to IO 0.54), does not hold up: chosen for an effect
  of -0.67, its effect on the other prompts is -0.14 [-0.62, 0.28].
- Four leading heads (29.1, 17.4, 29.0, 16.0) look from END at none of the names.

Against what was published for GPT-2 small (all [P]): logit difference 3.56, P(IO) 0.49, S above IO in 0.7 % of prompts
(here 1 of 32), name movers attend to IO with 0.59 (23.7: 0.54), S-inhibition heads to S2 with 0.51 (20.0, 23.3 and
19.2: 0.52). Model, prompts and templates are others, and the paper found its heads by path patching, where here a
head's kind is only its sign and where it looks: numbers of one size say that the pattern recurs, not that the circuit
does.
"""

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro

import jaxheads as jh
from jaxheads.data import IOIPrompts, ioi_prompts
from jaxheads.data.prompts import FRAMES
from jaxheads.execution.batching import Chunks
from jaxheads.models.network import Network, forward
from jaxheads.models.stack import take_rows
from jaxheads.objectives import Reads, read_out
from jaxheads.provenance import environment, without_directories
from jaxheads.statistics import Interval, bootstrap_mean, split_halves
from jaxheads.tables import Column, HeadTable

from .ioi_page import LEADING, PLACES, SHARP, Findings, markdown, write
from .ioi_paths import find_circuit

EXAMPLES, QUICK_EXAMPLES = 32, 8
REFERENCE_EACH = 5
"""Corrupted prompts of each template that a mean is taken over."""


@dataclass(frozen=True)
class Options:
    """What to ask of which model.

    Attributes:
        model: a decoder: zoo name, hub id, local Hugging Face directory or .gguf file.
        examples: how many prompts; 32 when left out, 8 with --quick.
        quick: fewer prompts.
        out: where results go; results/ioi-MODEL when left out.
        seed: of prompts, halves and bootstrap.
    """

    model: str = "smollm2-135m"
    examples: int | None = None
    quick: bool = False
    out: Path | None = None
    seed: int = 0

    @property
    def count(self) -> int:
        """How many prompts."""
        return self.examples if self.examples is not None else QUICK_EXAMPLES if self.quick else EXAMPLES

    @property
    def directory(self) -> Path:
        """Where results go."""
        return (
            self.out if self.out is not None else Path("results") / f"ioi-{Path(self.model).name.removesuffix('.gguf')}"
        )


@dataclass(frozen=True)
class Answers:
    """What a model says at END, and where its heads look from there: `[E]`, `[E]`, `[E,L,N,3]` (IO, S1, S2)."""

    difference: np.ndarray
    probability: np.ndarray
    looks: np.ndarray


def study(model: jh.Model, count: int, seed: int, *, resume: Path | None = None, progress: bool = True) -> Findings:
    """Ask everything of one model.

    Raises:
        ValueError: for a model that is no decoder with a vocabulary and a tokenizer, a tokenizer without enough names
            of one token, or fewer than 4 prompts.
    """
    _check(model)
    chosen, held = split_halves(count, seed)
    draw = partial(ioi_prompts, model.tokenizer, bos=_starts_with_bos(model.tokenizer))
    prompts = draw(examples=count, seed=seed)
    corrupted = prompts.corrupted(seed)
    clean, corrupt = answers(model, prompts), answers(model, corrupted)
    other = draw(examples=REFERENCE_EACH * 2 * len(FRAMES), seed=seed + 1).corrupted(seed + 1)
    effects = head_effects(model, prompts, other, seed, resume=resume, progress=progress)
    leading = leading_heads(effects, clean.looks, chosen, held, seed)
    found = find_circuit(
        model, prompts, corrupted, clean.difference, reference_of(prompts, other), chosen, held, seed,
        resume=resume, progress=progress,
    )  # fmt: skip
    comparison = compare(clean, corrupt, leading, held, seed)
    return Findings(prompts, corrupted, effects, _attention(effects, clean, model, seed), leading, found, comparison)


def answers(model: jh.Model, prompts: IOIPrompts) -> Answers:
    """Logit difference, probability of IO and attention from END, prompt by prompt."""
    batch = batch_of(prompts)
    model.check(batch)
    names = np.stack([prompts.indirect_object, prompts.subject], axis=1)
    places = np.stack([prompts.io, prompts.s1, prompts.s2], axis=1)
    found = []
    for piece in Chunks(min(len(batch), EXAMPLES), 1).example_pieces(len(batch)):
        fields = (jnp.asarray(field[piece]) for field in (prompts.end[:, None], names, places))
        got = _answers(model.network, batch.take(piece), *fields, stack=model.stack().name)
        found.append([np.asarray(field, np.float64)[np.unique(piece, return_index=True)[1]] for field in got])
    return Answers(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


@partial(jax.jit, static_argnames="stack")
def _answers(
    network: Network, batch: jh.Batch, end_B1: jax.Array, names_B2: jax.Array, places_B3: jax.Array, *, stack: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def looks(pattern_NTS: jax.Array, end_1: jax.Array, places_3: jax.Array) -> jax.Array:
        return pattern_NTS[:, end_1[0]][:, places_3]

    x_BTD, kept = forward(
        network, batch, read={stack: lambda seen: jax.vmap(looks)(seen["pattern"], end_B1, places_B3)}
    )
    x_B1D = take_rows(x_BTD, end_B1)
    logits_B12 = read_out(network, x_B1D, Reads(end_B1, columns=names_B2))
    log_p_B1 = read_out(network, x_B1D, Reads(end_B1, target=names_B2[:, :1]))
    return logits_B12[:, 0, 0] - logits_B12[:, 0, 1], jnp.exp(log_p_B1[:, 0]), jnp.moveaxis(kept[stack], 0, 1)


def batch_of(prompts: IOIPrompts) -> jh.Batch:
    """The prompts as a model takes them."""
    return jh.Batch(prompts.tokens, prompts.mask)


def head_effects(
    model: jh.Model, prompts: IOIPrompts, other: IOIPrompts, seed: int, *, resume: Path | None, progress: bool
) -> HeadTable:
    """Each head's effect on the logit difference, by its mean over ABC prompts of the same template and position.

    The ABC prompts are others than those asked: no head is ablated by a mean that its own example is part of.
    """
    return jh.ablate(
        model,
        batch_of(prompts),
        jh.logit_difference(prompts.indirect_object, prompts.subject),
        method="mean",
        per_position=True,
        seed=seed,
        resume=resume,
        progress=progress,
        **reference_of(prompts, other),
    )


def reference_of(prompts: IOIPrompts, other: IOIPrompts) -> dict[str, Any]:
    """What means are taken over, as `jaxheads.ablate` takes it: the other prompts of the same templates."""
    same = np.isin(other.template, prompts.template)
    return {
        "reference": batch_of(other).take(np.flatnonzero(same)),
        "groups": prompts.template,
        "reference_groups": other.template[same],
    }


def _attention(effects: HeadTable, clean: Answers, model: jh.Model, seed: int) -> HeadTable:
    columns = {name: Column(*bootstrap_mean(clean.looks[..., place], seed=seed)) for place, name in enumerate(PLACES)}
    about = {"model": without_directories(model.name), "weights": model.identity(), "seed": seed, **environment()}
    return HeadTable.from_columns("attention", effects.stack, columns, about)


def leading_heads(
    effects: HeadTable, looks_ELN3: np.ndarray, chosen: np.ndarray, held: np.ndarray, seed: int
) -> pd.DataFrame:
    """The heads with the largest effect on the chosen half of the prompts, and what they do on the other half.

    `kind` is what a head was called on the chosen half; all other columns but `effect_when_chosen` are held out.
    """
    assert effects.per_example is not None
    each_ELN = effects.per_example.astype(np.float64)
    when_chosen_LN = np.nanmean(each_ELN[chosen], axis=0)
    looks_when_chosen_LN3 = looks_ELN3[chosen].mean(axis=0)
    order = np.argsort(-np.nan_to_num(np.abs(when_chosen_LN)), axis=None, kind="stable")[:LEADING]
    rows = []
    for layer, head in zip(*np.unravel_index(order, when_chosen_LN.shape), strict=True):
        row: dict[str, Any] = {"layer": layer, "head": head, "effect_when_chosen": when_chosen_LN[layer, head]}
        row |= _with_bounds("effect", bootstrap_mean(each_ELN[held, layer, head], seed=seed))
        for place, name in enumerate(PLACES):
            row |= _with_bounds(name, bootstrap_mean(looks_ELN3[held, layer, head, place], seed=seed))
        row["kind"] = kind(when_chosen_LN[layer, head], looks_when_chosen_LN3[layer, head])
        rows.append(row)
    return pd.DataFrame(rows).set_index(["layer", "head"])


def kind(effect: float, looks: np.ndarray) -> str:
    """What a head resembles in the paper's circuit, by its sign and by where it looks most; no more than that."""
    where = int(np.argmax(looks))
    if looks[where] < SHARP:
        return "looks elsewhere"
    names = {(0, True): "like a name mover", (0, False): "like a negative name mover", (2, True): "like S-inhibition"}
    return names.get((where, bool(effect < 0)), f"looks at {('IO', 'S1', 'S2')[where]}")


def _with_bounds(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}{suffix}": float(value) for suffix, value in zip(("", "_low", "_high"), interval, strict=True)}


def compare(clean: Answers, corrupt: Answers, leading: pd.DataFrame, held: np.ndarray, seed: int) -> pd.DataFrame:
    """The paper's numbers for GPT-2 small, with what they rest on ([P]: read in a primary source), beside ours."""
    other = "model, prompts, templates"
    rows: list[tuple[str, float | None, str, np.ndarray | None, str]] = [
        ("logit difference, clean prompts", 3.56, "[P]", clean.difference, other),
        ("probability of IO", 0.49, "[P]", clean.probability, other),
        ("share of prompts with S above IO", 0.007, "[P]", clean.difference < 0, other),
        ("share of prompts solved (difference > 0)", None, "", clean.difference > 0, "not given apart"),
        ("logit difference, ABC prompts", None, "", corrupt.difference, "no number at hand"),
        (
            "attention from END to IO, name movers",
            0.59,
            "[P]",
            _looks_of("like a name mover", 0, leading, clean.looks[held]),
            f"{other}; theirs 9.9, 9.6, 10.0 by path patching, ours by ablation and looks, held out",
        ),
        (
            "attention from END to S2, S-inhibition heads",
            0.51,
            "[P]",
            _looks_of("like S-inhibition", 2, leading, clean.looks[held]),
            f"{other}; theirs 7.3, 7.9, 8.6, 8.10 by path patching, ours by ablation and looks, held out",
        ),
    ]
    frame = pd.DataFrame([_row(*row, seed) for row in rows])
    return frame.set_index("quantity")


def _row(
    quantity: str, published: float | None, mark: str, ours_E: np.ndarray | None, differs: str, seed: int
) -> dict[str, Any]:
    found = Interval(*[np.asarray(np.nan)] * 3) if ours_E is None else bootstrap_mean(ours_E, seed=seed)
    return {
        "quantity": quantity,
        "paper, GPT-2 small": np.nan if published is None else published,
        "mark": mark,
        **_with_bounds("ours", found),
        "what differs": differs,
    }


def _looks_of(name: str, place: int, leading: pd.DataFrame, looks_ELN3: np.ndarray) -> np.ndarray | None:
    """Attention of the leading heads of a kind, averaged over them, `[E]`; None if there are none."""
    alike = leading.index[(leading["kind"] == name).to_numpy()].tolist()
    return np.mean([looks_ELN3[:, layer, head, place] for layer, head in alike], axis=0) if alike else None


def _check(model: jh.Model) -> None:
    if not model.causal or model.network.unembedding is None:
        raise ValueError(
            f"{model.name} is no decoder with a vocabulary: it predicts no next token, which this experiment is about. "
            "Give a causal language model, such as smollm2-135m"
        )
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer ({model.no_tokenizer}), and prompts are text")


def _starts_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer, left to itself, puts its BOS first: prompts are what the model was trained on."""
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def run(options: Options) -> Findings:
    """Load the model, ask, and write; a run that was stopped goes on where it was."""
    partial_results = options.directory / ".partial"
    model = jh.load(options.model)
    findings = study(model, options.count, options.seed, resume=partial_results)
    about = {
        "model": without_directories(options.model),
        "weights": model.identity(),
        "seed": options.seed,
        "examples": options.count,
        "reference": f"{REFERENCE_EACH} ABC prompts of each template",
        **environment(),
    }
    write(findings, options.directory, about)
    shutil.rmtree(partial_results, ignore_errors=True)
    return findings


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = tyro.cli(Options, args=arguments, prog="python -m experiments.ioi", description=__doc__)
    try:
        findings = run(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        sys.exit(f"ioi: {error}")
    print(markdown(findings.comparison), markdown(findings.leading), sep="\n\n")
    print(f"\nwritten to {options.directory}")


if __name__ == "__main__":
    main()
