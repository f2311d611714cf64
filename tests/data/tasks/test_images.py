import math

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads.data.tasks import Corners, Digits, Texture

from .laws import Host, constant_loss, drawn


def images(sample: Host) -> np.ndarray:
    return sample.batch["pixels"][..., 0]


def test_digits_are_scikit_learns_and_split_once():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    known = {tuple(row): label for row, label in zip(pixels.tolist(), labels.tolist(), strict=True)}
    assert len(known) == 1797  # no image twice, so that each has one label
    seen: list[tuple] = []
    for task, count in ((Digits(), 1438), (Digits().held_out(), 359)):
        sample = task.everything()
        assert sample.targets is not None
        assert task.images == count == len(sample.targets)
        rows = [tuple(row) for row in ((np.asarray(sample.batch.pixels) + 1) * 8).reshape(count, 64).tolist()]
        assert [known[row] for row in rows] == sample.targets.tolist()
        assert set(map(tuple, ((images(drawn(task)) + 1) * 8).reshape(-1, 64).tolist())) <= set(rows)
        seen += rows
    assert set(seen) == set(known)
    assert Digits(seed=1).images == 1438
    assert (images(drawn(Digits(seed=1))) != images(drawn(Digits()))).any()
    assert Digits().anchors["unigram"] == pytest.approx(math.log(10), abs=0.01)
    assert constant_loss(drawn(Digits(), 3000)) == pytest.approx(math.log(10), abs=0.01)


@pytest.mark.parametrize(("patch", "uniform", "longest"), [(2, 4.016, 8.49), (1, 4.137, 9.90)])
def test_distances(patch: int, uniform: float, longest: float):
    task = Digits(patch=patch)
    assert task.uniform_distance == pytest.approx(uniform, abs=1e-3)
    assert task.longest_distance == pytest.approx(longest, abs=5e-3)
    assert task.length == (8 // patch) ** 2
    # A model whose heads look everywhere alike has that distance: its queries are zero.
    model = jh.init(task.model_config(num_hidden_layers=1))
    attention = model.network.encoder.blocks.attention
    for name in ("W_Q", "b_Q"):
        weight = getattr(attention, name)
        weight[...] = 0 * weight[...]
    distances = jh.measure(model, task.sample(jax.random.key(0), 2).batch, metrics=("distance",)).frame["distance"]
    assert distances.to_numpy() == pytest.approx(uniform, abs=1e-3)


def test_textures_are_dominoes():
    sample = drawn(Texture())
    for image, standing, partner in zip(images(sample), sample.targets, sample.marks["partner"], strict=True):
        image = image.T if standing else image
        assert (image[:, ::2] == image[:, 1::2]).all()
        assert not (image[::2] == image[1::2]).all()
        for pixel in range(64):
            row, column = divmod(pixel, 8)
            other = (row ^ 1) * 8 + column if standing else row * 8 + (column ^ 1)
            assert np.flatnonzero(partner[1 + pixel]).tolist() == [1 + other]
        assert not partner[0].any()
    assert set(sample.targets) == {0, 1}
    # In one of 2^16 all blocks of four are alike, and nobody can tell.
    assert Texture().optimum == math.log(2) / 2**16
    # The mean says nothing: 32 dominoes of ±1 both ways.
    means = images(drawn(Texture(), 2000)).mean(axis=(1, 2))
    labels = drawn(Texture(), 2000).targets
    assert means[labels == 0].std() == pytest.approx(means[labels == 1].std(), rel=0.1)


def test_corners_are_compared():
    for patch in (1, 2, 4):
        sample = drawn(Corners(patch=patch))
        pixels = images(sample)
        assert ((pixels[:, 0, 0] == pixels[:, 7, 7]) == sample.targets).all()
        last = (8 // patch) ** 2
        assert np.argwhere(sample.marks["corner"][0]).tolist() == [[1], [last]]
        assert np.argwhere(sample.marks["opposite"][3]).tolist() == [[1, last], [last, 1]]
        assert set(np.unique(pixels)) == {-1, 1}


def neighbours_alike(sample: Host) -> float:
    """How like each pixel is to the next ones in its row and its column."""
    pixels = images(sample)
    return float(((pixels[:, 1:] * pixels[:, :-1]).mean() + (pixels[:, :, 1:] * pixels[:, :, :-1]).mean()) / 2)


def test_controls_have_all_pixels_but_not_in_place():
    # Of neighbours in one direction 4 of 7 are dominoes in half of the images: 2/7.
    assert neighbours_alike(drawn(Texture(), 500)) == pytest.approx(2 / 7, abs=0.02)
    assert abs(neighbours_alike(drawn(Texture().control(), 500))) < 0.06
    for task in (Texture(), Digits(patch=1), Corners()):
        plain, control = drawn(task), drawn(task.control())
        assert (plain.targets == control.targets).all()
        moved = task.control().moved
        assert sorted(moved) == list(range(64))
        assert (images(control).reshape(-1, 64) == images(plain).reshape(-1, 64)[:, moved]).all()
        place = np.concatenate([[0], 1 + moved])
        for name, mark in plain.marks.items():
            assert (control.marks[name] == (mark[:, place] if mark.ndim == 2 else mark[:, place][:, :, place])).all()
    # The two that are to be compared lie closer than any corners do.
    [(one, other), _] = np.argwhere(drawn(Corners().control(), 1).marks["opposite"][0]) - 1
    assert math.dist(divmod(one, 8), divmod(other, 8)) < 7


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="patches of 1, 2, 4 or 8 pixels; got 3"):
        Corners(patch=3)
    with pytest.raises(ValueError, match="holds whole dominoes; got 2"):
        Texture(patch=2)
    with pytest.raises(ValueError, match="part is one of train, test; got 'all'"):
        Digits(part="all")
    with pytest.raises(ValueError, match="leaves digits in either part"):
        Digits(share=1.0)
