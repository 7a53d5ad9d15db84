"""Files in directories that others can write to: by descriptors, nothing followed, nothing waited for."""
