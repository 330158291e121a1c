"""Training by the command line, and what comes of a run."""
