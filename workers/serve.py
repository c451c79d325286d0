"""``surtitle serve``: a local Ray, the workers on it, and the gateway in front."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pipeline
from pipeline.wire.protocol import SUBPROTOCOL, Limits
from workers import placement
from workers.decoder import DecoderWorker
from workers.encoder import EncoderWorker
from workers.gateway import Gateway
from workers.loading import load_decoder, load_encoder
from workers.metrics import Metrics
from workers.placement import RayWorker
from workers.pool import run_pool
from workers.settings import Settings, SettingsError, read_settings

NANO = Path(pipeline.__file__).parent / "nano"
"""Folder of the bundled model."""


def run(
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
    try:
        placement.start_local()
        asyncio.run(_serve(settings))
    except KeyboardInterrupt:
        return
    finally:
        placement.stop_local()


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.current_task()
    assert serving is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await _serve_for_ever(settings)
    except asyncio.CancelledError:
        return


async def _serve_for_ever(settings: Settings) -> None:
    metrics = Metrics()
    encoders, decoders = _workers(settings)
    async with run_pool(encoders, decoders, metrics) as pool:
        gateway = Gateway(
            pool.encoders,
            pool.decoders,
            metrics=metrics,
            model=_model_path(settings).name,
            limits=Limits(resume_seconds=settings.resume_seconds),
        )
        try:
            async with gateway.serve(settings.host, settings.port) as server:
                host, port = server.sockets[0].getsockname()[:2]
                print(_ready_line(host, port, settings), file=sys.stderr, flush=True)
                await server.wait_closed()
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
            ) from None


def _workers(settings: Settings) -> tuple[list[RayWorker], list[RayWorker]]:
    number = settings.encoder_workers + settings.decoder_workers
    threads = settings.threads or max(1, (os.cpu_count() or 1) // number)
    load = (_model_path(settings), settings.device, settings.dtype)
    gpus = 1 / number if settings.device.startswith("cuda") else 0.0

    def workers(host: type[EncoderWorker | DecoderWorker], loader: object, count: int) -> list[RayWorker]:
        return [
            RayWorker(host, partial(loader, *load), capacity=settings.streams, threads=threads, gpus=gpus)
            for _ in range(count)
        ]

    return (
        workers(EncoderWorker, load_encoder, settings.encoder_workers),
        workers(DecoderWorker, load_decoder, settings.decoder_workers),
    )


def _model_path(settings: Settings) -> Path:
    return Path(settings.model) if settings.model is not None else NANO


def _ready_line(host: str, port: int, settings: Settings) -> str:
    address = f"[{host}]" if ":" in host else host
    encoders, decoders = settings.encoder_workers, settings.decoder_workers
    return (
        f"surtitle ready on ws://{address}:{port}/v1/stream (model {_model_path(settings).name}, "
        f"{encoders} encoder worker{'s' * (encoders > 1)}, {decoders} decoder worker{'s' * (decoders > 1)})"
    )
