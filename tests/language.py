"""Small models that read text, with tokenizers that cut words into pieces, and sentences with gold labels."""

import functools
from dataclasses import replace

import jax
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import jaxheads as jh
from jaxheads.data import Link, Sentence, Sentences

KINDS = ("bert", "gpt2")
"""A model that looks both ways, with [CLS] and [SEP]; and a causal one, without special tokens."""

_SIZES = {
    "bert": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 16,
        "max_position_embeddings": 40,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40},
}


@functools.cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words have one piece or several."""
    if kind == "bert":
        letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters)]
        pieces += ["the", "dog", "##ing", "bark", "##s", "."]
        vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
        inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        frame = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
        inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
        names = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    else:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
        inner.train_from_iterator(["the dog barks the dogs bark the barking"], trainer)
        names = {}
    special = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


@functools.cache
def model(kind: str) -> jh.Model:
    """Return a small random model with its tokenizer; weights are large, so that heads differ."""
    own = tokenizer(kind)
    made = jh.init({"model_type": kind, "vocab_size": len(own), **_SIZES[kind]})
    # Norms and biases are neutral, and small: only matrices of the usual size 0.02 grow.
    network = jax.tree.map(lambda weight: weight * 10 if weight.ndim > 2 else weight, made.network)
    return replace(made, network=network, tokenizer=own, name=f"tiny {kind}")


def drawn(count: int = 12, *, seed: int = 0, longest: int = 7, documents: int = 6) -> Sentences:
    """Return sentences of drawn words with drawn trees, tags and documents."""
    rng = np.random.default_rng(seed)
    words = ("the", "dog", "dogs", "bark", "barks", "barking", "a", "cat", "hidden")
    found = []
    for number in range(count):
        length = int(rng.integers(2, longest + 1))
        root = int(rng.integers(length))
        links = []
        for word in range(length):
            # Every head lies between its dependent and the root, so that there is no circle.
            towards = range(word + 1, root + 1) if word < root else range(root, word)
            head = -1 if word == root else int(rng.choice(list(towards)))
            links.append(Link(word, head, "root" if head < 0 else str(rng.choice(["subj", "mod"]))))
        tags = tuple(str(tag) for tag in rng.choice(["N", "V", "D"], length))
        text = tuple(str(word) for word in rng.choice(words, length))
        spaces = (*(bool(space) for space in rng.random(length - 1) < 0.9), False)
        found.append(Sentence(text, spaces, {"upos": tags}, {"deprel": tuple(links)}, {}, f"text {number % documents}"))
    return Sentences(tuple(found))


def as_conllu(sentences: Sentences, relations: dict[str, str] | None = None) -> str:
    """Return sentences as a treebank's file, with other names of relations; "nsubj" and "obj" where none are given."""
    names = {"subj": "nsubj", "mod": "obj"} if relations is None else relations
    blocks, document = [], None
    for one in sentences:
        rows = [f"# newdoc id = {one.document}"] if one.document != document else []
        document, heads = one.document, one.heads or ()
        relation = {link.dependent: names.get(link.label, link.label) for link in one.links["deprel"]}
        for index, word in enumerate(one.words):
            space = "_" if one.spaces is None or one.spaces[index] else "SpaceAfter=No"
            tag = one.labels["upos"][index]
            rows.append(f"{index + 1}\t{word}\t_\t{tag}\t_\t_\t{heads[index] + 1}\t{relation[index]}\t_\t{space}")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks) + "\n"
