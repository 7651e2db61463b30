"""Loading base models: a small Llama with random weights, its files whole and broken, and the real SmolLM2."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit import models, profiles
from labkit.errors import LabError
from labkit.livebytes import weight_bytes
from labkit.models import count_parameters, end_of_turn, find, load, quiet

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_llama(folder: Path, texts=("Steps:\n\n1. go\n\n2. stop",) * 9, vocabulary: int = 320) -> Path:
    """A Llama of 2 layers with tied embeddings, with a tokenizer that splits digits first, as SmolLM2 does.

    Its tokenizer learns from `texts`; the `vocabulary` has 20 numbers more than there are tokens, as real ones have.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as bpe
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(bpe.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocabulary - 20, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=special[1], eos_token=special[2],
                                        pad_token=special[2], unk_token=special[0])
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)
    torch.manual_seed(0)
    with quiet():
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "llama")


def error_of(profile_or_id, **options) -> str:
    with pytest.raises(LabError) as caught:
        load(profile_or_id, **options)
    return str(caught.value)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_loads_in_eval_mode_with_float32_master_weights_and_its_tokenizer(folder):
    model, tokenizer = load(folder)
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}  # the file holds bfloat16
    assert tokenizer.decode(tokenizer("Steps:\n\n1. go")["input_ids"]) == "Steps:\n\n1. go"


def test_a_dtype_can_be_asked_for_by_name_or_as_torch_has_it(folder):
    assert load(folder, dtype="bfloat16")[0].dtype == load(str(folder), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_a_profile_over_a_local_folder_loads_that_folder(folder):
    assert find(replace(profiles.PROFILES["small"], model=str(folder), revision=None)) == folder


def test_tied_weights_are_counted_once_and_frozen_ones_are_not_trainable(folder):
    model, _ = load(folder)
    embedding, layer = 320 * 64, 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64
    assert count_parameters(model).total == embedding + 2 * layer + 64
    model.requires_grad_(False)
    model.model.norm.weight.requires_grad_(True)
    counts = count_parameters(model)
    assert counts.trainable == 64 and counts.share == 64 / counts.total


def test_one_matrix_is_read_without_the_rest(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    matrix = models.matrix(name, folder)
    assert matrix.dtype == torch.float32 and torch.equal(matrix, load(folder)[0].get_parameter(name))
    with pytest.raises(LabError, match="no weight is called wq; expected such as model.layers.0"):
        models.matrix("wq", folder)


@pytest.mark.parametrize("gpu, capability, cpu, chosen", [
    (True, (7, 5), True, "float16"),  # a T4, whatever its CPU can do
    (True, (8, 0), False, "bfloat16"),
    (False, None, True, "bfloat16"),
    (False, None, False, "float32"),
])
def test_the_dtype_to_compute_in_is_what_the_machine_has_and_nf4_uses_it(monkeypatch, gpu, capability, cpu, chosen):
    with quiet():
        import bitsandbytes  # noqa: F401  before there seems to be a GPU, at which it would look
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert profiles.compute_dtype() == chosen
    assert models._bitsandbytes("nf4").bnb_4bit_compute_dtype == getattr(torch, chosen)


def test_a_4_bit_model_that_has_answered_still_passes_gradients_back_and_reads_as_before():
    from bitsandbytes.functional import dequantize_4bit

    model, tokenizer = models.load("tiny", quantize="nf4")
    weight = model.model.layers[0].mlp.up_proj.weight
    before, held = dequantize_4bit(weight.data, weight.quant_state), weight_bytes(model)
    with torch.inference_mode():
        model(**tokenizer("Good morning", return_tensors="pt"))
    assert torch.equal(dequantize_4bit(weight.data, weight.quant_state), before) and weight_bytes(model) == held
    embedded = model.get_input_embeddings()(torch.tensor([[5, 6, 7]])).detach().requires_grad_()
    model(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad.abs().sum() > 0

    weight.quant_state.packing_format_for_cpu = True  # as bitsandbytes leaves a model that others loaded
    with pytest.raises(LabError, match="packed for this CPU.*pass no gradient back"):
        models.settled(model)


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_quantised_model_has_as_many_parameters_before_and_after_its_first_answer(folder, quantize):
    full = count_parameters(load(folder)[0]).total
    model, tokenizer = load(folder, quantize=quantize)
    assert "bitsandbytes" in type(model.model.layers[0].self_attn.q_proj).__module__
    assert count_parameters(model).total == full
    with torch.no_grad():
        logits = model(**tokenizer("Steps", return_tensors="pt").to(model.device)).logits
    assert torch.isfinite(logits).all()
    assert count_parameters(model).total == full  # the CPU packs 4-bit weights anew at the first forward


def test_loading_prints_nothing_even_where_bitsandbytes_is_imported_first(folder):
    code = f"""from labkit.models import load
for quantize in (None, "nf4", "int8"):
    model, tokenizer = load({str(folder)!r}, quantize=quantize)
    model(**tokenizer("Steps", return_tensors="pt").to(model.device))"""
    env = os.environ | {"PYTHONPATH": str(profiles.COURSE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bitsandbytes_is_imported_without_a_word_by_whoever_imports_it():
    code = "from labkit import training; import bitsandbytes"
    env = os.environ | {"PYTHONPATH": str(profiles.COURSE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_quiet_gives_the_libraries_their_voices_back():
    from transformers.utils import logging as theirs

    before = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    with pytest.raises(ZeroDivisionError), quiet():
        assert (theirs.get_verbosity(), theirs.is_progress_bar_enabled()) == (theirs.ERROR, False)
        1 / 0  # noqa: B018
    assert (theirs.get_verbosity(), theirs.is_progress_bar_enabled()) == before


def test_a_tokenizer_splits_as_its_file_says_even_if_it_names_a_class_that_splits_otherwise(folder):
    from transformers import AutoTokenizer

    text = "Steps:\n\n1. go"
    right = load(folder)[1].tokenize(text)
    edit(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    assert AutoTokenizer.from_pretrained(folder).tokenize(text) != right  # else this guard can go
    assert load(folder)[1].tokenize(text) == right


@pytest.mark.parametrize("damage, says", [
    (lambda f: (f / "config.json").unlink(), "no config.json"),
    (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "an adapter, not a base model"),
    (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    (lambda f: (f / "config.json").write_text("{}"), "no model_type"),
    (lambda f: edit(f / "config.json", model_type="nonsense"), "cannot load this model"),
    (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer cannot be read"),
    (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only pickled weights (pytorch_model.bin)"),
    (lambda f: os.truncate(f / "model.safetensors", 5000), "weights are damaged"),
    (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 5000), "weights are damaged"),
    (lambda f: (f / "model.safetensors").write_bytes(b""), "weights are damaged"),
    (lambda f: edit(f / "config.json", num_hidden_layers=3), "lack 9 tensors"),
    (lambda f: edit(f / "config.json", num_hidden_layers=1), "hold 9 tensors"),
    (lambda f: edit(f / "config.json", intermediate_size=64), "cannot load this model"),
])
def test_a_broken_folder_is_refused_in_a_sentence_that_names_what_and_where(folder, damage, says):
    damage(folder)
    text = error_of(folder)
    assert says in text and str(folder) in text and "\n" not in text


def test_a_missing_shard_is_named(folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    (folder / "model.safetensors").unlink()
    save_file({names[0]: weights[names[0]]}, folder / "a.safetensors", {"format": "pt"})
    index = {"weight_map": {names[0]: "a.safetensors"} | dict.fromkeys(names[1:], "b.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "b.safetensors: this part of the weights is missing" in error_of(folder)


def test_code_that_comes_with_a_model_is_never_run(folder):
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Own: pass\n")
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    edit(folder / "config.json", model_type="own", auto_map=own)
    assert "cannot load this model" in error_of(folder)
    assert not (folder / "ran").exists()


def test_wrong_options_and_names_are_refused(folder, tmp_path):
    assert "expected None, 'nf4' or 'int8'" in error_of(folder, quantize="int3")
    assert "expected float32, bfloat16, float16" in error_of(folder, dtype="int7")
    assert "no such folder" in error_of(tmp_path / "nowhere")
    assert "no model's name" in error_of("not a model!")


def test_the_profiles_say_how_to_get_their_models(monkeypatch, tmp_path):
    monkeypatch.setattr(profiles, "COURSE", tmp_path)
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    assert "Run `make base`" in error_of("tiny")
    assert "Run `labkit fetch small`" in error_of("small")
    assert "Run `labkit fetch small`" in error_of(models.SMALL)  # the same model by its hub id
    monkeypatch.setenv("LABKIT_PROFILE", "small")
    monkeypatch.setattr(profiles, "_chosen", None)
    assert "Run `labkit fetch small`" in error_of(None)


@pytest.mark.parametrize("status, code, says", [
    (500, None, "hub cannot be reached"),
    (404, "RepoNotFound", "no model of this name"),
    (404, "RevisionNotFound", "no revision"),
    (403, "GatedRepo", "accepted its licence"),
])
def test_what_the_hub_answers_becomes_a_sentence(monkeypatch, tmp_path, status, code, says):
    from huggingface_hub import constants
    from test_fetch import serving, use_hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with serving(lambda path: (status, {"X-Error-Code": code} if code else {}, b"")) as endpoint:
        use_hub(monkeypatch, endpoint)
        text = error_of("owner/name")
    assert text.startswith("owner/name: ") and says in text


def test_a_model_from_the_hub_is_downloaded_once_and_without_pickles(monkeypatch, tmp_path):
    from huggingface_hub import constants
    from test_fetch import hub_of, serving, use_hub

    source = save_llama(tmp_path / "source")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(hub_of(source, "owner/name")) as endpoint:
        use_hub(monkeypatch, endpoint)
        got = find("owner/name")
    assert not (got / "pytorch_model.bin").exists()
    assert (got / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert find("owner/name") == got  # the server is gone: from the cache


def test_the_end_of_turn_is_what_the_template_writes_behind_an_answer_not_the_eos_token(folder):
    _, tokenizer = load(folder)
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer.decode([end_of_turn(tokenizer)]) == "<|im_end|>"


def test_a_tokenizer_without_a_template_or_without_an_end_of_turn_is_refused(folder):
    _, tokenizer = load(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(LabError, match="no special token behind"):
        end_of_turn(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(LabError, match="no chat template"):
        end_of_turn(tokenizer)


@pytest.mark.real
def test_smollm2_knows_the_capital_of_france_and_ends_its_turn():
    from labkit.fetch import fetch

    fetch("small", progress=False)
    model, tokenizer = load("small")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt.to(model.device), max_new_tokens=20, do_sample=False)
    ids = output[0, prompt["input_ids"].shape[1]:]
    assert "Paris" in tokenizer.decode(ids)
    assert ids[-1] == end_of_turn(tokenizer) == 2
    assert count_parameters(model).total == 134_515_008
    assert tokenizer.tokenize("\n\n1.") == ["ĊĊ", "1", "."]  # blanks before a digit stay together, as in training
