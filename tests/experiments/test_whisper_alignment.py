"""Which heads follow the sound: the score, the replacements and the test, without the model; then all of it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments import whisper_alignment
from experiments.whisper_alignment import (
    REPLACEMENTS,
    SAMPLES_A_FRAME,
    SILENCE,
    Centres,
    agreement,
    alignment_table,
    chosen_heads,
    followed_shift,
    main,
    replaced,
)
from jaxheads.data import Spoken
from jaxheads.tables import HeadTable


def test_agreement_is_spearman_s():
    centres_LNT = np.random.default_rng(0).standard_normal((2, 5, 12))
    centres_LNT[1, 3] = np.arange(12) ** 3.0
    centres_LNT[0, 1] = -np.arange(12)
    agreement_LN = agreement(centres_LNT)
    for at in np.ndindex(2, 5):
        assert agreement_LN[at] == pytest.approx(spearmanr(centres_LNT[at], np.arange(12))[0])
    assert (agreement_LN[1, 3], agreement_LN[0, 1]) == pytest.approx((1, -1))
    assert agreement(np.zeros(4)) == 0


def test_a_head_that_moves_with_any_sound_does_not_follow_it():
    """Its agreement is the largest of all; a head that one replacement can't stop does not follow either."""
    rng = np.random.default_rng(0)
    E, L, N = 10, 2, 8
    own = np.full((E, L, N), 0.3)
    others = {name: own.copy() for name in REPLACEMENTS}
    for scores in (own, *others.values()):
        scores[:, 0, 0] = 0.99
    own[:, 1, :4] = 0.9
    others["backwards"][:, 1, 3] = 0.9
    by_sound = {"own": own, **others, "shift": np.full((E, L, N), 0.0)}
    noisy = {name: np.clip(values + rng.normal(0, 0.05, values.shape), -1, 1) for name, values in by_sound.items()}
    noisy["shift"][:, 1, 1] += 0.9
    noisy["shift"][:, 1, 0] += 0.5
    noisy["shift"][0] = np.nan
    listed_LN = np.zeros((L, N), bool)
    listed_LN[1, :3] = True
    table = alignment_table(noisy, listed_LN, {"model": "planted"})
    assert table.grid("agreement")[0, 0] > 0.9
    np.testing.assert_array_equal(table.grid("q") < 0.05, listed_LN)
    np.testing.assert_array_equal(table.grid("q_shift") < 0.05, [[False] * N, [number == 1 for number in range(N)]])
    assert (table.grid("shift_n") == E - 1).all()
    chosen = chosen_heads(table, seed=0)
    assert len(chosen) == 3
    assert list(chosen.index[:2]) == [("cross", 1, 1), ("cross", 1, 0)]
    np.testing.assert_allclose(chosen["shift"].iloc[:2], (0.9, 0.5), atol=0.1)


def test_a_shift_is_one_for_a_head_that_follows_the_sound_and_half_for_an_even_spread():
    after = np.arange(6) >= 3
    spoken = np.array([10.0, 20, 30, 60, 70, 80])
    silence = SILENCE / SAMPLES_A_FRAME
    even = np.linspace(0, 1, 6)
    before = Centres(np.stack([spoken, spoken, 90 * even])[None, None], after)
    later = Centres(np.stack([spoken + silence * after, spoken, (90 + silence) * even])[None, None], after)
    np.testing.assert_allclose(followed_shift(before, later), [[1, 0, 0.6]])


def test_replacements_have_the_length_and_the_envelope_of_the_speech():
    rng = np.random.default_rng(1)
    sentences = [Spoken(rng.standard_normal(length).astype(np.float32), "words") for length in (900, 500, 700, 800)]
    sounds = list(replaced(sentences, 1, 2, seed=0))
    assert [name for name, _ in sounds] == ["own", "backwards", "noise", "another", "noise", "another"]
    own = sounds[0][1]
    assert {len(sound) for _, sound in sounds} == {500}
    np.testing.assert_array_equal(sounds[1][1], own[::-1])
    for number in (2, 4):
        np.testing.assert_array_equal(np.abs(sounds[number][1]), np.abs(own))
        assert abs(np.corrcoef(sounds[number][1], own)[0, 1]) < 0.2
    np.testing.assert_array_equal(sounds[3][1], sentences[2].samples[:500])
    np.testing.assert_array_equal(sounds[5][1], sentences[3].samples[:500])
    again = list(replaced(sentences, 1, 2, seed=0))
    assert all((first == second).all() for (_, first), (_, second) in zip(sounds, again, strict=True))


@pytest.mark.weights
def test_from_the_command_to_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    some = whisper_alignment.two_cities()[:4]
    monkeypatch.setattr(whisper_alignment, "two_cities", lambda: some)
    main(["--quick", "--out", str(tmp_path)])
    assert "follow the sound" in capsys.readouterr().out
    table = HeadTable.load(tmp_path / "alignment")
    listed = table.grid("listed").astype(bool)
    assert listed.sum() == 8
    assert np.median(table.grid("own_less_noise")[listed]) > 0.3
    assert np.median(table.grid("shift")[listed]) > 0.6
    assert "Of the 8 listed heads" in (tmp_path / "summary.md").read_text()
