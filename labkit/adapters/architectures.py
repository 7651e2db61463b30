"""The architectures that learners meet, with their real configs cut small and random weights: no file, no network.

Shows where adapters go in each of them; lab 05 and the tests attach, train and merge on these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.errors import LabError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMES = ("Llama", "Llama, tied", "Qwen", "Phi", "Gemma", "Mistral", "GPT-2")
COMMON = dict(vocab_size=96, bos_token_id=1, eos_token_id=2)
DECODER = dict(COMMON, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
               num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0)


def small(name: str, seed: int = 0) -> PreTrainedModel:
    """One of `NAMES` with two layers, 32 wide.

    Raises:
        LabError: there is no such name.
    """
    import torch
    import transformers as t

    configs = {
        "Llama": lambda: t.LlamaConfig(**DECODER),
        "Llama, tied": lambda: t.LlamaConfig(**DECODER, tie_word_embeddings=True),  # as Llama 3.2 1B and SmolLM2
        "Qwen": lambda: t.Qwen2Config(**DECODER, tie_word_embeddings=True),
        "Phi": lambda: t.Phi3Config(**DECODER),
        "Gemma": lambda: t.GemmaConfig(**DECODER, head_dim=8),
        "Mistral": lambda: t.MistralConfig(**DECODER),
        "GPT-2": lambda: t.GPT2Config(**COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=64),  # and DialoGPT
    }
    if name not in configs:
        raise LabError(f"there is no architecture {name!r} here", where="name", expected="; ".join(NAMES))
    torch.manual_seed(seed)
    return t.AutoModelForCausalLM.from_config(configs[name]()).eval()


def linear_names(model: PreTrainedModel) -> list[str]:
    """The last part of the name of every linear layer but the head, each once: what `targets` may say."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return list(dict.fromkeys(name.split(".")[-1] for name, module in model.named_modules()
                              if isinstance(module, Linear | Conv1D) and module is not head))


def one_matrix(model: PreTrainedModel) -> bool:
    """Whether embedding and head are tied: one matrix, not two."""
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight
