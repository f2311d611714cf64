"""Indirect objects: which heads of a decoder tell it that, when Mary and John went out, John gave the drink to Mary?

    python -m experiments.ioi [--model NAME] [--examples N] [--quick] [--out DIR] [--seed S]

The question of Wang et al. 2022 (arXiv 2211.00593), for any decoder: by how much does it prefer the indirect object
(IO) to the subject (S) at the last token (END), which heads does it need for that, and where do these attend from END?

Cost on SmolLM2-135M-Instruct, 2 cores: effects and attention take a little over 2 minutes for the default 32 prompts;
path patching and the circuit (see `experiments.support.ioi_circuit`) more than 4 minutes.

Found on SmolLM2-135M-Instruct, quantised to 4 bits (results/ioi-smollm2-135m; 32 prompts of 20 templates, seed 0; 95 %
intervals over templates):

- It solves the task: logit difference 4.52 [3.48, 5.62], IO above S in 31 of 32 prompts, P(IO) 0.42 [0.29, 0.56]. With
  three unrelated names (ABC) the logit difference is -0.52 [-1.29, 0.28]: no preference can be told.
- 23.3 (effect -1.32 [-1.94, -0.85] on the 10 templates that it was not chosen on) and 20.0 (-1.43 [-2.10, -0.96]) cost
  most when they are replaced; both attend from END to the subject's second mention (0.53, 0.68). Path patching makes
  20.0 an S-inhibition head, and 23.3 a head that acts on the logits directly, a name mover by the paper's procedure,
  though it attends to S2 where the paper's attend to IO.
- The selection is optimistic: 9 of the 10 leading heads have a smaller effect on the other templates (23.3 by 1.15),
  and 23.7, the only one that acts for the answer and attends to IO, has none there: 0.06 [-0.21, 0.50].
- The 14 heads that path patching finds are no faithful circuit: alone they keep 0.11 [-0.21, 0.29] of the preference.

Published for GPT-2 small (all [P]): logit difference 3.56, P(IO) 0.49, S above IO in 0.7 % of prompts (here 3 % [0,
24]); name movers attend to IO with 0.59 (here 0.20 [0.10, 0.26]), S-inhibition heads to S2 with 0.51 (here 0.46 [0.37,
0.55]). Model, prompts and templates differ. The S-inhibition heads recur; name movers as the paper has them do not.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import IOIPrompts, ioi_prompts
from jaxheads.statistics import Interval, false_discovery, mean_interval, mean_p_values, split_halves
from jaxheads.tables import Column

from . import lab
from .support.ioi_circuit import Circuit, find_circuit
from .support.ioi_page import LEADING, POSITIONS, SHARP, Findings, findings_results

EXAMPLES, QUICK_EXAMPLES = 32, 8
AT_ONCE = 8
"""Prompts of one forward pass, whose logits and patterns are held."""
UNBOUNDED = (-np.inf, np.inf)
TEMPLATES = 20
"""Templates of the prompts: 10 frames, in ABBA and BABA order."""
REFERENCE_EACH = 5
"""Corrupted prompts of each template in the mean that replaces a head."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options. A quick run takes fewer prompts.

    Attributes:
        out: the folder of the results; MODEL in it stands for the model's name.
        model: a decoder: zoo name, hub id, local Hugging Face directory or .gguf file.
        examples: number of prompts; 32 when left out, 8 with --quick.
        seed: seed of prompts and halves.
    """

    out: Path = Path("results/ioi-MODEL")
    model: str = "smollm2-135m"
    examples: int | None = None
    seed: int = 0

    @property
    def count(self) -> int:
        """The number of prompts."""
        return self.examples if self.examples is not None else QUICK_EXAMPLES if self.quick else EXAMPLES

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        return Path(str(self.out).replace("MODEL", Path(self.model).name.removesuffix(".gguf")))


@dataclass(frozen=True)
class Answers:
    """A model's answers to prompts, at END.

    Attributes:
        difference: logit of IO minus logit of S, `[E]`.
        probability: probability of IO, `[E]`.
        attention: every head's attention from END to IO, S1 and S2, `[E,L,N,3]`.
    """

    difference: np.ndarray
    probability: np.ndarray
    attention: np.ndarray


def study(model: jh.Model, count: int, seed: int, *, resume: Path | None = None, progress: bool = True) -> Findings:
    """Take all measures of one model.

    Raises:
        ValueError: for a model that is no decoder with a vocabulary and a tokenizer, a tokenizer without enough names
            of one token, or fewer than 4 prompts.
    """
    _check(model)
    draw = partial(ioi_prompts, model.tokenizer, bos=_starts_with_bos(model.tokenizer))
    prompts = draw(examples=count, seed=seed)
    chosen_on, held_out = split_halves(count, seed, prompts.template)
    corrupted = prompts.corrupted(seed)
    clean, corrupt = answers(model, prompts), answers(model, corrupted)
    other = draw(examples=REFERENCE_EACH * TEMPLATES, seed=seed + 1).corrupted(seed + 1)
    reference = mean_reference(prompts, other)
    effects = head_effects(model, prompts, reference, seed, resume=resume, progress=progress)
    leading = leading_heads(effects, clean.attention, chosen_on, held_out)
    circuit = find_circuit(
        model,
        prompts,
        corrupted,
        clean.difference,
        reference,
        chosen_on,
        held_out,
        seed,
        resume=resume,
        progress=progress,
    )
    leading = leading.assign(role=[circuit.roles_of(head) for head in leading.index])
    comparison = compare(clean, corrupt, circuit, prompts.template, held_out)
    attention = attention_table(effects, clean, model, seed)
    return Findings(prompts, corrupted, effects, attention, leading, circuit, comparison)


def answers(model: jh.Model, prompts: IOIPrompts) -> Answers:
    """Return logit difference, probability of IO and attention from END, prompt by prompt."""
    batch, E = batch_of(prompts), len(prompts.texts)
    positions_E3 = np.stack([prompts.io, prompts.s1, prompts.s2], axis=1)
    difference_E, probability_E, attention = np.empty(E), np.empty(E), []
    for chunk in np.array_split(np.arange(E), -(-E // AT_ONCE)):
        run = jh.run(model, batch.take(chunk), "pattern")
        logits_BTV, p_LBNTS = run.output, run.seen["pattern"]
        for row, e in enumerate(chunk):
            logits_V = np.asarray(logits_BTV[row, prompts.end[e]], np.float64)
            difference_E[e] = logits_V[prompts.indirect_object[e]] - logits_V[prompts.subject[e]]
            p_V = np.exp(logits_V - logits_V.max())
            probability_E[e] = p_V[prompts.indirect_object[e]] / p_V.sum()
            p_LNS = np.asarray(p_LBNTS[:, row, :, prompts.end[e]], np.float64)
            attention.append(p_LNS[..., positions_E3[e]])
    return Answers(difference_E, probability_E, np.stack(attention))


def batch_of(prompts: IOIPrompts) -> jh.Batch:
    """Return the prompts as a batch, those of one template as a cluster."""
    return jh.Batch(prompts.tokens, prompts.mask, clusters=prompts.template)


def head_effects(
    model: jh.Model, prompts: IOIPrompts, reference: dict[str, Any], seed: int, *, resume: Path | None, progress: bool
) -> jh.HeadTable:
    """Return each head's effect on the logit difference, when its mean over the reference replaces its output."""
    return jh.ablate(
        model,
        batch_of(prompts),
        jh.logit_difference(prompts.indirect_object, prompts.subject),
        method="mean",
        per_position=True,
        seed=seed,
        resume=resume,
        progress=progress,
        **reference,
    )


def mean_reference(prompts: IOIPrompts, other: IOIPrompts) -> dict[str, Any]:
    """Return the arguments of `jh.ablate` for means over other prompts of the same template and position.

    The other prompts are no prompts of the experiment: no head is replaced by a mean that its own example is part of.
    """
    same = np.isin(other.template, prompts.template)
    return {
        "reference": batch_of(other).take(np.flatnonzero(same)),
        "groups": prompts.template,
        "reference_groups": other.template[same],
    }


def attention_table(effects: jh.HeadTable, clean: Answers, model: jh.Model, seed: int) -> jh.HeadTable:
    """Return every head's attention from END to the names, with intervals."""
    columns = {
        name: Column(*mean_interval(clean.attention[..., index], clusters=effects.clusters, within=(0, 1)))
        for index, name in enumerate(POSITIONS)
    }
    return jh.HeadTable.from_columns("attention", effects.stack, columns, lab.provenance(model, seed=seed))


def leading_heads(
    effects: jh.HeadTable, attention_ELN3: np.ndarray, chosen_on: np.ndarray, held_out: np.ndarray
) -> pd.DataFrame:
    """Return the heads with the largest effect on one half of the prompts, and their numbers on the other half.

    `attends_to` and `effect_when_chosen` are of the half that heads are chosen on; all other columns are held out.
    `optimism` is by how much the effect was larger when chosen, `q` is two-sided and corrected over these heads.
    """
    assert effects.per_example is not None
    effects_ELN = effects.per_example.astype(np.float64)
    labels = None if effects.clusters is None else effects.clusters[held_out]
    when_chosen_LN = np.nanmean(effects_ELN[chosen_on], axis=0)
    attention_when_chosen_LN3 = attention_ELN3[chosen_on].mean(axis=0)
    order = np.argsort(-np.nan_to_num(np.abs(when_chosen_LN)), axis=None, kind="stable")[:LEADING]
    rows = []
    for layer, head in zip(*np.unravel_index(order, when_chosen_LN.shape), strict=True):
        row: dict[str, Any] = {"layer": layer, "head": head, "effect_when_chosen": when_chosen_LN[layer, head]}
        values_E = effects_ELN[held_out, layer, head]
        row |= lab.bounds("effect", mean_interval(values_E, clusters=labels, within=(-np.inf, np.inf)))
        row["optimism"] = np.sign(row["effect_when_chosen"]) * (row["effect_when_chosen"] - row["effect"])
        row["q"] = float(mean_p_values(values_E, clusters=labels))
        for index, name in enumerate(POSITIONS):
            attention_E = attention_ELN3[held_out, layer, head, index]
            row |= lab.bounds(name, mean_interval(attention_E, clusters=labels, within=(0, 1)))
            del row[f"{name}_n"]
        row["attends_to"] = attends_to(attention_when_chosen_LN3[layer, head])
        rows.append(row)
    frame = pd.DataFrame(rows).set_index(["layer", "head"])
    return frame.assign(q=false_discovery(frame["q"].to_numpy()))


def attends_to(attention_3: np.ndarray) -> str:
    """Return the name that a head attends to most from END, "elsewhere" if that is to none of them sharply."""
    most = int(np.argmax(attention_3))
    return ("IO", "S1", "S2")[most] if attention_3[most] >= SHARP else "elsewhere"


def compare(
    clean: Answers, corrupt: Answers, circuit: Circuit, templates_E: np.ndarray, held_out: np.ndarray
) -> pd.DataFrame:
    """Return the paper's numbers for GPT-2 small, with their mark ([P]: read in a primary source), beside ours."""
    differs = "model, prompts, templates"
    rows: list[tuple[str, float | None, np.ndarray | None, str, tuple[float, float]]] = [
        ("logit difference, clean prompts", 3.56, clean.difference, differs, UNBOUNDED),
        ("probability of IO", 0.49, clean.probability, differs, (0, 1)),
        ("share of prompts with S above IO", 0.007, clean.difference < 0, differs, (0, 1)),
        ("share of prompts solved (difference > 0)", None, clean.difference > 0, "not given apart", (0, 1)),
        ("logit difference, ABC prompts", None, corrupt.difference, "no number at hand", UNBOUNDED),
    ]
    of_role = (
        ("attention from END to IO, name movers", 0.59, "name mover", 0, "9.9, 9.6, 10.0"),
        ("attention from END to S2, S-inhibition heads", 0.51, "S-inhibition", 2, "7.3, 7.9, 8.6, 8.10"),
    )
    frame = [_row(*row, templates_E) for row in rows]
    for quantity, published, role, position, theirs in of_role:
        heads = circuit.of_role(role)
        words = f"{differs}; theirs {theirs}, ours {', '.join(f'{a}.{b}' for a, b in heads) or 'none'}, held out"
        values = [clean.attention[held_out, layer, head, position] for layer, head in heads]
        mean_E = np.mean(values, axis=0) if values else None
        frame.append(_row(quantity, published, mean_E, words, (0, 1), templates_E[held_out]))
    return pd.DataFrame(frame).set_index("quantity")


def _row(
    quantity: str,
    published: float | None,
    values_E: np.ndarray | None,
    differs: str,
    within: tuple[float, float],
    templates_E: np.ndarray,
) -> dict[str, Any]:
    unknown = np.asarray(np.nan)
    nothing = Interval(unknown, unknown, unknown, np.asarray(0))
    ours = nothing if values_E is None else mean_interval(values_E, clusters=templates_E, within=within)
    return {
        "quantity": quantity,
        "paper, GPT-2 small": np.nan if published is None else published,
        "mark": "" if published is None else "[P]",
        **lab.bounds("ours", ours),
        "what differs": differs,
    }


def _check(model: jh.Model) -> None:
    if not model.causal or model.network.unembedding is None:
        raise ValueError(
            f"{model.name} is no decoder with a vocabulary: it predicts no next token, which this experiment is about. "
            "Give a causal language model, such as smollm2-135m"
        )
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer ({model.no_tokenizer}), and prompts are text")


def _starts_with_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts its BOS first by default: prompts begin as the model's training texts did."""
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def run(options: Options) -> lab.Results:
    """Load the model and take all measures; a stopped run goes on where it was."""
    model = jh.load(options.model)
    findings = study(model, options.count, options.seed, resume=options.unfinished)
    reference = f"{REFERENCE_EACH} ABC prompts of each template"
    about = lab.provenance(model, seed=options.seed, examples=options.count, reference=reference)
    return findings_results(findings, about)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
