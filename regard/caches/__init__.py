"""What attention keeps of the tokens it has seen."""

from regard.caches.base import CacheLayer as CacheLayer
from regard.caches.base import Kept as Kept
from regard.caches.base import beside as beside
from regard.caches.base import storage_bytes as storage_bytes
from regard.caches.dense import Dense as Dense
from regard.caches.held import Held as Held
from regard.caches.window import Window as Window
