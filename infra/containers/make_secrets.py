"""Make the secret files of compose.yaml, each with a random value, once.

    python infra/containers/make_secrets.py [FOLDER]

The folder, `secrets` beside this file unless another is named, is for its owner alone; the files in it can be read by
the processes in the containers, which have users of their own. A file that exists is kept: the databases know its
password. Needs nothing but Python.
"""

import secrets
import sys
from pathlib import Path

DATABASES = ("prefect", "mlflow")
S3_USER = "headrace"


def contents(known: dict[str, str]) -> dict[str, str]:
    """The content of every file by its name.

    Args:
        known: what files have already; passwords are taken from there.

    Returns:
        All files, those that are known included.
    """

    def password(name: str) -> str:
        return known.get(name) or secrets.token_hex(24)

    made = {f"{name}_database_password": password(f"{name}_database_password") for name in ("postgres", *DATABASES)}
    made |= {name: password(name) for name in ("redis_password", "s3_password", "headrace_mlflow_password")}
    made["s3_user"] = S3_USER
    for name in DATABASES:
        made[f"headrace_{name}_database"] = (
            f"postgresql://{name}:{made[f'{name}_database_password']}@postgres:5432/{name}"
        )
    made["redis_conf"] = f"requirepass {made['redis_password']}\nappendonly yes\ndir /data\n"
    made["headrace_redis_url"] = f"redis://:{made['redis_password']}@redis:6379/0"
    made["headrace_prefect_auth"] = known.get("headrace_prefect_auth") or f"operator:{secrets.token_hex(24)}"
    made["aws_credentials"] = (
        f"[default]\naws_access_key_id = {S3_USER}\naws_secret_access_key = {made['s3_password']}\n"
    )
    return made


def main(folder: Path) -> None:
    """Write what is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    known = {file.name: file.read_text() for file in folder.iterdir() if file.is_file()}
    for name, content in contents(known).items():
        if name not in known:
            (folder / name).write_text(content)
            (folder / name).chmod(0o444)
            print(f"made {folder / name}")
    print(f"{folder} has {len(contents(known))} files; keep it as you keep passwords, and out of every repository.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "secrets")
