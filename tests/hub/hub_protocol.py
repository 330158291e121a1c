"""The Hub's own client, without the zoo, against a server: what it makes of the answers, as a line of JSON.

    python hub_protocol.py FOLDER REPO_ID

FOLDER holds the files to publish. HF_ENDPOINT, HF_HOME and HF_TOKEN are the client's own.
"""

import json
import sys
import time
from pathlib import Path

slept = []
time.sleep = slept.append  # the client waits for seconds between its attempts: which, is kept

import huggingface_hub  # noqa: E402
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors, hf_hub_download  # noqa: E402


def raised(call, *args, **options):
    """The classes of what a call raises."""
    try:
        call(*args, **options)
    except Exception as error:
        return [kind.__name__ for kind in type(error).__mro__]
    return []


def main(folder: Path, repo_id: str) -> dict:
    api = HfApi()
    said = {"version": huggingface_hub.__version__}
    api.create_repo(repo_id, private=False)
    said["created again"] = raised(api.create_repo, repo_id)
    api.create_repo(repo_id, exist_ok=True)

    def add():
        return [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())]

    first = api.create_commit(repo_id, add(), commit_message="First")
    said["first"] = {"oid": first.oid, "url": first.commit_url}
    api.create_branch(repo_id, branch="dev", exist_ok=True)
    api.create_branch(repo_id, branch="dev", exist_ok=True)
    again = api.create_commit(repo_id, add(), commit_message="Nothing new")
    said["nothing new"] = again.oid
    more = [CommitOperationAdd("README.md", b"# Second\n"), CommitOperationDelete("samples.png")]
    said["second"] = api.create_commit(repo_id, more, commit_message="Second", revision="dev").oid
    said["files"] = {branch: sorted(api.list_repo_files(repo_id, revision=branch)) for branch in ("main", "dev")}
    info = api.model_info(repo_id, revision="dev")
    said["info"] = {"sha": info.sha, "files": sorted(each.rfilename for each in info.siblings), "private": info.private}
    said["downloaded"] = {
        name: Path(hf_hub_download(repo_id, name, revision=first.oid)).read_bytes().hex()
        for name in said["files"]["main"]
    }
    said["no revision"] = raised(api.model_info, repo_id, revision="nothing")
    said["no file"] = raised(hf_hub_download, repo_id, "nothing.txt")
    said["no repository"] = raised(api.model_info, f"{repo_id}-nothing")
    said["no repository, anonymous"] = raised(HfApi(token=False).model_info, f"{repo_id}-nothing")
    said["foreign"] = raised(api.create_commit, "bob/x-y", add(), commit_message="No")
    said["wrong token"] = raised(HfApi(token="hf_nobodys").model_info, repo_id)
    said["errors"] = [name for name in ("GatedRepoError", "RemoteEntryNotFoundError") if hasattr(errors, name)]
    said["slept"] = slept
    return said


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
