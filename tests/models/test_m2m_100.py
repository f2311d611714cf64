"""M2M100 beyond parity: computed positions, configs of the hub, and languages as tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.numpy import load_file, save_file
from transformers import M2M100Tokenizer
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding

import jaxheads as jh
from jaxheads.models.families import FAMILIES
from jaxheads.models.positions import spread_sinusoids

from .huggingface import assert_close
from .specs.spec import small

HUB = {
    "model_type": "m2m_100",
    "architectures": ["M2M100ForConditionalGeneration"],
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.1,
    "d_model": 1024,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "decoder_layerdrop": 0.05,
    "decoder_layers": 12,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.05,
    "encoder_layers": 12,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_length": 200,
    "max_position_embeddings": 1024,
    "num_beams": 5,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "scale_embedding": True,
    "tokenizer_class": "NllbTokenizer",
    "vocab_size": 128112,
}


@pytest.mark.parametrize("dimensions", [4, 7, 24])
def test_spread_sinusoids(dimensions: int):
    theirs = M2M100SinusoidalPositionalEmbedding.get_embedding(20, dimensions)
    assert_close(spread_sinusoids(20, dimensions), theirs.to(torch.float32).numpy())
    with pytest.raises(ValueError, match="at least 4 dimensions, got 2"):
        spread_sinusoids(20, 2)


def test_configs_of_the_hub_are_read():
    config = FAMILIES["m2m_100"].config_type.from_hf(HUB)
    assert (config.d_model, config.scale_embedding, config.pad_token_id, config.head) == (1024, True, 1, "lm")
    with pytest.raises(ValueError, match="normalize_before=False; supported is True only"):
        FAMILIES["m2m_100"].config_type.from_hf({**HUB, "normalize_before": False})


def test_positions_that_a_checkpoint_holds_are_not_needed(tmp_path: Path):
    """Old checkpoints have them, and all copies of the embedding."""
    both = small("m2m_100")
    both.theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    shared = tensors["model.shared.weight"]
    tensors |= {f"model.{side}.embed_tokens.weight": shared.copy() for side in ("encoder", "decoder")}
    tensors |= {
        f"model.{side}.embed_positions.weights": np.zeros((34, 24), np.float32) for side in ("encoder", "decoder")
    }
    tensors["lm_head.weight"] = shared.copy()
    save_file(tensors, tmp_path / "model.safetensors")
    batch = jh.Batch([[5, 6, 7]], targets=[[2, 8]])
    assert_close(jh.run(jh.load(tmp_path), batch).output, jh.run(both.ours, batch).output)


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> jh.Model:
    folder = tmp_path_factory.mktemp("m2m")
    (folder / "texts").write_text("the cat sat on the mat\nder Hund sass auf der Matte\n" * 20)
    sentencepiece.SentencePieceTrainer.train(  # type: ignore[attr-defined]
        input=str(folder / "texts"),
        model_prefix=str(folder / "pieces"),
        vocab_size=20,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))
    words = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(number) for number in range(1, 20))]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    sizes = {"vocab_size": 200, "d_model": 24, "max_position_embeddings": 32}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 1, f"{side}_ffn_dim": 8, f"{side}_attention_heads": 2}
    model = jh.init({"model_type": "m2m_100", **sizes, "decoder_start_token_id": 2, "pad_token_id": 1})
    directory = jh.to_hf(model, folder / "model")
    tokenizer = M2M100Tokenizer(folder / "vocab.json", folder / "pieces.model", src_lang="en", tgt_lang="de")
    tokenizer.save_pretrained(directory)
    return jh.load(directory)


def test_languages_are_tokens_before_texts_and_targets(translator: jh.Model):
    tokenizer = translator.tokenizer
    assert tokenizer is not None
    batch = translator.encode(["the cat", "the mat on the mat"], targets=["der Hund", "auf der Matte"])
    english, german = (tokenizer.convert_tokens_to_ids(f"__{code}__") for code in ("en", "de"))
    assert set(np.asarray(batch.tokens)[:, 0]) == {english}
    assert set(np.asarray(batch.targets)[:, 0]) == {2}
    assert set(np.asarray(batch.targets)[:, 1]) == {german}
    ends = np.asarray(batch.target_mask).sum(axis=1) - 1
    assert set(np.asarray(batch.targets)[[0, 1], ends]) == {2}
    assert np.isfinite(np.asarray(jh.run(translator, batch).output)).all()


def test_a_target_without_a_language_says_what_to_set(translator: jh.Model):
    tokenizer: object = translator.tokenizer
    tokenizer.tgt_lang = None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"set model\.tokenizer\.tgt_lang"):
        translator.encode(["the cat"], targets=["der Hund"])
    tokenizer.tgt_lang = "de"  # type: ignore[attr-defined]
