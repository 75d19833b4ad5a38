"""Reports: pure writers of a certificate.

Every writer takes a ``Statement`` and gives text or bytes. None reads a clock, an environment variable or a
file other than its own template, so the same statement gives the same bytes on any day and any host.
"""
