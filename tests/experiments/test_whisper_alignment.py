"""Agreement of cross-attention with the order of what is said: the numbers, without the model."""

import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments.whisper_alignment import ORDERS, agreement, main, recording
from jaxheads.tables import HeadTable


def test_agreement_is_spearman_s_and_only_what_follows_is_unlikely():
    rng = np.random.default_rng(0)
    centres_LNT = rng.standard_normal((2, 40, 12))
    centres_LNT[1, 3] = np.arange(12) ** 3.0
    centres_LNT[0, 1] = -np.arange(12)
    agreement_LN, p_LN = agreement(centres_LNT, seed=0)
    for at in np.ndindex(2, 40):
        assert agreement_LN[at] == pytest.approx(spearmanr(centres_LNT[at], np.arange(12))[0])
    assert (agreement_LN[1, 3], agreement_LN[0, 1]) == pytest.approx((1, -1))
    assert p_LN[1, 3] == 1 / (1 + ORDERS)
    assert p_LN[0, 1] == 1
    chance = np.delete(p_LN.reshape(-1), [1, 43])
    assert 0.35 < chance.mean() < 0.65
    assert (chance < 0.05).mean() < 0.15


def test_another_kind_of_recording_is_refused(tmp_path: Path):
    with wave.open(str(tmp_path / "fast.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(bytes(8))
    with pytest.raises(ValueError, match=r"16000 samples a second, .*; it has \(44100, 2, 2\)"):
        recording(tmp_path / "fast.wav")


@pytest.mark.weights
def test_from_the_command_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    main(["--quick", "--out", str(tmp_path)])
    assert "agreement" in capsys.readouterr().out
    table = HeadTable.load(tmp_path / "alignment")
    listed = table.grid("listed").astype(bool)
    assert listed.sum() == 8
    assert table.values[listed].min() > 0.8
    assert "The 8 listed heads: median" in (tmp_path / "summary.md").read_text()
