"""One sentence from the five cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from thermolearn.report.cards import Card, Status

# What to say first when several cards ask for a change.
ORDER = ("learning", "layers", "moving", "noise", "data")
TOPIC = {
    "learning": "whether it learns",
    "moving": "whether it still moves",
    "noise": "whether noise or curvature limits it",
    "layers": "whether layers are dead or stuck",
    "data": "whether more data or a bigger model would help",
}


@dataclass(frozen=True)
class Verdict:
    """Status and sentence of the first screen."""

    status: Status
    sentence: str


def verdict(cards: Sequence[Card]) -> Verdict:
    """The one sentence, and the one thing to change: the first red card, else the first amber."""
    by_key = {c.key: c for c in cards}
    ranked = [by_key[k] for k in ORDER if k in by_key]
    bad = [c for c in ranked if c.status == "bad"]
    warn = [c for c in ranked if c.status == "warn"]
    open_questions = [TOPIC[c.key] for c in ranked if c.status == "unknown"]
    learning = by_key.get("learning")
    if bad:
        first = bad[0]
        return Verdict("bad", f"{_failure(first)} Change first: {first.advice}.")
    if learning is None or learning.status == "unknown":
        if warn:
            return Verdict(
                "unknown", f"Cannot tell whether it trains. One thing to change: {warn[0].advice}."
            )
        return Verdict("unknown", f"Nothing to change; could not be told: {_list(open_questions)}.")
    if learning.status == "warn":
        return Verdict("warn", f"Does not train as it should. Change first: {learning.advice}.")
    if warn:
        return Verdict("warn", f"Trains normally. One thing to change: {warn[0].advice}.")
    if open_questions:
        return Verdict(
            "good",
            f"Trains normally. Nothing to change; could not be told: {_list(open_questions)}.",
        )
    return Verdict("good", "Trains normally. Nothing to change.")


def _failure(card: Card) -> str:
    return {
        "learning": "It does not train.",
        "layers": "It trains with broken layers.",
        "noise": "The steps are too large.",
        "data": "It overfits.",
        "moving": "The loss is rising.",
    }[card.key]


def _list(items: Sequence[str]) -> str:
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
