"""A lane: the child process that moves files, one protocol a module."""
