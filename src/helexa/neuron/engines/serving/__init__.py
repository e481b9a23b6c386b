"""The OpenAI dialect in front of an engine that only takes tokens: HTTP on the private socket, chat turns, answers."""
