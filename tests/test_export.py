"""Exported models answer as PyTorch's do, in any precision, with any adapter, and stop cleanly on bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from exported import random_adapter, with_adapters

from labkit import LabError, adapters, data, evaluation, models
from labkit.data.encode import encode_prompt
from labkit.export import (
    INT4,
    ROAD,
    STRINGS,
    OnnxModel,
    Recipe,
    calibrate,
    gaps,
    graph,
    measure,
    quantize,
    to_onnx,
    weigh,
)
from labkit.export.adapters import place_of
from labkit.export.build import quantised
from labkit.export.measure import kl, speed
from labkit.profiles import COURSE

TONE = data.ticket_task("tone")
ASKED = list(TONE.test["prompt"])[:24]


@pytest.fixture(scope="module")
def base():
    return models.load("tiny")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def fp32(home):
    return to_onnx("tiny", "fp32", out=home / "fp32")


@pytest.fixture(scope="module")
def many(home):
    return with_adapters(home)


def texts_of(model):
    return [model.prompt_ids(prompt) for prompt in ASKED[:6]]


def test_fp32_gives_the_tokens_and_the_likelihoods_of_pytorch(base, fp32):
    assert fp32.generate(ASKED, 24) == evaluation.generate(*base, ASKED, 24)
    here, there = fp32.score_labels(ASKED, TONE.labels), evaluation.score_labels(*base, ASKED, TONE.labels).numpy()
    assert np.abs(here - there).max() < 1e-3


def test_an_adapter_is_merged_into_its_base(home, base):
    folder = random_adapter(home / "merge", 4, 9)
    tuned = adapters.load(models.load("tiny")[0], folder)
    model = to_onnx((tuned, base[1]), out=home / "merged")
    assert model.generate(ASKED, 16) == evaluation.generate(tuned, base[1], ASKED, 16)
    assert adapters.matrices(tuned)  # the one given is as it was


def test_an_adapter_over_a_4_bit_base_is_merged_in_full_precision(home, base):
    folder = random_adapter(home / "merge-q", 4, 11, quantize="nf4")
    tuned = adapters.load(models.load("tiny", quantize="nf4")[0], folder)
    model = to_onnx((tuned, base[1]), out=home / "merged-q")
    here = model.score_labels(ASKED[:8], TONE.labels)
    there = evaluation.score_labels(adapters.merge(tuned), base[1], ASKED[:8], TONE.labels).numpy()
    assert np.abs(here - there).max() < 1e-2


@pytest.fixture(scope="module")
def int4(home):
    return to_onnx("tiny", "int4", out=home / "int4")


def test_int4_is_a_third_of_fp32_and_nearer_than_plain_rounding(home, fp32, int4):
    plain = quantised(fp32, ROAD["nearest"], home / "nearest")
    texts = texts_of(fp32)
    assert int4.bytes <= 0.35 * fp32.bytes
    assert kl(fp32.logits, int4.logits, texts) < 0.5 * kl(fp32.logits, plain.logits, texts)


@pytest.mark.parametrize("precision, share, most", [("fp16", 0.55, 0.1), ("int8", 0.36, 1.0)])
def test_other_precisions_are_smaller_and_near(home, fp32, precision, share, most):
    model = to_onnx("tiny", precision, out=home / precision)
    assert model.bytes <= share * fp32.bytes
    assert np.abs(model.score_labels(ASKED, TONE.labels) - fp32.score_labels(ASKED, TONE.labels)).max() < most


def test_a_recipe_of_ones_own_is_taken_in_eight_bits_too(home):
    model = to_onnx("tiny", "int8", recipe=Recipe(bits=8, symmetric=True, block=16), out=home / "int8, block 16")
    assert model.facts["recipe"]["block"] == 16 and model.facts["precision"] == "int8"
    assert model.bytes > 1.05 * to_onnx("tiny", "int8", out=home / "int8").bytes  # twice as many scales


def one_product(folder, weight):
    """A folder with a graph of one MatMul with this weight (d_out, d_in)."""
    from onnx import TensorProto, helper, numpy_helper

    d_out, d_in = weight.shape
    node = helper.make_node("MatMul", ["input_ids", "w"], ["y"], "/only/MatMul")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", d]) for n, d in (("input_ids", d_in),
                                                                                      ("y", d_out))]
    made = helper.make_graph([node], "one", ends[:1], ends[1:],
                             [numpy_helper.from_array(np.ascontiguousarray(weight.T), "w")])
    folder.mkdir()
    graph.write(helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder)


@pytest.mark.parametrize("recipe", [Recipe(accuracy=1), Recipe(symmetric=True, accuracy=1),
                                    Recipe(block=16, accuracy=1), Recipe(bits=8, symmetric=True, accuracy=1)])
def test_the_runtime_reads_codes_scales_and_zeros_as_they_were_written(tmp_path, recipe):
    weight = np.random.default_rng(0).normal(0.1, 1, (24, 96)).astype(np.float32)  # three blocks of 32 a row: odd
    one_product(tmp_path / "m", weight)
    quantize.quantise(tmp_path / "m", recipe)
    x = np.random.default_rng(1).normal(0, 1, (5, 96)).astype(np.float32)
    [got] = calibrate.session(tmp_path / "m" / graph.FILE).run(None, {"input_ids": x})
    bits = recipe.bits_of("/only/MatMul")
    wanted = quantize.restored(*quantize.rounded(weight, bits, recipe.block, recipe.symmetric or bits == 8,
                                                 "nearest" if bits == 8 else "shrunk"))
    assert np.allclose(got, x @ wanted.T, atol=1e-3)
    assert np.abs(wanted - weight).mean() < (0.12 if bits == 4 else 0.008)


def test_gptq_loses_less_where_inputs_go_together():
    rng = np.random.default_rng(3)
    x = torch.tensor(rng.normal(0, 1, (400, 8)) @ rng.normal(0, 1, (8, 64)), dtype=torch.float32)
    weight, moment = rng.normal(0, 1, (32, 64)).astype(np.float32), x.T @ x / 400

    def lost(rounding):
        there = quantize.restored(*quantize.rounded(weight, 4, 32, False, rounding, moment))
        return float(((x.numpy() @ (there - weight).T) ** 2).mean())

    assert lost("gptq") < 0.5 * lost("nearest")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3"])
def test_the_architecture_of_every_profile_exports_with_random_weights(tmp_path, kind, base):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=2048, max_position_embeddings=256, pad_token_id=3, bos_token_id=0, eos_token_id=2,
        tie_word_embeddings=kind == "qwen2", **({"original_max_position_embeddings": 256} if kind == "phi3" else {}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    ids = encode_prompt(base[1], ASKED[0])
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    exact = to_onnx((model, base[1]), out=tmp_path / "fp32")
    assert np.abs(exact.logits(ids) - wanted).max() < 1e-3
    assert kl(exact.logits, to_onnx((model, base[1]), "int4", out=tmp_path / "int4").logits, [ids]) < 0.05


def test_an_architecture_that_the_builder_does_not_know_gets_a_sentence_and_another_way(tmp_path, base):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=2048))
    with pytest.raises(LabError, match="GPT2LMHeadModel.*olive capture-onnx-graph"):
        to_onnx((model, base[1]), out=tmp_path / "gpt2")
    assert not (tmp_path / "gpt2").exists()


def test_every_adapter_gives_the_tokens_of_peft_and_none_those_of_the_base(many, base):
    made, model = many
    asked = [*ASKED[:12], "Tell me about the Klaegg headlamp.", "Another line of the same mood:\nThe snow came early.",
             "Tell me a story.", "Another line of the same matter:\nThe bridge at Zubrice was to be painted in May."]
    answers = set()
    for name, folder in {None: None, **made}.items():
        there = models.load("tiny")[0] if name is None else adapters.load(models.load("tiny")[0], folder)
        said = model.generate(asked, 16, adapter=name)
        assert said == evaluation.generate(there, base[1], asked, 16), name
        answers.add(tuple(said))
    assert len(answers) == 4  # each says something of its own


@pytest.mark.parametrize("precision, recipe", [("int4", ROAD["nearest"]), ("int4", ROAD["builder, default"]),
                                               ("fp16", None)])
def test_adapters_sit_on_a_smaller_base_too(many, tmp_path, precision, recipe):
    made, exact = many
    model = to_onnx("tiny", precision, adapters={"one": made["one"]}, recipe=recipe, out=tmp_path / "one")
    ids = model.prompt_ids(ASKED[0])
    moved, wanted = (m.logits(ids, "one") - m.logits(ids) for m in (model, exact))
    assert np.corrcoef(moved.ravel(), wanted.ravel())[0, 1] > 0.6


def test_many_threads_with_other_adapters_get_each_their_own_answer(many):
    made, model = many
    asks = [(prompt, name) for prompt in ASKED[:6] for name in [None, *made]]
    alone = [model.generate(prompt, 12, adapter=name) for prompt, name in asks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda ask: model.generate(ask[0], 12, adapter=ask[1]), asks)) == alone


@pytest.mark.parametrize("options, said", [({"variant": "dora"}, "use_dora"), ({}, "192")])
def test_an_adapter_that_cannot_be_switched_or_does_not_fit_is_refused(tmp_path, options, said):
    folder = random_adapter(tmp_path / "odd", 2, 5, **options)
    if not options:  # of a narrower base
        from safetensors.torch import load_file, save_file

        file = folder / "adapter_model.safetensors"
        save_file({k: v[:, :64].contiguous() if "lora_A" in k else v for k, v in load_file(file).items()}, file)
    with pytest.raises(LabError, match=said):
        to_onnx("tiny", adapters={"odd": folder}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".onnx-*"))


def test_a_place_has_one_name_in_both_worlds():
    assert place_of("/model/layers.3/attn/o_proj/MatMul") == "layers.3.attn.o_proj"
    assert place_of("base_model.model.model.layers.3.self_attn.o_proj") == "layers.3.attn.o_proj"


def test_pieces_of_a_stream_make_up_the_answer_and_say_why_it_ended(many):
    _, model = many
    pieces = list(model.stream("Grüße aus Łódź – 你好", 20, adapter="two"))
    assert "".join(p.text for p in pieces).strip() == model.generate("Grüße aus Łódź – 你好", 20, adapter="two")
    assert [bool(p.end) for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert next(iter(model.stream("Hello", 1))).end in ("length", "stop")


def test_an_answer_ends_at_the_end_of_turn(fp32, base):
    said = fp32.tokens("Hello.", 200)
    assert len(said) < 200 and models.end_of_turn(base[1]) not in said


def test_drawing_with_a_seed_is_repeatable_and_without_one_is_not_greedy(fp32):
    drawn = {fp32.generate("Tell me a story.", 24, temperature=1.5, seed=seed) for seed in (1, 1, 1)}
    assert len(drawn) == 1
    assert len({fp32.generate("Tell me a story.", 24, temperature=1.5, seed=seed) for seed in range(6)}) > 1


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_it_computes_with_as_many_threads_as_pytorch_is_told(fp32):
    code = (f"import os; from labkit.export.model import OnnxModel; m = OnnxModel({str(fp32.folder)!r}); "
            "print(len(os.listdir('/proc/self/task')))")
    one, three = (int(subprocess.run([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": threads},
                                     check=True, capture_output=True, text=True).stdout) for threads in "13")
    assert three == one + 2


@pytest.mark.parametrize("prompt", ["", "  \n ", []])
def test_an_empty_prompt_is_refused(fp32, prompt):
    with pytest.raises(LabError, match="empty"):
        fp32.stream(prompt)


def test_a_prompt_over_the_context_is_refused_and_one_that_nearly_fills_it_is_answered(fp32):
    with pytest.raises(LabError, match="1024"):
        fp32.generate("tent " * 2000)
    words = 0
    while len(fp32.encode(fp32.render("tent " * (words + 20)))) < 1000:
        words += 20
    pieces = list(fp32.stream("tent " * words, 500))
    assert len(pieces) <= fp32.context - len(fp32.prompt_ids("tent " * words)) < 500


@pytest.mark.parametrize("setting", [{"adapter": "none such"}, {"temperature": -1}, {"top_p": 0}, {"top_k": -1},
                                     {"max_new_tokens": 0}])
def test_a_setting_out_of_its_range_is_refused(fp32, setting):
    with pytest.raises(LabError):
        fp32.stream("Hello", **setting)


def test_a_damaged_folder_is_told_by_the_file_that_is_damaged(fp32, tmp_path):
    for name, spoil in (("model.onnx.data", lambda f: f.write_bytes(f.read_bytes()[:-9])),
                        ("tokenizer.json", lambda f: f.unlink()), ("labkit.json", lambda f: f.write_text("{"))):
        copy = tmp_path / name.replace(".", "-")
        shutil.copytree(fp32.folder, copy)
        spoil(copy / name)
        with pytest.raises(LabError, match=name):
            OnnxModel(copy)
    with pytest.raises(LabError, match="no such folder"):
        OnnxModel(tmp_path / "nowhere")
    with pytest.raises(LabError, match="no exported model"):
        OnnxModel(tmp_path)


def test_wrong_orders_are_refused_before_anything_is_written(tmp_path):
    for options in ({"precision": "int3"}, {"adapters": {"../x": "a"}}, {"adapters": {"x": tmp_path / "none"}},
                    {"precision": "int4", "recipe": Recipe(block=33)}):
        with pytest.raises(LabError):
            to_onnx("tiny", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(LabError, match="something else"):
        to_onnx("tiny", out=tmp_path / "full")
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"


def test_text_becomes_the_tokens_of_training_and_genais_own_are_named_where_they_differ(fp32, base):
    assert len(set(STRINGS)) == 50
    trained = lambda text: base[1](text, add_special_tokens=False)["input_ids"]  # noqa: E731
    assert gaps(trained, fp32.encode) == []
    apart = [text for text, _, _ in gaps(trained, fp32.genai_ids)]
    assert apart == fp32.facts["token_gaps"] and (fp32.facts["tokenizer"] == "genai") == (not apart)
    turns = [{"role": "user", "content": "one\n\n1"}, {"role": "assistant", "content": "two"},
             {"role": "user", "content": "three"}]
    assert fp32.prompt_ids(turns) == encode_prompt(base[1], turns)


def test_parts_add_up_to_the_folder(many):
    _, model = many
    *parts, whole = model.info().rows
    assert sum(part["bytes"] for part in parts) == whole["bytes"] == model.bytes
    assert {"attention", "MLP", "embedding and head", "adapter one", "tokenizer"} <= {part["part"] for part in parts}


def test_an_export_is_taken_again_only_if_it_is_the_same(fp32, home):
    stamp = (fp32.folder / "model.onnx").stat().st_mtime_ns
    to_onnx("tiny", "fp32", out=fp32.folder, reuse=True)
    assert (fp32.folder / "model.onnx").stat().st_mtime_ns == stamp
    again = home / "again"
    to_onnx("tiny", "fp32", out=again)
    assert to_onnx("tiny", "int8", out=again, reuse=True).facts["precision"] == "int8"


def test_speed_counts_what_was_read_and_written(fp32):
    found = speed(fp32, 32, 8, batch=2, repeats=1)
    assert found.first > 0 and found.prefill == pytest.approx(2 * 32 / found.first) and found.decode > 0


def test_speed_is_of_the_quickest_repeats_and_decoding_of_one_answer_at_a_time(fp32, monkeypatch):
    """A slow first token in one repeat must not make the tokens behind it look quick."""
    seen = iter([[0.0, 0.0], [0.5, 0.6, 0.7], [0.2, 0.4, 0.6]])
    monkeypatch.setattr(measure, "_onnx", lambda model, ids: lambda new: next(seen))
    found = measure.speed(fp32, 10, 3, repeats=2)
    assert (found.first, found.prefill, found.decode) == pytest.approx((0.2, 50, 10))


def test_pytorch_is_timed_token_by_token_too():
    times = measure._torch(models.load("tiny")[0], [[5, 6, 7]] * 2)(6)
    assert len(times) == 6 and times == sorted(times) and times[0] > 0


def test_a_process_is_weighed_on_the_cpu(monkeypatch):
    seen = []
    monkeypatch.setattr(weigh.subprocess, "run", lambda words, env, **more: seen.append(env) or
                        subprocess.CompletedProcess(words, 0, "123\n", ""))
    assert weigh.process_memory({"a": {"onnx": "x"}}) == {"a": 123} and seen[0]["CUDA_VISIBLE_DEVICES"] == ""


def test_an_exported_model_answers_without_pytorch(fp32):
    code = (f"import sys; from labkit.export.model import OnnxModel; m = OnnxModel({str(fp32.folder)!r}); "
            "print(repr(m.generate('Hello', 8))); print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], cwd=COURSE, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [repr(fp32.generate("Hello", 8)), "False"]


def test_the_recipe_of_int4_stands_in_the_record(int4):
    assert int4.facts["recipe"] == json.loads(json.dumps(INT4.facts()))
