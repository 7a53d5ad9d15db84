"""PanDA's v1 API: the calls, what they answer, and the thread that owns the traffic."""
