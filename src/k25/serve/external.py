"""vLLM and SGLang instead of our own engine: the command with the flags that the release's deployment guide gives."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

ExternalEngine = Literal["vllm", "sglang"]

_INSTALL = {
    "vllm": "pip install vllm",
    "sglang": "pip install sglang",
}
_PARSERS = ["--tool-call-parser", "kimi_k2", "--reasoning-parser", "kimi_k2"]
_HIDDEN = "KEY"


@dataclass(frozen=True)
class ExternalCommand:
    """A command line, ready to run.

    Attributes:
        arguments: program and arguments.
        environment: variables to add; vLLM takes its key there, where other users of the machine do not see it.
        install: how to install the program.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    install: str

    @property
    def installed(self) -> bool:
        """Whether the program is on the path, and where that is a Python, whether it has the module."""
        if shutil.which(self.arguments[0]) is None:
            return False
        modules = _values_after(self.arguments[:3], "-m")
        return all(_python_has(self.arguments[0], module.partition(".")[0]) for module in modules)

    @property
    def shown(self) -> str:
        """The command line for reading and copying, without keys."""
        keys = set(self.environment.values()) | _values_after(self.arguments, "--api-key")
        words = [f"{name}={_HIDDEN}" for name in self.environment]
        return " ".join(words + [shlex.quote(_HIDDEN if word in keys else word) for word in self.arguments])


def external_command(
    engine: ExternalEngine,
    model: str,
    *,
    host: str,
    port: int,
    tensor_parallel: int,
    names: Sequence[str] = (),
    api_key: str | None = None,
    context: int | None = None,
    trust_remote_code: bool = False,
) -> ExternalCommand:
    """The command that serves a K2.5 checkpoint with another engine.

    Args:
        engine: vllm or sglang.
        model: checkpoint folder or hub repository.
        host: address to listen on.
        port: port to listen on.
        tensor_parallel: devices that share each matrix.
        names: names that clients may ask for; SGLang takes only the first.
        api_key: key that clients must send.
        context: longest context in tokens; the engine's own default without it.
        trust_remote_code: let that engine run the checkpoint's Python files, as the release's guide does.
    """
    remote_code = ["--trust-remote-code"] if trust_remote_code else []
    if engine == "vllm":
        arguments = ["vllm", "serve", model, "-tp", str(tensor_parallel), "--mm-encoder-tp-mode", "data"]
        arguments += [*remote_code, "--enable-auto-tool-choice", *_PARSERS]
        arguments += ["--served-model-name", *names] if names else []
        arguments += ["--max-model-len", str(context)] if context else []
        environment = {"VLLM_API_KEY": api_key} if api_key else {}
    else:
        arguments = ["python3", "-m", "sglang.launch_server", "--model-path", model, "--tp", str(tensor_parallel)]
        arguments += [*remote_code, *_PARSERS]
        arguments += ["--served-model-name", names[0]] if names else []
        arguments += ["--context-length", str(context)] if context else []
        arguments += ["--api-key", api_key] if api_key else []
        environment = {}
    arguments += ["--host", host, "--port", str(port)]
    return ExternalCommand(tuple(arguments), environment, _INSTALL[engine])


def _values_after(arguments: Sequence[str], option: str) -> set[str]:
    return {value for name, value in pairwise(arguments) if name == option}


def _python_has(python: str, package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0
