"""Training methods, one file each. A new one is a file here and a line below: importing the file registers it."""

from .adacos import AdaCos as AdaCos
from .bake import BAKE as BAKE
from .byot import BYOT as BYOT
from .ce import CE as CE
from .cs_kd import CSKD as CSKD
from .cs_kd_e import CSKDE as CSKDE
from .ddgsd import DDGSD as DDGSD
from .dks import DKS as DKS
from .dml import DML as DML
from .dropout import Dropout as Dropout
from .kd import KD as KD
from .label_smoothing import LabelSmoothing as LabelSmoothing
from .max_entropy import MaxEntropy as MaxEntropy
from .method import Method as Method
from .method import create_method as create_method
from .method import get_method as get_method
from .method import list_methods as list_methods
from .method import register_method as register_method
from .ols import OLS as OLS
from .ps_kd import PSKD as PSKD
from .sd_dropout import SDDropout as SDDropout
from .tf_kd import TfKD as TfKD
from .uskd import USKD as USKD
from .virtual_softmax import VirtualSoftmax as VirtualSoftmax
from .zipf_ls import ZipfLS as ZipfLS
