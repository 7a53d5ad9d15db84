"""Runs the payload: its environment, its process, and its end."""
