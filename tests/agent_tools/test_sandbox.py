"""The table of escapes and abuse: every attempt is made for real, by real processes, and contained."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from k25.agent.sandbox import Completed, Limits, Sandbox, SandboxSettings, command, machine_statement
from k25.agent.sandbox import sandbox as sandbox_module
from k25.agent.sandbox.seccomp import data_descriptor, filter_program
from k25.agent.sandbox.watchdog import tree
from k25.errors import InputError

TIGHT = Limits(
    memory_bytes=256 << 20,
    processes=40,
    cpu_seconds=3,
    wall_seconds=30,
    output_bytes=100_000,
    file_bytes=8 << 20,
    temporary_bytes=16 << 20,
)


def run(sandbox, workspace, *argv, limits=TIGHT) -> Completed:
    return asyncio.run(sandbox.run(argv, workspace, limits=limits))


def python(sandbox, workspace, code, limits=TIGHT) -> Completed:
    return run(sandbox, workspace, sandbox.python, "-c", code, limits=limits)


def test_a_program_runs_in_its_workspace_and_its_files_stay(sandbox, tmp_path):
    done = python(sandbox, tmp_path, "print(1 + 1); open('kept.txt', 'w').write('here')")
    assert (done.status, done.stdout, done.stopped) == (0, b"2\n", None)
    assert (tmp_path / "kept.txt").read_text() == "here"


def test_input_arrives_and_the_exit_status_comes_back(sandbox, tmp_path):
    done = asyncio.run(sandbox.run(["sh", "-c", "cat; exit 7"], tmp_path, stdin=b"given"))
    assert (done.status, done.stdout) == (7, b"given")


def test_files_outside_cannot_be_read(sandbox, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a key")
    secret.chmod(0o644)
    done = run(sandbox, tmp_path / "workspace", "cat", str(secret), "/etc/shadow", "/etc/hostname")
    assert done.status != 0
    assert done.stdout == b""


def test_nothing_outside_can_be_written(sandbox, tmp_path):
    places = "/usr/x /etc/x /dev/x /x /proc/sys/kernel/hostname /bin/sh"
    done = run(
        sandbox, tmp_path, "bash", "-c", f"for each in {places}; do (echo x > $each) 2>/dev/null && echo $each; done"
    )
    assert done.stdout == b""


def test_what_is_written_to_tmp_is_private_and_bounded(sandbox, tmp_path):
    marker = f"/tmp/k25-{os.getpid()}"
    script = f"touch {marker}; for i in 1 2 3 4 5; do head -c 7000000 /dev/zero > /tmp/$i; done; du -smx /tmp | cut -f1"
    done = run(sandbox, tmp_path, "sh", "-c", script)
    assert int(done.stdout) <= 17
    assert not os.path.exists(marker)  # noqa: PTH110


def test_there_is_no_network_not_even_the_loopback_of_this_machine(sandbox, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = (
            f"import socket\nfor host in ('127.0.0.1', '1.1.1.1'):\n"
            f" try: socket.create_connection((host, {port}), 2); print('reached', host)\n"
            f" except OSError: pass"
        )
        assert python(sandbox, tmp_path, code).stdout == b""


def test_the_network_is_there_when_it_is_allowed(tmp_path, sandbox):
    allowed = Sandbox(replace(sandbox.settings, network=True))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5); print('reached')"
        assert python(allowed, tmp_path, code).stdout == b"reached\n"


def test_a_fork_bomb_is_contained_and_cleared_away(sandbox, tmp_path):
    limits = replace(TIGHT, wall_seconds=3)
    before = set(tree(os.getpid()))
    done = run(sandbox, tmp_path, "bash", "-c", ":(){ :|:& };:; sleep 60", limits=limits)
    assert done.stopped is not None
    assert b"Resource temporarily unavailable" in done.stderr
    assert set(tree(os.getpid())) <= before


@pytest.mark.parametrize(
    "code",
    [
        "x = []\nwhile True: x.append(bytearray(10 << 20))",
        "import os, time\nfor _ in range(20): os.fork() == 0 and (x := bytearray(100 << 20)) and time.sleep(60)\n"
        "time.sleep(60)",
        "import mmap\nx = []\nwhile True:\n m = mmap.mmap(-1, 10 << 20); m.write(b'x' * (10 << 20)); x.append(m)",
        "import os\nf = os.memfd_create('x')\nwhile True: os.write(f, bytes(10 << 20))",
    ],
    ids=["one process", "many processes", "shared memory", "memory files"],
)
def test_a_memory_bomb_is_stopped(sandbox, tmp_path, code):
    done = python(sandbox, tmp_path, code)
    refused = b"MemoryError" in done.stderr or b"not implemented" in done.stderr
    assert refused or "memory" in str(done.stopped)


def test_endless_output_is_cut(sandbox, tmp_path):
    done = run(sandbox, tmp_path, "yes")
    assert len(done.stdout) == TIGHT.output_bytes
    assert "wrote more than" in done.stopped


def test_a_program_whose_output_nobody_reads_is_killed_without_waiting_for_a_reader(sandbox, tmp_path):
    async def flooded() -> int:
        process = await sandbox.start(["yes"], tmp_path, TIGHT)
        await asyncio.sleep(0.3)
        await process.kill("enough")
        return await process.wait()

    assert asyncio.run(asyncio.wait_for(flooded(), 120)) != 0


def test_a_file_cannot_grow_without_end(sandbox, tmp_path):
    run(sandbox, tmp_path, "sh", "-c", "cat /dev/zero > big")
    assert (tmp_path / "big").stat().st_size == TIGHT.file_bytes


def test_many_files_cannot_fill_the_disk(sandbox, tmp_path):
    script = "i=0; while :; do i=$((i + 1)); head -c 4000000 /dev/zero > $i; sleep 0.01; done"
    done = run(sandbox, tmp_path, "sh", "-c", script, limits=replace(TIGHT, written_bytes=32 << 20))
    assert "32 MiB to files" in done.stopped
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 512 << 20


def test_sleeping_forever_ends_with_its_time(sandbox, tmp_path):
    done = run(sandbox, tmp_path, "sleep", "1000", limits=replace(TIGHT, wall_seconds=0.5))
    assert "longer than 0.5 s" in done.stopped


def test_busy_loops_of_several_processes_share_one_cpu_limit(sandbox, tmp_path):
    script = "(while :; do :; done) & while :; do :; done"
    done = run(sandbox, tmp_path, "sh", "-c", script, limits=replace(TIGHT, cpu_seconds=1))
    assert "CPU" in done.stopped


def test_processes_that_detach_themselves_die_with_the_program(sandbox, tmp_path):
    script = "setsid sh -c 'sleep 2; touch late' & setsid nohup sh -c 'sleep 2; touch late' > /dev/null 2>&1 & exit 3"
    assert run(sandbox, tmp_path, "bash", "-c", script).status == 3
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_the_parent_gets_no_signal_and_cannot_be_seen(sandbox, tmp_path):
    script = f"kill -9 {os.getpid()} {os.getppid()}; kill -9 -1; ls /proc | grep -c '^[0-9]'"
    done = run(sandbox, tmp_path, "bash", "-c", script)
    assert int(done.stdout) < 8


def test_secrets_of_the_parents_environment_are_not_inside(sandbox, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    done = run(sandbox, tmp_path, "bash", "-c", "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true")
    assert done.status == 0
    assert b"sk-secret" not in done.stdout


def test_the_parents_keyrings_are_out_of_reach(sandbox, tmp_path):
    code = (
        "import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "number = {'x86_64': 250, 'aarch64': 219}[platform.machine()]\n"
        "print(libc.syscall(number, 0, -3, 0), ctypes.get_errno())"
    )
    assert python(sandbox, tmp_path, code).stdout == b"-1 38\n"


def test_programs_have_no_privileges(sandbox, tmp_path):
    done = run(sandbox, tmp_path, "sh", "-c", "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status")
    user, *lines = done.stdout.decode().split("\n", 1)
    assert int(user) != 0
    assert lines[0].split() == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"]


def test_a_cancelled_run_leaves_no_process(sandbox, tmp_path):
    async def cancelled():
        running = asyncio.create_task(sandbox.run(["sleep", "1000"], tmp_path))
        while not (mine := set(tree(os.getpid())) - before):
            assert not running.done()
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return mine

    before = set(tree(os.getpid()))
    mine = asyncio.run(cancelled())
    assert not mine & set(tree(os.getpid()))


@pytest.mark.parametrize("turns", range(8))
def test_a_run_can_be_cancelled_at_any_moment_of_its_start(sandbox, tmp_path, turns):
    async def cancelled():
        running = asyncio.create_task(sandbox.run(["sleep", "1000"], tmp_path))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    before = set(tree(os.getpid()))
    asyncio.run(cancelled())
    assert set(tree(os.getpid())) <= before


def test_a_sandbox_dies_with_the_program_that_started_it(sandbox, tmp_path):
    code = (
        "import asyncio, os\nfrom pathlib import Path\nfrom k25.agent.sandbox import Sandbox\n"
        "async def main():\n"
        f" process = await Sandbox().start(['sh', '-c', 'echo up; sleep 3; touch late'], Path({str(tmp_path)!r}))\n"
        " await process.stdout.readline()\n os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    died = subprocess.run([sys.executable, "-c", code], env={**os.environ}, timeout=240)
    assert died.returncode == -9
    time.sleep(3.5)
    assert not (tmp_path / "late").exists()


def test_an_ordinary_user_is_isolated_in_the_same_way(sandbox, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("every other test runs as an ordinary user")
    user = 100_000 + os.getpid()  # whose processes nobody else has a share in
    # In a shell of its own: one that cannot start a program for long gives up, and the others must still be tried.
    script = "(for i in $(seq 60); do sleep 1 & done); id -u; ls /home /root; echo x > /x; echo here > kept; ls"
    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as patch:
        os.chown(folder, user, user)
        patch.setattr(command.os, "geteuid", lambda: user)
        patch.setattr(command, "python_folders", lambda: ())
        built = command.bubblewrap(["bash", "-c", script], Path(folder), SandboxSettings(), TIGHT)
        descriptors = {f"{{{name}}}": data_descriptor(name, content) for name, content in built.data.items()}
        done = subprocess.run(
            [str(descriptors.get(word, word)) for word in built.argv],
            pass_fds=descriptors.values(),
            env=built.environment,
            capture_output=True,
            user=user,
            group=user,
            extra_groups=[],
            timeout=90,
        )
    assert done.stdout.split() == [str(command.USER_ID).encode(), b"kept"], done.stderr
    for complaint in (b"Resource temporarily unavailable", b"'/root'", b"/x: Read-only file system"):
        assert complaint in done.stderr


def test_without_a_sandbox_programs_are_refused_with_what_is_missing(monkeypatch):
    monkeypatch.setattr(
        sandbox_module, "bubblewrap_problem", lambda: "bwrap is missing (install the package bubblewrap)"
    )
    with pytest.raises(InputError, match=r"install bubblewrap.*allow_unsandboxed"):
        Sandbox()
    with pytest.raises(InputError, match="allow_unsandboxed"):
        Sandbox(SandboxSettings(backend="none"))
    assert "programs do not run" in machine_statement()


def test_unsandboxed_programs_still_have_limits_and_a_clean_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    open_sandbox = Sandbox(SandboxSettings(backend="none", allow_unsandboxed=True))
    done = run(open_sandbox, tmp_path, "sh", "-c", "env; pwd; sleep 100", limits=replace(TIGHT, wall_seconds=0.5))
    assert b"sk-secret" not in done.stdout
    assert str(tmp_path).encode() in done.stdout
    assert "longer" in done.stopped


def test_a_container_is_started_without_network_privileges_or_a_writable_root(tmp_path):
    settings = SandboxSettings(container_command="podman", container_runtime="runsc", environment={"A": "b"})
    built = command.container(["python3", "-V"], tmp_path, settings, TIGHT, "k25-name", "python:3.12")
    text = " ".join(built.argv)
    assert text.startswith("podman run --rm --interactive --init --name k25-name --runtime runsc --network none")
    assert text.endswith("python:3.12 python3 -V")
    for part in ("--read-only", "--cap-drop ALL", "no-new-privileges", "--pids-limit 40", f"--memory {256 << 20}"):
        assert part in text
    assert f"--volume {tmp_path}:/workspace" in text
    assert "--env A=b" in text


@pytest.mark.parametrize("wrong", [{"memory_bytes": 0}, {"wall_seconds": -1.0}, {"cpu_seconds": float("nan")}])
def test_a_limit_that_is_none_is_named(wrong):
    with pytest.raises(InputError, match=f"sandbox limit {next(iter(wrong))}"):
        Limits(**wrong)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"read_only folder .*missing"):
        Sandbox(SandboxSettings(read_only=(tmp_path / "missing",)))


def test_a_container_that_cannot_run_is_named_with_its_reason():
    with pytest.raises(InputError, match="container: no-such-runtime is missing"):
        Sandbox(SandboxSettings(backend="container", container_command="no-such-runtime", container_image="x"))


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_has_whole_instructions_for_both_architectures(machine):
    program = filter_program(machine)
    assert program is not None
    assert len(program) % 8 == 0
    assert filter_program("unheard-of") is None
