"""One small module per command; each has ``command``, and is imported only when it is called."""
