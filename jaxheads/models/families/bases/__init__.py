"""Base classes that several families share: their networks, config fields and tables of tensors."""
