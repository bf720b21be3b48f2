"""What a release asks of four packages with versions of their own: decisions, without nox and without the network."""
