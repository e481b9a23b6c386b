"""From takes to a table: medians, ratios taken within a round, and the bars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

Take = dict[str, float]
Takes = dict[str, dict[str, list[Take]]]
"""scenario -> target -> one take a round"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One column. `above_direct` figures are what a target adds to the mock's own answer."""

    title: str
    scenario: str
    key: str
    digits: int = 0
    above_direct: bool = False


FIGURES = (
    Figure(title="CPU µs/request, c=64", scenario="json c=64", key="cpu_us_per_request", digits=1),
    Figure(title="requests/s, c=64", scenario="json c=64", key="answers_per_s"),
    Figure(title="added p50 µs, c=1", scenario="json c=1", key="latency_p50", above_direct=True),
    Figure(title="p99 ms at 200/s", scenario="json 200/s", key="latency_p99_ms", digits=2),
    Figure(title="CPU µs/event, 64 × 50/s", scenario="sse 64 x 50/s", key="cpu_us_per_event", digits=1),
    Figure(title="event travel p99 µs", scenario="sse 64 x 50/s", key="travel_p99"),
    Figure(title="added TTFT µs, 1 stream", scenario="ttft", key="ttft_p50", above_direct=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What cortex has to reach, as a ratio to vllm-router."""

    text: str
    figure: Figure
    at_most: float


BARS = (
    Bar(text="CPU per request at c=64", figure=FIGURES[0], at_most=0.7),
    Bar(text="CPU per paced event", figure=FIGURES[4], at_most=1.1),
    Bar(text="added TTFT at one stream", figure=FIGURES[6], at_most=1.5),
)
ABORT_MS = 50.0


def per_round(takes: Takes, figure: Figure, target: str) -> list[float]:
    """The figure in each round; empty where the target has none."""
    found = takes.get(figure.scenario, {})
    values = [take[figure.key] for take in found.get(target, []) if figure.key in take]
    if not figure.above_direct:
        return values
    if target == "direct":
        return []
    base = [take[figure.key] for take in found.get("direct", []) if figure.key in take]
    return [value - under for value, under in zip(values, base, strict=False)]


def ratio(takes: Takes, figure: Figure, target: str, other: str) -> float | None:
    """Median over the rounds of target/other: neighbours in time, so that a slow minute slows both."""
    ours, theirs = per_round(takes, figure, target), per_round(takes, figure, other)
    shares = [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]
    return median(shares) if shares else None


def table(takes: Takes, targets: list[str], memory: dict[str, tuple[float, float]]) -> str:
    """Markdown: one row a target."""
    rows = [["target", *(figure.title for figure in FIGURES), "memory MiB, idle → after"]]
    for target in targets:
        cells = [_shown(per_round(takes, figure, target), figure.digits) for figure in FIGURES]
        idle, after = memory.get(target, (0.0, 0.0))
        rows.append([target, *cells, f"{idle:.0f} → {after:.0f}" if after else "–"])
    return _markdown(rows)


def ratios(takes: Takes, targets: list[str], others: Iterable[str]) -> str:
    """Markdown: cortex against the others."""
    rows = [["cortex ÷", *(figure.title for figure in FIGURES)]]
    for other in others:
        if other in targets and "cortex" in targets:
            found = [ratio(takes, figure, "cortex", other) for figure in FIGURES]
            rows.append([other, *("–" if share is None else f"{share:.2f}" for share in found)])
    return _markdown(rows) if len(rows) > 1 else ""


def verdicts(takes: Takes, aborts: dict[str, dict[str, list[float | None]]]) -> list[tuple[bool, str]]:
    """Each bar: whether it holds, and the sentence that says so."""
    found = []
    for bar in BARS:
        share = ratio(takes, bar.figure, "cortex", "vllm-router")
        if share is not None:
            found.append((share <= bar.at_most, f"{bar.text}: {share:.2f}× vllm-router (bar {bar.at_most}×)"))
    for kind, times in aborts.get("cortex", {}).items():
        worst = None if None in times else max(time for time in times if time is not None)
        text = f"client leaves, {kind}: upstream aborted after {_ms(worst)} at worst (bar {ABORT_MS:.0f} ms)"
        found.append((worst is not None and worst <= ABORT_MS, text))
    return found


def abort_table(aborts: dict[str, dict[str, list[float | None]]]) -> str:
    """Markdown: worst time to the upstream's abort."""
    kinds = list(next(iter(aborts.values()), {}))
    rows = [["upstream aborted, ms (worst)", *kinds]]
    for target, found in aborts.items():
        times = [found[kind] for kind in kinds]
        rows.append(
            [target, *("never" if None in row else f"{max(t for t in row if t is not None):.1f}" for row in times)]
        )
    return _markdown(rows)


def _ms(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} ms"


def _shown(values: list[float], digits: int) -> str:
    return f"{median(values):,.{digits}f}" if values else "–"


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        " | ".join(cell.ljust(widths[0]) if at == 0 else cell.rjust(widths[at]) for at, cell in enumerate(row))
        for row in rows
    ]
    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
