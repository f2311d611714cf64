"""A first question compiles a few programs, not one for every small operation on the way to it."""

from typing import Any

import jax
import numpy as np
import pytest

import jaxheads as jh
from jaxheads import programs
from jaxheads.sweep.exact import plan

from . import good_calls

MOST = 6
T = 12
CONFIG = {**good_calls.CONFIG, "n_layer": 3}

EVENT = "/jax/core/compile/backend_compile_duration"

COUNTED: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration_secs, **kwargs: COUNTED.append(event) if event == EVENT else None
)


def batch(seed: int) -> jh.Batch:
    tokens = np.random.default_rng(seed).integers(0, 37, (4, T))
    marks = {"odd": tokens % 2} if seed else None  # labels that no model reads make no other program
    return jh.Batch(tokens, np.arange(T) >= np.arange(4)[:, None], clusters=[0, 1, 2, 2], marks=marks)


OWN: dict[str, dict[str, Any]] = {
    "patch": {"site": "resid_pre", "by": ("layer", "position")},
    "share": {"partners": np.zeros((3, 2, 2), int)},
    "icl_score": {"early": 2, "late": 5},
    "knock_out": {"queries": T - 1, "keys": 4},
}
QUESTIONS = (
    "run measure compare_heads variability icl_score relevance direct_effects direct_parts logit_lens logit_copying "
    "name_copying ablate patch paths all_paths attribute importance knock_out share interactions circuit patch_edges "
    "search_circuits function_vectors composition eigenvalue_copying positional_kernel token_pairs "
    "token_maps salient_tokens projection_kernel component_composition jacobian_lens"
).split()


@pytest.fixture(scope="module")
def model() -> jh.Model:
    return jh.init(CONFIG)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_first_question_compiles_at_most_six_programs(name: str, model: jh.Model, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(plan.COMPILATION_FLOPS, "cpu", 5e10)  # as users have it
    monkeypatch.setattr(plan, "UPWARD", 1)
    batches = {"batch": batch(0), "clean": batch(0), "corrupt": batch(1), "shuffled": batch(1), "reference": batch(1)}
    call = {key: good_calls.made(value) for key, value in (good_calls.CALLS[name] | OWN.get(name, {})).items()}
    call = {key: batches.get(key, value) for key, value in call.items()} | {"model": model}
    jax.clear_caches()
    programs._PROGRAMS.kept.clear()
    COUNTED.clear()
    getattr(jh, name)(**call)
    assert 0 < len(COUNTED) <= MOST
