"""What to do next. Pure: the fleet, an event and the time go in, a fleet and instructions come out."""
