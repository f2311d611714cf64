import logging
import subprocess
import sys

from jaxheads.models.loading.transformers_import import import_transformers

WITHOUT_TORCH = """
import importlib.util, logging, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name.split(".")[0] == "torch" else find(name, *package)
sys.modules["torch"] = None
{imports}
logging.getLogger("transformers").warning("another warning")
"""


def said(imports: str) -> str:
    command = [sys.executable, "-c", WITHOUT_TORCH.format(imports=imports)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_the_advice_to_install_torch_is_dropped_and_nothing_else():
    assert "PyTorch was not found" in said("import transformers"), "the advice has changed its words"
    quiet = said("from jaxheads.models.loading.transformers_import import import_transformers; import_transformers()")
    assert [line.removeprefix("[transformers] ") for line in quiet.splitlines()] == ["another warning"]


def test_the_logger_is_left_as_it_was():
    logger = logging.getLogger("transformers")
    before = list(logger.filters), logger.level
    import_transformers()
    assert (list(logger.filters), logger.level) == before
