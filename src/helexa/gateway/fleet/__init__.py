"""What the gateway knows: nodes, models and who holds a seat. Values only; `fold` is how they change."""
