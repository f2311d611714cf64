"""Attention: the one seam, its steps at any query rows, blocks of rows, and kernels where nothing is read or edited."""
