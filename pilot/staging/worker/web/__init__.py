"""http, https, dav and davs for the lane."""
