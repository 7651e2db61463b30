"""Memory predicted from a config within a tenth of what is counted, for real architectures; and what fits on a GPU."""

import math
import random

import pytest
import torch

from labkit import adapters, data, livebytes, models
from labkit.data.encode import encode
from labkit.errors import LabError
from labkit.livebytes import peak_bytes, watch_peak, weight_bytes
from labkit.memory import GPUS, KNOWN, fits, memory, shape_of
from labkit.models import quiet
from labkit.profiles import COURSE, PROFILES
from labkit.trainer import sparse_loss

TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}


def config(kind: str):
    """A real architecture: SmolLM2 and tiny-base as they are, the others with fewer and narrower layers."""
    from transformers import LlamaConfig, Phi3Config, Qwen2Config

    if kind == "smollm2":
        return LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                           num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, **TOKENS)
    cut = {"hidden_size": 224, "num_hidden_layers": 3, "num_key_value_heads": 2, **TOKENS}
    if kind == "qwen2.5":
        return Qwen2Config(vocab_size=6000, intermediate_size=1216, num_attention_heads=14, tie_word_embeddings=True,
                           **cut)
    if kind == "llama3.2":
        return LlamaConfig(vocab_size=6000, intermediate_size=896, num_attention_heads=7 * 2, head_dim=32,
                           tie_word_embeddings=False, **cut)
    return Phi3Config(vocab_size=6000, intermediate_size=704, num_attention_heads=14, tie_word_embeddings=True, **cut)


def build(kind: str, method: str, compute=torch.float32):
    """The model with random weights, its linear layers in NF4 where asked, and what is to be trained unfrozen."""
    from transformers import AutoModelForCausalLM

    if kind == "tiny":
        model, _ = models.load("tiny", quantize="nf4" if method == "qlora" else None)
    else:
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config(kind))
        model = fill(model)
        if method == "qlora":
            pack(model, compute)
    if method != "full":
        model = adapters.attach_lora(model, 8)
    return model.train()


def fill(model):
    """Small random weights in place of none, for a large model faster than its own initialisation."""
    rotary = type(model.model.rotary_emb)(model.config)  # its buffers are computed, not read
    model = model.to_empty(device="cpu")
    model.model.rotary_emb = rotary
    model.tie_weights()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.03, 0.03)
    return model


def pack(model, compute) -> None:
    """What transformers does with `load_in_4bit` while it reads a file: every linear layer but the head."""
    with quiet():
        from bitsandbytes.nn import Linear4bit, Params4bit
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if type(linear) is torch.nn.Linear and name != "lm_head":
                new = Linear4bit(linear.in_features, linear.out_features, linear.bias is not None, compute,
                                 compress_statistics=True, quant_type="nf4", device="meta")
                new.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4",
                                        compress_statistics=True)
                new.bias = linear.bias
                setattr(parent, name, new.to("cpu"))
    model.is_loaded_in_4bit = model.is_quantized = True
    model.requires_grad_(False)


def step_of(model, batch: int, length: int, counted: int, *, bf16=False, accumulation=1, optimizer="adamw") -> int:
    """The peak of two training steps, in bytes."""
    ids = torch.randint(5, 1000, (batch // accumulation, length))
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[:, -length // 8:] = 0
    labels[:, : length - counted] = -100
    trained = [p for p in model.parameters() if p.requires_grad]
    if optimizer == "adamw":
        adam = torch.optim.AdamW(trained)
    else:
        from bitsandbytes.optim import AdamW8bit

        adam = AdamW8bit(trained)
    with peak_bytes(model) as peak:
        for _ in range(2):
            for _ in range(accumulation):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    sparse_loss(model, {"input_ids": ids, "attention_mask": mask, "labels": labels}).backward()
            adam.step()
            adam.zero_grad()
    return peak.bytes


def predicted(kind: str, method: str, batch: int, length: int, counted: int, **options):
    return memory("tiny" if kind == "tiny" else config(kind), method, batch=batch, length=length, counted=counted,
                  **{"bf16": False, "device": "cpu"} | options)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("kind, batch, length, counted", [
    ("tiny", 8, 96, 8), ("tiny", 2, 64, 63), ("smollm2", 1, 24, 4), ("qwen2.5", 2, 64, 8), ("llama3.2", 4, 48, 47),
    ("phi4", 2, 64, 63),
])
def test_the_peak_is_predicted_within_a_tenth(kind, batch, length, counted, method):
    found = predicted(kind, method, batch, length, counted)
    measured = step_of(build(kind, method), batch, length, counted)
    assert found.peak == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("options", [{"bf16": True}, {"accumulation": 4}, {"optimizer": "adamw8bit"}],
                         ids=["bf16", "accumulation", "8 bits"])
def test_the_peak_is_predicted_within_a_tenth_in_other_ways_of_training_too(method, options):
    compute = torch.bfloat16 if options.get("bf16") else torch.float32
    measured = step_of(build("qwen2.5", method, compute), 4, 48, 8, **options)
    assert predicted("qwen2.5", method, 4, 48, 8, **options).peak == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_checkpointing_is_predicted_and_takes_less(method):
    model = build("tiny", method)
    plain = step_of(model, 8, 96, 8)
    if method != "full":
        model.enable_input_require_grads()
    model.activation_checkpointing_enable()
    measured = step_of(model, 8, 96, 8)
    assert predicted("tiny", method, 8, 96, 8, checkpointing=True).peak == pytest.approx(measured, rel=0.1)
    assert measured < 0.7 * plain


@pytest.mark.parametrize("method, share", [("full", 1), ("qlora", 0.30)])
def test_the_weights_are_predicted_to_a_thousandth_and_in_nf4_take_30_per_cent(method, share):
    model, _ = models.load("tiny", quantize="nf4" if method == "qlora" else None)
    whole = memory("tiny", "full", batch=1, length=8).weights
    adapter = 0 if method == "full" else memory("tiny", "lora", batch=1, length=8).weights - whole
    assert memory("tiny", method, batch=1, length=8).weights - adapter == pytest.approx(weight_bytes(model), rel=1e-3)
    assert weight_bytes(model) <= share * 1.001 * whole


def test_the_parts_at_the_worst_moment_add_up_and_none_is_larger_than_it_can_be():
    found = memory("tiny", "full", batch=4, length=64)
    assert found.peak == sum(found.live.values())
    assert all(found.live[name] <= getattr(found, name) for name in ("weights", "gradients", "activations", "logits"))


@pytest.mark.parametrize("model, parameters", [  # as the model cards give them
    ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008), ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
    ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304), ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
    ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400), ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
    ("microsoft/Phi-4-mini-instruct", 3_836_021_760), ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384),
])
def test_known_models_have_as_many_parameters_as_published(model, parameters):
    assert shape_of(model).parameters == KNOWN[model].parameters == parameters


def test_a_batch_an_answer_and_a_row_that_grow_take_more():
    def peak(**changed):
        return memory("small", "lora", **{"batch": 4, "length": 128, "counted": 16} | changed).peak

    assert peak(batch=8) > peak() and peak(length=256) > peak() and peak(counted=128) > peak()
    assert peak(checkpointing=True) < peak() and peak(accumulation=4) < peak()


def test_what_fits_leaves_a_tenth_and_a_gpu_without_bfloat16_computes_in_fp32():
    found = {fit.gpu: fit for fit in fits("full", "lora", batch=4, length=256, dtype="float32")}
    assert list(found) == list(GPUS)
    assert found["T4"].needs.activations > found["L4"].needs.activations - found["L4"].needs.weights
    assert all(fit.fits == (fit.needs.peak <= 0.9 * fit.has) for fit in found.values())
    assert not any(fit.fits for fit in fits("meta-llama/Llama-3.1-8B-Instruct", "full", batch=1, length=128))


@pytest.mark.parametrize("changed, says", [
    ({"method": "dora"}, "there is no method 'dora'; expected full, lora, qlora"),
    ({"batch": 0}, "batch: 0; expected a whole number"),
    ({"batch": 3, "accumulation": 2}, "accumulation: 2 parts of a batch of 3 rows"),
    ({"dtype": "int3"}, "there is no dtype 'int3'"),
    ({"targets": ["wq"]}, "no linear layer of this model is called wq"),
    ({"model": "owner/unknown"}, "no config.json to read"),
])
def test_wrong_options_are_refused(changed, says):
    options = {"model": "tiny", "batch": 1, "length": 8} | changed
    with pytest.raises(LabError) as caught:
        memory(options.pop("model"), options.pop("method", "lora"), **options)
    assert says in str(caught.value)


def test_a_model_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(LabError, match="nobody has reckoned the memory of a 'gpt2' model"):
        memory(tmp_path, batch=1, length=8)


def test_the_count_sees_a_tensor_come_and_go_and_a_view_once():
    kept = torch.zeros(1000)
    with peak_bytes() as peak:
        a = torch.ones(250_000)
        b = a.view(500, 500).t()
        assert peak.bytes == 1_000_000
        del a, b
        c = kept + 1
        assert peak.bytes == 1_000_000
        d = torch.ones(250_000)
        assert peak.bytes == 1_004_000
    assert c.sum() + d.sum() == 251_000


def test_what_others_hold_on_a_gpu_is_not_counted(monkeypatch):
    model = torch.nn.Linear(1000, 500, bias=False)  # 2,000,000 bytes
    held = {"memory_allocated": 9_000_000, "max_memory_allocated": 12_500_000, "reset_peak_memory_stats": None}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in held.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(livebytes, "_warm_up", lambda: None)
    with peak_bytes(model, [model.weight]) as peak:
        assert peak.start == 2_000_000
    assert peak.bytes == 5_500_000


def test_the_trainer_can_be_watched_for_a_few_steps(tmp_path):
    from labkit import data
    from labkit.training import finetune

    watch = watch_peak(steps=2)
    rows = data.ticket_task("tone").train.select(range(8))
    run = finetune(rows, model="tiny", steps=5, batch_size=4, rank=2, bf16=False, out=tmp_path, guard=False,
                   callbacks=[watch])
    assert run.finished and watch.inside is None
    assert watch.peak.bytes > watch.peak.start >= 4 * run.total + 8 * run.trainable


WIDEST = {"length": 224, "counted": 160}  # of a batch of tickets: tokens a row, and of them in the loss


def of_profile(name: str, **sizes) -> float:
    """GB of a LoRA step on a profile, as README says it: float32, and bfloat16 on the GPU that `full` wants."""
    profile = PROFILES[name]
    device, bf16 = ("cuda", True) if name == "full" else ("cpu", False)
    return memory(profile, batch=profile.batch_size, rank=profile.rank, device=device, bf16=bf16, **sizes).peak / 1e9


@pytest.mark.parametrize("name", PROFILES)
def test_the_readme_has_the_memory_that_is_predicted_for_a_profile(name):
    text = (COURSE / "README.md").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
    tickets, longest = (cell.strip() for cell in line.split("|")[-3:-1])
    assert tickets == f"{of_profile(name, **WIDEST):.1f} GB"
    assert longest == f"{of_profile(name, length=PROFILES[name].max_length):.1f} GB"
    assert f"({WIDEST['length']} tokens a row, {WIDEST['counted']} of them in the loss)" in text
    assert PROFILES[name].memory == math.ceil(of_profile(name, **WIDEST))


def test_no_batch_of_tickets_is_much_wider_than_what_the_readme_reckons_with():
    _, tokenizer = models.load("tiny")
    size, draw, widest = PROFILES["tiny"].batch_size, random.Random(0), 0.0
    for task in ("tone", "entities", "summary", "reply"):
        rows = encode(data.ticket_task(task, "tiny").train, tokenizer, 512)
        sides = [(len(labels), next(i for i, label in enumerate(labels) if label != -100)) for labels in rows["labels"]]
        for _ in range(50):
            batch = draw.sample(sides, size)
            length = max(all_of for all_of, _ in batch)
            counted = length - min(prompt for _, prompt in batch) + 1  # logits are made where any row's label counts
            widest = max(widest, of_profile("tiny", length=length, counted=counted))
    assert widest == pytest.approx(of_profile("tiny", **WIDEST), rel=0.1)
