"""Replacements in diffusers' own tests: PlanScheduler for its schedulers, small parts for the hub's files."""

from __future__ import annotations

import functools
import string
from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler
from noise_scheduler_sampling_system.support.errors import ConfigurationError

__all__ = ["StandIn", "replace_hub", "replaceable", "stand_in"]


class StandIn(type):
    """A class that compares equal to the one that it replaces: tests have special cases by class."""

    replaced: type[Any]

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.replaced

    def __hash__(cls) -> int:
        return hash(cls.replaced)


@functools.cache
def stand_in(replaced: type[Any]) -> type[Any]:
    """PlanScheduler with the constructor of a class of diffusers."""

    class Made(PlanScheduler, metaclass=StandIn):
        def __init__(self, config: Any = None, *positional: Any, **fields: Any) -> None:
            if not isinstance(config, dict):
                first = () if config is None else (config,)
                super().__init__(replaced(*first, *positional, **fields))
                return
            ours = config.get("_plan_scheduler", {})
            if config.get("_class_name") == "PlanScheduler" and ours.get("scheduler") == replaced.__name__:
                super().__init__(config, **fields)
            else:  # the config of another class, which every class of diffusers accepts
                plain = {key: value for key, value in config.items() if key != "_plan_scheduler"}
                super().__init__(replaced.from_config(plain, **fields))

    Made.replaced = replaced
    Made.__name__ = Made.__qualname__ = "PlanScheduler"
    return Made


def replaceable(cls: Any) -> bool:
    """Whether this is a scheduler of diffusers whose config PlanScheduler reads."""
    if not (isinstance(cls, type) and cls.__name__.endswith("Scheduler") and hasattr(diffusers, cls.__name__)):
        return False
    try:
        PlanScheduler.from_config({"_class_name": cls.__name__}, method="ddim")
    except ConfigurationError:
        return False
    return True


# the hub

_BYTES = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 324))]  # of byte-level BPE
_WORDS = [*string.ascii_lowercase, *string.digits, *string.punctuation]


def _clip(**_: Any) -> Any:
    tokens = [*_WORDS, *(word + "</w>" for word in _WORDS), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=77)


def _t5(**_: Any) -> Any:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return transformers.T5Tokenizer(vocab=[*special, *((w, -3.0) for w in _WORDS)], extra_ids=0, model_max_length=512)


def _t5_config(**_: Any) -> Any:
    return transformers.T5Config(
        vocab_size=1103, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, feed_forward_proj="relu",
    )  # fmt: skip


def _t5_encoder(**_: Any) -> Any:
    torch.manual_seed(0)
    return transformers.T5EncoderModel(_t5_config()).eval()


def _qwen(**_: Any) -> Any:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    vocabulary = {t: i for i, t in enumerate([*_BYTES, *tokens])}
    made = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=tokens[1:], pad_token=tokens[0]
    )
    made.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return made


#: (part of a name on the hub, class) → what makes the replacement.
_PARTS: dict[tuple[str, str], Callable[..., Any]] = {
    ("tiny-random-clip", "CLIPTokenizer"): _clip,
    ("tiny-random-t5", "AutoTokenizer"): _t5,
    ("tiny-random-T5Model", "T5Tokenizer"): _t5,
    ("tiny-random-t5", "T5Tokenizer"): _t5,
    ("tiny-random-t5", "T5TokenizerFast"): _t5,
    ("tiny-random-t5", "AutoConfig"): _t5_config,
    ("tiny-random-t5", "T5EncoderModel"): _t5_encoder,
    ("tiny-random-Qwen2VL", "Qwen2Tokenizer"): _qwen,
    ("tiny-random-Qwen2VL", "AutoTokenizer"): _qwen,
}


def replace_hub() -> None:
    """Make ``from_pretrained`` of tokenizers and text encoders return small parts for the names that the tests use."""
    for name in {cls for _, cls in _PARTS}:
        cls = getattr(transformers, name)

        def loaded(path: Any, *positional: Any, _name: str = name, _own: Any = cls.from_pretrained, **more: Any) -> Any:
            for (part, kind), make in _PARTS.items():
                if kind == _name and part in str(path):
                    return make()
            return _own(path, *positional, **more)

        cls.from_pretrained = staticmethod(loaded)
