"""``dartblur dataset``: anonymized copies of data sets."""

from .anonymize import DataSetArgs, Summary, anonymize_data_set
from .workers import Encoder

__all__ = ["DataSetArgs", "Encoder", "Summary", "anonymize_data_set"]
