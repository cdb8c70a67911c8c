"""Networks of the papers that the installed codebases lack; ``custom_imports=dict(imports=['mmnorm.models'])``."""

from ..registry import report_taken_names
from .enas import EnasNetwork, EnasSearch, NormLSTMCell
from .inception_v2 import InceptionV2
from .stylization import PerceptualLoss, Stylizer, TransformationNetwork
from .thin_resnet_cifar import ThinResNetCIFAR
from .translation import PatchDiscriminator, Pix2Pix, UNetGenerator

report_taken_names()

__all__ = [
    'EnasNetwork',
    'EnasSearch',
    'InceptionV2',
    'NormLSTMCell',
    'PatchDiscriminator',
    'PerceptualLoss',
    'Pix2Pix',
    'Stylizer',
    'ThinResNetCIFAR',
    'TransformationNetwork',
    'UNetGenerator',
]
