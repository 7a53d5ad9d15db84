"""Lets ``python -m pilot`` be the command ``pilot``."""

from pilot.agent.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
