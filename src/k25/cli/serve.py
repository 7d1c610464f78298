"""`k25 serve`: a model behind an OpenAI-compatible API, by our own engine, vLLM or SGLang.

Exit codes: 0 stopped as asked, 1 the model does not fit (other engines), 2 wrong input.
"""

import gc
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import torch
import uvicorn
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from k25.cli import plan
from k25.cli.device import chosen_device
from k25.cli.run_weights import weights_of
from k25.engine import Engine, EngineConfig
from k25.errors import InputError
from k25.model import PRESETS
from k25.serve import ServerSettings, create_app, external_command
from k25.serve.external import ExternalEngine
from k25.serve.source import load_source

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
_HUB_NAMES = {"k2.5": "moonshotai/Kimi-K2.5"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_GUIDE_DEVICES = 8
# Longer than clients keep an unused connection, so that it is they who close it.
_KEEP_ALIVE_SECONDS = 75
# Every write to a socket gives the interpreter to the engine's thread; with the usual 5 ms it comes back too late, and
# 128 streams together are a third slower.
_SWITCH_SECONDS = 0.0005


@Parameter(name="*")
@dataclass(frozen=True)
class AccessOptions:
    """Who may ask, and for what."""

    api_key: Annotated[
        tuple[str, ...], Parameter(help="Key that clients must send; repeatable. Other users can see it in `ps`.")
    ] = ()
    api_key_file: Annotated[Path | None, Parameter(help="File with one key per line.")] = None
    served_model_name: Annotated[
        tuple[str, ...], Parameter(help="Name that clients ask for; repeatable [the source's].")
    ] = ()
    allowed_host: Annotated[
        tuple[str, ...],
        Parameter(help="Name that clients may call this server by; repeatable [on loopback: its own names; else any]."),
    ] = ()
    strict: Annotated[bool, Parameter(help="Enforce the published parameter policy and message rules.")] = False
    allow_remote_media: Annotated[bool, Parameter(help="Fetch media from public http(s) addresses.")] = False
    weights_root: Annotated[Path | None, Parameter(help="Let clients load weights from folders under this one.")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class LimitOptions:
    """How much at a time."""

    max_body: Annotated[str, Parameter(help="Largest request body.")] = "100MB"
    max_concurrency: Annotated[int, Parameter(help="Generating requests at a time; more get status 429.")] = 256
    deadline: Annotated[float, Parameter(help="Seconds for one answer.")] = 600.0
    grace: Annotated[float, Parameter(help="Seconds for running answers when the server stops.")] = 30.0
    state: Annotated[Path | None, Parameter(help="Folder for uploaded files [a temporary one].")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class EngineOptions:
    """How our own engine runs."""

    device: Annotated[str | None, Parameter(help="Such as cpu or cuda:0 [cuda where there is one].")] = None
    dtype: Annotated[Literal["bf16", "fp16", "fp32"] | None, Parameter(help="Of the weights [as stored].")] = None
    cache_tokens: Annotated[int, Parameter(help="Tokens that the latent cache holds.")] = 65_536
    max_running: Annotated[int, Parameter(help="Requests computed at the same time.")] = 64
    max_waiting: Annotated[int, Parameter(help="Requests in the queue behind them.")] = 256
    prefill_chunk: Annotated[int, Parameter(help="Prompt tokens of one step.")] = 512
    seed: Annotated[int, Parameter(help="Of the random weights of a preset.")] = 0


@Parameter(name="*")
@dataclass(frozen=True)
class ExternalOptions:
    """How vLLM or SGLang runs."""

    devices: Annotated[int | None, Parameter(help="vllm, sglang: number of devices [this machine's].")] = None
    memory: Annotated[str | None, Parameter(help="vllm, sglang: memory of one device, such as 141GB.")] = None
    tensor_parallel: Annotated[int | None, Parameter(help="vllm, sglang: devices that share a matrix [all].")] = None
    context: Annotated[int | None, Parameter(help="vllm, sglang: longest context [the model's].")] = None
    trust_remote_code: Annotated[
        bool,
        Parameter(help="vllm, sglang: run the checkpoint's own Python files, as the release's guide does."),
    ] = False


def main(
    source: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: Literal["k25", "vllm", "sglang"] = "k25",
    access: AccessOptions | None = None,
    limits: LimitOptions | None = None,
    running: EngineOptions | None = None,
    external: ExternalOptions | None = None,
) -> None:
    """Serve a model behind an OpenAI-compatible API.

    Args:
        source: A checkpoint folder, a finished run, a hub repository (owner/name), or a random nano or small.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        engine: Our own, or the command of another that is installed.
    """
    access, external = access or AccessOptions(), external or ExternalOptions()
    if not 0 <= port < 65_536:
        raise InputError(f"--port {port}: ports are 0 to 65535")
    keys = _keys(access)
    if engine != "k25":
        _serve_externally(engine, source, host, port, access.served_model_name, keys, external)
        return
    if external != ExternalOptions():
        raise InputError("--devices, --memory, --tensor-parallel and --context have no meaning for --engine k25")
    _serve(source, host, port, keys, access, limits or LimitOptions(), running or EngineOptions())


def _serve(
    source: str,
    host: str,
    port: int,
    keys: tuple[str, ...],
    access: AccessOptions,
    limits: LimitOptions,
    running: EngineOptions,
) -> None:
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    with _state_folder(limits.state) as state, _listening(host, port) as listener:
        settings = ServerSettings(
            model_names=access.served_model_name or (source,),
            state=state,
            api_keys=keys,
            allowed_hosts=_allowed_hosts(host, access.allowed_host),
            strict=access.strict,
            max_body_bytes=plan.parse_memory(limits.max_body, "--max-body"),
            max_concurrency=limits.max_concurrency,
            deadline_seconds=limits.deadline,
            grace_seconds=limits.grace,
            allow_remote_media=access.allow_remote_media,
            weights_root=access.weights_root,
        )
        config = EngineConfig(
            cache_tokens=running.cache_tokens,
            max_running=running.max_running,
            max_waiting=running.max_waiting,
            prefill_chunk_tokens=running.prefill_chunk,
        )
        served = load_source(
            weights_of(source),
            dtype=_DTYPES.get(running.dtype or ""),
            device=chosen_device(running.device),
            seed=running.seed,
        )
        app = create_app(Engine(served.model, config), served.tokenizer, served.media, settings)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        if source in PRESETS:
            notes.print(f"{source} has random weights: its answers are nonsense.")
        if not keys and host not in _LOOPBACK:
            notes.print(f"[yellow]No API key is set: whoever reaches {escape(host)} may use this server.[/]")
        notes.print(f"Serving {escape(settings.model_names[0])} at {address}/v1")
        _run(uvicorn.Server(_uvicorn_config(app, settings)), listener)


def _uvicorn_config(app: object, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=round(settings.grace_seconds),
    )


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Until SIGINT or SIGTERM; running answers then get their grace."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    # What is loaded by now stays: the collector need not look through it again and again.
    gc.freeze()
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
        # Libraries count what is frozen as leaked when the interpreter ends, and say so at length.
        gc.unfreeze()
    if not server.started:
        raise SystemExit(1)


def _stopped(_number: int, _frame: FrameType | None) -> NoReturn:
    # The server has stopped in order by the time it passes the signal on; an exception lets temporary files go.
    sys.exit(0)


@contextmanager
def _state_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given.expanduser()
        return
    with tempfile.TemporaryDirectory(prefix="k25-serve-") as folder:
        yield Path(folder)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Taken before the model is loaded, so that a port in use is known at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. Else the system keeps the first event of a stream back until the client has confirmed
        # the header, which clients delay by 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot listen on {host} port {port} ({error}); choose another --host or --port") from None
    with listener:
        yield listener


def _allowed_hosts(host: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """Host headers that are answered; none means any."""
    return (*_LOOPBACK, *named) if host in _LOOPBACK else named


def _keys(access: AccessOptions) -> tuple[str, ...]:
    if access.api_key_file is None:
        return access.api_key
    try:
        lines = access.api_key_file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"--api-key-file {access.api_key_file}: cannot be read ({error})") from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise InputError(f"--api-key-file {access.api_key_file}: holds no key; write one per line")
    return (*access.api_key, *found)


def _serve_externally(
    engine: ExternalEngine,
    source: str,
    host: str,
    port: int,
    names: tuple[str, ...],
    keys: tuple[str, ...],
    options: ExternalOptions,
) -> None:
    """Say whether it fits, then run the other engine in place of this program, or say how to."""
    if len(keys) > 1:
        raise InputError(f"{engine} takes one API key, not {len(keys)}")
    found = torch.cuda.device_count()
    command = external_command(
        engine,
        _HUB_NAMES.get(source) or weights_of(source),
        host=host,
        port=port,
        tensor_parallel=options.tensor_parallel or options.devices or found or _GUIDE_DEVICES,
        names=names,
        api_key=keys[0] if keys else None,
        context=options.context,
        trust_remote_code=options.trust_remote_code,
    )
    fits = _say_whether_it_fits(source, options)
    print(f"\n{command.shown}")
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    if not fits:
        notes.print("Not started, because it does not fit here.")
        sys.exit(1)
    if not command.installed:
        notes.print(f"Not started, because {engine} is not installed here: {command.install}")
        return
    sys.stdout.flush()
    os.execvpe(command.arguments[0], command.arguments, {**os.environ, **command.environment})


def _say_whether_it_fits(source: str, options: ExternalOptions) -> bool:
    serving = plan.ServingOptions(context=options.context, tensor_parallel=options.tensor_parallel)
    try:
        plan.main(source, devices=options.devices, memory=options.memory, serving_options=serving)
    except SystemExit:
        return False
    return True
