"""Models of weights in memory: state dicts, pytrees of training loops with a table, and other weights of one model."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.loading.weights import export
from jaxheads.models.own_parameters import parameter_shapes

from .huggingface import SMALL, build
from .specs import SPECS

CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 37,
    "n_embd": 24,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "layer_norm_epsilon": 0.02,
    "architectures": ["GPT2LMHeadModel"],
}
BATCH = jh.Batch(np.arange(14).reshape(2, 7))
HERE = "decoder.blocks"
TABLE: dict[str, Any] = {
    "tokens": "embed.embedding",
    "places": "embed_position.embedding",
    "layers.{layer}.norms": ((f"{HERE}.attention_norm.scale", f"{HERE}.attention_norm.bias"), tuple),
    "layers.{layer}.qkv": (
        tuple(f"{HERE}.attention.W_{letter}" for letter in "QKV"),
        lambda joined: [part.reshape(24, 4, 6) for part in np.split(joined, 3, axis=1)],
    ),
    "layers.{layer}.biases": (tuple(f"{HERE}.attention.b_{letter}" for letter in "QKV"), list),
    "layers.{layer}.out.weight": (f"{HERE}.attention.W_O", lambda weight: weight.T.reshape(4, 6, 24)),
    "layers.{layer}.out.bias": f"{HERE}.attention.b_O",
    "stacked.up": f"{HERE}.mlp.up.kernel",
    "stacked.up_bias": f"{HERE}.mlp.up.bias",
    "stacked.down": f"{HERE}.mlp.down.kernel",
    "stacked.down_bias": f"{HERE}.mlp.down.bias",
    "stacked.scale": f"{HERE}.mlp_norm.scale",
    "stacked.shift": f"{HERE}.mlp_norm.bias",
    "last": (("final_norm.scale", "final_norm.bias"), tuple),
}


def tree_of(state: dict[str, Any]) -> dict[str, Any]:
    """The weights of a state dict as a training loop of one's own may hold them."""
    w = {name.removeprefix("transformer."): value.numpy() for name, value in state.items()}

    def layer(number: int) -> dict[str, Any]:
        at = f"h.{number}."
        return {
            "norms": np.stack([w[f"{at}ln_1.weight"], w[f"{at}ln_1.bias"]]),
            "qkv": w[f"{at}attn.c_attn.weight"],
            "biases": jnp.asarray(w[f"{at}attn.c_attn.bias"].reshape(3, 4, 6)),
            "out": {"weight": w[f"{at}attn.c_proj.weight"].T, "bias": w[f"{at}attn.c_proj.bias"]},
        }

    stored = {"up": "mlp.c_fc.weight", "up_bias": "mlp.c_fc.bias", "down": "mlp.c_proj.weight"}
    stored |= {"down_bias": "mlp.c_proj.bias", "scale": "ln_2.weight", "shift": "ln_2.bias"}
    return {
        "tokens": w["wte.weight"],
        "places": w["wpe.weight"],
        "layers": [layer(0), layer(1)],
        "stacked": {own: np.stack([w[f"h.{n}.{name}"] for n in range(2)]) for own, name in stored.items()},
        "last": np.stack([w["ln_f.weight"], w["ln_f.bias"]]),
    }


@pytest.fixture(scope="module")
def trained() -> Any:
    return build(SMALL["gpt2"])


@pytest.fixture(scope="module")
def state(trained: Any) -> dict[str, Any]:
    return trained.state_dict()


@pytest.fixture(scope="module")
def expected(trained: Any) -> np.ndarray:
    with torch.no_grad():
        return trained(torch.arange(14).reshape(2, 7)).logits.numpy()


@pytest.fixture(scope="module")
def model(state: dict[str, Any]) -> jh.Model:
    return jh.adopt(CONFIG, state)


def same_output(model: jh.Model, expected: np.ndarray) -> bool:
    return bool(np.abs(jh.run(model, BATCH).output - expected).max() <= 1e-5 * max(1, np.abs(expected).max()))


def test_a_state_dict_of_torch_is_adopted(model: jh.Model, trained: Any, expected: np.ndarray):
    assert same_output(model, expected)
    assert model.name == "adopted"
    assert model.identity().startswith("sha256:")
    assert model.tokenizer is None
    assert "tokenizer=" in model.no_tokenizer
    for config in (trained.config, trained.config.to_dict()):
        assert same_output(jh.adopt(config, trained), expected)


def test_arrays_of_numpy_and_of_jax_and_nested_dicts_are_adopted(state: dict[str, Any], expected: np.ndarray):
    nested: dict[str, Any] = {}
    for number, (name, value) in enumerate(state.items()):
        *path, last = name.split(".")
        inner = nested
        for word in path:
            inner = inner.setdefault(word, {})
        inner[last] = jnp.asarray(value.numpy()) if number % 2 else value.numpy()
    assert same_output(jh.adopt(CONFIG, {"params": nested}, name="mine"), expected)


def test_half_precision_of_torch_is_read_as_it_is(state: dict[str, Any]):
    rounded = {name: value.bfloat16() for name, value in state.items()}
    model = jh.adopt(CONFIG, rounded)
    assert np.array_equal(model.network.embed.embedding[...], rounded["transformer.wte.weight"].float().numpy())


def test_a_pytree_with_a_table_is_adopted(state: dict[str, Any], expected: np.ndarray):
    tokenizer = lambda text: {"input_ids": [1]}  # noqa: E731
    model = jh.adopt(CONFIG, tree_of(state), TABLE, tokenizer=tokenizer, name="own")
    assert same_output(model, expected)
    assert model.tokenizer is tokenizer
    assert model.no_tokenizer == ""


def test_a_table_may_lead_to_the_names_of_a_checkpoint(state: dict[str, Any], expected: np.ndarray):
    renamed = {f"my.{name.removeprefix('transformer.')}": value for name, value in state.items()}
    layers = {name for name in renamed if name.startswith("my.h.0.")}
    table = {name: "transformer." + name.removeprefix("my.") for name in renamed if not name.startswith("my.h.")}
    for name in layers:
        general = name.replace("h.0.", "h.{layer}.")
        table[general] = "transformer." + general.removeprefix("my.")
    table["my.lm_head.weight"] = "lm_head.weight"
    # One matrix of all layers, which belongs to tensors of single layers.
    fused = "my.h.{layer}.mlp.c_fc.weight"
    stacked = np.stack([renamed.pop(fused.format(layer=layer)).numpy().T for layer in range(2)])
    assert table.pop(fused)
    whole = table | {"up": ("transformer.h.{layer}.mlp.c_fc.weight", lambda up: up.swapaxes(1, 2))}
    assert same_output(jh.adopt(CONFIG, renamed | {"up": stacked}, whole), expected)


def test_the_state_of_our_own_network_needs_no_table(model: jh.Model, expected: np.ndarray):
    for parameters in (model.network, nnx.state(model.network), nnx.state(model.network, nnx.Param)):
        assert same_output(jh.adopt(CONFIG, parameters), expected)


def test_all_that_does_not_fit_is_said_at_once(state: dict[str, Any], model: jh.Model):
    wrong = dict(state) | {"foo": np.ones(2), "transformer.ln_f.weight": np.ones(3)}
    del wrong["transformer.wpe.weight"]
    for call in (lambda: jh.adopt(CONFIG, wrong), lambda: model.with_parameters(wrong)):
        with pytest.raises(
            ValueError, match=r"transformer\.wpe\.weight.*not known: foo.*ln_f\.weight is \(3,\).*\(24,\)"
        ):
            call()
    tree = tree_of(state)
    tree["extra"] = np.ones(2)
    tree["last"] = np.ones((2, 3))
    del tree["layers"][1]["out"]["bias"], tree["stacked"]["up"]
    with pytest.raises(ValueError, match=r"no stacked\.up"):
        jh.adopt(CONFIG, tree, TABLE)
    table = {path: target for path, target in TABLE.items() if path != "stacked.up"}
    with pytest.raises(ValueError, match=r"mlp\.up\.kernel.*not known: extra.*") as caught:
        jh.adopt(CONFIG, tree, table)
    for part in ("b_O is (1, 24), expected (2, 24)", "final_norm.scale is (3,), expected (24,)"):
        assert part in str(caught.value)


def test_names_of_no_kind_get_the_list_of_those_known(state: dict[str, Any], model: jh.Model):
    for call in (lambda: jh.adopt(CONFIG, tree_of(state)), lambda: model.with_parameters(tree_of(state))):
        with pytest.raises(ValueError, match=r"a table from your paths to ours: .*attention\.W_Q \(2, 24, 4, 6\)"):
            call()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"layers.{layer}.qkv": ("embed.embedding", lambda qkv: qkv.nonsense)}, "layers.0.qkv does not become"),
        ({"tokens": ("embed.embedding", 3)}, "a pair of a name"),
        ({"tokens": "embed.embedding", "places": "embed.embedding"}, "embed.embedding is given twice"),
        ({"nowhere": "embed.embedding"}, "there is no nowhere"),
        ({"tokens": (("a", "b"), lambda tokens: [tokens])}, "tokens does not become"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(state: dict[str, Any], table: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        jh.adopt(CONFIG, tree_of(state), table)


def test_layers_that_are_missing_or_differ_are_named(state: dict[str, Any]):
    arrays = {"a.0": np.ones((2, 2)), "a.2": np.ones((2, 2)), "b.0": np.ones(2), "b.1": np.ones(3)}
    with pytest.raises(ValueError, match=r"lacks the layers \[1\].*different shapes: \(2,\), \(3,\)"):
        jh.adopt(CONFIG, arrays, {"a.{layer}": f"{HERE}.attention.W_Q", "b.{layer}": f"{HERE}.attention.b_Q"})


@pytest.mark.parametrize("parameters", [{}, {"a": "text"}, 3, [np.array(["text"])], None])
def test_what_is_no_pytree_of_arrays_is_refused(model: jh.Model, parameters: Any):
    with pytest.raises(ValueError, match="parameters"):
        jh.adopt(CONFIG, parameters)
    with pytest.raises(ValueError, match="parameters"):
        model.with_parameters(parameters)


def test_weights_that_are_not_finite_are_refused(state: dict[str, Any]):
    with pytest.raises(ValueError, match=r"NaN or infinite values: transformer\.ln_f\.bias"):
        jh.adopt(CONFIG, dict(state) | {"transformer.ln_f.bias": np.full(24, np.nan)})


def test_other_weights_need_no_compilation(model: jh.Model, caplog: pytest.LogCaptureFixture):
    jh.run(model, BATCH)
    twice = jax.tree.map(lambda weight: 2 * weight, nnx.state(model.network, nnx.Param))
    by_name = {name: 2 * value for name, value in export(model.network, FAMILIES["gpt2"].table(model.config)).items()}
    flat = {path: 2 * array for path, array in flat_of(model).items()}
    first = None
    for parameters in (twice, by_name, flat):
        other = model.with_parameters(parameters, name="step 2")
        with jax.log_compiles():
            caplog.clear()
            output = jh.run(other, BATCH).output
            assert "Compiling" not in caplog.text
            jh.run(other, jh.Batch(BATCH.tokens[:, first is None :]))
            assert ("Compiling" in caplog.text) == (first is None), "a new shape is compiled, and noticed"
        assert jax.tree.structure(other.network) == jax.tree.structure(model.network)
        first = output if first is None else first
        assert np.array_equal(output, first)
        assert not np.allclose(output, jh.run(model, BATCH).output)
        assert other.name == "step 2"
        assert other.identity() != model.identity()
    assert model.with_parameters(flat).name == model.name


def flat_of(model: jh.Model) -> dict[str, np.ndarray]:
    state = nnx.to_flat_state(nnx.state(model.network, nnx.Param))
    return {".".join(map(str, path)): np.array(variable[...]) for path, variable in state}


def test_other_weights_are_copied_from_numpy_and_keep_the_model_s_dtype(model: jh.Model):
    half = jh.adopt(CONFIG, model.network, dtype=jnp.bfloat16)
    flat = flat_of(model)
    other = half.with_parameters(flat)
    before = np.asarray(other.network.embed.embedding[...])
    flat["embed.embedding"][...] = 0
    assert before.dtype == jnp.bfloat16
    assert np.array_equal(other.network.embed.embedding[...], before)
    assert before.any()


def test_gradients_pass_through_other_weights(model: jh.Model):
    def loss(parameters: Any) -> jax.Array:
        network = model.with_parameters(parameters).network
        return (
            network.output(network.hidden(BATCH, lambda stack, x, context: stack.run(x, context)[0]), BATCH) ** 2
        ).sum()

    gradient = jax.jit(jax.grad(loss))(nnx.state(model.network, nnx.Param))
    assert all(
        np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient["decoder"]["blocks"]["mlp"])
    )


def test_models_without_a_checkpoint_s_names_take_their_own_paths(model: jh.Model):
    folded = jh.fold_norms(model)
    assert parameter_shapes(folded.with_parameters(folded.network).network) == parameter_shapes(folded.network)
    with pytest.raises(ValueError, match="none of the 1 arrays"):
        folded.with_parameters({"transformer.wte.weight": np.ones((37, 24))})


@pytest.mark.parametrize("family", ["deit", "dinov2", "gpt_oss", "qwen3_moe", "vit"])
def test_names_of_models_in_memory_are_known(family: str, tmp_path: Path):
    """transformers holds some families' weights by other names than it writes them."""
    theirs = SPECS[family].build()
    theirs.save_pretrained(tmp_path)
    adopted, loaded = jh.adopt(theirs.config, theirs.state_dict()), jh.load(tmp_path)
    pairs = list(
        zip(*(jax.tree.leaves(nnx.state(model.network, nnx.Param)) for model in (adopted, loaded)), strict=True)
    )
    assert len(pairs) > 10
    for ours, expected in pairs:
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))
