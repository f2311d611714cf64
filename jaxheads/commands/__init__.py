"""The commands that ask one question of a model on a data set; `jaxheads.cli` calls them."""
