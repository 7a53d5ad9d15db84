"""What the pod really has."""
