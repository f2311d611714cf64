"""Pictures: seen in a notebook, written in any format, readable by all eyes, with every point inside."""

import io
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.colors
import matplotlib.image
import numpy as np
import pandas as pd
import pytest

import jaxheads as jh
from experiments.support.speed_report import draw_curves
from jaxheads.plots.colors import text_on
from jaxheads.tables import Column

PNG = b"\x89PNG\r\n"

# Machado, Oliveira & Fernandes 2009, severity 1: what these readers see of linear RGB.
SEEN_BY = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def head_table() -> jh.HeadTable:
    mean = np.arange(6.0).reshape(2, 3) - 2
    return jh.HeadTable.from_columns(
        "heads", "decoder", {"effect": Column(mean, mean - 0.5, mean + 0.25)}, squeeze=True
    )


def linear(rgb: np.ndarray) -> np.ndarray:
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab_color(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB, for white D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0.001, 1) / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


class TestPicture:
    def test_shows_itself(self):
        heads = head_table().plot()
        assert heads._repr_png_().startswith(PNG)
        assert heads.picture._repr_png_() == heads._repr_png_()
        assert jh.plots.evolution([1, 2, 3], {"loss": [3, 2, 1]})._repr_png_().startswith(PNG)
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or not pyplot.get_fignums()

    def test_has_200_dots_an_inch(self, tmp_path: Path):
        picture, _ = jh.plots.panels(2, (3, 2))
        height, width, _ = matplotlib.image.imread(picture.save(tmp_path / "two.png")).shape
        assert (width, height) == (600, 400)

    def test_endings_are_formats(self, tmp_path: Path):
        heads = head_table().plot()
        vector = heads.save(tmp_path / "new" / "heads.svg").read_text(encoding="utf-8")
        assert vector.startswith("<?xml")
        assert ">layer</text>" in vector  # letters stay letters
        assert heads.save(tmp_path / "heads.PDF").read_bytes().startswith(b"%PDF")
        with pytest.raises(ValueError, match=r"expected a file name that ends in one of .*\.svg.*, got 'heads.doc'"):
            heads.save(tmp_path / "heads.doc")
        with pytest.raises(ValueError, match="ends in one of"):
            heads.save(tmp_path / "heads")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.PDF", "new"]

    @pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
    def test_equal_pictures_have_equal_bytes(self, ending: str, tmp_path: Path):
        first, second = (head_table().plot().save(tmp_path / f"{n}.{ending}").read_bytes() for n in range(2))
        assert first == second


class TestColors:
    def test_lines_have_the_palette_in_order(self):
        _, [axes] = jh.plots.panels(1, (2, 2))
        lines = [axes.plot([0, 1])[0].get_color() for _ in range(3)]
        assert lines == [jh.plots.color(number) for number in range(3)] == list(jh.plots.PALETTE[:3])
        assert jh.plots.color(len(jh.plots.PALETTE)) == jh.plots.PALETTE[0]

    @pytest.mark.parametrize("eyes", SEEN_BY)
    def test_all_eyes_tell_them_apart(self, eyes: str):
        rgb = [linear(np.array(matplotlib.colors.to_rgb(color))) for color in jh.plots.PALETTE]
        seen = [lab_color(np.array(SEEN_BY[eyes]) @ color) for color in rgb]
        assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 10  # 2.3 is just noticeable

    @pytest.mark.parametrize("name", ["RdBu_r", "viridis"])
    def test_numbers_can_be_read_on_every_color(self, name: str):
        for background in matplotlib.colormaps[name](np.linspace(0, 1, 101)):
            luminance = linear(background[:3]) @ [0.2126, 0.7152, 0.0722]
            lighter, darker = (1.0, luminance) if text_on(background) == "white" else (luminance, 0.0)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG 2.2, level AA

    def test_numbers_on_dark_red_are_white(self):
        ax = jh.plots.heatmap([[-1.0, 0.0, 1.0, np.nan]], numbers=".1f", limits=(-1, 1))
        assert [(text.get_text(), text.get_color()) for text in ax.texts] == [
            ("-1.0", "white"),
            ("0.0", "black"),
            ("1.0", "white"),
        ]


class TestHeatmap:
    def test_names_rows_and_columns(self):
        ax = jh.plots.heatmap(np.eye(2), rows=["a", "b"], columns=["c", "d"], label="agreement")
        assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
        assert [text.get_text() for text in ax.get_xticklabels()] == ["c", "d"]

    def test_refuses_other_shapes_and_names(self):
        with pytest.raises(ValueError, match=r"expected numbers \[rows,columns\], got the shape \[3\]"):
            jh.plots.heatmap([1.0, 2.0, 3.0])
        with pytest.raises(ValueError, match="rows: expected 2 names, got 1"):
            jh.plots.heatmap(np.eye(2), rows=["a"])


class TestIntervals:
    def test_shows_heads_by_name_with_their_intervals(self):
        ax = jh.plots.intervals(head_table().top("effect", 2), label="effect, nats")
        assert [text.get_text() for text in ax.get_yticklabels()] == ["1.2", "1.1"]
        container: Any = ax.containers[0]
        [bars] = container.lines[2]
        np.testing.assert_allclose([path.vertices[:, 0] for path in bars.get_paths()], [[2.5, 3.25], [1.5, 2.25]])
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.yaxis_inverted()) == ("effect, nats", "layer.head", True)

    def test_refuses_a_frame_without_intervals(self):
        with pytest.raises(ValueError, match=r"expected one with _low and _high, of \[\], got None of 1 rows"):
            jh.plots.intervals(pd.DataFrame({"effect": [1.0]}))


def test_curves_of_speed_show_every_point():
    points = [("heads", 6, 3.0), ("heads", 12, 9.0), ("length", 16, 20.0), ("length", 32, 70.0)]
    curves = pd.DataFrame(points, columns=["axis", "value", "seconds"]).set_index(["axis", "value"])
    figure = draw_curves(curves)
    figure.savefig(io.BytesIO())
    for axes in figure.axes:
        low, high = axes.get_ylim()
        [line] = axes.get_lines()
        assert low == 0
        assert np.max(line.get_ydata()) < high
