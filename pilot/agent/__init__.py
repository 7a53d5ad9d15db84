"""The top floor: the loop of `pilot run`, the commands, and the front ends for people."""
