"""Relevance of words by rollout and flow: do they find the words an answer rests on, where raw attention does not?

    python -m experiments.agreement_flow [--quick] [--seeds N] [--steps N] [--out DIR]

After Abnar & Zuidema 2020 (arXiv 2005.00928): their architecture (6 layers, 8 heads, width 128, attention to both
sides) and their task, the number of a verb. They trained on natural sentences and read the answer at a CLS. Here a
grammar with attractors makes the sentences, so that the answer rests on the subject alone, and the verb is masked.

In every layer three methods rate each word's relevance for the masked verb: raw attention in that layer (mean over
heads), and rollout and flow from the input up to that layer. Each rating is compared, word by word, with blank-out (the
fall of the right verb's probability when the word is masked) and with input gradients (the size of gradient × input):
Spearman's correlation within each sentence, then the mean. In the first layer the three methods are one by definition.
A fourth rating, 1 for the subject and 0 for all other words, shows what knowing the answer would reach. Controls are
the same models untrained, and models trained on verbs of a random number. Each seed has its own weights, its own
training data and its own sentences, so an interval over seeds covers all three.

Found: see results/agreement-flow/summary.md, whose findings the run writes.

--quick, under one minute, only shows that it runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import Array

import jaxheads as jh
from jaxheads.data.tasks import Agreement, Sample
from jaxheads.measure.relevance import flows, rolled_out, with_residual
from jaxheads.statistics import rank_correlation
from jaxheads.train import Network, grid, scores, train

from . import lab
from .support import agreement_flow_page

METHODS = ("raw", "rollout", "flow")
RATINGS = (*METHODS, "subject alone")

PUBLISHED = {
    "blank-out": {
        "raw": (0.69, 0.10, -0.11, -0.09, 0.20, 0.29),
        "rollout": (0.32, 0.38, 0.51, 0.62, 0.70, 0.71),
        "flow": (0.32, 0.44, 0.70, 0.70, 0.71, 0.70),
    },
    "gradients": {
        "raw": (0.53, 0.16, -0.06, 0.00, 0.24, 0.46),
        "rollout": (0.22, 0.27, 0.39, 0.47, 0.53, 0.54),
        "flow": (0.22, 0.31, 0.54, 0.61, 0.60, 0.61),
    },
}
"""Spearman's correlations of Abnar & Zuidema's Tables 1 and 2, layers 1 to 6, 2,000 sentences [P]."""


@dataclass(frozen=True)
class Options(lab.TrainingOptions):
    """Options: the training, and the sentences that are rated.

    Attributes:
        examples: sentences of each seed whose words are rated; 80 when left out.
    """

    usual = (6, 300)
    short = (1, 4)
    out: Path = Path("results/agreement-flow")
    batch: int = 64
    examples: int | None = None

    @property
    def sentences(self) -> int:
        """The number of sentences of each seed whose words are rated."""
        return (6 if self.quick else 80) if self.examples is None else self.examples

    @property
    def config(self) -> dict[str, Any]:
        """The published architecture; two layers where the run is quick."""
        if self.quick:
            return {"num_hidden_layers": 2}
        return {"num_hidden_layers": 6, "num_attention_heads": 8, "hidden_size": 128, "intermediate_size": 512}


def verb_positions(sample: Sample) -> np.ndarray:
    """Return the position of each sentence's verb, the only one that is scored, `[E]`."""
    assert sample.weights is not None
    return np.asarray(sample.weights).argmax(axis=1)


@jax.jit
def verb_probability(network: Network, sample: Sample, tokens_ET: Array) -> Array:
    """Return the probability of the right verb, with these tokens in place of the sample's, `[E]`."""
    assert sample.targets is not None
    assert sample.weights is not None
    logits_ETV = jh.run(jh.Model(network), jh.Batch(tokens_ET, sample.batch.mask)).output
    p_ET = jnp.take_along_axis(jax.nn.softmax(logits_ETV), sample.targets[..., None], axis=2)[..., 0]
    return (p_ET * sample.weights).sum(axis=1)


def blank_out(network: Network, sample: Sample) -> np.ndarray:
    """Return the fall of the right verb's probability when each word is masked, `[E,T]`."""
    tokens_ET = sample.batch.tokens
    assert tokens_ET is not None
    mask = tokens_ET[0, verb_positions(sample)[0]]  # the verb is masked already
    whole_E = verb_probability(network, sample, tokens_ET)
    blanked = [verb_probability(network, sample, tokens_ET.at[:, t].set(mask)) for t in range(tokens_ET.shape[1])]
    return np.asarray(whole_E[:, None] - jnp.stack(blanked, axis=1), np.float64)


def gradients(model: jh.Model, sample: Sample, task: Agreement) -> np.ndarray:
    """Return the size of gradient × input, for the logit difference of the verb's two numbers, `[E,T]`."""
    assert sample.targets is not None
    verb_E = verb_positions(sample)
    right_E = np.asarray(sample.targets)[np.arange(len(verb_E)), verb_E]
    first_verb = task.vocabulary - 2 * task.verbs
    wrong_E = first_verb + ((right_E - first_verb) ^ 1)  # a verb's two numbers are neighbours
    objective = jh.logit_difference(right_E, wrong_E, verb_E)
    return np.abs(jh.relevance(model, sample.batch, objective, "gradient").tokens.astype(np.float64))


def relevances(model: jh.Model, sample: Sample) -> dict[str, np.ndarray]:
    """Return the relevance of each word for the masked verb, by method, up to every layer: `[E,L,T]`."""
    patterns_LENTT = jh.run(model, sample.batch, "pattern").seen["pattern"]
    attention_ELTT = np.moveaxis(np.asarray(patterns_LENTT.mean(axis=2)), 1, 0)
    E, L, T, _ = attention_ELTT.shape
    verb_E = verb_positions(sample)
    row_ET = np.eye(T, dtype=np.float32)[verb_E]
    rollout = jax.jit(jax.vmap(rolled_out))
    return {
        "raw": attention_ELTT[np.arange(E), :, verb_E],
        "rollout": np.stack(
            [np.asarray(rollout(attention_ELTT[:, : layer + 1], row_ET)) for layer in range(L)], axis=1
        ),
        "flow": np.stack([_flows_by_layer(attention_ELTT[e], int(verb_E[e])) for e in range(E)]),
    }


def _flows_by_layer(attention_LTT: np.ndarray, position: int) -> np.ndarray:
    capacities_LTT = np.asarray(with_residual(jnp.asarray(attention_LTT)))
    return np.stack([flows(capacities_LTT[: layer + 1], position) for layer in range(len(capacities_LTT))])


def compare(model: jh.Model, sample: Sample, task: Agreement, condition: str, seed: int) -> pd.DataFrame:
    """Return a row for each method and layer: its correlations, and how often the subject comes first."""
    batch = sample.batch
    assert batch.marks is not None
    assert sample.weights is not None
    counts_ET = np.asarray(batch.mask) & (np.asarray(sample.weights) == 0)
    references = {"blank-out": blank_out(model.network, sample), "gradients": gradients(model, sample, task)}
    nouns_ET = np.asarray(batch.marks["subject"]) | np.asarray(batch.marks["attractor"])
    subject_E = np.asarray(batch.marks["subject"]).argmax(axis=1)
    attracted_E = nouns_ET.sum(axis=1) > 1
    chance_E = 1 / nouns_ET.sum(axis=1)
    rated = relevances(model, sample)
    layers = next(iter(rated.values())).shape[1]
    rated["subject alone"] = np.repeat(np.asarray(batch.marks["subject"], float)[:, None], layers, axis=1)
    rows = []
    for method, relevance_ELT in rated.items():
        for layer in range(layers):
            x_ET = relevance_ELT[:, layer]
            row: dict[str, Any] = {"condition": condition, "seed": seed, "method": method, "layer": layer + 1}
            for name, reference_ET in references.items():
                correlations = _correlations(x_ET, reference_ET, counts_ET)
                row[name] = correlations.mean() if correlations.size else np.nan
                row[f"{name} sd"] = correlations.std() if correlations.size else np.nan
                row[f"{name} sentences"] = len(correlations)
            subject_first_E = np.where(nouns_ET, x_ET, -np.inf).argmax(axis=1) == subject_E
            row["subject first"] = subject_first_E[attracted_E].mean() if attracted_E.any() else np.nan
            row["subject first by chance"] = chance_E[attracted_E].mean() if attracted_E.any() else np.nan
            row["with attractors"] = int(attracted_E.sum())
            rows.append(row)
    return pd.DataFrame(rows)


def _correlations(x_ET: np.ndarray, reference_ET: np.ndarray, counts_ET: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each sentence that has one."""
    sentences = zip(x_ET, reference_ET, counts_ET, strict=True)
    values = [rank_correlation(x[counts], reference[counts]) for x, reference, counts in sentences]
    return np.array([value for value in values if value is not None], float)


def run(options: Options) -> lab.Results:
    """Train the models, rate the words in each, compare."""
    seeds, steps = options.trained
    task, tables, accuracy = Agreement(masked=True), [], []
    samples = [task.sample(jax.random.fold_in(jax.random.key(2020), seed), options.sentences) for seed in range(seeds)]
    for condition, training_task in (("trained", task), ("random number", task.control())):
        trained = train(
            task.model_config(**options.config),
            training_task,
            steps,
            batch=options.batch,
            init_scale=2.0,
            checkpoints=[0, steps],
            runs=grid(range(seeds), rate=[options.rate]),
            progress=True,
            directory=options.unfinished / lab.file_name(condition),
        )
        for seed, sample in enumerate(samples):
            models = {condition: trained.model(seed)}
            if condition == "trained":
                models["untrained"] = trained.model(seed, 0)
            for name, model in models.items():
                right = float(jax.jit(scores)(model.network, sample)[1])
                accuracy.append({"condition": name, "seed": seed, "accuracy": right})
                tables.append(compare(model, sample, task, name, seed))
        print(f"{condition}: {[row['accuracy'] for row in accuracy if row['condition'] == condition]}", flush=True)
    runs, right = pd.concat(tables, ignore_index=True), pd.DataFrame(accuracy)
    about = {**options.about, "sentences": options.sentences}
    means, differences = agreement_flow_page.over_seeds(runs), agreement_flow_page.differences(runs)
    text = agreement_flow_page.page({**about, "published": PUBLISHED}, runs, right, means, differences)
    written = {"runs": runs, "accuracy": right, "over-seeds": means, "differences": differences}
    return lab.Results(text, about, written, {"layers": picture(runs)})


def picture(runs: pd.DataFrame) -> "jh.plots.Picture":
    """Draw the correlations by layer: a thin line for each seed, a thick one for their mean, published ones dashed."""
    figure, both = jh.plots.panels(2, (9, 3.5), sharey=True)
    for axes, reference in zip(both, PUBLISHED, strict=True):
        for number, method in enumerate(METHODS):
            color = jh.plots.color(number)
            chosen: Any = runs[(runs["condition"] == "trained") & (runs["method"] == method)]
            for _, seed in chosen.groupby("seed"):
                axes.plot(seed["layer"], seed[reference], color=color, linewidth=0.7, alpha=0.5)
            mean: Any = chosen.groupby("layer")[reference].mean()
            axes.plot(mean.index, np.asarray(mean), color=color, linewidth=2, label=method)
            published = PUBLISHED[reference][method][: len(mean)]
            axes.plot(np.arange(1, len(published) + 1), published, color=color, linestyle="--", linewidth=1)
        axes.set_xlabel("layer")
        axes.set_title(reference, fontsize=9)
        axes.axhline(0, color="0.8", linewidth=0.8)
    both[-1].legend(fontsize=7)
    both[0].set_ylabel("Spearman's correlation (published: dashed)")
    return figure


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
