"""Networks of the papers that the installed codebases lack; ``custom_imports=dict(imports=['mmnorm.models'])``."""

from .inception_v2 import InceptionV2
from .thin_resnet_cifar import ThinResNetCIFAR

__all__ = ['InceptionV2', 'ThinResNetCIFAR']
