"""Postgres, Redis, an S3-compatible store and Dask workers for tests, each from a package, each ended with its block.

Passwords are random and are handed over in files or on standard input, never in a command line.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
NETWORK = "10.213.7"
"""Addresses of the machines that are played by network namespaces; routed nowhere."""


class MissingServiceError(RuntimeError):
    """A program that is needed is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Postgres:
    """A running Postgres.

    Attributes:
        host: its address.
        port: its port.
        version: as it says itself.
        superuser: address with which databases are made.
    """

    host: str
    port: int
    version: str
    superuser: str

    def database(self, name: str) -> str:
        """Make a database with an owner and a password of its own; returns its address."""
        import psycopg
        from psycopg import sql

        password = secrets.token_hex(16)
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password))
            connection.execute(role)
            connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
        return f"postgresql://{name}:{password}@{self.host}:{self.port}/{name}"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def postgres(host: str = "127.0.0.1") -> Iterator[Postgres]:
    """A Postgres server with a fresh cluster in a temporary folder.

    Raises:
        MissingServiceError: it is not installed.
    """
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)]
    place = next((folder for folder in found if (folder / "initdb").exists()), None)
    which = shutil.which("initdb")
    if place is None and which is None:
        raise MissingServiceError("Postgres is not installed; on Debian: apt-get install postgresql.")
    binaries = place or Path(str(which)).parent
    user = _other_user()
    with tempfile.TemporaryDirectory(prefix="headrace-postgres-") as temporary:
        folder, password = Path(temporary), secrets.token_hex(16)
        (folder / "password").write_text(password)
        if user:
            for path in (folder, folder / "password"):
                os.chown(path, pwd.getpwnam(user).pw_uid, -1)
        data, port = folder / "data", free_port(host)
        options = ["--pgdata", str(data), "--auth", "scram-sha-256", "--username", "postgres", "--encoding", "UTF8"]
        made = subprocess.run(
            [str(binaries / "initdb"), *options, "--pwfile", str(folder / "password"), "--no-sync"],
            capture_output=True,
            text=True,
            user=user,
            cwd=folder,
            check=False,
        )
        if made.returncode:
            raise RuntimeError(f"initdb ended with {made.returncode}: {made.stderr}")
        settings = {"listen_addresses": host, "port": port, "unix_socket_directories": "", "fsync": "off"}
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        if host != "127.0.0.1":
            with (data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {NETWORK}.0/24 scram-sha-256\n")
        superuser = f"postgresql://postgres:{password}@{host}:{port}/postgres"
        with _process([str(binaries / "postgres"), "-D", str(data), *words], folder / "log", user=user):
            _wait_until(lambda: _answers(superuser), "Postgres", folder / "log")
            yield Postgres(host, port, _version(binaries / "postgres"), superuser)


@contextlib.contextmanager
def redis(host: str = "127.0.0.1") -> Iterator[tuple[str, str]]:
    """A Redis server with a password; yields its address and its version.

    Raises:
        MissingServiceError: it is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise MissingServiceError("Redis is not installed; on Debian: apt-get install redis-server.")
    import redis as client

    with tempfile.TemporaryDirectory(prefix="headrace-redis-") as temporary:
        folder, password, port = Path(temporary), secrets.token_hex(16), free_port(host)
        config = f'bind {host}\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {folder}\n'
        (folder / "redis.conf").touch(mode=0o600)
        (folder / "redis.conf").write_text(config)
        url = f"redis://:{password}@{host}:{port}/0"

        def answers() -> bool:
            with contextlib.suppress(client.RedisError), client.Redis.from_url(url) as connection:
                return bool(connection.ping())
            return False

        with _process([program, str(folder / "redis.conf")], folder / "log"):
            _wait_until(answers, "Redis", folder / "log")
            yield url, _version(Path(program))


@contextlib.contextmanager
def s3(host: str = "127.0.0.1", bucket: str = "headrace") -> Iterator[dict[str, str]]:
    """An S3-compatible server (moto) with one empty bucket; yields the environment that leads to it.

    Raises:
        MissingServiceError: it is not installed.
    """
    try:
        import botocore.session
        import moto  # noqa: F401
    except ImportError as error:
        raise MissingServiceError(f"{error.name} is not installed; pip install -e '.[dev]'.") from error
    port = free_port(host)
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": f"AKIA{secrets.token_hex(8).upper()}",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with tempfile.TemporaryDirectory(prefix="headrace-s3-") as temporary:
        log = Path(temporary) / "log"
        with _process([sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)], log):
            _wait_until(lambda: _listens(host, port), "moto", log)
            botocore.session.get_session().create_client(
                "s3",
                endpoint_url=environment["AWS_ENDPOINT_URL"],
                aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
                region_name=environment["AWS_DEFAULT_REGION"],
            ).create_bucket(Bucket=bucket)
            yield environment


@dataclass(frozen=True)
class Network:
    """Machines played by network namespaces, on one bridge with this one.

    Attributes:
        host: address of this machine on the bridge; loopback when namespaces are not permitted.
        machines: names of the namespaces; empty when they are not permitted.
    """

    host: str
    machines: tuple[str, ...]

    def command(self, machine: int, words: Sequence[str]) -> list[str]:
        """A command as that machine would run it."""
        return ["ip", "netns", "exec", self.machines[machine], *words] if self.machines else list(words)


@contextlib.contextmanager
def network(machines: int = 2) -> Iterator[Network]:
    """Namespaces that reach this machine and one another over a bridge and nothing else, where that is permitted."""
    mark = secrets.token_hex(2)
    bridge, names = f"hr{mark}", tuple(f"headrace-{mark}-{number}" for number in range(machines))
    try:
        try:
            _ip("link", "add", bridge, "type", "bridge")
            _ip("addr", "add", f"{NETWORK}.1/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for number, name in enumerate(names):
                inside, outside = f"hr{mark}i{number}", f"hr{mark}o{number}"
                _ip("netns", "add", name)
                _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
                _ip("link", "set", outside, "master", bridge, "up")
                _ip("link", "set", inside, "netns", name)
                for words in (
                    ("addr", "add", f"{NETWORK}.{number + 2}/24", "dev", inside),
                    ("link", "set", inside, "up"),
                    ("link", "set", "lo", "up"),
                ):
                    _ip("-n", name, *words)
            found = Network(f"{NETWORK}.1", names)
        except (OSError, subprocess.CalledProcessError):
            found = Network("127.0.0.1", ())
        yield found
    finally:
        for words in (*(("netns", "del", name) for name in names), ("link", "del", bridge)):
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip(*words)


@contextlib.contextmanager
def dask(net: Network, environment: Mapping[str, str], workers: int = 2) -> Iterator[str]:
    """A Dask scheduler here and workers on the machines of a network; yields the scheduler's address.

    No secret is sent to a worker with its work: the keys of the store must be in its environment.
    """
    port = free_port(net.host)
    address = f"tcp://{net.host}:{port}"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", net.host, "--port", str(port)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="headrace-dask-")))
        running.enter_context(_process([*scheduler, "--no-dashboard"], folder / "scheduler.log"))
        _wait_until(lambda: _listens(net.host, port), "the Dask scheduler", folder / "scheduler.log")
        for number in range(workers):
            place = ["--host", f"{NETWORK}.{number + 2}"] if net.machines else []
            words = net.command(number, [*worker, *place, "--local-directory", str(folder / str(number))])
            running.enter_context(_process(words, folder / f"worker-{number}.log", environment=environment))
        yield address


# ---------------------------------------------------------------------------------------------------- plumbing


@contextlib.contextmanager
def _process(
    command: Sequence[str], log: Path, user: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            user=user,
            cwd=PROJECT,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(answers: Callable[[], bool], name: str, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not answers():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not answer within {seconds:.0f} s:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _answers(url: str) -> bool:
    import psycopg

    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2):
        return True
    return False


def _version(program: Path) -> str:
    done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _other_user() -> str | None:
    """Whom to run Postgres as when we are root, which it refuses to be."""
    if os.getuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
