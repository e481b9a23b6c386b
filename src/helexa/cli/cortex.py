"""`cortex`: the fleet from the command line. Each command imports what it needs only when it runs."""

from __future__ import annotations

from cyclopts import App

import helexa
from helexa.cli.say import completed, run

app = App(
    name="cortex",
    help="Mismatched machines with GPUs behave as one OpenAI- and Anthropic-compatible endpoint.",
    version=helexa.__version__,
)
config = App(name="config", help="The configuration files.")
app.command(config)
completed(app)

COMMANDS = {
    "up": ("helexa.cli.up:up", "Everything on this machine: a neuron, the gateway and a model."),
    "serve": ("helexa.cli.serve:serve", "The gateway, as cortex.toml describes it."),
    "status": ("helexa.cli.status:status", "Nodes, devices and models; --watch keeps showing."),
    "models": ("helexa.cli.status:models", "Every model the fleet could serve."),
    "load": ("helexa.cli.operate:load", "Load a model where it fits."),
    "unload": ("helexa.cli.operate:unload", "Take a model off its nodes."),
    "pin": ("helexa.cli.operate:pin", "Never evict a loaded model."),
    "drain": ("helexa.cli.operate:drain", "Send no new work to a node."),
    "plan": ("helexa.cli.operate:plan", "What a request for a model would do now: a dry run."),
    "explain": ("helexa.cli.explain:explain", "Why a past request was served, made to wait or refused."),
    "doctor": ("helexa.cli.doctor:doctor", "What is wrong here, and what to do about it."),
    "chat": ("helexa.cli.chat:chat", "Talk to a model in the terminal."),
    "bench": ("helexa.cli.bench:bench", "What a model gives through the whole chain: tok/s and TTFT."),
}
for name, (path, text) in COMMANDS.items():
    app.command(path, name=name, help=text)
config.command("helexa.cli.check:check", name="check", help="Read the configuration files as `serve` would.")


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
