"""A pilot for the PanDA workload manager that lives in Kubernetes pods."""

__version__ = "0.1.0"
