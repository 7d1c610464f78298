"""The python, shell and files tools, with real interpreters and processes in the sandbox."""

import asyncio
import os
import time
from dataclasses import replace

import pytest
from contexts_made_here import context_in

from k25.agent import Toolset
from k25.agent.sandbox import Sandbox, Workspace
from k25.agent.tools import KernelPool, PythonTool, files_tool, shell_tool
from k25.agent.tools.kernel import Kernel
from k25.errors import InputError

pytest.importorskip("IPython", reason="the python tool needs IPython")


def cells(sandbox, folder, *sources, seconds=20):
    """The outputs of cells that one agent runs one after the other."""

    async def run():
        context = context_in(folder)
        toolset = Toolset("code", [PythonTool(sandbox), shell_tool(sandbox), files_tool()])
        async with toolset.opened(context):
            return [await toolset.call("python", {"code": source, "seconds": seconds}, context) for source in sources]

    return asyncio.run(run())


def call(folder, name, arguments, sandbox=None, agent="main"):
    async def run():
        context = context_in(folder, agent)
        tools = [files_tool()] if sandbox is None else [shell_tool(sandbox)]
        return await Toolset("one", tools).call(name, arguments, context)

    return asyncio.run(run())


def test_variables_last_from_cell_to_cell_and_the_last_value_comes_back(sandbox, tmp_path):
    _, second = cells(sandbox, tmp_path, "x = 20", "x + 22")
    assert second.text == "Out[2]: 42"


def test_the_workspace_is_the_current_folder(sandbox, tmp_path):
    cells(sandbox, tmp_path, "import os; os.getcwd()", "open('made.txt', 'w').write('by a cell')")
    assert call(tmp_path, "files", {"action": "read", "path": "made.txt"}).text == "by a cell"


def test_a_traceback_comes_back_and_the_interpreter_lives_on(sandbox, tmp_path):
    _, failed, after = cells(sandbox, tmp_path, "y = 1", "1 / 0", "y")
    assert failed.is_error
    assert "ZeroDivisionError: division by zero" in failed.text
    assert "\x1b[" not in failed.text
    assert after.text.endswith("1")


def test_output_of_children_and_prints_keeps_its_order(sandbox, tmp_path):
    (output,) = cells(sandbox, tmp_path, "print('one', flush=True)\n!echo two\nprint('three')")
    assert output.text.split() == ["one", "two", "three"]


def test_an_image_that_a_cell_displays_reaches_the_model(sandbox, tmp_path):
    png = (
        "import base64\nfrom IPython.display import Image, display\n"
        "display(Image(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAA"
        "AABJRU5ErkJggg==')))"
    )
    (output,) = cells(sandbox, tmp_path, png)
    assert output.text == "[image 1]"
    assert output.images[0].startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_plot_reaches_the_model(sandbox, tmp_path):
    pytest.importorskip("matplotlib")
    (output,) = cells(sandbox, tmp_path, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()", seconds=90)
    assert len(output.images) == 1


@pytest.mark.parametrize("endless", ["while True: pass", "import time; time.sleep(1000)"])
def test_a_cell_that_never_ends_is_interrupted_and_variables_stay(sandbox, tmp_path, endless):
    _, late, after = cells(sandbox, tmp_path, "kept = 7", endless, "kept", seconds=1)
    assert "KeyboardInterrupt" in late.text
    assert "interrupted after 1 s" in late.text
    assert after.text.endswith("7")


def test_an_interpreter_that_ignores_the_interrupt_is_replaced_with_a_notice(sandbox, tmp_path):
    stubborn = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    killed, after = cells(sandbox, tmp_path, stubborn, "1 + 1", seconds=0.5)
    assert killed.is_error
    assert "variables are gone" in killed.text
    assert "started anew" in after.text
    assert after.text.endswith("2")


@pytest.mark.parametrize("way", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)"])
def test_an_interpreter_that_ends_itself_is_replaced_with_a_notice(sandbox, tmp_path, way):
    killed, after = cells(sandbox, tmp_path, way, "1 + 1")
    assert "variables are gone" in killed.text
    assert "started anew" in after.text


def test_a_memory_bomb_in_a_cell_ends_only_its_interpreter(sandbox, tmp_path):
    tight = Sandbox(replace(sandbox.settings, limits=replace(sandbox.settings.limits, memory_bytes=300 << 20)))
    bomb = "import mmap\nx = []\nwhile True:\n m = mmap.mmap(-1, 10 << 20); m.write(b'x' * (10 << 20)); x.append(m)"
    killed, after = cells(tight, tmp_path, bomb, "1 + 1")
    assert "memory" in killed.text
    assert after.text.endswith("2")


def test_endless_printing_is_bounded(sandbox, tmp_path):
    (output,) = cells(sandbox, tmp_path, "while True: print('y' * 1000)", seconds=1)
    assert "are left out here" in output.text
    assert len(output.text) < 60_000


def test_a_cell_that_speaks_for_its_interpreter_harms_only_itself(sandbox, tmp_path):
    forged = "import os\nfor n in range(3, 20):\n try: os.write(n, b'\\xff\\xff\\xff\\xff')\n except OSError: pass"
    killed, after = cells(sandbox, tmp_path, forged, "1 + 1")
    assert "variables are gone" in killed.text
    assert after.text.endswith("2")


def test_a_closed_agent_leaves_no_interpreter(sandbox, tmp_path):
    from k25.agent.sandbox.watchdog import tree

    before = set(tree(os.getpid()))
    cells(sandbox, tmp_path, "import subprocess; subprocess.Popen(['sleep', '1000'])")
    end = time.monotonic() + 60
    while not set(tree(os.getpid())) <= before:
        assert time.monotonic() < end, "something is left"
        time.sleep(0.01)


def test_a_waiting_interpreter_takes_over_an_empty_workspace(sandbox, tmp_path):
    async def run():
        pool = KernelPool(sandbox, tmp_path / "spare", spare=1)
        await pool.fill()
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        none = pool.take(tmp_path / "full")
        kernel = pool.take(tmp_path / "workspace")
        result = await kernel.execute("open('file', 'w').write('x'); import os; os.getcwd()", 10)
        await kernel.close()
        await pool.close()
        return none, result

    none, result = asyncio.run(run())
    assert none is None
    assert result.text == "Out[1]: '/workspace'\n"
    assert (tmp_path / "workspace" / "file").read_text() == "x"


def test_an_interpreter_that_cannot_start_says_why(sandbox, tmp_path, monkeypatch):
    monkeypatch.setattr(Sandbox, "python", "/no/such/python")
    with pytest.raises(InputError, match="did not start"):
        asyncio.run(Kernel.start(sandbox, tmp_path))


def test_the_shell_runs_in_the_workspace_and_reports_its_status(sandbox, tmp_path):
    output = call(tmp_path, "shell", {"command": "echo a > f; echo out; echo err >&2; ls; exit 3"}, sandbox)
    assert output.is_error
    assert output.text == "out\nerr\nf\n[exit status 3]"


def test_a_shell_command_that_takes_too_long_is_killed(sandbox, tmp_path):
    output = call(tmp_path, "shell", {"command": "echo begun; sleep 1000", "seconds": 0.5}, sandbox)
    assert output.text.startswith("begun\n[The command was killed: it ran longer than 0.5 s")


def test_files_are_written_edited_read_in_parts_and_listed(tmp_path):
    call(tmp_path, "files", {"action": "write", "path": "a/b.txt", "text": "\n".join(map(str, range(1500)))})
    call(tmp_path, "files", {"action": "edit", "path": "a/b.txt", "old": "\n1499", "text": "\nlast"})
    part = call(tmp_path, "files", {"action": "read", "path": "a/b.txt", "first_line": 1001})
    assert part.text.splitlines()[0] == "1000"
    assert part.text.endswith("last")
    assert "a/b.txt (6389 bytes)" in call(tmp_path, "files", {"action": "list"}).text


def test_an_edit_must_name_one_passage(tmp_path):
    call(tmp_path, "files", {"action": "write", "path": "f", "text": "aa"})
    output = call(tmp_path, "files", {"action": "edit", "path": "f", "old": "a", "text": "b"})
    assert output.is_error
    assert "occurs 2 times" in output.text


def test_a_file_goes_to_another_agent_by_reference(tmp_path):
    call(tmp_path, "files", {"action": "write", "path": "table.csv", "text": "a,b"}, agent="one")
    shared = call(tmp_path, "files", {"action": "share", "path": "table.csv"}, agent="one")
    arguments = {"action": "receive", "reference": shared.artifacts[0].reference}
    call(tmp_path, "files", arguments, agent="two")
    assert call(tmp_path, "files", {"action": "read", "path": "table.csv"}, agent="two").text == "a,b"


@pytest.mark.parametrize("path", ["/etc/passwd", "../../secret", "a/../../secret", "link", "folder/secret", "pipe"])
@pytest.mark.parametrize("action", ["read", "write", "share"])
def test_no_path_leads_out_of_the_workspace(tmp_path, path, action):
    context = context_in(tmp_path)
    (tmp_path / "secret").write_text("a key")
    (context.workspace / "link").symlink_to(tmp_path / "secret")
    (context.workspace / "folder").symlink_to(tmp_path)
    os.mkfifo(context.workspace / "pipe")
    output = call(tmp_path, "files", {"action": action, "path": path, "text": "overwritten"})
    assert output.is_error
    assert "a key" not in output.text
    assert (tmp_path / "secret").read_text() == "a key"


def test_a_link_laid_by_a_sandboxed_program_is_not_shared_as_an_artifact(sandbox, tmp_path):
    call(tmp_path, "shell", {"command": "ln -s /etc/shadow report.txt; ln -s / all"}, sandbox)
    for path in ("report.txt", "all/etc/shadow"):
        assert call(tmp_path, "files", {"action": "share", "path": path}).is_error
    assert call(tmp_path, "files", {"action": "list"}).text == "(no files)"


def test_files_of_the_host_side_belong_to_the_sandboxed_user(sandbox, tmp_path):
    call(tmp_path, "files", {"action": "write", "path": "d/f", "text": "1"})
    output = call(tmp_path, "shell", {"command": "echo 2 >> d/f; touch d/g; cat d/f"}, sandbox)
    assert output.text == "12"


def test_a_workspace_lists_at_most_what_it_is_asked(tmp_path):
    workspace = Workspace(tmp_path)
    for number in range(20):
        workspace.write(f"{number}.txt", b"")
    assert len(workspace.list(limit=5)) == 5
