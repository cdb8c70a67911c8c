"""What was learned: a recorder of ratios and predictions, its file, and the papers' figures drawn from it."""

from .record_file import LayerRecord, Record, load_record, save_record
from .recorder import record

__all__ = ['LayerRecord', 'Record', 'load_record', 'record', 'save_record']
