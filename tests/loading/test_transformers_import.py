import logging
import subprocess
import sys

from jaxheads.models.loading.transformers_import import import_transformers

WITHOUT_TORCH = """
import importlib.util, logging
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *package: None if name.split(".")[0] == "torch" else find(name, *package)
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


def test_the_logger_keeps_no_filter():
    import_transformers()
    assert not logging.getLogger("transformers").filters
