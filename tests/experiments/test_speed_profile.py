"""The profile of the sweeps: what operations are told apart, and the page."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

from experiments import speed_profile


def test_operations_are_told_apart_by_the_dearest_thing_in_them():
    @jax.jit
    def program(x, w):
        def step(_, x):
            return jnp.tanh(x @ w)

        return jax.lax.fori_loop(0, 3, step, x) - jax.nn.softmax(x)

    text: Any = program.lower(jnp.ones((4, 4)), jnp.ones((4, 4))).compile().as_text()
    kinds = speed_profile.kinds_of_operations(text)
    assert {"matrix products", "exponentials, tanh"} <= set(kinds.values())
    [loop] = re.findall(r"%?([\w.\-]+) = \S.* while\(", text)
    assert loop not in kinds
    moved: Any = jax.jit(lambda x: x[:, ::-1].T).lower(jnp.ones((4, 5))).compile().as_text()
    assert set(speed_profile.kinds_of_operations(moved).values()) == {speed_profile.MOVING}


def test_a_moment_is_shared_by_all_that_run_in_it():
    second = 1e9
    spans = [
        ("a", 0, 4 * second),
        ("b", 2 * second, 4 * second),
        ("a", 3 * second, 4 * second),
        ("c", 6 * second, 7 * second),
    ]
    seconds = speed_profile.shared_time(spans)
    assert seconds["a"] == pytest.approx(2 + 1 / 2 + 2 / 3)
    assert seconds["b"] == pytest.approx(1 / 2 + 1 / 3)
    assert sum(seconds.values()) == pytest.approx(5)
    assert speed_profile.shared_time([]) == {}


def test_from_the_command_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    speed_profile.main(["--quick", "--works", "ablate", "importance", "--out", str(tmp_path)])
    table: Any = pd.read_csv(tmp_path / "profile.csv").set_index("work")
    shares = table[[column for column in table if column.endswith(", %")]]
    assert shares.sum(axis=1).to_numpy() == pytest.approx(100)
    assert (table["matrix products, %"] > 1).all()
    assert table["products, GFLOP/s"].isna().tolist() == [False, True]
    assert (table["products, GFLOP/s"].dropna() > table["whole call, GFLOP/s"].dropna()).all()
    assert "Where the time goes" in capsys.readouterr().out


def test_an_unknown_work_is_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match=r"works may be .* got everything"):
        speed_profile.main(["--works", "everything", "--out", str(tmp_path)])
