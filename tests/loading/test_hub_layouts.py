"""Checkpoints of the hub, made small: each loads and computes what `transformers` does, or is refused with a reason."""

import re
import warnings
from pathlib import Path

import pytest

import jaxheads as jh

from ..models.specs import SPECS
from ..models.specs.spec import compare, their_run
from .hub_layouts import CONFIGS, LAYOUTS, small_config, theirs, write


def test_every_config_has_its_layout():
    assert LAYOUTS.keys() == CONFIGS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_of_the_hub_is_loaded_exactly_or_refused_with_a_reason(tmp_path: Path, name: str):
    layout = LAYOUTS[name]
    if layout.spec not in SPECS:
        pytest.fail(f"no spec {layout.spec}")
    model, state = theirs(name)
    write(tmp_path, name, state)
    if layout.refused:
        with pytest.raises(ValueError, match=layout.refused):
            jh.load(tmp_path, head=layout.head)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours = jh.load(tmp_path, head=layout.head)
    said = [str(warning.message) for warning in caught]
    assert len(said) <= 1 + ("text_config" in small_config(name)), said
    assert bool(said) == bool(layout.warns), said
    assert all(re.search(layout.warns, message) for message in said), said
    batch = SPECS[layout.spec].batch(model)
    run = jh.run(ours, batch, [f"{stack}.pattern" for stack in ours.stacks])
    compare(run, their_run(model.base_model if layout.bare else model, batch, 0), ours, batch, 0)
