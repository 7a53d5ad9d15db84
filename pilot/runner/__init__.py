"""The one route of a job."""
