"""Whisper's cross-attention heads: which follow the sound, and not only the position in the sentence?

    python -m experiments.whisper_alignment [--model NAME] [--quick] [--out DIR]

Whisper's config lists the cross-attention heads that its timestamps come from (Radford et al. 2022; the list is in
OpenAI's `whisper/__init__.py`). At the position that predicts a token, such a head attends to the frames in which the
token is spoken: its centre of attention moves through the recording as the sentence goes on.

The score of a head in a sentence is Spearman's rank correlation of a target token's position with the centre of mass of
the attention at the position that predicts the token, over the frames that have sound. A head that moves from left to
right whatever it is given scores as well as one that follows the sound. So each sentence is run again with its words
kept and its sound replaced: by noise with the envelope of its speech (the sign of each sample is drawn at random:
Schroeder 1968), by the sound backwards, and by the speech of other sentences. A head follows the sound if it scores
more with the sound of the sentence than with each of the three replacements, over sentences (one-sided paired test; p
is the largest of the three, corrected over all heads by Benjamini & Hochberg).

The sentences are one person's reading of a novel's opening (`jaxheads.data.two_cities`), so the intervals, over
sentences, hold for this voice and text.

FOUND
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from experiments import lab
from jaxheads.data import Spoken, two_cities
from jaxheads.evidence import held_out
from jaxheads.statistics import false_discovery, mean_interval, paired_p_values
from jaxheads.tables import Column

RATE = 16_000
"""Samples a second that Whisper reads."""

SAMPLES_A_FRAME = 320
"""Samples in a frame of the encoder: 20 ms."""

REPLACEMENTS = ("noise", "backwards", "another")
DRAWS, QUICK_DRAWS = 4, 1
"""Draws of noise, and other sentences, for each sentence."""

CHANGE = (-2.0, 2.0)
"""Range of differences of correlations."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        language: the language of the sentences.
        model: a Whisper model: zoo name, hub id or directory.
        seed: seed of the noise, and of the halves that choose and report.
    """

    out: Path = Path("results/whisper-alignment")
    language: str = "en"
    model: str = "whisper-base"
    seed: int = 0


def replaced(sentences: list[Spoken], number: int, draws: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the sounds that a sentence's words are run with, each of its length: its own, then the replacements."""
    own = sentences[number].samples
    rng = np.random.default_rng([seed, number])
    yield "own", own
    yield "backwards", own[::-1]
    for draw in range(draws):
        yield "noise", own * rng.choice(np.array([-1, 1], np.float32), len(own))
        other = sentences[(number + 1 + draw * len(sentences) // (draws + 1)) % len(sentences)]
        yield "another", np.resize(other.samples, len(own))


def attention_centres(model: jh.Model, sounds: list[np.ndarray], text: str, language: str) -> np.ndarray:
    """Return the centre of each head's attention as each spoken token is predicted, in frames, `[E,L,N,T]`.

    Args:
        sounds: of one length.
        text: the words; tokens without a letter or digit are left out.
    """
    tokenizer: Any = model.tokenizer
    tokenizer.set_prefix_tokens(language=language, task="transcribe")
    batch = model.encode(sounds, targets=[f" {text.strip()}"] * len(sounds), sampling_rate=RATE)
    assert batch.targets is not None
    first, frames = len(tokenizer.prefix_tokens), -(-len(sounds[0]) // SAMPLES_A_FRAME)
    tokens_T = np.asarray(batch.targets)[0, first:-1]
    spoken = [any(map(str.isalnum, tokenizer.decode([token]))) for token in tokens_T]
    p_LENTS = np.asarray(jh.run(model, batch, "cross.pattern").seen["cross.pattern"])
    p_LENTS = p_LENTS[:, :, :, first - 1 : -2, :frames][:, :, :, spoken]
    return np.moveaxis(p_LENTS @ np.arange(frames) / p_LENTS.sum(axis=-1), 0, 1)


def agreement(centres_T: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of centres `[...,T]` with the order of the tokens, `[...]`."""
    from scipy.stats import rankdata

    T = centres_T.shape[-1]
    ranks_T = rankdata(centres_T, axis=-1) - (T + 1) / 2
    size = np.sqrt((ranks_T**2).sum(axis=-1) * T * (T**2 - 1) / 12)
    return ranks_T @ (np.arange(T) - (T - 1) / 2) / np.where(size > 0, size, 1)


def agreements(model: jh.Model, sentences: list[Spoken], options: Options) -> dict[str, np.ndarray]:
    """Return each sentence's agreement with its own sound and with the replacements, by name, `[E,L,N]`."""
    by_sound: dict[str, list[np.ndarray]] = {name: [] for name in ("own", *REPLACEMENTS)}
    draws = QUICK_DRAWS if options.quick else DRAWS
    with lab.progress(len(sentences), "sentences", True) as advance:
        for number, sentence in enumerate(sentences):
            names, sounds = zip(*replaced(sentences, number, draws, options.seed), strict=True)
            scores_ELN = agreement(attention_centres(model, list(sounds), sentence.text, options.language))
            for name, scores in by_sound.items():
                scores.append(scores_ELN[np.array(names) == name].mean(axis=0))
            advance()
    return {name: np.stack(scores) for name, scores in by_sound.items()}


def alignment_table(by_sound: dict[str, np.ndarray], listed_LN: np.ndarray, about: dict[str, Any]) -> jh.HeadTable:
    """Return a row for each head: agreement, and what it loses with each replacement, over sentences."""
    own_ELN = by_sound["own"]
    lost = {f"own_less_{name}": own_ELN - by_sound[name] for name in REPLACEMENTS}
    columns = {"agreement": Column(*mean_interval(own_ELN, within=(-1, 1)), per_example=own_ELN)}
    columns |= {
        name: Column(*mean_interval(values_ELN, within=CHANGE), per_example=values_ELN)
        for name, values_ELN in lost.items()
    }
    p_LN = np.max([paired_p_values(own_ELN, by_sound[name]) for name in REPLACEMENTS], axis=0)
    extras = {"p": p_LN, "q": false_discovery(p_LN), "listed": listed_LN}
    return jh.HeadTable.from_columns("alignment", "cross", columns, about, extras=extras)


def chosen_heads(table: jh.HeadTable, seed: int) -> pd.DataFrame:
    """Return as many heads as are listed, chosen on one half of the sentences, with their values on the other."""
    count = int(table.grid("listed").sum())
    chosen = held_out(table, "own_less_another", count, seed=seed)
    return chosen.assign(listed=table.frame.loc[chosen.index, "listed"])


def page(table: jh.HeadTable, by_sound: dict[str, np.ndarray], sentences: list[Spoken], seed: int) -> str:
    """Return the page for readers."""
    listed_LN = table.grid("listed").astype(bool)
    follows_LN = table.grid("q") < 0.05
    chosen = chosen_heads(table, seed)
    by_chance = listed_LN.mean() * len(chosen)
    rows: Any = table.frame.sort_values("q")[
        ["agreement", *(f"own_less_{name}" for name in REPLACEMENTS), "q", "listed"]
    ]
    words = "\n".join(f"{number}. {sentence.text}" for number, sentence in enumerate(sentences, 1))
    return f"""# Which cross-attention heads of {table.provenance["model"]} follow the sound

{len(sentences)} sentences of one reading. Agreement: Spearman's rank correlation of a token's position with the centre
of mass, over the frames that have sound, of the attention at the position that predicts the token. Each sentence is run
with its own sound, and with its words kept and its sound replaced: by noise with its envelope, by itself backwards, and
by the speech of other sentences. Intervals: 95 %, over the n = {len(sentences)} sentences; they hold for this voice and
text.

{lab.markdown(sound_table(by_sound, listed_LN))}

A head follows the sound if its agreement with the sentence's own sound exceeds that with each replacement (one-sided
paired test over sentences; the largest of three p-values, corrected over all {listed_LN.size} heads: q < 0.05).

- Of the {listed_LN.sum()} listed heads, {(follows_LN & listed_LN).sum()} follow the sound.
- Of the {(~listed_LN).sum()} others, {(follows_LN & ~listed_LN).sum()} do. By agreement alone they could not be told
  from heads that move from left to right with any sound.
- Listed − others, mean agreement lost with another sentence's sound: {gap(by_sound, listed_LN)}.

## Heads chosen on one half of the sentences

The {len(chosen)} heads that lose most with the sound of another sentence, chosen on {len(sentences) // 2} sentences and
reported on the {len(sentences) - len(sentences) // 2} others. {chosen["listed"].sum()} of them are listed; of heads
drawn at random {by_chance:.1f} would be.

{lab.markdown(chosen)}

## Heads by q

{lab.markdown(rows.head(24))}

All heads are in alignment.csv. No order among those that follow the sound is claimed: the sentences are too few.

## What was read

{words}
"""


def sound_table(by_sound: dict[str, np.ndarray], listed_LN: np.ndarray) -> pd.DataFrame:
    """Return the mean agreement of listed heads and of others with each sound, over sentences."""
    rows = []
    for name, scores_ELN in by_sound.items():
        row = {"sound": name, "n": len(scores_ELN)}
        for title, heads_LN in (("listed heads", listed_LN), ("other heads", ~listed_LN)):
            row[title] = in_words(scores_ELN[:, heads_LN].mean(axis=1), (-1, 1))
        rows.append(row)
    return pd.DataFrame(rows)


def gap(by_sound: dict[str, np.ndarray], listed_LN: np.ndarray) -> str:
    """Return how much more the listed heads lose than the others with another sound, over sentences."""
    lost_ELN = by_sound["own"] - by_sound["another"]
    gap_E = lost_ELN[:, listed_LN].mean(axis=1) - lost_ELN[:, ~listed_LN].mean(axis=1)
    return f"{in_words(gap_E, (-4, 4))}, n = {len(gap_E)}"


def in_words(values_E: np.ndarray, within: tuple[float, float]) -> str:
    """Return a mean over sentences with its interval: "0.43 [0.30, 0.57]"."""
    interval = mean_interval(values_E, within=within)
    return f"{interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def run(options: Options) -> lab.Results:
    """Measure every cross-attention head on all sentences."""
    sentences = two_cities()
    model = jh.load(options.model)
    heads = (model.hf_config or {}).get("alignment_heads")
    if not heads:
        raise ValueError(f"the config of {options.model} lists no alignment heads")
    by_sound = agreements(model, sentences, options)
    listed_LN = np.zeros(by_sound["own"].shape[1:], bool)
    listed_LN[tuple(np.array(heads).T)] = True
    draws = QUICK_DRAWS if options.quick else DRAWS
    about = lab.provenance(model, audio="moonshine-voice==0.1.5 assets/two_cities.wav", draws=draws, seed=options.seed)
    table = alignment_table(by_sound, listed_LN, about)
    return lab.Results(page(table, by_sound, sentences, options.seed), about, heads={"alignment": table})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
