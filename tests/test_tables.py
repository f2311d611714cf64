import dataclasses
import json
import os
import sys
from pathlib import Path

import jax.numpy as jnp
import matplotlib.colors
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from jaxheads.tables import Column, HeadTable

L, N, E = 3, 4, 5


def column(seed=0, examples=True):
    rows = np.random.default_rng(seed).standard_normal((E, L, N)).astype(np.float32)
    mean = rows.mean(axis=0, dtype=np.float64)
    return Column(mean, mean - 0.5, mean + 0.5, np.full((L, N), E), rows if examples else None)


def table(metrics=2, squeeze=False, examples=True, **options):
    columns = {f"metric{i}": column(i, examples) for i in range(metrics)}
    return HeadTable.from_columns(
        "test", "decoder", columns, {"seed": 1, "model": {"name": "tiny"}}, squeeze=squeeze, **options
    )


def assert_same(one, other):
    pd.testing.assert_frame_equal(one.frame, other.frame, check_exact=True)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.values.dtype == other.values.dtype
    if one.per_example is None:
        assert other.per_example is None
    else:
        np.testing.assert_array_equal(one.per_example, other.per_example)
        assert one.per_example.dtype == other.per_example.dtype == np.float32
    assert (one.name, one.provenance) == (other.name, other.provenance)


class TestMaking:
    def test_one_metric_squeezed(self):
        squeezed = table(1, squeeze=True)
        numbers = column()
        np.testing.assert_array_equal(squeezed.values, numbers.mean)
        np.testing.assert_array_equal(squeezed.per_example, numbers.per_example)
        assert list(squeezed.frame) == ["metric0", "metric0_low", "metric0_high", "metric0_n"]
        assert squeezed.frame.index.names == ["stack", "layer", "head"]
        assert squeezed.frame.loc[("decoder", 2, 1), "metric0_high"] == np.asarray(numbers.high)[2, 1]
        assert (squeezed.shape, squeezed.metrics, squeezed.examples) == ((L, N), ("metric0",), E)

    def test_several_metrics_keep_their_order(self):
        several = table(3)
        assert several.values.shape == (3, L, N)
        assert several.per_example is not None
        assert several.per_example.shape == (3, E, L, N)
        for i, name in enumerate(several.metrics):
            np.testing.assert_array_equal(several.values[i], column(i).mean)
            np.testing.assert_array_equal(several.per_example[i], column(i).per_example)
            np.testing.assert_array_equal(several.grid(name), several.values[i])

    def test_one_metric_not_squeezed_keeps_its_axis(self):
        single = table(1)
        assert single.values.shape == (1, L, N)
        assert single.per_example is not None
        assert single.per_example.shape == (1, E, L, N)

    def test_extras_keep_their_type_and_are_no_metrics(self):
        offsets = np.arange(L * N).reshape(L, N)
        roles = np.full((L, N), "induction")
        extended = table(1, extras={"offset": offsets, "role": roles})
        assert extended.metrics == ("metric0",)
        np.testing.assert_array_equal(extended.grid("offset"), offsets)
        assert extended.frame["offset"].dtype == offsets.dtype
        assert extended.frame["role"].iloc[-1] == "induction"

    def test_a_number_without_doubt_has_nan_bounds(self):
        exact = HeadTable.from_columns("w", "decoder", {"norm": Column(np.ones((L, N)))}, squeeze=True)
        assert exact.frame[["norm_low", "norm_high"]].isna().to_numpy().all()
        assert exact.metrics == ("norm",)

    def test_takes_jax_arrays(self):
        from_jax = HeadTable.from_columns("j", "s", {"m": Column(jnp.ones((2, 2)))}, {"scale": jnp.float32(0.5)})
        assert isinstance(from_jax.values, np.ndarray)
        assert from_jax.provenance == {"scale": 0.5}

    def test_other_axes(self):
        by_position = HeadTable.from_columns("p", "s", {"m": Column(np.ones((2, 7)))}, axes=("layer", "position"))
        assert by_position.frame.index.names == ["stack", "layer", "position"]
        assert by_position.shape == (2, 7)

    def test_is_frozen_and_its_own(self):
        mean = np.zeros((L, N))
        provenance = {"list": [1]}
        frozen = HeadTable.from_columns(
            "f", "s", {"m": Column(mean, mean, mean, None, np.zeros((E, L, N)))}, provenance
        )
        mean[:] = 7
        provenance["list"].append(2)
        assert np.all(frozen.values == 0)
        assert frozen.frame["m"].tolist() == [0.0] * (L * N)
        assert frozen.provenance == {"list": [1]}
        assert frozen.per_example is not None
        for array in (frozen.values, frozen.per_example):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 1
        frame = frozen.frame.copy()
        other = dataclasses.replace(frozen, frame=frame)
        frame.iloc[0, 0] = 7.0
        assert other.frame.iloc[0, 0] == 0.0
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.name = "other"  # pyright: ignore[reportAttributeAccessIssue]

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            ({}, {}, "at least one, got"),
            ({"a": column(), "b": column()}, {"squeeze": True}, "expected one, got"),
            ({"a": Column(np.zeros(3))}, {}, r"axes \['layer', 'head'\].* got \[3\]"),
            ({"a": Column(np.zeros((0, 3)))}, {}, "not empty"),
            (
                {"a": Column(np.zeros((2, 3)), np.zeros((2, 2)))},
                {},
                r"'a_low': expected \[2, 3\].*got \[2, 2\]",
            ),
            ({"a": column(), "b": Column(np.zeros((L, 2)))}, {}, r"'b': expected \[3, 4\].*got \[3, 2\]"),
            ({"a": column()}, {"extras": {"x": [1]}}, r"'x': expected \[3, 4\]"),
            ({"a": column(), "a_low": column()}, {}, "'a_low' comes twice"),
            ({"a": column()}, {"extras": {"layer": np.ones((L, N))}}, r"\['layer'\]: rename"),
            ({"a": column(), "b": column(examples=False)}, {}, "every column or None in all"),
            (
                {"a": Column(np.zeros((2, 3)), None, None, None, np.zeros((2, 3)))},
                {},
                r"per_example: expected shape",
            ),
            ({"a": Column(np.full((2, 3), -np.inf))}, {}, "'a': expected finite numbers or NaN.* 6 cells"),
            ({"a": Column(np.zeros((1, 1)), None, None, None, [[[1e300]]])}, {}, "per_example: expected finite"),
        ],
    )
    def test_refuses_parts_that_do_not_fit(self, columns, options, message):
        with pytest.raises(ValueError, match=message):
            HeadTable.from_columns("t", "s", columns, **options)

    @pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "a.per_example", "a.parquet"])
    def test_refuses_names_that_are_no_file_stem(self, name):
        with pytest.raises(ValueError, match="file stem"):
            dataclasses.replace(table(), name=name)

    @pytest.mark.parametrize(
        "change",
        [
            {"frame": pd.DataFrame({"m": [1.0]})},
            {"frame": table().frame.reset_index(drop=True)},
            {"frame": table().frame.iloc[::-1]},
            {"frame": table().frame.iloc[:-1]},
            {"frame": table().frame.iloc[:0]},
            {"frame": pd.concat([table().frame, table().frame])},
            {"values": np.zeros((2, L, N))},
            {"values": np.zeros((L, N))},
            {"per_example": np.zeros((E, 2, L, N))},
            {"per_example": np.zeros((E, L, N))},
            {"provenance": {"a": object()}},
            {"provenance": {"a": float("nan")}},
        ],
    )
    def test_refuses_fields_that_contradict_each_other(self, change):
        (field,) = change
        with pytest.raises(ValueError, match=f"^{field}: expected"):
            dataclasses.replace(table(), **change)

    def test_provenance_tells_no_path(self):
        replaced = dataclasses.replace(table(), provenance={"file": Path("/home/me/model.gguf"), "n": np.int64(3)})
        assert replaced.provenance == {"file": "model.gguf", "n": 3}


class TestFiles:
    @pytest.mark.parametrize(
        "made",
        [
            table(),
            table(1, squeeze=True),
            table(1),
            table(examples=False),
            table(
                extras={
                    "offset": np.arange(L * N, dtype=np.int32).reshape(L, N),
                    "role": np.full((L, N), "a, |b|"),
                    "special": np.eye(L, N, dtype=bool),
                }
            ),
            HeadTable.from_columns("nan", "s", {"m": Column([[np.nan, 1.0]], None, None, None, [[[np.nan, 1.0]]])}),
            HeadTable.from_columns("p.1", "s", {"m": Column(np.eye(2))}, axes=("layer", "position")),
        ],
        ids=["several", "squeezed", "one", "bare", "extras", "nan", "axes"],
    )
    def test_what_is_saved_is_what_is_loaded(self, made, tmp_path):
        files = made.save(tmp_path / "new" / "directory")
        assert_same(HeadTable.load(files[0]), made)
        assert_same(HeadTable.load(tmp_path / "new" / "directory" / made.name), made)

    def test_writes_files_for_programs_and_people(self, tmp_path):
        single = table(1)
        names = ["test.parquet", "test.csv", "test.md", "test.provenance.json", "test.per_example.parquet"]
        assert [path.name for path in single.save(tmp_path)] == names
        assert sorted(os.listdir(tmp_path)) == sorted(names)
        csv = pd.read_csv(tmp_path / "test.csv", index_col=["stack", "layer", "head"])
        pd.testing.assert_frame_equal(csv, single.frame)
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "test.parquet"), single.frame)
        lines = (tmp_path / "test.md").read_text().splitlines()
        assert lines[0] == "# test"
        assert lines[2].replace(" ", "") == "|stack|layer|head|metric0|metric0_low|metric0_high|metric0_n|"
        assert f"{single.values[0, 0, 0]:.4g}" in lines[4]
        assert all(f"{E} †" in line for line in lines[4 : 4 + L * N])
        assert lines[4 + L * N :] == ["", "† fewer than 10 independent examples: the interval is rough."]
        stored = json.loads((tmp_path / "test.provenance.json").read_text())
        assert len(stored.pop("jaxheads.sha256")) == 64
        assert stored == single.provenance

    def test_another_time_or_command_changes_the_bytes_of_no_number(self, tmp_path):
        for name in ("one", "other"):
            dataclasses.replace(table(1), provenance={"time_utc": name}).save(tmp_path / name)
        for file in ("test.parquet", "test.csv", "test.per_example.parquet"):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()

    def test_examples_are_tidy(self, tmp_path):
        original = table(2)
        original.save(tmp_path)
        stored = pq.read_table(tmp_path / "test.per_example.parquet").to_pandas()
        assert list(stored) == ["example", "stack", "layer", "head", "metric0", "metric1"]
        assert stored["metric1"].dtype == np.float32
        cell = stored.set_index(["example", "stack", "layer", "head"]).loc[(3, "decoder", 1, 2)]
        assert original.per_example is not None
        np.testing.assert_array_equal(cell, original.per_example[:, 3, 1, 2])

    def test_saving_again_without_examples_forgets_the_old_ones(self, tmp_path):
        table().save(tmp_path)
        table(examples=False).save(tmp_path)
        assert HeadTable.load(tmp_path / "test").per_example is None

    def test_an_unwritable_place_gives_one_clear_error(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match=r"can't write .*file/test\.parquet: .*Choose a directory"):
            table().save(tmp_path / "file")
        assert os.listdir(tmp_path) == ["file"]

    def test_a_file_in_the_way_leaves_the_old_table_whole(self, tmp_path):
        old = table(1)
        old.save(tmp_path)
        (tmp_path / "test.per_example.parquet").unlink()
        (tmp_path / "test.per_example.parquet").mkdir()
        before = {name: (tmp_path / name).read_bytes() for name in ("test.parquet", "test.csv", "test.md")}
        with pytest.raises(OSError, match="directory is in the way"):
            table(2).save(tmp_path)
        assert before == {name: (tmp_path / name).read_bytes() for name in before}
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]

    def test_refuses_to_load_what_is_no_table(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"expected .*none\.parquet"):
            HeadTable.load(tmp_path / "none")
        pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
        with pytest.raises(ValueError, match=r"HeadTable\.save wrote, got another"):
            HeadTable.load(tmp_path / "other.parquet")


class TestTop:
    def signed(self):
        return HeadTable.from_columns("t", "s", {"m": Column([[1.0, -5.0, np.nan], [3.0, 3.0, 0.0]])})

    def test_largest_first_nan_last(self):
        heads = [index[1:] for index in self.signed().top(n=6).index]
        assert heads == [(1, 0), (1, 1), (0, 0), (1, 2), (0, 1), (0, 2)]

    def test_ties_keep_the_order_of_the_grid(self):
        numbers = np.arange(400.0).reshape(20, 20) % 2
        heads = [index[1:] for index in HeadTable.from_columns("t", "s", {"m": Column(numbers)}).top(n=200).index]
        assert heads == sorted(heads)

    def test_by_magnitude(self):
        top = self.signed().top("m", n=2, absolute=True)
        assert list(top["m"]) == [-5.0, 3.0]

    def test_of_another_column(self):
        original = table(2)
        assert original.top("metric1", n=1)["metric1"].item() == original.values[1].max()

    def test_unknown_column_says_what_is_known(self):
        with pytest.raises(ValueError, match=r"one of \['m', 'm_low', 'm_high'\], got 'x'"):
            self.signed().top("x")


class TestPlot:
    def test_shows_the_grid_with_labels(self):
        original = table(2)
        ax = original.plot("metric1")
        image = ax.images[0]
        np.testing.assert_array_equal(image.get_array(), original.values[1])
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("head", "layer", "test")
        assert image.colorbar is not None
        assert image.colorbar.ax.get_ylabel() == "metric1"
        assert ax.yaxis_inverted()

    def test_names_the_unit(self):
        with_unit = HeadTable.from_columns("t", "s", {"m": Column([[1.0]])}, {"units": {"m": "nats"}})
        colorbar = with_unit.plot().images[0].colorbar
        assert colorbar is not None
        assert colorbar.ax.get_ylabel() == "m, nats"

    def test_both_signs_are_symmetric_about_zero(self):
        image = HeadTable.from_columns("t", "s", {"m": Column([[-1.0, 4.0]])}).plot().images[0]
        assert image.get_clim() == (-4.0, 4.0)
        red, green, blue, _ = np.asarray(image.cmap(image.norm(np.zeros(1))))[0]
        assert min(red, green, blue) > 0.95

    @pytest.mark.parametrize("numbers", [[[1.0, 4.0]], [[0.0, 2.0]], [[-3.0, -1.0]]])
    def test_one_sign_spans_the_values(self, numbers):
        image = HeadTable.from_columns("t", "s", {"m": Column(numbers)}).plot().images[0]
        assert image.get_clim() == tuple(numbers[0])
        assert image.cmap.name == "viridis"

    @pytest.mark.parametrize("numbers", [[[np.nan, np.nan]], [[2.0, np.nan]], [[0.0]], [[-2.0, np.nan, 1.0]]])
    def test_draws_missing_and_constant_cells(self, numbers, tmp_path):
        ax = HeadTable.from_columns("t", "s", {"m": Column(numbers)}).plot()
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.savefig(tmp_path / "t.png")
        assert (tmp_path / "t.png").stat().st_size > 1000
        grey = matplotlib.colors.to_rgba("0.85")
        assert ax.images[0].cmap(np.ma.masked_invalid([np.nan]))[0] == pytest.approx(grey)

    def test_ticks_are_whole_heads(self):
        ax = HeadTable.from_columns("t", "s", {"m": Column(np.eye(2, 3))}).plot()
        for ticks in (ax.get_xticks(), ax.get_yticks()):
            np.testing.assert_array_equal(ticks, np.round(ticks))

    def test_uses_the_axes_given(self):
        ax = Figure().add_subplot()
        assert table().plot(ax=ax) is ax

    def test_leaves_pyplot_alone(self):
        table().plot()
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or not pyplot.get_fignums()

    def test_refuses_words_and_other_grids(self):
        extended = table(extras={"role": np.full((L, N), "x")})
        with pytest.raises(ValueError, match="numbers over two axes, got 'role'"):
            extended.plot("role")
        with pytest.raises(ValueError, match=r"over \['layer'\]"):
            HeadTable.from_columns("t", "s", {"m": Column([1.0])}, axes=("layer",)).plot()


def test_repr_says_what_it_holds():
    shown = table(2)
    text = repr(shown)
    assert "test: metric0, metric1 (decoder, 3 layers × 4 heads, 5 examples kept)" in text
    assert f"{shown.values[0].max():.6f}" in text
    page = shown._repr_html_()
    assert page.count("<tr") == 2 + 10  # two header rows, ten heads
    assert "examples kept" not in repr(table(examples=False))


def test_html_escapes_a_stack():
    shown = HeadTable.from_columns("t", "<s>", {"m": Column([[1.0]])})
    assert "<s>" not in shown._repr_html_()
