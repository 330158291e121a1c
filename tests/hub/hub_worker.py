"""A process that calls `zoo.hub` on request: the Hub's client reads its environment when it is imported.

Reads lines of JSON, {"call": name, "args": [...], "kwargs": {...}}, and answers each with a line of JSON on
standard output: {"result": text}, or {"kinds": names of the exception's classes, "message": text}.
"""

import json
import os
import resource
import sys
import time

# The client waits for seconds between its attempts; here the other end is on loopback.
_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, 0.01))

# It writes what has come in pieces of 10 MB, larger than all that is fetched here; files write 8 KB at once.
from huggingface_hub import constants  # noqa: E402

constants.DOWNLOAD_CHUNK_SIZE = 10_000

from zoo.hub import finding, pretrained, remote, store  # noqa: E402


def push_loaded(name, repo_id, **options):
    """A model in memory."""
    return store.load(name).push_to_hub(repo_id, **options)


calls = {
    "config_of": finding.config_of,
    "find": finding.find,
    "load": store.load,
    "push": store.push,
    "pull": remote.pull,
}


def limit(size):
    """No file grows beyond so many bytes: a disk that is full then."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


calls |= {"limit": limit, "from_pretrained": pretrained.from_pretrained, "push_loaded": push_loaded}
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever else is printed goes to standard error


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": str(calls[request["call"]](*request["args"], **request["kwargs"]))}
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            answer = {"kinds": kinds, "message": str(error)}
        answer["torch"] = "torch" in sys.modules
        print(json.dumps(answer), file=answers, flush=True)


main()
