"""Replicas: real processes that exchange over gloo what keeps their models the same."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn

from pipeline.training.replicas import Replicas, joined

COUNT, STEPS, RATE = 2, 3, 0.1


class Made(NamedTuple):
    """What one replica was told, and what became of its model."""

    rank: int
    count: int
    first: bool
    shared: dict[str, int]
    agreed: float
    begun: list[Tensor]
    gradients: list[Tensor | None]
    learned: list[Tensor]


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False), nn.Linear(2, 2))


def loss(replica: nn.Sequential, rank: int, step: int) -> Tensor:
    """Of examples of its own; the last layer takes no part."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    return replica[:3](torch.randn(6, 5, generator=generator)).square().mean()


def learn(replicas: Replicas) -> Made:
    """Some steps from parameters that differ at first."""
    rank = replicas.rank
    shared, agreed = replicas.shared(lambda: {"made by": rank}), replicas.agreed(0.1 + rank)
    replica = network(seed=rank)
    parameters = list(replica.parameters())
    replicas.align(parameters)
    begun = [parameter.detach().clone() for parameter in parameters]
    gradients: list[Tensor | None] = []
    for step in range(STEPS):
        loss(replica, rank, step).backward()
        replicas.average_gradients(parameters)
        if not step:
            gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.sub_(RATE * parameter.grad)
                    parameter.grad = None
    learned = [parameter.detach() for parameter in parameters]
    return Made(rank, replicas.count, replicas.first, shared, agreed, begun, gradients, learned)


def replica_process(environment: dict[str, str], out: Path) -> None:
    """What ``torchrun`` would start."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    with joined("cpu") as (replicas, device):
        assert device == torch.device("cpu")
        made = learn(replicas)
    assert not distributed.is_initialized()
    torch.save(tuple(made), out)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """By each of the replicas."""
    folder = tmp_path_factory.mktemp("replicas")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(COUNT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(COUNT):
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = multiprocessing.get_context("spawn").Process(
            target=replica_process, args=(environment, folder / str(rank)), daemon=True
        )
        process.start()
        processes.append(process)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * COUNT
    return [Made(*torch.load(folder / str(rank))) for rank in range(COUNT)]


def alone() -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """One process that learns from the examples of all: its beginning, first gradients and end."""
    replica = network(seed=0)
    parameters = list(replica.parameters())
    begun = [parameter.detach().clone() for parameter in parameters]
    first: list[Any] = []
    for step in range(STEPS):
        mean = torch.stack([loss(replica, rank, step) for rank in range(COUNT)]).mean()
        gradients = torch.autograd.grad(mean, parameters, allow_unused=True)
        first = first or list(gradients)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(RATE * gradient)
    return begun, first, [parameter.detach() for parameter in parameters]


def test_every_process_has_its_place(made):
    assert [(one.rank, one.count, one.first) for one in made] == [(0, COUNT, True), (1, COUNT, False)]


def test_all_are_told_what_the_first_says(made):
    assert [one.shared for one in made] == [{"made by": 0}] * COUNT
    assert [one.agreed for one in made] == [0.1] * COUNT


def test_they_learn_as_one_process_would_from_the_examples_of_all(made):
    begun, gradients, learned = alone()

    assert gradients[-1] is None
    for one in made:
        torch.testing.assert_close(one.begun, begun, atol=0, rtol=0)
        assert one.gradients[-2:] == [None, None]
        torch.testing.assert_close(one.gradients[:-2], gradients[:-2])
        torch.testing.assert_close(one.learned, learned)
    assert any((before != after).any() for before, after in zip(begun, learned, strict=True))


def test_they_do_not_drift_apart(made):
    """To the last bit: what is equal at first and changed by the same gradients stays equal."""
    torch.testing.assert_close(made[0].learned, made[1].learned, atol=0, rtol=0)


def test_one_alone_needs_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as (replicas, device):
        made = learn(replicas)
        assert not distributed.is_initialized()

    assert device == torch.device("cpu")
    assert (made.rank, made.count, made.first) == (0, 1, True)
    assert made.shared == {"made by": 0}
    replica = network(0)
    loss(replica, 0, 0).backward()
    torch.testing.assert_close(made.gradients[:3], [p.grad for p in [*replica.parameters()][:3]])
