"""Moves files: a plan says which, lanes (child processes) do it, and each file is verified on the way."""
