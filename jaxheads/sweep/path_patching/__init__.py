"""Path patching: what is sent, what receives, and the two runs between them."""
