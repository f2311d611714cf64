"""Do heads attend to the words that people look at, beyond what the words' length says?

    python -m experiments.gaze [--text FILE --fixations FILE] [--models NAME …] [--sentences N] [--quick] [--out DIR]

Hollenstein & Beinborn (2021) correlate the relative fixations of people who read sentences (ZuCo, Hollenstein et al.
2018) with what a model's words receive: attention of the last layer, or saliency. Here every head is asked. The score
is Spearman's correlation within a sentence of a head's attention to a word (column sums between words) with the
fixations, averaged over sentences; beside it the correlation beyond length, log frequency and position of the word, and
beyond these and the number of its pieces, whose attention is summed.

Nulls: the same architecture with random weights, and the fixations shuffled within each sentence. The best head is
chosen on one half of the sentences and reported on the other. Intervals are over sentences: the file does not say
which text each is from, or who read it.

Data: `zuco_sentences.txt` and `zuco_relfix_averages.txt` of github.com/beinborn/relative_importance (one sentence a
line; relative fixations, one number a word, between commas). Without files the sentences are the package's own and the
numbers are drawn, which only shows that the experiment works.

Cost on 2 cores: half a minute; --quick a quarter of one.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import jaxheads as jh
from jaxheads.data import passages
from jaxheads.statistics import false_discovery, mean_interval, mean_p_values, partial_rank_correlation

from . import lab

PUBLISHED = pd.DataFrame(
    [
        ("BERT", 0.114, 0.680),
        ("ALBERT", 0.369, 0.619),
        ("DistilBERT", 0.030, 0.643),
    ],
    columns=["model", "attention, last layer", "saliency"],
)
"""Mean correlations of Hollenstein & Beinborn with ZuCo, from `all_results.txt` of their repository [P]."""

RANDOM, BEYOND = " (random weights)", "beyond length, frequency, position"

LEAST = 8
"""Words of a sentence: fewer leave the partial correlation little."""


@dataclass(frozen=True)
class Options(lab.Options):
    """Options.

    Attributes:
        text: sentences, one a line.
        fixations: a number for each word of each line, between commas.
        models: zoo names, hub ids or directories.
        sentences: of at least eight words, from the beginning of the file, at most.
        seed: of the nulls, and of the halves that choose and report.
    """

    out: Path = Path("results/gaze")
    text: Path | None = None
    fixations: Path | None = None
    models: tuple[str, ...] = ("minilm-l6",)
    sentences: int = 400
    seed: int = 0

    def check(self) -> None:
        """Raise ValueError for one file without the other."""
        super().check()
        if (self.text is None) != (self.fixations is None):
            raise ValueError("--text and --fixations: one file goes with the other")


@dataclass(frozen=True)
class Reading:
    """Sentences that people read: words and relative fixations; `files` is empty for drawn numbers."""

    words: list[list[str]]
    fixations: list[np.ndarray]
    files: dict[str, str]


def read(text: Path, fixations: Path) -> Reading:
    """Read both files; raises ValueError, by line, where they do not fit."""
    lines, numbers = (path.read_text(encoding="utf-8").splitlines() for path in (text, fixations))
    if len(lines) != len(numbers):
        raise ValueError(f"{text} has {len(lines)} lines, {fixations} {len(numbers)}: expected one for one")
    words, values = [], []
    for number, (line, row) in enumerate(zip(lines, numbers, strict=True), 1):
        try:
            own = np.array([float(value) for value in row.split(",")])
        except ValueError as error:
            raise ValueError(f"{fixations}:{number}: expected numbers between commas: {error}") from None
        if len(own) != len(line.split()):
            raise ValueError(f"{fixations}:{number}: {len(own)} numbers for {len(line.split())} words of {text}")
        words.append(line.split())
        values.append(own)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (text, fixations)}
    return Reading(words, values, files)


def drawn(count: int, seed: int) -> Reading:
    """Return prose of the package with drawn numbers, which follow the length of words."""
    rng = np.random.default_rng(seed)
    words = [text.split()[:12] for text in passages()[:count]]
    return Reading(words, [np.array([len(word) for word in own]) + rng.random(len(own)) for own in words], {})


def reading_of(options: Options) -> Reading:
    """Return the first sentences of the files that are long enough, or drawn ones."""
    whole = drawn(12, options.seed) if options.text is None else read(options.text, _given(options.fixations))
    count = min(options.sentences, 12) if options.quick else options.sentences
    chosen = [number for number, own in enumerate(whole.words) if len(own) >= LEAST][:count]
    if len(chosen) < 8:
        raise ValueError(f"--sentences: expected at least 8 sentences of {LEAST} words, got {len(chosen)}")
    return Reading([whole.words[at] for at in chosen], [whole.fixations[at] for at in chosen], whole.files)


def _given(path: Path | None) -> Path:
    assert path is not None, "checked with the options"
    return path


def row(model: str, what: str, values: Any, within: tuple[float, float] = (-1, 1)) -> dict[str, Any]:
    """Return one row of a table of correlations, over sentences."""
    return {"model": model, "what": what, **lab.bounds("correlation", mean_interval(values, within=within))}


def best(table: jh.HeadTable, column: str, what: str, options: Options) -> dict[str, Any]:
    """Return the best head of one half of the sentences, on the other half."""
    frame = jh.held_out(table, column, 1, seed=options.seed)
    index: Any = frame.index[0]
    numbers = {f"correlation{end}": float(frame[f"{column}{end}"].iloc[0]) for end in ("", "_low", "_high", "_n")}
    return {"model": "", "what": f"{what}: head {index[1]}.{index[2]}", **numbers}


def of_words(words: list[list[str]], columns: dict[str, list[np.ndarray]], reading: Reading) -> list[dict[str, Any]]:
    """Return how far a number of each word, without any model, goes with the fixations."""
    return [
        row("none", name, [float(partial_rank_correlation(*pair)) for pair in zip(own, reading.fixations, strict=True)])
        for name, own in columns.items()
        if len(words) == len(own)
    ]


def of_model(name: str, reading: Reading, options: Options) -> tuple[list[dict[str, Any]], jh.HeadTable, jh.HeadTable]:
    """Return the rows of one model, the table of its heads, and that beyond the number of pieces, too."""
    model, rng = jh.load(name), np.random.default_rng(options.seed)
    null, shuffled = jh.random_weights(model, options.seed), [rng.permutation(own) for own in reading.fixations]
    beyond = jh.word_controls(reading.words, model=model)
    usual = {known: numbers for known, numbers in beyond.items() if known != "pieces"}

    def asked(network: jh.Model, fixations: list[np.ndarray], known: dict[str, list[np.ndarray]]) -> jh.HeadTable:
        return jh.human(network, reading.words, fixations, beyond=known, seed=options.seed)

    table, pieces = (asked(model, reading.fixations, known) for known in (usual, beyond))
    null, null_pieces = (asked(null, reading.fixations, known) for known in (usual, beyond))
    labels = asked(model, shuffled, usual)
    usually = (("", table), (RANDOM, null), (" (fixations shuffled)", labels))
    rows = []
    for column, words, tables in (
        ("spearman", "correlation", usually),
        ("partial", BEYOND, usually),
        ("partial", f"{BEYOND}, pieces", (("", pieces), (RANDOM, null_pieces))),
    ):
        for other, own in tables:
            rows.append(best(own, column, f"best head{other}, {words}", options))
        first = tables[0][1]
        assert first.per_example is not None
        last_E = first.per_example[first.metrics.index(column)][:, -1].mean(axis=-1)
        rows.append(row("", f"mean of the last layer's heads, {words}", last_E))
    return [{**own, "model": name} for own in rows], table, pieces


def counted(name: str, table: jh.HeadTable, what: str) -> str:
    """Return in words how many heads correlate beyond the controls, `what` in words."""
    assert table.per_example is not None
    partial = table.per_example[table.metrics.index("partial")]
    q, mean = false_discovery(mean_p_values(partial)), np.nanmean(partial, axis=0)
    above, below = int(((q < 0.05) & (mean > 0)).sum()), int(((q < 0.05) & (mean < 0)).sum())
    return (
        f"Of the {mean.size} heads of {name}, {above} attend more to what people look at than {what} "
        f"explain, and {below} less (q < .05 over the heads)."
    )


def page(rows: pd.DataFrame, words: list[str], reading: Reading, names: tuple[str, ...]) -> str:
    """Return the page."""
    length = rows[rows["what"] == "length of the word"].iloc[0]
    of_people = "with the relative fixations of people" if reading.files else "with DRAWN numbers (no file was given)"
    answers = []
    for name in names:
        own = rows[rows["model"] == name].set_index("what")
        found = own[own.index.str.startswith("best head, beyond")].iloc[0]
        null = own[own.index.str.startswith("best head (random weights), beyond")].iloc[0]
        more, null_more = (
            own[own.index.str.contains(kind)].iloc[0] for kind in (r"best head, .*pieces", r"random.*pieces")
        )
        answers.append(
            f"The best head of {name} correlates {interval(found)} beyond length, frequency and position, on sentences "
            f"that did not choose it (n = {int(found['correlation_n'])}); the best of random weights {interval(null)}. "
            f"Beyond the number of the word's pieces, too: {interval(more)}, random weights {interval(null_more)}."
        )
    return f"""# Heads and people's gaze

The length of a word alone correlates {interval(length)} {of_people}, n = {int(length["correlation_n"])} sentences.
{" ".join(answers)}

{lab.markdown(rows.set_index("model"))}

{" ".join(words)}

Published, of ZuCo (Hollenstein & Beinborn 2021, `all_results.txt` of their repository [P]; all sentences, models and
tokenizers of their own, so the numbers stand beside ours and are no target):

{lab.markdown(PUBLISHED.set_index("model"))}

## Limits

Correlations within short sentences are noisy: the mean over sentences is what counts. Intervals are over sentences,
which are taken to be independent; the file does not say which came from one text. Fixations are averages over readers:
nothing is said of single people. A word of several pieces receives the sum of theirs, whatever the weights: the rows
with "pieces" take their number out, and random weights show what is left of that; only what is above them is the
model's.
A word's length and frequency are not all that makes people look: what is left may
come from what a head shares with predictability or word class, not from its attention as such. In a causal model early
words can be attended to by more words; the control of position takes out what of that is monotonic.
"""


def interval(numbers: Any) -> str:
    """Return a correlation with its interval, as text."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(numbers[f"correlation{end}"] for end in ("", "_low", "_high")))


def run(options: Options) -> lab.Results:
    """Correlate all heads of each model."""
    reading = reading_of(options)
    columns = {
        "length of the word": [np.array([float(len(word)) for word in own]) for own in reading.words],
        "position of the word": [np.arange(float(len(own))) for own in reading.words],
    }
    rows, words, tables = of_words(reading.words, columns, reading), [], {}
    for name in options.models[:1] if options.quick else options.models:
        own, table, pieces = of_model(name, reading, options)
        rows += own
        words.append(counted(name, table, "length, frequency and position"))
        words.append(counted(name, pieces, "these and the number of pieces"))
        file = lab.file_name(Path(name).name)
        tables |= {f"heads-{file}": table, f"heads-{file}-pieces": pieces}
    frame = pd.DataFrame(rows)
    about = {"seed": options.seed, "sentences": len(reading.words), "files": reading.files, "models": options.models}
    names = tuple(dict.fromkeys(frame["model"][frame["model"] != "none"]))
    return lab.Results(page(frame, words, reading, names), about, {"correlations": frame}, heads=tables)


main = lab.command(Options, run, __doc__)

if __name__ == "__main__":
    main()
