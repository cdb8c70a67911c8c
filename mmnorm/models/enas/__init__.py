"""Architecture search with a normalized LSTM: ENAS (arXiv 1802.03268) as in the SN paper (1806.10779), Section 4.4."""

from .controller import Controller
from .network import EnasNetwork
from .norm_lstm_cell import NormLSTMCell
from .search import EnasSearch
from .search_space import Genotype, read_genotype

__all__ = ['Controller', 'EnasNetwork', 'EnasSearch', 'Genotype', 'NormLSTMCell', 'read_genotype']
