"""Execution: how work is cut into chunks, kept on disk, spread over devices, and what it costs."""
