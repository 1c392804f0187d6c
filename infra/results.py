"""Where Prefect keeps the results of tasks when several machines work: on the object store that they share.

python -m infra.results NAME LOCATION        with the environment of the stack

The block holds the address alone. Keys and passwords stay in the environment of each machine, where fsspec looks for
them, so that nothing secret is in Prefect's database.
"""

import sys

from prefect.filesystems import RemoteFileSystem


def share(name: str, location: str) -> None:
    """Create or update the block that `PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK` names.

    Args:
        name: of the block.
        location: an fsspec URL.
    """
    RemoteFileSystem(basepath=location).save(name, overwrite=True)


if __name__ == "__main__":
    share(*sys.argv[1:3])
