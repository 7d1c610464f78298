"""`k25 chat`: one question in this process, conversations through a pseudo-terminal; the server answers by script."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "serve_page"))
from openai_stand_in import Break, Finish, Pause, Raw, Refuse, call, running_stand_in, say, think

CHAT = [sys.executable, "-c", "from k25.cli.main import run; run()", "chat"]


@pytest.fixture
def server():
    with running_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (28, 28), "red").save(path)
    return path


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return kept | {"TERM": "xterm", "COLUMNS": "100"} | more


@pytest.fixture
def ask(k25_here):
    def ask(*arguments, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        no_keys = dict.fromkeys(os.environ.keys() - environment().keys())
        return k25_here("chat", *arguments, stdin=stdin, env=no_keys | environment(**(env or {})))

    return ask


def wait_for(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


class Terminal:
    """`k25 chat` on a pseudo-terminal, as a person would use it."""

    def __init__(self, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(CHAT[0], [*CHAT, *map(str, arguments)], environment())
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.seen = ""
        self._from = 0

    def type(self, line: str) -> None:
        os.write(self.fd, line.encode() + b"\n")

    def interrupt(self) -> None:
        # A prompt is visible a moment before its reader listens for signals, and the moment is long on a busy machine.
        wait_for(self._is_waiting)
        os.write(self.fd, b"\x03")

    def _is_waiting(self) -> bool:
        """Whether it sleeps, now and a moment later, and did next to nothing between; a spinner may turn."""
        (before, ticks), _, (after, more) = self._work(), time.sleep(0.2), self._work()
        return before == after == "S" and more - ticks < 5

    def _work(self) -> tuple[str, int]:
        """State of the process, and the processor time that it has used, in ticks."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[11]) + int(fields[12])

    def expect(self, text: str, seconds: float = 120) -> None:
        """Wait until `text` appears after what was expected before."""
        end = time.monotonic() + seconds
        while text not in self.seen[self._from :]:
            if time.monotonic() > end or not self._read(end):
                raise AssertionError(f"{text!r} did not appear in {self.seen[self._from :]!r}")
        self._from = self.seen.index(text, self._from) + len(text)

    def exit_code(self) -> int:
        while self._read(time.monotonic() + 30):
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, end: float) -> bool:
        if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


@pytest.fixture
def terminal(server):
    opened = []

    def open_terminal(*arguments):
        opened.append(Terminal(server.url, *arguments))
        opened[-1].expect("/help lists commands")
        opened[-1].expect("> ")
        return opened[-1]

    yield open_terminal
    for one in opened:
        try:
            os.kill(one.pid, 9)
            os.waitpid(one.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def last_question(server):
    return server.bodies[-1]["messages"][-1]["content"]


# One question


def test_one_shot_prints_only_the_answer(server, ask):
    server.answer(think("Let me see."), say("Blue", " sky."), Finish())
    done = ask(server.url, "--prompt", "Which sky?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Blue sky.\n", "")
    assert last_question(server) == "Which sky?"
    assert server.bodies[-1]["model"] == "kimi-k2.5"


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ([think("hm"), Finish()], "no answer came after 2 characters of thinking; --mode instant"),
        ([think("hm"), Finish("length")], "no answer came within the token limit"),
        ([Finish()], "the answer is empty"),
    ],
)
def test_an_empty_answer_is_explained_beside_the_output(server, turn, words, ask):
    server.answer(*turn)
    done = ask(server.url, "--prompt", "q")
    assert (done.returncode, done.stdout) == (0, "")
    assert words in done.stderr


def test_a_pipe_is_the_prompt(server, ask):
    server.answer(say("ok"), Finish())
    assert ask(server.url, stdin="two\nlines\n").stdout == "ok\n"
    assert last_question(server) == "two\nlines"


def test_piped_output_keeps_every_character_of_the_answer(server, ask):
    server.answer(say("tab\tescape\x1b[31m"), Finish())
    assert ask(server.url, "--prompt", "q").stdout == "tab\tescape\x1b[31m\n"


def test_halves_of_characters_do_not_stop_an_answer(server, ask):
    server.answer(Raw(b'data: {"choices": [{"delta": {"content": "a\\ud800b"}}]}\n\n'), Finish())
    assert ask(server.url, "--prompt", "q").stdout == "a?b\n"


def test_settings_reach_the_server(server, ask):
    server.answer(say("ok"), Finish())
    ask(server.url, "--prompt", "q", "--mode", "instant", "--temperature", "0.6", "--max-tokens", "9", "--system", "s")
    body = server.bodies[-1]
    assert body["thinking"] == {"type": "disabled"}
    assert body["chat_template_kwargs"] == {"thinking": False}
    assert (body["temperature"], body["max_completion_tokens"]) == (0.6, 9)
    assert body["messages"][0] == {"role": "system", "content": "s"}


def test_unset_settings_are_left_to_the_server(server, ask):
    server.answer(say("ok"), Finish())
    ask(server.url, "--prompt", "q")
    assert server.bodies[-1].keys() == {"model", "messages", "stream", "stream_options"}


def test_an_image_travels_as_a_data_url(server, picture, ask):
    server.answer(say("red"), Finish())
    assert ask(server.url, "--prompt", "Colour?", "--image", picture).stdout == "red\n"
    image, text = last_question(server)
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert text == {"type": "text", "text": "Colour?"}


def test_the_api_path_of_a_url_may_be_given_in_full(server, ask):
    server.answer(say("ok"), Finish())
    assert ask(server.url + "/v1/chat/completions", "--prompt", "q").stdout == "ok\n"


# What can go wrong


def test_a_refused_connection_says_so(ask):
    done = ask("http://127.0.0.1:9", "--prompt", "q")
    assert done.returncode == 1
    assert done.stderr == (
        "error: http://127.0.0.1:9/v1: cannot connect (Connection refused); is the server running? "
        "`k25 serve` starts one\n"
    )


def test_a_missing_key_is_wrong_input(server, ask):
    server.key = "right"
    done = ask(server.url, "--prompt", "q")
    assert done.returncode == 2
    assert "Incorrect API key provided (401); give a key with --api-key" in done.stderr


def test_a_key_is_taken_from_the_option_or_the_environment(server, ask):
    server.key = "right"
    server.answer(say("1"), Finish())
    server.answer(say("2"), Finish())
    assert ask(server.url, "--prompt", "q", "--api-key", "right").stdout == "1\n"
    assert ask(server.url, "--prompt", "q", env={"OPENAI_API_KEY": "right"}).stdout == "2\n"


def test_the_key_of_one_company_is_not_sent_to_others(server, ask):
    server.answer(say("ok"), Finish())
    ask(server.url, "--prompt", "q", env={"MOONSHOT_API_KEY": "secret"})
    assert "authorization" not in server.headers[-1]


def test_an_unknown_model_is_wrong_input(server, ask):
    done = ask(server.url, "--prompt", "q", "--model", "kimi-k9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Not found the model kimi-k9 (404)" in done.stderr


def test_one_of_several_models_must_be_chosen(server, ask):
    server.models = ["a", "b"]
    done = ask(server.url, "--prompt", "q")
    assert done.returncode == 2
    assert "choose one with --model: a, b" in done.stderr


def test_a_busy_server_is_asked_again_after_the_time_it_names(server, ask):
    server.answer(Refuse(429, "overloaded", "engine_overloaded_error", {"Retry-After": "1"}))
    server.answer(say("now"), Finish())
    done = ask(server.url, "--prompt", "q")
    assert (done.returncode, done.stdout) == (0, "now\n")
    assert "the server is busy; trying again in 1 s" in done.stderr
    assert len(server.bodies) == 2


def test_a_time_too_long_to_wait_is_reported(server, ask):
    server.answer(Refuse(429, "come back tomorrow", "rate_limit_reached_error", {"Retry-After": "86400"}))
    done = ask(server.url, "--prompt", "q")
    assert (done.returncode, len(server.bodies)) == (1, 1)
    assert "come back tomorrow (429)" in done.stderr


def test_an_empty_purse_is_not_asked_again(server, ask):
    server.answer(Refuse(429, "recharge your account", "exceeded_current_quota_error"))
    assert "recharge your account (429)" in ask(server.url, "--prompt", "q").stderr
    assert len(server.bodies) == 1


def test_a_broken_stream_keeps_what_came(server, ask):
    server.answer(say("half an ans"), Break())
    done = ask(server.url, "--prompt", "q")
    assert (done.returncode, done.stdout) == (1, "half an ans\n")
    assert done.stderr == "error: the connection broke before the answer ended\n"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "the stream ended before the answer did"),
        (b"data: {oops\n\n", "no JSON object: {oops"),
        (b'data: {"choices": [3]}\n\n', "malformed chunk"),
        (b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
    ],
)
def test_a_stream_that_goes_wrong_is_an_error_after_the_text(server, raw, reason, ask):
    server.answer(say("text"), Raw(raw))
    done = ask(server.url, "--prompt", "q")
    assert (done.returncode, done.stdout) == (1, "text\n")
    assert reason in done.stderr


def test_events_may_have_comments_and_carriage_returns(server, ask):
    server.answer(Raw(b': ping\r\n\r\ndata:{"choices": [{"delta": {"content": "ok"}}]}\r\n\r\n'), Finish())
    assert ask(server.url, "--prompt", "q").stdout == "ok\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["no-such-thing", "--prompt", "q"], "is no URL (http://...), checkpoint folder or preset"),
        (["ftp://host", "--prompt", "q"], "is no URL of a server"),
        (["http://host:99999", "--prompt", "q"], "is no URL of a server"),
        (["http://user@host", "--prompt", "q"], "may hold no user name"),
        (["http://host", "--prompt", " "], "the prompt is empty"),
        (["http://host", "--prompt", "q", "--image", "absent.png"], "absent.png: cannot be opened"),
        (["http://host", "--prompt", "q", "--tools", "absent.json"], "absent.json: No such file"),
    ],
)
def test_wrong_input_is_one_line(arguments, reason, ask):
    done = ask(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_picture_given_as_a_video_is_refused(picture, ask):
    assert "is png, no video; attach it as image" in ask("http://host", "--prompt", "q", "--video", picture).stderr


def test_a_reader_that_leaves_ends_the_answer_quietly(server):
    server.answer(*[say("line\n") for _ in range(500)], Finish())
    command = " ".join(map(repr, [*CHAT, server.url, "--prompt", "q"])) + " | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=240, env=environment())
    assert (done.stdout, done.stderr) == ("line\n", "")


# Conversations


def test_thinking_folds_to_one_line_and_can_be_shown(server, terminal):
    server.answer(think("first ", "second ", "third"), Pause(0.2), say("The answer."), Finish())
    chat = terminal()
    chat.type("why?")
    chat.expect("thinking  first")
    chat.expect("18 characters (/think shows it)")
    chat.expect("The answer.")
    chat.expect("[34 tokens at ")
    chat.expect(" tokens/s, prompt 21 (16 cached), first token after ")
    chat.type("/think")
    chat.expect("first second third")
    chat.type("/quit")
    assert chat.exit_code() == 0


def test_the_thinking_line_never_grows_beyond_the_terminal(server, terminal):
    server.answer(think(*["很长的思考 " * 4] * 30), Pause(0.2), say("done"), Finish())
    chat = terminal()
    chat.type("q")
    chat.expect("characters (/think")
    lines = re.findall(r"\x1b\[2m(thinking  [^\x1b]*)\x1b\[0m", chat.seen)
    assert lines
    assert max(sum(2 if character > "⺀" else 1 for character in line) for line in lines) < 100


def test_the_history_is_sent_without_earlier_thinking(server, terminal):
    server.answer(think("hm"), say("one"), Finish())
    server.answer(say("two"), Finish(usage_in_choice=True))
    chat = terminal()
    chat.type("1?")
    chat.expect("one")
    chat.type("2?")
    chat.expect("two")
    chat.expect("[34 tokens")
    assert server.bodies[-1]["messages"] == [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "2?"},
    ]


def test_ctrl_c_stops_an_answer_and_twice_leaves(server, terminal):
    server.answer(say("endless "), Pause(60), Finish())
    chat = terminal()
    chat.type("q")
    chat.expect("endless")
    chat.interrupt()
    chat.expect("stopped, what came is kept")
    chat.expect("> ")
    assert server.aborted.wait(10)
    chat.interrupt()
    assert chat.exit_code() == 130


def test_an_answer_stopped_while_waiting_is_no_turn(server, terminal):
    server.answer(Pause(60), Finish())
    server.answer(say("fine"), Finish())
    chat = terminal()
    chat.type("lost")
    wait_for(lambda: server.bodies)
    chat.interrupt()
    chat.expect("the question is not kept")
    chat.type("again")
    chat.expect("fine")
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "again"}]


def test_ctrl_c_at_the_prompt_asks_once(terminal):
    chat = terminal()
    chat.interrupt()
    chat.expect("Ctrl-C once more, or /quit, leaves")
    chat.expect("> ")
    chat.interrupt()
    assert chat.exit_code() == 130


def test_an_error_does_not_end_the_conversation(server, terminal):
    server.answer(Refuse(400, "invalid temperature"))
    server.answer(say("fine"), Finish())
    chat = terminal()
    chat.type("a")
    chat.expect("invalid temperature (400)")
    chat.expect("> ")
    chat.type("b")
    chat.expect("fine")
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": "b"}]


def test_commands_change_what_is_sent(server, terminal, picture):
    server.answer(say("seen"), Finish())
    chat = terminal()
    for line in ("/system Be brief.", "/mode instant", f"/image {picture}"):
        chat.type(line)
        chat.expect("> ")
    chat.type("//look")
    chat.expect("seen")
    body = server.bodies[-1]
    assert body["thinking"] == {"type": "disabled"}
    assert body["messages"][0]["content"] == "Be brief."
    assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "text"]
    assert body["messages"][1]["content"][1]["text"] == "/look"


def test_clear_forgets_all_but_the_system_prompt(server, terminal):
    server.answer(say("one"), Finish())
    server.answer(say("two"), Finish())
    chat = terminal("--system", "s")
    chat.type("1?")
    chat.expect("one")
    chat.type("/clear")
    chat.expect("cleared")
    chat.type("2?")
    chat.expect("two")
    assert [message["content"] for message in server.bodies[-1]["messages"]] == ["s", "2?"]


def test_save_writes_what_render_reads_and_overwrites_nothing(server, terminal, tmp_path):
    server.answer(say("one"), Finish())
    chat = terminal()
    chat.type("1?")
    chat.expect("one")
    file = tmp_path / "talk.json"
    chat.type(f"/save {file}")
    chat.expect("saved 2 messages")
    chat.type(f"/save {file}")
    chat.expect("exists already")
    chat.type("/quit")
    assert chat.exit_code() == 0
    assert json.loads(file.read_text())["messages"][1] == {"role": "assistant", "content": "one"}
    subprocess.run(
        [sys.executable, "-c", "from k25.cli.main import run; run()", "render", file], check=True, timeout=240
    )


WRONG_COMMANDS = {
    "/sing": "there is no command /sing",
    "/mode deep": "choose instant or thinking",
    "/image": "name the file",
    "/image absent.png": "absent.png: cannot be opened",
    "/save": "name the file",
    "/save /absent/folder/file": "cannot be written",
}


def test_wrong_commands_are_explained_and_end_nothing(terminal):
    chat = terminal()
    for line, reason in WRONG_COMMANDS.items():
        chat.type(line)
        chat.expect("error:")
        chat.expect(reason)
        chat.expect("> ")


def test_tool_calls_are_shown_and_their_results_sent_back(server, terminal, tmp_path):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    (tmp_path / "tools.json").write_text(json.dumps([tool]))
    server.answer(think("need it"), call(0, "get_weather", '{"city":', ' "Oslo"}'), Finish("tool_calls"))
    server.answer(say("It rains."), Finish())
    chat = terminal("--tools", tmp_path / "tools.json")
    chat.type("weather?")
    chat.expect('tool call functions.get_weather:0: get_weather(city="Oslo")')
    chat.expect("result of get_weather > ")
    chat.type("rain")
    chat.expect("It rains.")
    _, asked, result = server.bodies[-1]["messages"]
    assert server.bodies[0]["tools"] == [tool]
    assert asked["reasoning_content"] == "need it"
    assert asked["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
    assert result == {"role": "tool", "tool_call_id": "functions.get_weather:0", "content": "rain"}


def test_a_call_cut_in_half_is_not_kept(server, terminal):
    server.answer(call(0, "get_weather", '{"city":'), Break())
    server.answer(say("fine"), Finish())
    chat = terminal()
    chat.type("weather?")
    chat.expect("the connection broke")
    chat.expect("the question is not kept")
    chat.type("again")
    chat.expect("fine")
    assert len(server.bodies[-1]["messages"]) == 1


def test_a_terminal_is_safe_from_what_a_model_writes(server, terminal):
    server.answer(say("safe\x1b]0;owned\x07\x9b2Jtext"), Finish())
    chat = terminal()
    chat.type("q")
    chat.expect("safe]0;owned2Jtext")
