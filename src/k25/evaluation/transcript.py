"""Attempts for people to read: the conversation, what was expected, and the score."""

from k25.agent.tool import JsonObject
from k25.evaluation.attempts import Attempt


def transcript(attempt: Attempt) -> str:
    """The conversation of an attempt as text, one paragraph per message, then how it was judged."""
    sample = attempt.sample
    lines = [f"{sample.task}, difficulty {sample.difficulty}, exercise {sample.index}, attempt {attempt.repeat + 1}"]
    for message in attempt.trajectory.messages:
        lines += _message(message)
    if attempt.trajectory.detail:
        lines.append(f"ended: {attempt.trajectory.detail}")
    lines.append(f"expected: {sample.answer}   score: {attempt.score:g}")
    return "\n".join(lines)


def _message(message: JsonObject) -> list[str]:
    lines = []
    if message.get("reasoning_content"):
        lines.append(f"{message['role']} thinks: {message['reasoning_content']}")
    text = _content(message.get("content"))
    if text or not message.get("tool_calls"):
        lines.append(f"{message['role']}: {text}")
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    return lines + [f"{message['role']} calls {each['name']}: {each['arguments']}" for each in functions]


def _content(content: str | list[JsonObject] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    kinds = {"image_url": "[picture]", "video_url": "[clip]"}
    return " ".join(kinds.get(part["type"]) or part["text"] for part in content)
