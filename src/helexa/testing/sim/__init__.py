"""A fleet in a box: the gateway's real planner on a manual clock, with made-up nodes, models, traffic and bad luck."""
