"""``surtitle serve``: a local Ray, the workers on it, and the gateway in front."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from pipeline.checkpoint import locate
from pipeline.cli import NANO
from pipeline.gemma.prompt import PromptTemplate
from workers import logs, placement, tracing
from workers.access.guard import Guard
from workers.access.tls import Certificate
from workers.autoscale import Forecast
from workers.bookkeeper import Bookkeeper
from workers.clock import unix_clock
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.endpoints import STREAM_PATH
from workers.gateway import Gateway
from workers.loading import load_decoder, load_encoder
from workers.metrics import Metrics
from workers.placement import RayLedger, RayWorker
from workers.pool import run_pool
from workers.protocols import DecoderStream, EncoderStream, Load, WorkerLostError
from workers.settings import Settings, SettingsError, read_settings

logger = logging.getLogger(__name__)


def run(
    *,
    host: str | None = None,
    port: int | None = None,
    model: str | None = None,
    config: Path | None = None,
    encoder_workers: int | None = None,
    decoder_workers: int | None = None,
    beams: int | None = None,
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
        beams: texts that go on beside each other where a final one is decoded.

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
        beams=beams,
    )
    path = settings.model if settings.model is not None else str(NANO)
    template = PromptTemplate.from_pretrained(locate(path))
    serve(
        settings,
        Path(path).name,
        partial(load_encoder, path, *settings.encoding, settings.streams),
        partial(
            load_decoder,
            path,
            settings.device,
            settings.dtype,
            settings.ple,
            settings.streams,
            fuse=settings.fuse,
            beams=settings.searched,
        ),
        languages=template.languages,
        context=bool(template.context),
    )


def serve(
    settings: Settings,
    model: str,
    encoder: Load[EncoderStream],
    decoder: Load[DecoderStream],
    *,
    languages: Sequence[str] = (),
    context: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM, with workers that load what they are given.

    Args:
        settings: how to serve.
        model: the model's name, for clients.
        encoder: loads what encoder workers host.
        decoder: loads what decoder workers host.
        languages: that the model was made for, for clients.
        context: whether it was made to be told a context, for clients.

    Raises:
        SettingsError: the address is taken.
        SurtitleError: whatever loading raises.
    """
    logs.configure(settings.logs)
    try:
        guard = settings.access.guard(settings.host, time.time)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    certificate = settings.access.tls()
    # Ray starts and stops in a thread of its own: there no signal interrupts it half-way, and the kernel
    # kills Ray's processes when the thread that started them ends.
    with (
        _listen(settings.host, settings.port) as sock,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray") as ray_thread,
    ):
        try:
            draining = asyncio.Event()
            serving = _serve(
                sock,
                settings,
                model,
                encoder,
                decoder,
                languages=languages,
                context=context,
                guard=guard,
                certificate=certificate,
                draining=draining,
            )
            asyncio.run(_until_signal(serving, ray_thread, draining))
        finally:
            ray_thread.submit(placement.stop_local).result()


async def _until_signal(
    serving: Coroutine[None, None, None], ray_thread: ThreadPoolExecutor, draining: asyncio.Event
) -> None:
    """Start Ray and serve until SIGINT, or until ``draining``, which SIGTERM sets, is done; then unwind.

    A second SIGTERM is a SIGINT.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def drain() -> None:
        if draining.is_set():
            signalled.set()
        draining.set()

    def handle_signals() -> None:
        loop.add_signal_handler(signal.SIGINT, signalled.set)
        loop.add_signal_handler(signal.SIGTERM, drain)

    handle_signals()
    await loop.run_in_executor(ray_thread, placement.start)
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
    context: bool,
    guard: Guard,
    certificate: Certificate | None,
    draining: asyncio.Event,
) -> None:
    workers = settings.encoder_workers + settings.decoder_workers + 2 * settings.spares
    place = partial(
        RayWorker,
        capacity=settings.streams,
        threads=settings.threads or max(1, (os.cpu_count() or 1) // workers),
    )
    encoders, decoders = (
        [
            place(host, load, gpus=gpus(settings, stage), resources=placement.place_of(stage))
            for _ in range(number + settings.spares)
        ]
        for stage, host, load, number in (
            ("encoder", EncoderWorker, encoder, settings.encoder_workers),
            ("decoder", DecoderWorker, decoder, settings.decoder_workers),
        )
    )
    metrics = Metrics()
    metrics.forecast(Forecast(settings.streams * min(settings.encoder_workers, settings.decoder_workers)))
    # A Ray of our own ends with us, and so would a ledger on it.
    keeper = Bookkeeper(RayLedger(), metrics) if placement.on_cluster() else None
    clock = unix_clock()
    async with (
        tracing.configured(os.environ, clock) as traces,
        run_pool(
            encoders,
            decoders,
            metrics,
            spares=settings.spares,
            target_load=settings.target_load,
            tracing=traces,
        ) as pool,
        _running(keeper),
    ):
        gateway = Gateway(
            pool.encoders,
            pool.decoders,
            metrics=metrics,
            model=model,
            limits=settings.access.limits(settings.resume_seconds),
            languages=languages,
            context=context,
            sinks=settings.sinks,
            guard=guard,
            tls=certificate.context if certificate else None,
            keeper=keeper,
            clock=clock,
            tracing=traces,
        )
        async with gateway.serve(sock), _fresh(certificate):
            host, port = sock.getsockname()[:2]
            print(_ready_line(host, port, model, settings), file=sys.stderr, flush=True)
            await _until_told(draining)
            await gateway.drain(settings.drain_seconds)


async def _until_told(draining: asyncio.Event) -> None:
    """Wait until ``draining`` is set.

    Raises:
        WorkerLostError: no worker can be had here any more; streams can only go on on another gateway.
    """
    told = asyncio.create_task(draining.wait())
    cut_off = asyncio.create_task(placement.cut_off()) if placement.on_cluster() else None
    try:
        await asyncio.wait(filter(None, (told, cut_off)), return_when=asyncio.FIRST_COMPLETED)
        if cut_off is not None and cut_off.done():
            await cut_off
            # Said here, for Ray may end the process when it is to be stopped without its node.
            logger.error("the node of Ray on this machine has ended, and with it all workers of this gateway")
            raise WorkerLostError("no worker can be had any more")
    finally:
        for task in filter(None, (told, cut_off)):
            task.cancel()


@asynccontextmanager
async def _running(keeper: Bookkeeper | None) -> AsyncIterator[None]:
    """Have streams be written into the ledger while the block runs."""
    writing = asyncio.create_task(keeper.run(), name="bookkeeper") if keeper else None
    try:
        yield
    finally:
        if writing is not None:
            writing.cancel()


@asynccontextmanager
async def _fresh(certificate: Certificate | None) -> AsyncIterator[None]:
    """Have a certificate be renewed while the block runs."""
    renewing = asyncio.create_task(certificate.keep_fresh()) if certificate else None
    try:
        yield
    finally:
        if renewing is not None:
            renewing.cancel()


def gpus(settings: Settings, stage: str) -> float:
    """GPUs of one worker: one on a cluster; the workers of one machine share its own."""
    numbers = {
        "encoder": (settings.encoding[0], settings.encoder_workers),
        "decoder": (settings.device, settings.decoder_workers),
    }
    on_gpu = {
        name: number + settings.spares
        for name, (device, number) in numbers.items()
        if device.startswith("cuda")
    }
    if stage not in on_gpu:
        return 0.0
    return 1.0 if placement.on_cluster() else 1 / sum(on_gpu.values())


def _ready_line(host: str, port: int, model: str, settings: Settings) -> str:
    address = f"[{host}]" if ":" in host else host
    scheme = "ws" if settings.access.certificate is None else "wss"
    encoders, decoders = settings.encoder_workers, settings.decoder_workers
    return (
        f"surtitle ready on {scheme}://{address}:{port}{STREAM_PATH} (model {model}, "
        f"{encoders} encoder worker{'s' * (encoders > 1)}, {decoders} decoder worker{'s' * (decoders > 1)})"
    )
