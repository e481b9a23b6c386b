"""`/v1/models` in Anthropic's shape; the entries themselves are the catalogue's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def anthropic_row(entry: dict[str, Any]) -> dict[str, Any]:
    """The catalogue's entry with Anthropic's fields added; what is not known is left out."""
    created = datetime.fromtimestamp(entry["created"], UTC).isoformat().replace("+00:00", "Z")
    limits = {"max_input_tokens": entry.get("context_length"), "max_tokens": entry.get("max_output_tokens")}
    known = {name: value for name, value in limits.items() if value is not None}
    return {**entry, "type": "model", "display_name": entry["id"], "created_at": created, **known}


def anthropic_page(entries: list[dict[str, Any]], asked: dict[str, str]) -> dict[str, Any]:
    """One page: `limit` rows after `after_id`, or before `before_id`."""
    ids = [entry["id"] for entry in entries]
    start = ids.index(asked["after_id"]) + 1 if asked.get("after_id") in ids else 0
    end = ids.index(asked["before_id"]) if asked.get("before_id") in ids else len(entries)
    limit = int(asked["limit"]) if asked.get("limit", "").isdigit() else 20
    rows = [anthropic_row(entry) for entry in entries[start:end]]
    shown = rows[-limit:] if asked.get("before_id") in ids else rows[:limit]
    return {
        "data": shown,
        "has_more": len(rows) > len(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }
