"""Networks of the papers that the installed codebases lack; ``custom_imports=dict(imports=['mmnorm.models'])``."""

from ..registry import report_taken_names
from .enas import EnasNetwork, EnasSearch, NormLSTMCell
from .inception_v2 import InceptionV2
from .stylization import PerceptualLoss, Stylizer, TransformationNetwork
from .thin_resnet_cifar import ThinResNetCIFAR

report_taken_names()

__all__ = [
    'EnasNetwork',
    'EnasSearch',
    'InceptionV2',
    'NormLSTMCell',
    'PerceptualLoss',
    'Stylizer',
    'ThinResNetCIFAR',
    'TransformationNetwork',
]
