"""The embedded PanDA server: what `pilot serve` starts, and the test server of the whole project.

One request's way: ``gateway`` (cheroot) -> ``app`` (Flask: recording, faults) -> ``api`` (PanDA), ``local``
(our own calls), ``store`` (files) or ``sitedata`` (queue and storage data) -> ``jobs`` (rules, as pure
functions) inside a transaction of ``database`` -> answer. ``adder`` decides later what became of a job.
``api`` asks ``identity`` who calls (``tokens``, ``authority``: credentials of our own) and ``calls`` whether the
arguments fit, and hands on to ``job_calls``, ``event_calls``, ``nodes``, ``cache`` or ``credential_calls``.
Nothing outside this package but ``pilot.values`` is imported here.
"""
