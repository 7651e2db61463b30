"""Checkpoints as the hub has them, of the architectures that the profiles name, made small: for a local hub."""

from __future__ import annotations

import json
from pathlib import Path

# From each model's config.json, in the form in which the hub has it; what makes it large is cut by `checkpoint`.
SHARED = {"attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "use_cache": True,
          "initializer_range": 0.02, "torch_dtype": "bfloat16", "tie_word_embeddings": True}
CONFIGS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "hidden_size": 576,
        "intermediate_size": 1536, "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000, "rope_scaling": None,
        "mlp_bias": False, "pad_token_id": 2, "vocab_size": 49152},
    "Qwen/Qwen2.5-0.5B-Instruct": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "max_position_embeddings": 32768,
        "max_window_layers": 21, "sliding_window": 32768, "use_sliding_window": False, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "vocab_size": 151936},
    "meta-llama/Llama-3.2-1B-Instruct": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "head_dim": 64,
        "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "mlp_bias": False, "vocab_size": 128256, "eos_token_id": [2, 0],
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    "microsoft/Phi-4-mini-instruct": {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False, "hidden_size": 3072,
        "intermediate_size": 8192, "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "embd_pdrop": 0.0, "resid_pdrop": 0.0, "pad_token_id": 2, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "sliding_window": 262144, "vocab_size": 200064,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48,
                         "long_factor": [1 + 31 * i / 47 for i in range(48)]}},
}
TOKENIZERS = {"HuggingFaceTB/SmolLM2-135M-Instruct": "GPT2Tokenizer", "Qwen/Qwen2.5-0.5B-Instruct": "Qwen2Tokenizer"}
HEAD = 16  # width of a head, in place of 64 or 128
VOCABULARY = 2048  # learnt from the shipped tickets, whose rows are then about as long as they are to the real ones


def checkpoint(folder: Path, repo: str) -> Path:
    """The files of a model: its own config with two layers, narrow heads and a small vocabulary; random weights."""
    import torch
    from test_models import save_llama
    from transformers import AutoConfig, AutoModelForCausalLM

    from labkit import data
    from labkit.models import quiet

    save_llama(folder, data.ticket_task("tone", "tiny").train["prompt"][:400], VOCABULARY)  # for its tokenizer
    facts = SHARED | CONFIGS[repo]
    heads = facts["num_attention_heads"]
    facts |= {"hidden_size": heads * HEAD, "intermediate_size": facts["intermediate_size"] // 16,
              "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    if "head_dim" in facts:
        facts["head_dim"] = HEAD
    if (rope := facts.get("rope_scaling")) and "short_factor" in rope:
        rotated = int(HEAD * facts["partial_rotary_factor"]) // 2
        facts["rope_scaling"] = rope | {name: rope[name][:rotated] for name in ("short_factor", "long_factor")}
    (folder / "config.json").write_text(json.dumps(facts, indent=2))
    torch.manual_seed(0)
    with quiet():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).to(torch.bfloat16)
        model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(facts, indent=2))  # again as the hub has it, not as rewritten
    file = folder / "tokenizer_config.json"
    named = {"tokenizer_class": TOKENIZERS.get(repo, "PreTrainedTokenizerFast")}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    return folder
