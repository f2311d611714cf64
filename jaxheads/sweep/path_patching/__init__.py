"""Path patching: the effect of heads along their direct paths to receivers."""
