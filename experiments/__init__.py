"""One file a question or a paper; its docstring is its lab-book entry."""
