"""Days of conferences against gateways that come and go: who is refused, what idles, how soon it reacts.

    python -m benchmarks.autoscale [--seed 0] [--start-seconds 150] [--plot docs/images]

A simulation, second by second. Streams come as the programmes in ``benchmarks/data/conferences.toml`` have
them: speakers of a session begin within some minutes around its start, talks at tables at random. Each goes
to one of the gateways that are ready, whichever; who is refused asks again every few seconds and gives up
after five minutes. Each gateway has :class:`workers.autoscale.Forecast` look at its streams at each scrape,
as it does in production. The autoscaler is Kubernetes' as it is documented (the mean of the metric over ready
pods against its target, a tolerance of a tenth, policies and stabilization), with the bounds and behaviour
that ``k8s/overlays/production/release/autoscaler.yaml`` gives it, and with places as the model's
configuration has them. A gateway that is taken away starts no more streams, and after its pause its streams
go on elsewhere.

Three ways are compared on the same streams: ``forecast``; ``streams``, which is the same but for a load that
is streams by places without foresight, at the same share of places; and ``fixed``, the number of gateways
that the busiest moment of the day needs. Starting a gateway takes ``--start-seconds``: a node, an image, a
model.

Prints a table a day: streams, how many were refused at first and how many for good, the longest wait for a
place, idle minutes (places of ready gateways that no stream had, in gateways' minutes), and the median and
the longest time from the moment at which streams wanted more than the share of places to the moment at which
there were enough again. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import tomllib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from workers.autoscale import FULL, Forecast
from workers.seat import RETRY_SECONDS
from workers.settings import read_settings

ROOT = Path(__file__).parents[1]
DAYS = ROOT / "benchmarks" / "data" / "conferences.toml"
SCALER = ROOT / "k8s" / "overlays" / "production" / "release" / "autoscaler.yaml"
SETTINGS = SCALER.with_name("surtitle.toml")

SCRAPE_SECONDS, SYNC_SECONDS = 15, 15
"""How often Prometheus asks, and how often the autoscaler looks at what it has heard."""

PATIENCE_SECONDS = 300
TOLERANCE = 0.1
DRAIN_SECONDS = 10

Load = Callable[[int], Callable[[float, float, float], float]]
"""Makes, for a number of places, what a gateway says of itself at a moment, by streams and refusals."""


@dataclass(frozen=True)
class Arrival:
    """A stream: when somebody begins to speak, and for how long; seconds of the day."""

    start: float
    seconds: float


@dataclass(frozen=True)
class Scaler:
    """Kubernetes' horizontal autoscaler on one metric; see its documentation for the names."""

    low: int
    high: int
    target: float
    up: Sequence[dict[str, Any]]
    down: Sequence[dict[str, Any]]
    down_window: int

    @classmethod
    def read(cls, path: Path) -> Scaler:
        """From the manifest."""
        spec = yaml.safe_load(path.read_text("utf-8"))["spec"]
        behavior = spec["behavior"]
        return cls(
            spec["minReplicas"],
            spec["maxReplicas"],
            float(spec["metrics"][0]["pods"]["target"]["averageValue"]),
            behavior["scaleUp"]["policies"],
            behavior["scaleDown"]["policies"],
            behavior["scaleDown"]["stabilizationWindowSeconds"],
        )


@dataclass
class Replicas:
    """How many gateways the autoscaler wants, from look to look."""

    scaler: Scaler
    number: int
    # What each look of the stabilization window has recommended, and what has been changed of late.
    recommended: deque[tuple[float, int]] = field(default_factory=deque)
    changes: deque[tuple[float, int]] = field(default_factory=deque)

    def look(self, now: float, loads: Sequence[float]) -> int:
        """The number of gateways for the loads of those that are ready."""
        scaler = self.scaler
        ratio = statistics.fmean(loads) / scaler.target if loads else 1.0
        wanted = self.number
        if abs(ratio - 1) > TOLERANCE:
            # Pods that are not ready yet count as without load, which comes to the sum of those that are.
            wanted = math.ceil(ratio * len(loads))
            wanted = max(wanted, self.number) if ratio > 1 else min(wanted, self.number)
        wanted = min(scaler.high, max(scaler.low, wanted))
        self.recommended.append((now, wanted))
        while self.recommended[0][0] < now - scaler.down_window:
            self.recommended.popleft()
        if wanted < self.number:
            wanted = max(number for _, number in self.recommended)
        number = self._allowed(now, wanted)
        if number != self.number:
            self.changes.append((now, number - self.number))
            self.number = number
        return number

    def _allowed(self, now: float, wanted: int) -> int:
        if wanted > self.number:
            return min(wanted, max(self._bound(now, policy, +1) for policy in self.scaler.up))
        if wanted < self.number:
            return max(wanted, min(self._bound(now, policy, -1) for policy in self.scaler.down))
        return wanted

    def _bound(self, now: float, policy: dict[str, Any], sign: int) -> int:
        """How far a policy lets the number go from where it was a period ago."""
        recent = [
            by for moment, by in self.changes if moment > now - policy["periodSeconds"] and by * sign > 0
        ]
        before = self.number - sum(recent)
        if policy["type"] == "Pods":
            return before + sign * policy["value"]
        return math.ceil(before * (1 + sign * policy["value"] / 100))


@dataclass
class Place:
    """A gateway."""

    ready_at: float
    load: Callable[[float, float, float], float]
    leaves_at: float = math.inf
    streams: int = 0
    refused: int = 0
    said: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a day went; minutes are those of gateways."""

    day: str
    way: str
    streams: int
    refused_at_first: int
    given_up: int
    longest_wait_s: float
    idle_minutes: float
    most_gateways: int
    reaction_p50_s: float
    reaction_max_s: float


@dataclass
class Trace:
    """Streams that run or wait, and places of ready gateways, at each minute."""

    hours: list[float] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


def arrivals(day: dict[str, Any], seed: int) -> list[Arrival]:
    """The streams of a programme, in the order in which they begin."""
    chance = random.Random(f"{seed} {day['name']}")
    found = []
    for session in day["sessions"]:
        start, end = _seconds(session["start"]), _seconds(session["end"])
        for _ in range(session["rooms"]):
            begins = start + chance.gauss(0, 120)
            found.append(Arrival(begins, max(60.0, end + chance.gauss(0, 240) - begins)))
    for hours in day["tables"]:
        start, end, rate = _seconds(hours["start"]), _seconds(hours["end"]), hours["per_hour"] / 3600
        now = start + chance.expovariate(rate)
        while now < end:
            found.append(Arrival(now, max(30.0, chance.expovariate(1 / (60 * day["table_minutes"])))))
            now += chance.expovariate(rate)
    return sorted(found, key=lambda arrival: arrival.start)


def peak(streams: Sequence[Arrival]) -> int:
    """Most streams at a time."""
    changes = sorted([(s.start, 1) for s in streams] + [(s.start + s.seconds, -1) for s in streams])
    most = now = 0
    for _, by in changes:
        now += by
        most = max(most, now)
    return most


def simulate(
    name: str,
    way: str,
    streams: Sequence[Arrival],
    scaler: Scaler,
    load: Load,
    *,
    places: int,
    start_seconds: float,
    seed: int,
) -> tuple[Outcome, Trace]:
    """Run a day."""
    chance = random.Random(f"{seed} {name} balancer")
    begin = int(streams[0].start) - 1800
    end = int(max(stream.start + stream.seconds for stream in streams)) + 60
    gateways = [Place(begin, load(places)) for _ in range(scaler.low)]
    replicas = Replicas(scaler, scaler.low)
    coming = deque(streams)
    # Who waits: (when to ask again, order, since when, until when he wants to speak).
    waiting: list[tuple[float, int, float, float]] = []
    running: list[tuple[float, int, Place]] = []
    order = refused_at_first = given_up = 0
    longest_wait = idle = 0.0
    most, trace, short_since, reactions = scaler.low, Trace(), None, []

    def ask(now: float, since: float, until: float) -> None:
        nonlocal order, refused_at_first, given_up, longest_wait
        order += 1
        gateway = chance.choice([g for g in gateways if g.ready_at <= now and g.leaves_at == math.inf])
        if gateway.streams < places:
            gateway.streams += 1
            longest_wait = max(longest_wait, now - since)
            heapq.heappush(running, (until, order, gateway))
            return
        gateway.refused += 1
        refused_at_first += now == since
        if now - since >= PATIENCE_SECONDS:
            given_up += 1
        else:
            heapq.heappush(waiting, (now + RETRY_SECONDS, order, since, until))

    for second in range(begin, end):
        now = float(second)
        while running and running[0][0] <= now:
            heapq.heappop(running)[2].streams -= 1
        for gateway in [g for g in gateways if g.leaves_at <= now]:
            gateways.remove(gateway)
            moved = [entry for entry in running if entry[2] is gateway]
            running = [entry for entry in running if entry[2] is not gateway]
            heapq.heapify(running)
            for until, _, _ in moved:
                ask(now, now, until)
        while coming and coming[0].start <= now:
            stream = coming.popleft()
            ask(now, now, now + stream.seconds)
        while waiting and waiting[0][0] <= now:
            _, _, since, until = heapq.heappop(waiting)
            ask(now, since, until)
        ready = [g for g in gateways if g.ready_at <= now and g.leaves_at == math.inf]
        if second % SCRAPE_SECONDS == 0:
            for gateway in ready:
                gateway.said = gateway.load(now, gateway.streams, gateway.refused)
        if second % SYNC_SECONDS == SYNC_SECONDS - 1:
            number = replicas.look(now, [g.said for g in ready])
            staying = [g for g in gateways if g.leaves_at == math.inf]
            gateways += [Place(now + start_seconds, load(places)) for _ in range(number - len(staying))]
            for gateway in staying[number:]:
                gateway.leaves_at = now + DRAIN_SECONDS
            most = max(most, number)
        wanted = sum(g.streams for g in gateways) + len(waiting)
        room = places * len(ready)
        idle += max(0, room - wanted) / places / 60
        if wanted > FULL * room:
            short_since = now if short_since is None else short_since
        elif short_since is not None:
            reactions.append(now - short_since)
            short_since = None
        if second % 60 == 0:
            trace.hours.append(now / 3600)
            trace.wanted.append(wanted)
            trace.places.append(room)
    outcome = Outcome(
        name,
        way,
        len(streams),
        refused_at_first,
        given_up,
        longest_wait,
        round(idle),
        most,
        statistics.median(reactions) if reactions else 0.0,
        max(reactions, default=0.0),
    )
    return outcome, trace


def without_foresight(places: int) -> Callable[[float, float, float], float]:
    """A load that is streams by places, at the share of places that the forecast would have, too."""
    return lambda now, streams, refused: streams / (FULL * places)


def run(seed: int, start_seconds: float) -> list[tuple[Outcome, Trace]]:
    """All days in all ways."""
    scaler, settings = Scaler.read(SCALER), read_settings(SETTINGS)
    places = settings.streams * min(settings.encoder_workers, settings.decoder_workers)
    done = []
    for day in tomllib.loads(DAYS.read_text("utf-8"))["days"]:
        streams = arrivals(day, seed)
        enough = math.ceil(peak(streams) / (FULL * places))
        fixed = Scaler(enough, enough, scaler.target, scaler.up, scaler.down, scaler.down_window)
        for way, bounds, load in (
            ("forecast", scaler, Forecast),
            ("streams", scaler, without_foresight),
            ("fixed", fixed, without_foresight),
        ):
            observe: Load = (lambda n: Forecast(n).observe) if load is Forecast else load
            done.append(
                simulate(
                    day["name"],
                    way,
                    streams,
                    bounds,
                    observe,
                    places=places,
                    start_seconds=start_seconds,
                    seed=seed,
                )
            )
    return done


def plot(done: Sequence[tuple[Outcome, Trace]], folder: Path) -> None:
    """Draw a picture for each day, ``autoscale-DAY.png``."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    styles = {"forecast": "tab:blue", "streams": "tab:orange", "fixed": "tab:gray"}
    for day in dict.fromkeys(outcome.day for outcome, _ in done):
        of_day = [(outcome, trace) for outcome, trace in done if outcome.day == day]
        figure, (lines, refused, idle) = pyplot.subplots(
            1, 3, figsize=(12, 4), width_ratios=(4, 1, 1), layout="constrained"
        )
        lines.fill_between(of_day[0][1].hours, of_day[0][1].wanted, color="0.85", label="wanted")
        for outcome, trace in of_day:
            lines.step(trace.hours, trace.places, where="post", color=styles[outcome.way], label=outcome.way)
        lines.set(title=day, xlabel="hour of the day", ylabel="streams, places of ready gateways")
        lines.set_ylim(top=1.15 * max(max(trace.places + trace.wanted) for _, trace in of_day))
        lines.legend(loc="upper center", ncols=4)
        ways = [outcome.way for outcome, _ in of_day]
        colours = [styles[way] for way in ways]
        refused.bar(ways, [outcome.refused_at_first for outcome, _ in of_day], color=colours)
        refused.set(title="refused at first")
        idle.bar(ways, [outcome.idle_minutes / 60 for outcome, _ in of_day], color=colours)
        idle.set(title="idle gateway hours")
        for axes in (refused, idle):
            axes.tick_params(axis="x", rotation=45)
        figure.savefig(folder / f"autoscale-{day}.png", dpi=100)
        pyplot.close(figure)


def _seconds(clock: str) -> int:
    hours, minutes = clock.split(":")
    return 3600 * int(hours) + 60 * int(minutes)


def main() -> None:
    """Run all days and print how they went."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-seconds", type=float, default=150.0, help="default: %(default)s")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw pictures; needs matplotlib")
    options = parser.parse_args()
    done = run(options.seed, options.start_seconds)
    print(
        f"| {'day':<10} | {'way':<8} | streams | refused at first | given up | longest wait | idle min |",
        end="",
    )
    print(" gateways | reaction p50 | max |")
    print("|" + "---|" * 10)
    for o, _ in done:
        print(
            f"| {o.day:<10} | {o.way:<8} | {o.streams:>7,} | {o.refused_at_first:>16,} | {o.given_up:>8,} | "
            f"{o.longest_wait_s:>10.0f} s | {o.idle_minutes:>8,.0f} | {o.most_gateways:>8} | "
            f"{o.reaction_p50_s:>10.0f} s | {o.reaction_max_s:.0f} s |"
        )
    if options.plot is not None:
        plot(done, options.plot)
    print(json.dumps({"runs": [asdict(outcome) for outcome, _ in done]}))


if __name__ == "__main__":
    main()
