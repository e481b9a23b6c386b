"""`neuron`: one host's daemon from the command line. Each command imports what it needs only when it runs."""

from __future__ import annotations

from cyclopts import App

import helexa
from helexa.cli.say import completed, run

app = App(name="neuron", help="One host's devices, engines and models.", version=helexa.__version__)
completed(app)

COMMANDS = {
    "serve": ("helexa.cli.neuron_serve:serve", "Serve this host as neuron.toml describes it."),
    "discover": ("helexa.cli.neuron_discover:discover", "This host's devices and engines."),
    "preflight": ("helexa.cli.neuron_preflight:preflight", "How a model would be loaded here, or why not."),
    "pull": ("helexa.cli.neuron_pull:pull", "Fetch a model before anybody asks for it."),
    "validate": ("helexa.cli.neuron_validate:validate", "Does a neuron load a model and answer with it?"),
}
MODELS = {
    "ls": "The models on this disk, with their sizes.",
    "rm": "Remove one.",
    "gc": "Remove what downloads left unfinished.",
}
for name, (path, text) in COMMANDS.items():
    app.command(path, name=name, help=text)
models = App(name="models", help="The model cache of this host.")
app.command(models)
for name, text in MODELS.items():
    models.command(f"helexa.cli.neuron_models:{name}", name=name, help=text)


def main() -> None:
    """Entry point."""
    run(app)


if __name__ == "__main__":
    main()
