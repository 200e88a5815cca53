"""One use of a model under interventions: hooks on its modules while it lasts, and everything put back after."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from regard.errors import RegardError, Unsupported
from regard.hf import interface
from regard.hf.allowed import AllowedPairs
from regard.hf.caches import HeldLayer, cache_bytes, hold
from regard.hf.call import Own, serve
from regard.hf.frame import Frame
from regard.hf.guard import guarded
from regard.hf.intervention import Intervention, overrides
from regard.hf.meter import Meter
from regard.hf.passed import Passed, passed
from regard.hf.rope import Caught, Rope
from regard.hf.select import Kind, Phase
from regard.hf.site import Site
from regard.hf.sites import configs
from regard.hf.stations import Stations
from regard.ops import Engine


class Run:
    """A model under interventions, as a context manager.

    `sites` are the model's attention modules in the order they run; `meter` has what attention cost so far.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: list[Site],
        interventions: Sequence[Intervention],
        *,
        engine: str | Engine,
        meter: bool,
    ) -> None:
        self.model = model
        self.sites = sites
        self.interventions = tuple(interventions)
        self.engine = engine
        self.meter = Meter(meter)
        self.rope = Rope(model)
        self.frames: dict[tuple, Frame] = {}
        self.want_weights = False
        self._places = {site.module: site for site in sites}
        self._given: dict[nn.Module, Passed] = {}
        self._stations: dict[tuple[int, Phase, Kind], Stations] = {}
        self._reached: set[int] = set()  # ids of interventions, which need not be hashable
        self._called: set[nn.Module] = set()
        self._asked: WeakKeyDictionary[Cache, set[int]] = WeakKeyDictionary()
        self._padding: Tensor | None = None
        self._caches: dict[int, Cache] = {}
        self._depth = 0
        self._stack = ExitStack()

    @property
    def cache_name(self) -> str:
        """The argument by which the model takes a cache: its name differs between versions of transformers."""
        known = inspect.signature(self.model.forward).parameters
        return "cache" if "cache" in known else "past_key_values"

    def cache(self) -> Cache:
        """An empty cache for a loop of your own: `model(ids, **{run.cache_name: cache})`."""
        config = getattr(self.model, "config", None)
        if config is None:
            return DynamicCache()
        decoder = config.get_text_config(decoder=True)
        if getattr(config, "is_encoder_decoder", False):
            return EncoderDecoderCache(DynamicCache(config=decoder), DynamicCache(config=decoder))
        return DynamicCache(config=decoder)

    def __enter__(self) -> Run:
        if interface.is_active(self.model):
            raise Unsupported("This model is already under regard.apply; pass all interventions in one call.")
        with ExitStack() as stack:
            stack.enter_context(interface.active(self, self._places))
            stack.enter_context(interface.implementation(configs(self.model, self.sites)))
            for module in self._places:
                stack.callback(module.register_forward_pre_hook(self._before_site, with_kwargs=True).remove)
            for module in self.rope.modules:
                stack.callback(module.register_forward_hook(self.rope.hear, with_kwargs=True).remove)
            for module in self.model.modules():
                if isinstance(module, PreTrainedModel) or module is self.model:
                    stack.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(self._after, always_call=True).remove)
            if any(overrides(i, "cache") for i in self.interventions):
                stack.enter_context(guarded(self.model))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self.frames.clear()
        self._given.clear()
        unused = [i.name for i in self.interventions if id(i) not in self._reached]
        if kind is None and unused:
            raise RegardError(
                f"{', '.join(unused)} never acted: no call of the model's attention was among its sites. "
                f"Run the model inside the with block, or widen `sites`."
            )

    def stations(self, place: Site, phase: Phase, kind: Kind) -> Stations:
        """What acts in calls of a site, phase and kind."""
        key = (place.index, phase, kind)
        if key not in self._stations:
            active = [
                i for i in self.interventions if i.sites.selects(place.name, place.layer) and i.sites.now(phase, kind)
            ]
            self._stations[key] = Stations(active, place.layer)
            self._reached.update(map(id, active))
        return self._stations[key]

    def attention(
        self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: object, own: Own
    ) -> tuple[Tensor, Tensor | None]:
        """Serve one call of the attention interface."""
        if self.rope.probing:
            raise Caught(q, k)
        place = self._places[module]
        given = self._given.get(module) or Passed(kind=place.kind)
        self._called.discard(module)
        return serve(self, place, given, q, k, v, mask, own)

    def _before_site(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        place = self._places[module]
        given = passed(module, args, kwargs, place.kind, place.layer)
        self._called.add(module)
        self._given[module] = given
        if given.cache is not None:
            self._caches[id(given.cache)] = given.cache
        if given.cache is None or given.kind == "cross":
            return
        given.layer = self._layer(place, given)
        if given.layer is not None:
            N = given.hidden.shape[-2] if given.hidden is not None else 0
            given.layer.kept = None
            given.layer.real = self._real(given, N)

    def _layer(self, place: Site, given: Passed) -> HeldLayer | None:
        """The intervention's cache layer at this site, put into the model's cache on first sight."""
        assert given.cache is not None
        layers = given.cache.layers
        if place.layer < len(layers) and isinstance(layers[place.layer], HeldLayer):
            return layers[place.layer]  # type: ignore[return-value]
        asked = self._asked.setdefault(given.cache, set())
        if place.index in asked:
            return None
        asked.add(place.index)
        for intervention in self.interventions:
            if overrides(intervention, "cache") and intervention.sites.selects(place.name, place.layer):
                return hold(given.cache, place.layer, lambda i=intervention: i.cache(place), intervention.name)
        return None

    def _real(self, given: Passed, N: int) -> Tensor | None:
        if isinstance(given.mask, AllowedPairs):
            return given.mask.real_tokens(given.seen, N)
        if self._padding is None or self._padding.shape[1] < given.seen + N:
            return None
        return self._padding[:, given.seen : given.seen + N].bool()

    def _before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self.frames.clear()
        self.rope.heard.clear()
        config = getattr(module, "config", None)
        wanted = kwargs.get("output_attentions")
        self.want_weights = bool(getattr(config, "output_attentions", False) if wanted is None else wanted)
        mask = kwargs.get("attention_mask")
        self._padding = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None

    def _after(self, module: nn.Module, args: tuple, result: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        called, self._called = self._called, set()
        caches, self._caches = self._caches, {}
        self.frames.clear()
        self._given.clear()
        if result is None:  # the forward pass failed, and says so itself
            return
        if self.meter.on:
            self.meter.held(sum(cache_bytes(cache) for cache in caches.values()))
        for place in (self._places[module] for module in called):
            dropped = [i.name for i in self.interventions if i.sites.selects(place.name, place.layer)]
            if dropped:
                who = ", ".join(dropped)
                raise Unsupported(f"{place.name} ran without calling the attention interface: {who} did not act there.")
