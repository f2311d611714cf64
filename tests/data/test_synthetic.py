import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxheads.data import RepeatedTokens, repeated_tokens

BOS = 3


def draw(seed: int = 0, **changes) -> RepeatedTokens:
    options = {"examples": 6, "shortest": 2, "longest": 7, "first": BOS, "avoid": (0, 1)}
    return repeated_tokens(60, seed=seed, **(options | changes))


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), repeats=st.integers(2, 4), first=st.sampled_from([None, BOS]))
def test_every_repeat_says_the_segment_again(seed: int, repeats: int, first: int | None):
    data = draw(seed, repeats=repeats, first=first)
    lead = 0 if first is None else 1
    for tokens, mask, period, second in zip(data.tokens, data.mask, data.period, data.second, strict=True):
        segment = tokens[lead : lead + period]
        assert len(set(segment)) == period
        assert not {0, 1, *([] if first is None else [first])} & set(segment)
        assert mask.sum() == lead + repeats * period
        assert not tokens[~mask].any()
        at = np.flatnonzero(second)
        assert at[0] == lead + period
        assert at[-1] == mask.sum() - 1
        assert (tokens[at] == tokens[at - period]).all()


def test_periods_cover_their_range_and_arrays_have_one_width():
    data = draw(examples=200)
    assert set(data.period) == set(range(2, 8))
    assert data.tokens.shape == data.mask.shape == data.second.shape == (200, 15)
    assert (data.tokens.dtype, data.mask.dtype, data.second.dtype) == (np.int32, bool, bool)
    assert (data.tokens[:, 0] == BOS).all()
    assert not data.second[:, 0].any()
    assert draw(length=40).tokens.shape == (6, 40)


def test_the_seed_decides():
    assert (draw(1).tokens == draw(1).tokens).all()
    assert (draw(1).tokens != draw(2).tokens).any()


@pytest.mark.parametrize("repeats", [2, 3])
def test_the_null_keeps_the_positions_and_takes_the_cue_away(repeats: int):
    data = draw(repeats=repeats)
    null = data.shuffled(5)
    for name in ("mask", "period", "second"):
        assert (getattr(null, name) == getattr(data, name)).all()
    assert (null.tokens[~data.second] == data.tokens[~data.second]).all()
    for tokens, mask in zip(null.tokens, data.mask, strict=True):
        assert len(set(tokens[mask])) == mask.sum()
        assert not {0, 1} & set(tokens[mask])
    assert (null.tokens == data.shuffled(5).tokens).all()
    assert (null.tokens != data.shuffled(6).tokens).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 0}, "examples must be at least 1"),
        ({"shortest": 0}, "1 <= shortest <= longest, got 0 and 7"),
        ({"shortest": 8}, "1 <= shortest <= longest, got 8 and 7"),
        ({"repeats": 1}, "repeats must be at least 2"),
        ({"length": 14}, "at least 15 are needed"),
        ({"avoid": range(55)}, "7 distinct tokens cannot be drawn from 5"),
        ({"first": 60}, r"token ids from 0 to 59, got \[60\]"),
        ({"avoid": (-1, 2)}, r"got \[-1\]"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        draw(**changes)


def test_a_null_needs_a_large_enough_vocabulary():
    data = repeated_tokens(8, examples=1, shortest=5, longest=5, seed=0)
    with pytest.raises(ValueError, match="needs 5 tokens outside the first segment, 3 are left"):
        data.shuffled(0)
