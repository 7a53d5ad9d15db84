"""What our helper processes have in common with each other."""
