"""Who may call the servers: credentials, looked at before anything listens where other machines can reach it.

Neither server has a default password, and none is taken that a stranger would try first. Addresses of data and servers
are written beside runs and into logs, so none may have credentials in it.
"""

import base64
import re
from collections.abc import Iterator
from urllib.parse import unquote

from infra.settings import Settings

SHORTEST = 12
"""Characters of a password."""

GUESSED_FIRST = (
    *("password", "passw0rd", "changeme", "change-me", "admin", "secret", "letmein", "welcome", "qwerty", "default"),
    *("12345", "prefect", "mlflow", "headrace", "postgres"),
)
"""Words that begin every list of passwords; with some digits behind they are no better."""

_USER = re.compile(r"(?<=://)(?:[^/]*:.*@|[^/]*@)", re.DOTALL)
_HOST = re.compile(r"(\[[^\[\]@]*\]|[^:@]*)(:\d*)?")
_SIGNATURE = re.compile(
    r"^x-(amz|goog)-|signature|token|passw|pwd|secret|credential|expires"
    r"|(?<![a-z])(sig|auth|jwt|hmac)(?![a-z])|key(?![a-z])|keyid",
    re.IGNORECASE,
)
"""Names of a query's parameters that let its reader in: X-Amz-Signature, sig, AWSAccessKeyId, access_token, api_key."""


def credentials_in(address: str) -> str:
    """What of an address would let its reader in: "a user or password", "'sig' in its query"; "" when nothing would.

    An @ after the host is part of a path, unless what stands before the first slash is no host: then the slash is one
    of a password. Paths of files have no credentials.
    """
    for rest in address.split("://")[1:]:
        host = rest.partition("/")[0]
        if "@" in host or ("@" in rest and not _HOST.fullmatch(host)):
            return "a user or password"
    parts = re.split("[?#&;]", address)[1:] if "://" in address else []
    names = [unquote(part.partition("=")[0]) for part in parts if "=" in part]
    return next((f"{name!r} in its query" for name in names if _SIGNATURE.search(name)), "")


def without_credentials(address: str) -> str:
    """An address without user and password, and without the query, which may be signed.

    It rather takes too much: `u:7/w@host` may be a port or a password, so all up to the last @ goes. Paths of files
    stay as they are.
    """
    return re.split("[?#]", _USER.sub("", address), maxsplit=1)[0] if "://" in address else address


def objections(settings: Settings, *, prefect: bool, mlflow: bool) -> list[str]:
    """Why servers of ours may not start with these settings, a sentence for each reason.

    Args:
        settings: what is configured.
        prefect: whether the Prefect server is ours to start.
        mlflow: whether the MLflow server is.

    Returns:
        Nothing when they may. No sentence repeats a password.
    """
    found = []
    if prefect:
        user, colon, password = settings.prefect_auth.get_secret_value().partition(":")
        found += [f"HEADRACE_PREFECT_AUTH {reason}" for reason in _missing(settings, user + colon + password)]
        if user or colon:
            if not colon or not user:
                found.append("HEADRACE_PREFECT_AUTH must be USER:PASSWORD, and has no colon or no user before it.")
            else:
                found += [f"HEADRACE_PREFECT_AUTH {reason}" for reason in _weak(user, password)]
    if mlflow:
        user, password = settings.mlflow_user, settings.mlflow_password.get_secret_value()
        found += [f"HEADRACE_MLFLOW_USER {reason}" for reason in _missing(settings, user)]
        found += [f"HEADRACE_MLFLOW_PASSWORD {reason}" for reason in _missing(settings, password)]
        if bool(user) != bool(password) and not settings.exposed:
            found.append("HEADRACE_MLFLOW_USER and HEADRACE_MLFLOW_PASSWORD go together; set both or neither.")
        if ":" in user:
            found.append("HEADRACE_MLFLOW_USER must not contain a colon: it ends the name where both are sent.")
        if password:
            found += [f"HEADRACE_MLFLOW_PASSWORD {reason}" for reason in _weak(user, password)]
    if settings.exposed and settings.address in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        found.append(
            f"HEADRACE_HOST is {settings.host}, which is no address to call; "
            "set HEADRACE_PUBLIC_HOST to the name under which this machine is reached."
        )
    return found


def basic(user_and_password: str) -> dict[str, str]:
    """The header that says who calls; none for an empty string."""
    if not user_and_password:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(user_and_password.encode()).decode()}"}


def _missing(settings: Settings, value: str) -> Iterator[str]:
    if settings.exposed and not value:
        yield (
            f"is not set, and HEADRACE_HOST is {settings.host}, which other machines can reach; "
            "set it, or HEADRACE_HOST to 127.0.0.1."
        )


def _weak(user: str, password: str) -> Iterator[str]:
    """What is wrong with a password, without repeating it."""
    plain = password.lower()
    if not password.isascii() or not password.isprintable():
        yield "must have printable ASCII characters alone; browsers send others in different ways."
    if len(password) < SHORTEST or len(set(password)) < SHORTEST // 2:
        yield f"must have a password of at least {SHORTEST} characters, {SHORTEST // 2} of them different."
    elif any(word in plain for word in GUESSED_FIRST) or (len(user) > 3 and user.lower() in plain):
        yield "has a password that would be guessed first; take a random one, as `openssl rand -hex 24` makes."
