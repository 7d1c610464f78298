"""Whatever is wrong with a plan, its prompts or its endpoints is said in one line."""

import asyncio
import json
import socket

import pytest
from scripted_endpoint import ScriptedEndpoint, asks, conversations, lines, plan_for, run, tasks

from k25.errors import InputError
from k25.synthesis import load_plan, parse_plan, synthesize
from k25.synthesis.prompts import prompts_of
from k25.tasks import get_task, task_names

NOWHERE = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoints": {}}, "endpoints: "),
        ({"sellect": {}}, "sellect: unknown key; did you mean 'select'"),
        ({"select": {"kep": 1}}, "select.kep: unknown key; did you mean 'keep'"),
        ({"select": {"balance": 0.5}}, "balance is a ratio of at least 1"),
        ({"verify": {"score": 2}}, "verify.score: "),
        ({"judge": {"url": NOWHERE, "model": "m", "rubrics": {}}}, "judge.rubrics: "),
        ({"judge": {"url": NOWHERE, "model": "m", "rubrics": {"a": {"aks": "?"}}}}, "did you mean 'ask'"),
        ({"prompts": {"set": tasks("add", cuont=3)}}, "prompts.set.cuont: unknown key; did you mean 'count'"),
        ({"prompts": {"set": {"kind": "taks"}}}, "prompts.set: "),
        ({"limits": {"tokens": 0}}, "limits.tokens: "),
    ],
)
def test_mistakes_in_a_plan_name_the_key(change, message):
    with pytest.raises(InputError, match=r"^plan: ") as error:
        parse_plan(plan_for(NOWHERE, tasks("add")) | change)
    assert message in str(error.value)


@pytest.mark.parametrize("options", [{"seed": 1}, {"temperature": 0}])
def test_several_candidates_that_must_all_be_the_same_are_refused(options):
    table = plan_for(NOWHERE, tasks("add"), candidates=2)
    table["endpoints"]["one"]["options"] = options
    with pytest.raises(InputError, match=r"endpoints\.one: .* makes all candidates the same"):
        parse_plan(table)


def test_the_same_endpoint_twice_is_refused():
    table = plan_for(NOWHERE, tasks("add"))
    table["endpoints"]["two"] = table["endpoints"]["one"]
    with pytest.raises(InputError, match="endpoints one and two are the same"):
        parse_plan(table)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": ["ad"]}, "there is no task 'ad'; did you mean 'add'"),
        ({"difficulty": 99}, "task add has no difficulty 99"),
        ({"difficulty": [20, 30]}, "task add has 1 to 12, nothing in"),
    ],
)
def test_tasks_that_cannot_be_asked_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        prompts_of(parse_plan(plan_for(NOWHERE, tasks("add") | fields)))


def test_tasks_with_videos_are_refused():
    clip = next(name for name in task_names() if get_task(name).modality == "video")
    with pytest.raises(InputError, match=f"task {clip} shows videos"):
        prompts_of(parse_plan(plan_for(NOWHERE, tasks(clip))))


GOOD = json.dumps(asks("Hi", answer="Ho"))
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [', "is not JSON"),
        ("[1]", 'expected an object with "messages"'),
        ('{"text": "Hi"}', 'expected an object with "messages"'),
        ("\xff\xfe", "is not JSON"),
        (json.dumps({"messages": []}), "non-empty list"),
        (json.dumps({"messages": [{"role": "user"}]}), "needs content"),
        (json.dumps({"messages": [{"role": "assistant", "content": "x"}]}), "the last one is the assistant's"),
        (json.dumps(asks("x", tools=[{"type": "web"}])), "only tools of type function"),
        (json.dumps(asks("x", tools=[TOOL, TOOL])), "two tools named 'f'"),
        (json.dumps(asks("x", answer=[])), "answer: expected"),
        (json.dumps(asks("x", answer=True)), "answer: expected"),
        (json.dumps(asks("x", answer="y", difficulty="hard")), "difficulty must be a whole number"),
        (json.dumps(asks([{"type": "image_url", "image_url": "a.png"}], answer="y")), "data: URLs"),
    ],
)
def test_a_bad_line_of_a_prompt_file_is_named_by_its_number(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    path.write_bytes(f"{GOOD}\n\n{line}\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"p\.jsonl, line 3: ") as error:
        prompts_of(parse_plan(plan_for(NOWHERE, {"kind": "conversations", "path": str(path)})))
    assert message in str(error.value)


def test_a_prompt_file_that_is_missing_or_empty_is_named(tmp_path):
    prompts = {"kind": "conversations", "path": str(tmp_path / "none.jsonl")}
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read \(No such file"):
        prompts_of(parse_plan(plan_for(NOWHERE, prompts)))
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(InputError, match="has no prompts"):
        prompts_of(parse_plan(plan_for(NOWHERE, prompts)))


def test_prompts_that_nothing_can_verify_are_refused(tmp_path):
    prompts = conversations(tmp_path / "p.jsonl", asks("Write a poem."))
    with pytest.raises(InputError, match="ask for at least 2 per prompt"):
        prompts_of(parse_plan(plan_for(NOWHERE, prompts)))
    with pytest.raises(InputError, match="nothing verifies its answers"):
        prompts_of(parse_plan(plan_for(NOWHERE, prompts, verify={"majority": 0})))


def test_paths_are_relative_to_the_plan(tmp_path):
    (tmp_path / "plan.toml").write_text(
        f'[endpoints.e]\nurl = "{NOWHERE}"\nmodel = "m"\n[prompts.q]\nkind = "conversations"\npath = "q.jsonl"\n'
    )
    assert load_plan(tmp_path / "plan.toml").prompts["q"].path == tmp_path / "q.jsonl"
    (tmp_path / "plan.toml").write_text("[endpoints\n")
    with pytest.raises(InputError, match="is not TOML"):
        load_plan(tmp_path / "plan.toml")


def test_a_dead_endpoint_is_named_at_once(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=rf"endpoints\.one: nothing answers at {url} .*start the server"):
            run(plan_for(url, tasks("add")), tmp_path)


def test_a_key_that_is_not_set_is_named(tmp_path):
    table = plan_for(NOWHERE, tasks("add"))
    table["endpoints"]["one"]["key_variable"] = "K25_NO_SUCH_KEY"
    with pytest.raises(InputError, match="K25_NO_SUCH_KEY is not set"):
        run(table, tmp_path)


@pytest.mark.parametrize("status", [401, 404])
def test_an_endpoint_that_refuses_us_stops_the_run(tmp_path, status):
    message = f"{status} not for you; correct the URL, the model or the key"
    refusing = ScriptedEndpoint(lambda *_: (status, "not for you"))
    with refusing.running() as endpoint, pytest.raises(InputError, match=message):
        run(plan_for(endpoint.url, tasks("add", count=50)), tmp_path)
    assert len(endpoint.bodies) <= 8


def test_an_endpoint_that_only_fails_stops_the_run_and_what_was_done_is_kept(tmp_path):
    right = {get_task("add").sample(0, i).prompt[0]["content"]: get_task("add").sample(0, i).answer for i in range(50)}

    def script(body, times):
        return (503, "down") if len(endpoint.bodies) > 5 else {"content": right[body["messages"][0]["content"]]}

    with ScriptedEndpoint(script).running() as endpoint:
        table = plan_for(endpoint.url, tasks("add", count=50))
        with pytest.raises(InputError, match="503 down; 10 questions in a row have failed"):
            run(table, tmp_path)
    assert 1 <= len(lines(tmp_path / "records.jsonl")) <= 5


def test_an_endpoint_that_dies_on_the_way_is_named_and_what_was_done_is_kept(tmp_path):
    sample = get_task("add").sample(0, 0)

    def script(body, times):
        return {"content": sample.answer} if body["messages"] == list(sample.prompt) else None

    with ScriptedEndpoint(script).running() as endpoint:
        table = plan_for(endpoint.url, tasks("add", count=9))
        table["endpoints"]["one"]["concurrency"] = 1
        with pytest.raises(InputError, match=r"endpoints\.one: nothing answers at"):
            run(table, tmp_path)
    assert len(lines(tmp_path / "records.jsonl")) == 1


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give --out a folder"):
        run(plan_for(NOWHERE, tasks("add")), tmp_path / "file")


def test_two_runs_into_one_folder_are_refused(tmp_path):
    async def both(table):
        return await asyncio.gather(
            *(synthesize(parse_plan(table), tmp_path) for _ in range(2)), return_exceptions=True
        )

    with ScriptedEndpoint(lambda *_: {"content": "1"}).running() as endpoint:
        results = asyncio.run(both(plan_for(endpoint.url, tasks("add"))))
    errors = [one for one in results if isinstance(one, Exception)]
    assert len(errors) == 1
    assert "another process is writing this record" in str(errors[0])
