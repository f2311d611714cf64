"""Gaze and reading times: files that are refused by line, and pages of toy models."""

from pathlib import Path

import numpy as np
import pytest

import jaxheads as jh
from experiments import gaze, reading_times
from tests import language

WORDS = ["the dog barks the dogs bark the barking dog", "a dog barks a dogs bark the barking cat"]


def gaze_files(folder: Path, count: int = 12) -> tuple[Path, Path]:
    text, fixations = folder / "text.txt", folder / "fixations.txt"
    lines = [WORDS[number % 2] for number in range(count)]
    rng = np.random.default_rng(0)
    rows = [", ".join(str(value) for value in rng.random(9)) for _ in lines]
    text.write_text("\n".join(lines) + "\n")
    fixations.write_text("\n".join(rows) + "\n")
    return text, fixations


def test_gaze_is_read_and_refused_by_line(tmp_path: Path):
    text, fixations = gaze_files(tmp_path)
    reading = gaze.read(text, fixations)
    assert (len(reading.words), len(reading.fixations[3]), len(reading.files)) == (12, 9, 2)
    rows = fixations.read_text().splitlines()
    fixations.write_text("\n".join([rows[0], "0.1, 0.2", *rows[2:]]))
    with pytest.raises(ValueError, match=r"fixations.txt:2: 2 numbers for 9 words"):
        gaze.read(text, fixations)
    fixations.write_text("\n".join(["a, b", *rows[1:]]))
    with pytest.raises(ValueError, match=r"fixations.txt:1: expected numbers"):
        gaze.read(text, fixations)


def test_the_page_of_gaze_says_first_what_length_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text, fixations = gaze_files(tmp_path)
    monkeypatch.setattr(jh, "load", lambda name: language.model("bert"))
    options = gaze.Options(text=text, fixations=fixations, models=("toy",), quick=True)
    results = gaze.run(options)
    assert results.page.splitlines()[2].startswith("The length of a word alone correlates")
    frame = results.tables["correlations"]
    assert frame["what"].str.contains("random weights").sum() == 3
    assert frame["what"].str.contains("pieces: head").sum() == 2
    assert frame["what"].str.contains("shuffled").sum() == 2
    assert results.about["files"].keys() == {"text.txt", "fixations.txt"}
    assert "number of the word's pieces" in results.page
    assert "DRAWN" in gaze.page(frame, [], gaze.drawn(8, 0), ("toy",))


def times_file(folder: Path, stories: int = 6, count: int = 80) -> Path:
    rng, path = np.random.default_rng(0), folder / "times.tsv"
    rows = ["word\tzone\titem\tmeanItemRT"]
    for item in range(1, stories + 1):
        rows += [f"{rng.choice(WORDS[0].split())}\t{zone}\t{item}\t{rng.uniform(250, 400)}" for zone in range(1, count)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_times_are_read_story_by_story_without_their_ends(tmp_path: Path):
    path = times_file(tmp_path)
    reading = reading_times.read(path, passage=12)
    assert len({one.document for one in reading.passages}) == 6
    assert np.isnan(reading.times[0][:10]).all()
    assert np.isfinite(reading.times[1]).all()
    places = np.concatenate(reading.beyond["position in the story"])
    assert places.tolist() == [*range(79)] * 6
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], *lines[6:]]))
    with pytest.raises(ValueError, match="zones of item 1 do not follow"):
        reading_times.read(path, passage=12)
    path.write_text("word\tzone\nif\t1\n")
    with pytest.raises(ValueError, match="lack"):
        reading_times.read(path, passage=12)


def test_the_page_of_reading_times_has_gains_and_nulls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jh, "load", lambda name: language.model("gpt2"))
    options = reading_times.Options(times=times_file(tmp_path), models=("toy",), passage=12, quick=True)
    results = reading_times.run(options)
    assert "- toy: " in results.page
    assert results.heads["heads"].provenance["beyond"] == [
        "length",
        "log_frequency",
        "position",
        "position in the story",
    ]
    frame = results.tables["gains"]
    assert frame["what"].tolist() == ["surprisal", "random weights", "times shuffled"]
    assert results.heads["heads"].shape == (2, 4)
    # Times are drawn: surprisal explains none of them.
    assert np.asarray(frame["gain"]).max() < 0.05
