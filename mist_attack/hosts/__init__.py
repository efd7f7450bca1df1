"""Who implements `Surrogate`: an adapter for each host, which imports that host alone."""
