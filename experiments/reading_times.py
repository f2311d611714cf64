"""Does a model's surprisal explain how long people read a word, and do single heads carry that?

    python -m experiments.reading_times [--times FILE] [--models NAME …] [--quick] [--out DIR]

People read ten stories word by word (Natural Stories, Futrell et al. 2021; mean reading time of each word over
readers). A regression predicts it by length, log frequency and position of the word in its passage and its story, and
length and frequency of the word before. The gain is what surprisal, of the word and of the one before, adds to its
log-likelihood on stories that it was not fitted on (Goodkind & Bicknell 2018), nats a word. Then each head of the first
model is ablated: how much of the gain is lost?

Nulls: the same architecture with random weights, and the reading times shuffled within each passage. Intervals are over
stories. The first and last 10 words of a story, and times outside 100 to 3000 ms, are left out.

Data: `processed_wordinfo.tsv` of github.com/languageMIT/naturalstories (word, zone, item, …, meanItemRT). Without a
file the texts are the package's own and the times are drawn, which only shows that the experiment works.

Cost on 2 cores: two minutes; --quick half a minute.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import Sentence, Sentences, passages
from jaxheads.statistics import false_discovery

from . import lab

ENDS = 10
"""Words at both ends of a story that are left out."""

SHORTEST, LONGEST = 100.0, 3000.0
"""Milliseconds of a reading time that counts."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        times: the words' table, between tabs, with the columns word, zone, item and meanItemRT.
        models: causal or masked language models; of the first, every head is ablated.
        passage: words that a model reads together, from the beginning of a story on.
        seed: of the nulls.
    """

    out: Path = Path("results/reading-times")
    times: Path | None = None
    models: tuple[str, ...] = ("glassllm-en", "smollm2-135m")
    passage: int = 40
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """Passages of stories and the time of each word; `files` is empty for drawn times."""

    passages: Sentences
    times: list[np.ndarray]
    files: dict[str, str]

    @property
    def beyond(self) -> dict[str, list[np.ndarray]]:
        """Controls: length, log frequency, position in the passage and in the story."""
        first, places = dict.fromkeys((one.document for one in self.passages), 0), []
        for one in self.passages:
            places.append(first[one.document] + np.arange(float(len(one.words))))
            first[one.document] += len(one.words)
        return {**jh.word_controls(self.passages), "position in the story": places}


def read(path: Path, passage: int) -> Reading:
    """Read the words' table; raises ValueError for missing columns or words that do not follow each other."""
    table = pd.read_csv(path, sep="\t", quoting=3, keep_default_na=False)
    if lacking := {"word", "zone", "item", "meanItemRT"} - set(table):
        raise ValueError(f"{path}: expected columns word, zone, item, meanItemRT between tabs; {sorted(lacking)} lack")
    made, times = [], []
    for item, story in table.sort_values(["item", "zone"]).groupby("item"):
        if not (np.diff(story["zone"]) == 1).all():
            raise ValueError(f"{path}: zones of item {item} do not follow each other")
        own = story["meanItemRT"].to_numpy(float).copy()
        own[:ENDS] = own[len(own) - ENDS :] = np.nan
        own[(own < SHORTEST) | (own > LONGEST)] = np.nan
        add(made, times, [str(word) for word in story["word"]], own, f"story {item}", passage)
    return Reading(Sentences(tuple(made)), times, {path.name: hashlib.sha256(path.read_bytes()).hexdigest()})


def add(made: list[Sentence], times: list[np.ndarray], words: list[str], own: np.ndarray, name: str, size: int) -> None:
    """Cut one story into passages, and add them with their times."""
    for first in range(0, len(words), size):
        made.append(Sentence(tuple(words[first : first + size]), document=name))
        times.append(own[first : first + size])


def drawn(seed: int, passage: int) -> Reading:
    """Return prose of the package with drawn times, which follow the length of words."""
    rng, made, times = np.random.default_rng(seed), [], []
    for number, text in enumerate(passages()[:12]):
        words = text.split()
        own = 300 + 5 * np.array([len(word) for word in words]) + 20 * rng.standard_normal(len(words))
        add(made, times, words, own, f"text {number}", passage)
    return Reading(Sentences(tuple(made)), times, {})


def row(name: str, what: str, table: jh.HeadTable) -> dict[str, Any]:
    """Return the unedited model's gain as a row of the page's table."""
    gain = table.provenance["unedited"]
    numbers = {"gain": gain["mean"], "gain_low": gain["low"], "gain_high": gain["high"]}
    return {"model": name, "what": what, **numbers, "gain_n": table.provenance["documents"]}


def of_model(name: str, reading: Reading, options: Options, *, ablated: bool) -> tuple[list[dict[str, Any]], Any]:
    """Return one model's gain beside its nulls, and the table of its heads if each is ablated."""
    model, rng = jh.load(name), np.random.default_rng(options.seed)

    def asked(network: jh.Model, times: list[np.ndarray], heads: tuple[()] | None = ()) -> jh.HeadTable:
        return jh.reading_times(network, reading.passages, times, heads=heads, beyond=reading.beyond)

    table = asked(model, reading.times, None if ablated else ())
    shuffled = [rng.permutation(own) for own in reading.times]
    nulls = {
        "random weights": asked(jh.random_weights(model, options.seed), reading.times),
        "times shuffled": asked(model, shuffled),
    }
    rows = [row(name, "surprisal", table), *(row(name, what, own) for what, own in nulls.items())]
    return rows, table if ablated else None


def run(options: Options) -> lab.Results:
    """Compute gains of all models, and of the first with each head ablated."""
    passage = options.passage
    reading = drawn(options.seed, passage) if options.times is None else read(options.times, passage)
    rows, heads = [], None
    for number, name in enumerate(options.models[:1] if options.quick else options.models):
        own, table = of_model(name, reading, options, ablated=number == 0)
        rows += own
        heads = heads or table
    assert heads is not None, "the first model's heads are ablated"
    frame = pd.DataFrame(rows)
    about = {"seed": options.seed, "files": reading.files, "passage": passage, "words": heads.provenance["words"]}
    return lab.Results(page(frame, heads, reading, options), about, {"gains": frame}, heads={"heads": heads})


def page(gains: pd.DataFrame, heads: jh.HeadTable, reading: Reading, options: Options) -> str:
    """Return the page."""
    of_people = "people's reading times" if reading.files else "DRAWN times (no file was given)"
    answers = [answer(str(name), gains[gains["model"] == name]) for name in dict.fromkeys(gains["model"])]
    name, frame = options.models[0], heads.frame
    largest: Any = heads.top("effect", 8, absolute=True)
    clear = frame[(frame["effect_high"] < 0) | (frame["effect_low"] > 0)]
    split = held_out_effect(heads, options.seed)
    return f"""# What surprisal, and each head, explains of reading times

Beyond length, frequency and position (in the passage and in the story), surprisal adds to the log-likelihood of
{of_people}, nats a word, over {int(gains["gain_n"].iloc[0])} texts and {heads.provenance["words"]} words:

{chr(10).join(answers)}

{lab.markdown(gains.set_index("model"))}

With single heads of {name} ablated (means in place of their output), {len(clear)} of {len(frame)} heads change the gain
with an interval that leaves out 0, where chance alone would give about {0.05 * len(frame):.1f}. {split}

{lab.markdown(largest[["effect", "effect_low", "effect_high", "effect_n"]])}

## Limits

Models read passages of {options.passage} words: the first words of a passage have little context;
{heads.provenance["left_out_as_too_long"]} of {len(reading.passages)} passages do not fit the context of {name}. Times
are means over readers; intervals are over {int(gains["gain_n"].iloc[0])} texts, few. The gain is that
of linear regressions with the word before as only spill-over; that people read faster later in a story is taken out as
far as it is linear. An ablation may raise the gain and yet make the model a
worse one.
"""


def answer(name: str, rows: Any) -> str:
    """Return a line of the page on one model: its gain beside those of the nulls, and what that shows."""
    own, *nulls = rows.to_dict("records")
    beside = ", ".join("{what} {gain:.4f} [{gain_low:.4f}, {gain_high:.4f}]".format(**null) for null in nulls)
    if own["gain_low"] <= 0:
        told = "no gain is shown"
    elif own["gain_low"] <= max(null["gain_high"] for null in nulls):
        told = "a gain that does not lie clearly above its nulls"
    else:
        told = "a gain above both nulls"
    return f"- {name}: {own['gain']:.4f} [{own['gain_low']:.4f}, {own['gain_high']:.4f}] ({beside}): {told}."


def held_out_effect(heads: jh.HeadTable, seed: int) -> str:
    """Return in words the effect of the head that half of the texts chose, on the other half."""
    chosen = jh.held_out(heads, "effect", 1, largest=False, seed=seed)
    index: Any = chosen.index[0]
    mean, low, high = (float(chosen[f"effect{end}"].iloc[0]) for end in ("", "_low", "_high"))
    q = false_discovery(chosen["p"].to_numpy())[0]
    return (
        f"The head whose ablation costs most on one half of the texts, {index[1]}.{index[2]}, changes the gain by "
        f"{mean:.4f} [{low:.4f}, {high:.4f}] on the other half (p = {q:.2g})."
    )


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
