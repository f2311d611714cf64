"""What the parity tests know of each family: one file a family, found by itself."""

import importlib
import pkgutil

from .spec import Spec

SPECS: dict[str, Spec] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").SPEC
    for module in pkgutil.iter_modules(__path__)
    if module.name != "spec"
}
