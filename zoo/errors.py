"""The package's own exceptions: one sentence each, naming the thing that is wrong and the remedy."""


class ZooError(ValueError):
    """Anything `zoo` refuses or cannot do; the command line prints its text alone, without a traceback."""


class DataError(ZooError):
    """A data set is absent or damaged, or a batch does not fit the model's `DataSpec`."""


class CheckpointError(ZooError):
    """A checkpoint folder is missing, damaged, hostile or does not fit the model it names."""


class TrainingError(ZooError):
    """A run cannot go on: its loss is no finite number."""


class HubError(ZooError):
    """The Hugging Face Hub refused, failed or could not be reached."""
