"""Packages that only an extra of jaxheads installs: heavy ones that few questions use."""

import importlib
from typing import Any

EXTRAS = {
    "anywidget": "anywidget",
    "conllu": "conllu",
    "jiwer": "jiwer",
    "networkx": "networkx",
    "onnx": "onnx",
    "rouge_score": "rouge-score",
    "sacrebleu": "sacrebleu",
    "sklearn": "scikit-learn",
    "wordfreq": "wordfreq",
}
"""Packages by the name they are imported by, and the extra that installs each, which has the package's own name."""


class MissingExtraError(ImportError):
    """A package is missing that an extra installs; the message says what to install."""


def extra(module: str, purpose: str) -> Any:
    """Import a module of a package that an extra installs.

    Args:
        purpose: what needs it, as the beginning of a sentence.

    Raises:
        MissingExtraError: if the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, and lacks one of its own
        name = EXTRAS[package]
        words = f"{purpose} needs the package {name}, which is not installed: pip install 'jaxheads[{name}]'"
        raise MissingExtraError(f"{words} (or 'jaxheads[all]')", name=error.name) from error
