"""The exercises of lab 11, the Olive way: Olive's own parser reads commands and workflows; some functions."""

from __future__ import annotations

import shlex

from labkit.errors import LabError
from labkit.exercises import Wrong, call, describe, exercise, expect_type

LAB = "11"
LIMIT = 120.0  # seconds: the first of these imports Olive


def _words(answer) -> list[str]:
    """A command as words, without `olive` in front."""
    if isinstance(answer, str):
        try:
            answer = shlex.split(answer)
        except ValueError as error:
            raise Wrong(f"a quote has no partner in your command ({error}).") from None
    if not isinstance(answer, list | tuple) or not all(isinstance(word, str) for word in answer):
        raise Wrong(f"expected a command, as text or as a list of words, and got {describe(answer)}.")
    words = list(answer)
    return words[1:] if words[:1] == ["olive"] else words


def _parsed(answer) -> dict:
    from labkit.olive.parsing import parse

    words = _words(answer)
    if not words:
        raise Wrong("the command is empty: name it first, such as finetune, then its options.")
    try:
        return parse(words)
    except LabError as error:
        raise Wrong(f"Olive refuses it: {error.what}.") from None


# ------------------------------------------------------------------ the text of a row


@exercise(
    "text_template",
    lab=LAB,
    title="the text that both sides see",
    difficulty=1,
    minutes=6,
    hints=(
        "Print labkit.data.render(tokenizer, \"hello\"): that is what the model sees before it answers. The template "
        "is that text, with the question in place of hello, and the answer behind it.",
        "It begins with <|im_start|>user and a line break, and the answer ends with <|im_end|>, or the model never "
        "learns to stop.",
        'render(tokenizer, data.PROMPTS["tone"].replace("{text}", "{phrase}")) + "{tone}<|im_end|>"',
    ),
    after="Training and serving now agree token for token; nothing warns you where they do not.",
)
def text_template(answer):
    from labkit import models
    from labkit.data import PROMPTS, render
    from labkit.data.encode import encode_completion, encode_prompt

    expect_type(answer, str)
    tokenizer = models.tokenizer("tiny")
    for field in ("phrase", "tone"):
        if "{" + field + "}" not in answer:
            raise Wrong(f"there is no {{{field}}} in it: a row's columns are phrase and tone, in braces.")
    if answer.index("{tone}") < answer.index("{phrase}"):
        raise Wrong("the tone stands before the phrase. A model that writes from left to right learns to answer last.")
    rows = (("The rope broke on its first day.", "anger"), ("Where do I find the sizes?\n\nMia", "neutral"))
    for phrase, tone in rows:
        try:
            got = answer.format(phrase=phrase, tone=tone)
        except (KeyError, IndexError, ValueError) as error:
            raise Wrong(f"Python's format cannot fill it: {error!r}. Only {{phrase}} and {{tone}} are columns, and a "
                        "brace that is meant as text is doubled.") from None
        asked = PROMPTS["tone"].replace("{text}", phrase)
        want = encode_prompt(tokenizer, asked) + encode_completion(tokenizer, tone)
        if tokenizer(got, add_special_tokens=False)["input_ids"] == want:
            continue
        raise Wrong(_how_texts_differ(got, render(tokenizer, asked), tone))


def _how_texts_differ(got: str, prompt: str, tone: str) -> str:
    right = f"{prompt}{tone}<|im_end|>"
    if "\\n" in got:
        return "it has a backslash and an n where a line break should be: no r in front of the quotes."
    if got == right.removesuffix("<|im_end|>"):
        return "all but the end: without <|im_end|> behind the answer the model never learns to stop."
    if got.rstrip() == right and got != right:
        return "right, and then something more behind <|im_end|>: what follows the end of turn counts in the loss too."
    if "###" in got:
        return "### and the like are another model's format: this one is served <|im_start|>user and its kin."
    if "<|im_start|>" not in got:
        return "the turns are missing: when it serves, the model sees <|im_start|>user and <|im_start|>assistant."
    if "assistant" not in got:
        return "no turn of the assistant begins: <|im_start|>assistant and a line break stand before the answer."
    if "Which tone" not in got:
        return "the question is missing: serving asks which tone this ticket has, and so must training."
    place = next((i for i, (a, b) in enumerate(zip(got, right, strict=False)) if a != b), min(len(got), len(right)))
    return (f"it differs from what the model is served, first at character {place}: {got[place:place + 20]!r} where "
            f"{right[place:place + 20]!r} should be.")


# ------------------------------------------------------------------ join and chop


@exercise(
    "join_and_chop",
    lab=LAB,
    title="join and chop",
    difficulty=2,
    minutes=8,
    hints=(
        "First one long list: each row, the joiner behind it. Rows know nothing of each other's borders then.",
        "Then slices of `length`, one after another. Where does the last one start?",
        "joined = [t for row in rows for t in [*row, *joiner]]\n"
        "return [joined[i : i + length] for i in range(0, len(joined) - length, length)]",
    ),
    after="That is --max_seq_len. A set that is shorter than one piece gives no rows at all, and training stops.",
)
def join_and_chop(answer):
    from labkit.scratch import onnx_inputs

    cases = (([[1, 2, 3], [4, 5], [6, 7, 8, 9]], [0], 5), ([[1, 2], [3, 4], [5, 6, 7]], [0, 0], 4),
             ([[1, 2], [3, 4, 5]], [0], 7), ([[1, 2], [3]], [0], 9))
    for rows, joiner, length in cases:
        got = call(answer, rows, joiner, length)
        where = f"for rows {rows}, joiner {joiner}, length {length}"
        expect_type(got, (list, tuple), where)
        got = [list(piece) if isinstance(piece, list | tuple) else piece for piece in got]
        right = onnx_inputs.join_and_chop(rows, joiner, length)
        if got == right:
            continue
        flat = [token for row in rows for token in [*row, *joiner]]
        bare = [token for row in rows for token in row]
        between = flat[: len(flat) - len(joiner)]

        def slices(tokens, step=length, stop=None, length=length):
            return [tokens[i : i + length] for i in range(0, len(tokens) if stop is None else stop, step)]

        usual = (
            (slices(flat), "what does not fill a piece is dropped, and yours keeps it."),
            ([p for p in slices(flat) if len(p) == length],
             "the tokens come out even here, and Olive leaves the last piece out then."),
            ([p for p in slices(bare) if len(p) == length], "the joiner is missing: it stands behind each row."),
            (slices(bare, stop=len(bare) - length), "the joiner is missing: it stands behind each row."),
            (slices(between, stop=len(between) - length), "the joiner stands behind the last row as well."),
            ([p for p in slices(between) if len(p) == length], "the joiner stands behind the last row as well."),
            (slices(flat, step=1, stop=len(flat) - length), "your pieces overlap: each starts where the last ended."),
            ([flat], "nothing is chopped: pieces have `length` tokens."),
            ([[*row, *joiner][:length] for row in rows], "each row is cut by itself, and Olive joins them first."),
        )
        for value, sentence in usual:
            if got == value:
                raise Wrong(f"{where}: {sentence}")
        raise Wrong(f"{where}: expected {right}, and got {describe(got)}.")


# ------------------------------------------------------------------ commands


@exercise(
    "finetune_command",
    lab=LAB,
    title="a command for a job",
    difficulty=2,
    minutes=8,
    hints=(
        "`olive finetune --help` lists Olive's own options. What it has not, such as the learning rate, goes by "
        "transformers' names: --learning_rate, --max_steps, --per_device_train_batch_size.",
        "Two defaults are traps: --torch_dtype is bfloat16, and --max_seq_len 1024. And --batch_size is not the batch "
        "of the training.",
        "finetune --method lora -m base -d json --data_files tone.jsonl --text_field phrase --max_seq_len 128 "
        "--torch_dtype float32 --lora_r 16 --lora_alpha 32 --target_modules q_proj,v_proj --max_steps 60 "
        "--per_device_train_batch_size 8 --learning_rate 1e-3 -o small",
    ),
    after="Olive's own parser took it, training arguments included.",
    limit=LIMIT,
)
def finetune_command(answer):
    found = _parsed(answer)
    if found["command"] != "finetune":
        raise Wrong(f"the command is {found['command']}; an adapter is trained by finetune.")
    options = {
        "method": ("lora", "--method is lora or qlora; the job wants a base in full precision"),
        "model_name_or_path": ("base", "-m names the base model, the folder base"),
        "data_name": ("json", "-d is the kind of data set, json, and --data_files the file"),
        "data_files": ("tone.jsonl", "--data_files names the file"),
        "text_field": ("phrase", "--text_field names the column with the text"),
        "lora_r": (16, "--lora_r is the rank, 64 where it is not given"),
        "lora_alpha": (32, "--lora_alpha is 16 where it is not given, whatever the rank"),
        "torch_dtype": ("float32", "--torch_dtype is bfloat16 where it is not given"),
        "max_seq_len": (128, "--max_seq_len is 1024 where it is not given"),
    }
    for name, (right, why) in options.items():
        if found[name] != right:
            raise Wrong(f"{name} would be {found[name]!r}, and the job says {right!r}: {why}.")
    targets = [part.strip() for part in (found["target_modules"] or "").split(",") if part.strip()]
    if sorted(targets) != ["q_proj", "v_proj"]:
        raise Wrong(f"target_modules would be {', '.join(targets) or 'left to the library'}, and the job says q_proj "
                    "and v_proj: names with a comma between them, no space.")
    training = found["training"]
    if found["batch_size"] == 8 and "per_device_train_batch_size" not in training:
        raise Wrong("--batch_size is of Olive's data loader, which training does not use: the Trainer's batch is "
                    "--per_device_train_batch_size.")
    for name, right in {"max_steps": 60, "per_device_train_batch_size": 8, "learning_rate": 1e-3}.items():
        if name not in training:
            raise Wrong(f"--{name} is missing, so transformers' own default would count.")
        if training[name] != right:
            raise Wrong(f"{name} would be {training[name]}, and the job says {right}.")
    if not found["output_path"].rstrip("/").endswith("small"):
        raise Wrong("the adapter is to go into the folder small: -o small.")


@exercise(
    "workflow_passes",
    lab=LAB,
    title="the passes of a workflow",
    difficulty=2,
    minutes=10,
    hints=(
        "A dict of passes in their order, each a dict with its type: LoRA, then ModelBuilder.",
        "LoRA has r, alpha, target_modules, torch_dtype and train_data_config beside type; what transformers takes, "
        "such as max_steps, stands in a dict of its own under training_args.",
        '{"lora": {"type": "LoRA", "r": 16, "alpha": 32, "target_modules": ["q_proj", "v_proj"], "torch_dtype": '
        '"float32", "train_data_config": "tickets", "training_args": {"max_steps": 20, "learning_rate": 1e-3}}, '
        '"onnx": {"type": "ModelBuilder", "precision": "fp32"}}',
    ),
    after="Olive read it and filled in the rest. Below, it runs.",
    limit=LIMIT,
)
def workflow_passes(answer):
    from labkit.olive.parsing import workflow

    expect_type(answer, dict)
    if "passes" in answer:
        raise Wrong("only what stands under passes is asked, without the word itself.")
    kinds = [p.get("type", "").lower() if isinstance(p, dict) else "" for p in answer.values()]
    if "" in kinds:
        raise Wrong("every pass is a dict with its type in it.")
    if sorted(kinds) != ["lora", "modelbuilder"]:
        raise Wrong(f"the types are {', '.join(kinds)}; LoRA and ModelBuilder are asked.")
    if kinds != ["lora", "modelbuilder"]:
        raise Wrong("passes run in their order: the builder would export a base that has no adapter yet.")
    lora = next(iter(answer.values()))
    if lora.get("train_data_config") != "tickets":
        raise Wrong("train_data_config names the data that the workflow has under data_configs: tickets.")
    config = {"input_model": {"type": "HfModel", "model_path": "base"}, "passes": answer,
              "data_configs": [{"name": "tickets", "type": "HuggingfaceContainer",
                                "load_dataset_config": {"data_name": "json"}}]}
    try:
        read = list(workflow(config).values())
    except LabError as error:
        raise Wrong(f"Olive refuses it: {error.what}.") from None
    trained = read[0].get("training_args") or {}
    for name, right in {"r": 16, "alpha": 32, "torch_dtype": "float32"}.items():
        if read[0][name] != right:
            raise Wrong(f"{name} of LoRA would be {read[0][name]}, and {right} is asked.")
    if sorted(read[0]["target_modules"] or []) != ["q_proj", "v_proj"]:
        raise Wrong(f"target_modules would be {read[0]['target_modules']}, and a list of q_proj and v_proj is asked.")
    for name, right in {"max_steps": 20, "learning_rate": 1e-3}.items():
        got = trained.get(name, (trained.get("extra_args") or {}).get(name))
        if got != right:
            raise Wrong(f"{name} would be {got or 'left to the default'}, and {right} is asked: it stands in "
                        "training_args.")
    if str(read[1]["precision"]) != "fp32":
        raise Wrong(f"the builder's precision would be {read[1]['precision']}, and fp32 is asked.")


# ------------------------------------------------------------------ weights as inputs


def _weights(seed: int = 11):
    """peft's weights of two places, r 2, with sizes that all differ."""
    import numpy as np

    rng, found = np.random.default_rng(seed), {}
    for place, d_out, d_in in (("self_attn.q_proj", 5, 3), ("mlp.up_proj", 7, 4)):
        head = f"base_model.model.model.layers.0.{place}"
        found[f"{head}.lora_A.weight"] = rng.normal(size=(2, d_in)).astype(np.float32)
        found[f"{head}.lora_B.weight"] = rng.normal(size=(d_out, 2)).astype(np.float32)
    return found


@exercise(
    "adapter_inputs",
    lab=LAB,
    title="an adapter as inputs of a graph",
    difficulty=2,
    minutes=10,
    hints=(
        "Three changes: the names, the shapes, and the scale. In the graph x stands on the left, x @ A @ B.",
        "base_model.model. goes from the front, self_attn becomes attn, .weight becomes .MatMul.weight, every matrix "
        "is transposed, and every lora_B is multiplied by alpha / r.",
        "{n.removeprefix('base_model.model.').replace('self_attn', 'attn').replace('.weight', '.MatMul.weight'):\n"
        " v.T * (alpha / r if 'lora_B' in n else 1) for n, v in weights.items()}",
    ),
    after="Transpose, scale, rename: all that lies between two formats.",
)
def adapter_inputs(answer):
    import numpy as np

    from labkit.scratch import onnx_inputs

    weights, r, alpha = _weights(), 2, 8.0
    got = call(answer, weights, r, alpha)
    expect_type(got, dict)
    right = onnx_inputs.to_inputs(weights, r, alpha)
    if len(got) != len(right):
        raise Wrong(f"{len(weights)} weights went in, and {len(got)} came out.")
    for name in right:
        if name in got:
            continue
        near = next(iter(got))
        if any("base_model" in n for n in got):
            raise Wrong(f"the graph's names begin with model.layers, and yours with {near[:20]}: base_model.model. "
                        "goes off.")
        if any("self_attn" in n for n in got):
            raise Wrong("the builder writes attn where peft writes self_attn; genai refuses a name that it has not.")
        if near.endswith((".lora_A.weight", ".lora_B.weight")):
            raise Wrong(f"names in the graph end with .MatMul.weight, after the node, and yours is {near}.")
        raise Wrong(f"there is no {name}, and there is {near}.")
    for name, want in right.items():
        value = np.asarray(got[name])
        if value.shape != want.shape:
            turned = " It is not transposed." if value.shape == want.T.shape else ""
            raise Wrong(f"{name} is {value.shape}, and the graph wants {want.shape}.{turned}")
        if np.allclose(value, want, atol=1e-6):
            continue
        factor = float((value / want).mean())
        if np.allclose(value, factor * want, atol=1e-5):
            if "lora_A" in name:
                raise Wrong(f"{name} is {factor:g} times what it was: the scale is put into B alone.")
            raise Wrong(f"{name} is {factor:g} times what it should be: B carries alpha / r, here {alpha / r:g}.")
        raise Wrong(f"{name} has the right shape and other numbers: was it reshaped rather than transposed?")


@exercise(
    "zero_adapter",
    lab=LAB,
    title="an adapter that is the base",
    difficulty=1,
    minutes=4,
    hints=(
        "The same names and the same shapes, and a detour that is nothing.",
        "numpy.zeros_like keeps shape and dtype.",
        "return {name: numpy.zeros_like(value) for name, value in weights.items()}",
    ),
    after="x A B is nothing then, whatever x is, and the base answers alone.",
)
def zero_adapter(answer):
    import numpy as np

    weights = {name: value.T for name, value in _weights().items()}
    got = call(answer, weights)
    expect_type(got, dict)
    if not got:
        raise Wrong("your dict is empty, and every input of the graph wants a value.")
    if more := sorted(set(got) - set(weights)):
        raise Wrong(f"{more[0]} was no input of the graph.")
    if missing := sorted(set(weights) - set(got)):
        raise Wrong(f"{missing[0]} is missing: genai refuses an adapter that leaves an input without a value.")
    for name, value in got.items():
        value = np.asarray(value)
        if value.shape != weights[name].shape:
            raise Wrong(f"{name} is {value.shape}, and the adapter's is {weights[name].shape}.")
        if value.dtype != weights[name].dtype:
            raise Wrong(f"{name} is {value.dtype}, and the graph takes {weights[name].dtype}: keep the dtype.")
    changed = [a for a in got if "lora_A" in a
               and np.abs(np.asarray(got[a]) @ np.asarray(got[a.replace("lora_A", "lora_B")])).max() > 0]
    if changed:
        raise Wrong(f"{changed[0].split('.lora_A')[0]} still changes what goes through it: A B is not zero.")


@exercise(
    "mended_commands",
    lab=LAB,
    title="mend an old command",
    difficulty=2,
    minutes=8,
    hints=(
        "generate-adapter takes an ONNX model today, whose graph has an adapter in it. What makes one of a base and an "
        "adapter?",
        "First capture-onnx-graph with -m, -a, --use_model_builder and --use_ort_genai, in fp32; then generate-adapter "
        "with -m on what that wrote.",
        '["capture-onnx-graph -m base -a tone/adapter --use_model_builder --use_ort_genai --precision fp32 '
        '-o captured", "generate-adapter -m captured -o multi"]',
    ),
    after="One command became two: the first makes a graph with the adapter in it, the second takes it out.",
    limit=LIMIT,
)
def mended_commands(answer):
    if isinstance(answer, str) or not isinstance(answer, list | tuple) or len(answer) != 2:
        raise Wrong(f"expected a list of two commands, one after the other, and got {describe(answer)}.")
    first, second = (_parsed(command) for command in answer)
    if (first["command"], second["command"]) == ("generate-adapter", "capture-onnx-graph"):
        raise Wrong("the right commands, turned round: there is no graph yet to take an adapter out of.")
    if second["command"] != "generate-adapter":
        raise Wrong(f"the second command is {second['command']}, and generate-adapter writes the adapter's file.")
    if first["command"] != "capture-onnx-graph":
        raise Wrong(f"the first command is {first['command']}, and generate-adapter needs what capture-onnx-graph "
                    "writes.")
    if first["model_name_or_path"] != "base" or first["adapter_path"] != "tone/adapter":
        raise Wrong(f"capture-onnx-graph would take the model {first['model_name_or_path']} with the adapter "
                    f"{first['adapter_path']}; it is base, with tone/adapter behind -a.")
    if not first["use_model_builder"]:
        raise Wrong("without --use_model_builder the graph is traced by PyTorch, which fails on transformers 5.")
    if not first["use_ort_genai"]:
        raise Wrong("--use_ort_genai is missing: the old command had it too, and it says what the model is for.")
    if first["precision"] != "fp32":
        raise Wrong(f"the precision would be {first['precision']}, its default being fp16, which is for GPUs: fp32.")
    out, taken = first["output_path"].rstrip("/"), second["model_name_or_path"].rstrip("/")
    if out.rsplit("/", 1)[-1] != taken.rsplit("/", 1)[-1]:
        raise Wrong(f"the first writes into {out.rsplit('/', 1)[-1]}, and the second reads {taken}.")
    if out.rsplit("/", 1)[-1] == second["output_path"].rstrip("/").rsplit("/", 1)[-1]:
        raise Wrong("the second would write over what it reads: give it a folder of its own.")


# ------------------------------------------------------------------ a workflow
