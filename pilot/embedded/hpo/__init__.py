"""Hyper-parameter studies: what iDDS and JEDI do for a task of PanDA, on one machine."""
