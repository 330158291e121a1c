"""Models that learn to take noise away, step by step or in continuous time."""

__all__: list[str] = []
