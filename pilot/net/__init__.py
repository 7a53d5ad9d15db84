"""HTTP with limits, and the credentials that go with it."""
