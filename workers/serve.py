"""``surtitle serve``: a local Ray, the workers on it, and the gateway in front."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.checkpoint import locate
from pipeline.cli import NANO
from pipeline.gemma.prompt import PromptTemplate
from pipeline.wire.protocol import Limits
from workers import placement
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.endpoints import STREAM_PATH
from workers.gateway import Gateway
from workers.loading import load_decoder, load_encoder
from workers.metrics import Metrics
from workers.placement import RayWorker
from workers.pool import run_pool
from workers.protocols import DecoderStream, EncoderStream, Load
from workers.settings import Settings, SettingsError, read_settings


def run(
    *,
    host: str | None = None,
    port: int | None = None,
    model: str | None = None,
    config: Path | None = None,
    encoder_workers: int | None = None,
    decoder_workers: int | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; one line on stderr says when clients can come.

    Arguments go before the configuration file, which goes before :class:`Settings`' defaults.

    Args:
        host: address to listen on.
        port: TCP port to listen on.
        model: folder of the model.
        config: configuration file, see :mod:`workers.settings`.
        encoder_workers: processes that encode.
        decoder_workers: processes that decode.

    Raises:
        SettingsError: the configuration is not usable, or the address is taken.
        CheckpointError: the model's folder is not a model.
    """
    settings = (read_settings(config) if config is not None else Settings()).override(
        host=host,
        port=port,
        model=model,
        encoder_workers=encoder_workers,
        decoder_workers=decoder_workers,
    )
    path = settings.model if settings.model is not None else str(NANO)
    serve(
        settings,
        Path(path).name,
        partial(load_encoder, path, settings.device, settings.dtype),
        partial(load_decoder, path, settings.device, settings.dtype, settings.ple),
        languages=PromptTemplate.from_pretrained(locate(path)).languages,
    )


def serve(
    settings: Settings,
    model: str,
    encoder: Load[EncoderStream],
    decoder: Load[DecoderStream],
    *,
    languages: Sequence[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM, with workers that load what they are given.

    Args:
        settings: how to serve.
        model: the model's name, for clients.
        encoder: loads what encoder workers host.
        decoder: loads what decoder workers host.
        languages: that the model was made for, for clients.

    Raises:
        SettingsError: the address is taken.
        SurtitleError: whatever loading raises.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # who knocks with garbage is no error of ours
    # Ray starts and stops in a thread of its own: there no signal interrupts it half-way, and the kernel
    # kills Ray's processes when the thread that started them ends.
    with (
        _listen(settings.host, settings.port) as sock,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray") as ray_thread,
    ):
        try:
            serving = _serve(sock, settings, model, encoder, decoder, languages=languages)
            asyncio.run(_until_signal(serving, ray_thread))
        finally:
            ray_thread.submit(placement.stop_local).result()


async def _until_signal(serving: Coroutine[None, None, None], ray_thread: ThreadPoolExecutor) -> None:
    """Start Ray and serve until SIGINT or SIGTERM, then unwind."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def handle_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, signalled.set)

    handle_signals()
    await loop.run_in_executor(ray_thread, placement.start_local)
    handle_signals()  # Ray has put its own in their place
    task = asyncio.ensure_future(serving)
    waiting = asyncio.create_task(signalled.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    waiting.cancel()


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before anything is loaded; who connects early waits until the server is ready."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


async def _serve(
    sock: socket.socket,
    settings: Settings,
    model: str,
    encoder: Load[EncoderStream],
    decoder: Load[DecoderStream],
    *,
    languages: Sequence[str],
) -> None:
    workers = settings.encoder_workers + settings.decoder_workers
    place = partial(
        RayWorker,
        capacity=settings.streams,
        threads=settings.threads or max(1, (os.cpu_count() or 1) // workers),
        gpus=1 / workers if settings.device.startswith("cuda") else 0.0,
    )
    encoders = [place(EncoderWorker, encoder) for _ in range(settings.encoder_workers)]
    decoders = [place(DecoderWorker, decoder) for _ in range(settings.decoder_workers)]
    metrics = Metrics()
    async with run_pool(encoders, decoders, metrics) as pool:
        limits = Limits(resume_seconds=settings.resume_seconds)
        gateway = Gateway(
            pool.encoders,
            pool.decoders,
            metrics=metrics,
            model=model,
            limits=limits,
            languages=languages,
            sinks=settings.sinks,
        )
        async with gateway.serve(sock) as server:
            host, port = sock.getsockname()[:2]
            print(_ready_line(host, port, model, settings), file=sys.stderr, flush=True)
            await server.wait_closed()


def _ready_line(host: str, port: int, model: str, settings: Settings) -> str:
    address = f"[{host}]" if ":" in host else host
    encoders, decoders = settings.encoder_workers, settings.decoder_workers
    return (
        f"surtitle ready on ws://{address}:{port}{STREAM_PATH} (model {model}, "
        f"{encoders} encoder worker{'s' * (encoders > 1)}, {decoders} decoder worker{'s' * (decoders > 1)})"
    )
