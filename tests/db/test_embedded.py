"""The embedded PostgreSQL: starts, keeps its data, survives a crash of its owner, opens nothing to others."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg2
import pytest

from bench import own_app
from db import embedded
from tests.database import asked

OWNER_THAT_WAITS = """
import sys
from pathlib import Path
from db import embedded
with embedded.running(Path(sys.argv[1]), durable=False) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root serves under another account")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose server has one row in the table `kept`."""
    folder = tmp_path_factory.mktemp("embedded") / "postgres"
    with embedded.running(folder, durable=False) as url:
        asked(url, "CREATE TABLE kept AS SELECT 1 AS n")
    return folder


def _postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "cluster" / "postmaster.pid").read_text().split()[0]))


def test_data_stays_from_one_run_to_the_next(data_dir: Path) -> None:
    with embedded.running(data_dir, durable=False) as url:
        assert urlsplit(url).path == "/icmp"
        assert asked(url, "SELECT n FROM kept") == [(1,)]


def test_the_address_of_a_running_server_is_found_by_its_folder(data_dir: Path, tmp_path: Path) -> None:
    with embedded.running(data_dir, durable=False) as url:
        assert embedded.address(data_dir) == url
    with embedded.running(tmp_path / ("x" * 90), durable=False) as url:
        assert embedded.address(tmp_path / ("x" * 90)) == url
    assert embedded.address(data_dir) is embedded.address(tmp_path / "nowhere") is None


def test_server_is_gone_after_the_block(data_dir: Path) -> None:
    with embedded.running(data_dir, durable=False):
        server = _postmaster(data_dir)
    assert not server.is_running()


def test_fault_in_the_block_passes_unchanged_and_stops_the_server(data_dir: Path) -> None:
    with pytest.raises(FileNotFoundError), embedded.running(data_dir, durable=False):
        server = _postmaster(data_dir)
        raise FileNotFoundError
    assert not server.is_running()


@pytest.mark.parametrize(("durable", "expected"), [(True, "on"), (False, "off")])
def test_settings_follow_the_call(data_dir: Path, durable: bool, expected: str) -> None:
    with embedded.running(data_dir, durable=durable, max_connections=17) as url:
        assert asked(url, "SELECT current_setting('fsync'), current_setting('max_connections')") == [(expected, "17")]


def test_only_its_own_account_reaches_the_server(data_dir: Path) -> None:
    with embedded.running(data_dir, durable=False) as url:
        assert asked(url, "SELECT current_setting('listen_addresses')") == [("",)]
        for path in (data_dir, data_dir / "cluster", data_dir / f".s.PGSQL.{embedded.PORT}"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_port_wants_a_password(data_dir: Path) -> None:
    port = own_app.free_port()
    over_tcp = f"postgresql://{embedded.SUPERUSER}:secret@127.0.0.1:{port}/{embedded.DATABASE}"
    with embedded.running(data_dir, durable=False, tcp_port=port) as url:
        with pytest.raises(psycopg2.OperationalError, match="password"):
            asked(over_tcp, "SELECT 1")
        asked(url, f"ALTER ROLE {embedded.SUPERUSER} PASSWORD 'secret'")
        assert asked(over_tcp, "SELECT 1") == [(1,)]
        asked(url, f"ALTER ROLE {embedded.SUPERUSER} PASSWORD NULL")


def test_second_owner_of_a_folder_is_refused(data_dir: Path) -> None:
    with embedded.running(data_dir, durable=False) as url:
        with (
            pytest.raises(embedded.EmbeddedServerFailed, match="in use by another") as refused,
            embedded.running(data_dir),
        ):
            pass
        assert "\n" not in str(refused.value)
        assert asked(url, "SELECT n FROM kept") == [(1,)]


def test_server_of_a_killed_owner_is_replaced(data_dir: Path) -> None:
    command = [sys.executable, "-c", OWNER_THAT_WAITS, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        asked(url, "UPDATE kept SET n = 2")
        orphan = _postmaster(data_dir)
        owner.send_signal(signal.SIGKILL)
    assert orphan.is_running()
    with embedded.running(data_dir, durable=False) as url:
        assert not orphan.is_running()
        assert asked(url, "UPDATE kept SET n = 1 WHERE n = 2 RETURNING n") == [(1,)]


def test_pid_file_that_names_an_unrelated_process_is_ignored(data_dir: Path) -> None:
    (data_dir / "cluster" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with embedded.running(data_dir, durable=False) as url:
        assert asked(url, "SELECT n FROM kept") == [(1,)]


@pytest.mark.parametrize("name", ["x" * 120, "a, b"], ids=["long", "comma"])
def test_path_unfit_for_a_socket_gets_a_private_folder(tmp_path: Path, name: str) -> None:
    with embedded.running(tmp_path / name, durable=False) as url:
        socket_dir = Path(parse_qs(urlsplit(url).query)["host"][0])
        assert asked(url, "SELECT 1") == [(1,)]
        assert stat.S_IMODE(socket_dir.stat().st_mode) == 0o700
    assert not socket_dir.exists()


def test_interrupted_initdb_is_done_again(tmp_path: Path) -> None:
    (tmp_path / "cluster.new").mkdir()
    (tmp_path / "cluster.new" / "PG_VERSION").write_text("18\n")
    with embedded.running(tmp_path, durable=False) as url:
        assert asked(url, "SELECT 1") == [(1,)]


def test_folder_of_another_version_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("16\n")
    with pytest.raises(embedded.EmbeddedServerFailed, match="PostgreSQL 16, this is 18"), embedded.running(tmp_path):
        pass


def test_server_that_cannot_start_names_its_reason(data_dir: Path) -> None:
    with (
        pytest.raises(embedded.EmbeddedServerFailed, match="max_connections") as failed,
        embedded.running(data_dir, max_connections=-1),
    ):
        pass
    assert "\n" not in str(failed.value)


@needs_root
def test_folders_above_the_data_let_pass_and_nothing_more(tmp_path: Path) -> None:
    closed, passable = tmp_path / "closed", tmp_path / "closed" / "passable"
    passable.mkdir(parents=True)
    closed.chmod(0o700)
    passable.chmod(0o751)
    with embedded.running(passable / "postgres", durable=False):
        assert stat.S_IMODE(closed.stat().st_mode) == 0o701
        assert stat.S_IMODE(passable.stat().st_mode) == 0o751
        assert (passable / "postgres").stat().st_uid != 0
