"""The keeper: the one owner of which models are here, and of what is being done about them."""

from helexa.neuron.keeper.host import Host, Preparation
from helexa.neuron.keeper.keeper import Keeper
from helexa.neuron.keeper.loads import LoadJob
from helexa.neuron.keeper.notebook import Notebook
from helexa.neuron.keeper.seats import Seat
from helexa.neuron.keeper.vocabularies import Vocabularies

__all__ = ["Host", "Keeper", "LoadJob", "Notebook", "Preparation", "Seat", "Vocabularies"]
