"""`k25 serve`: wrong input, and the commands of other engines."""

import os
import shlex
import socket
import stat
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from k25.cli.serve import AccessOptions, EngineOptions, ExternalOptions, LimitOptions, _allowed_hosts, _listening, main
from k25.errors import InputError
from k25.serve import external_command


def options(command):
    words = shlex.split(command)
    return {name: value for name, value in pairwise(words) if name.startswith("-")}


def test_the_vllm_command_has_the_flags_of_the_release():
    command = external_command("vllm", "moonshotai/Kimi-K2.5", host="::1", port=9, tensor_parallel=8, api_key="secret")
    assert command.shown.startswith("VLLM_API_KEY=KEY vllm serve moonshotai/Kimi-K2.5 ")
    found = options(command.shown)
    assert found["-tp"] == "8"
    assert found["--mm-encoder-tp-mode"] == "data"
    assert found["--tool-call-parser"] == found["--reasoning-parser"] == "kimi_k2"
    assert "secret" not in command.shown
    assert command.environment == {"VLLM_API_KEY": "secret"}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_another_engine_runs_a_checkpoints_code_only_where_that_is_asked_for(engine):
    where = {"host": "h", "port": 9, "tensor_parallel": 1}
    assert "--trust-remote-code" not in external_command(engine, "m", **where).arguments
    assert "--trust-remote-code" in external_command(engine, "m", **where, trust_remote_code=True).arguments


def test_the_sglang_command_has_the_flags_of_the_release_and_hides_the_key():
    command = external_command(
        "sglang", "a folder", host="h", port=9, tensor_parallel=4, names=("kimi",), api_key="secret", context=1000
    )
    found = options(command.shown)
    assert found["--model-path"] == "a folder"
    assert found["--tp"] == "4"
    assert found["--tool-call-parser"] == found["--reasoning-parser"] == "kimi_k2"
    assert found["--api-key"] == "KEY"
    assert command.arguments[-4:] == ("--host", "h", "--port", "9")


def test_connections_send_the_first_event_without_waiting_for_the_client_to_confirm_the_header():
    with _listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("host", "named", "allowed"),
    [
        ("127.0.0.1", (), ("127.0.0.1", "::1", "localhost")),
        ("localhost", ("kimi.lan",), ("127.0.0.1", "::1", "localhost", "kimi.lan")),
        ("0.0.0.0", (), ()),
        ("0.0.0.0", ("kimi.lan",), ("kimi.lan",)),
    ],
)
def test_on_loopback_only_loopback_names_and_those_given_are_answered(host, named, allowed):
    assert _allowed_hosts(host, named) == allowed


def test_a_model_that_does_not_fit_is_not_started(capsys):
    with pytest.raises(SystemExit) as ended:
        main("k2.5", engine="vllm", external=ExternalOptions(devices=8, memory="80GB"))
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "It does not fit" in out
    assert "vllm serve moonshotai/Kimi-K2.5 -tp 8" in out


def test_a_model_that_fits_prints_how_to_install_and_start_the_engine(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    main("k2.5", engine="vllm", external=ExternalOptions(devices=8, memory="141GB"))
    captured = capsys.readouterr()
    assert "It fits" in captured.out
    assert "vllm serve moonshotai/Kimi-K2.5 -tp 8" in captured.out
    assert "pip install vllm" in captured.err


@pytest.mark.parametrize("has_it", [False, True])
def test_sglang_is_installed_where_python_has_its_package(tmp_path, monkeypatch, has_it):
    (tmp_path / "python3").symlink_to(sys.executable)
    if has_it:
        (tmp_path / "sglang").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = external_command("sglang", "a folder", host="h", port=9, tensor_parallel=1)
    assert command.installed == has_it


def test_an_installed_engine_is_started_with_that_command(tmp_path, capfd, monkeypatch):
    program = tmp_path / "vllm"
    program.write_text('#!/bin/sh\necho "started: $@ with $VLLM_API_KEY"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    if (child := os.fork()) == 0:
        try:
            external = ExternalOptions(devices=8, memory="141GB")
            main("k2.5", engine="vllm", access=AccessOptions(api_key=("key",)), external=external)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "started: serve moonshotai/Kimi-K2.5 -tp 8 --mm-encoder-tp-mode data" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"source": "nowhere"}, "nowhere"),
        ({"source": "k2.5"}, "no weights"),
        ({"port": 70_000}, "--port"),
        ({"host": "256.0.0.1"}, "cannot listen"),
        ({"access": AccessOptions(api_key=("a b",))}, "API key"),
        ({"access": AccessOptions(served_model_name=("",))}, "served-model-name"),
        ({"limits": LimitOptions(max_concurrency=0)}, "max-concurrency"),
        ({"limits": LimitOptions(max_body="much")}, "--max-body 'much'"),
        ({"access": AccessOptions(weights_root=Path(__file__))}, "test_serve_command.py: is no folder"),
        ({"limits": LimitOptions(deadline=float("nan"))}, "deadline"),
        ({"limits": LimitOptions(grace=-1)}, "grace"),
        ({"running": EngineOptions(device="abacus")}, "abacus"),
        ({"running": EngineOptions(cache_tokens=0)}, "cache_tokens"),
        ({"external": ExternalOptions(devices=8)}, "--devices"),
    ],
)
def test_wrong_input_is_named_before_anything_is_served(arguments, part):
    with pytest.raises(InputError, match=part):
        main(arguments.pop("source", "nano"), **{"port": 0, **arguments})


def test_a_port_in_use_and_an_empty_key_file_are_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="choose another"):
        main("nano", port=taken.getsockname()[1])
    keys = tmp_path / "keys"
    keys.write_text("\n")
    with pytest.raises(InputError, match="holds no key"):
        main("nano", port=0, access=AccessOptions(api_key_file=keys))
