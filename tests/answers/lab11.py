"""Right and wrong answers to lab 11's exercises."""

import numpy as np

from labkit import olive
from labkit.scratch import onnx_inputs

TEMPLATE = olive.text_template("tone", "tiny")
JOB = ("finetune --method lora -m base -d json --data_files tone.jsonl --text_field phrase --max_seq_len 128 "
       "--torch_dtype float32 --lora_r 16 --lora_alpha 32 --target_modules q_proj,v_proj --max_steps 60 "
       "--per_device_train_batch_size 8 --learning_rate 1e-3 -o small")
CAPTURE = "capture-onnx-graph -m base -a tone/adapter --use_model_builder --use_ort_genai --precision fp32 -o captured"
GENERATE = "generate-adapter -m captured -o multi"
LORA = {"type": "LoRA", "r": 16, "alpha": 32, "target_modules": ["q_proj", "v_proj"], "torch_dtype": "float32",
        "train_data_config": "tickets", "training_args": {"max_steps": 20, "learning_rate": 1e-3}}
BUILDER = {"type": "ModelBuilder", "precision": "fp32"}

REFERENCES = {
    "text_template": TEMPLATE,
    "join_and_chop": onnx_inputs.join_and_chop,
    "finetune_command": JOB,
    "mended_commands": [CAPTURE, GENERATE],
    "workflow_passes": {"lora": LORA, "onnx": BUILDER},
    "adapter_inputs": onnx_inputs.to_inputs,
    "zero_adapter": lambda weights: {name: np.zeros_like(value) for name, value in weights.items()},
}


def joined(rows, joiner):
    return [token for row in rows for token in [*row, *joiner]]


def inputs(weights, r, alpha, prefix="base_model.model.", attention="attn", turn=True, scale=None, on="lora_B",
           end=".MatMul.weight"):
    scale = alpha / r if scale is None else scale
    return {name.removeprefix(prefix).replace("self_attn", attention).replace(".weight", end):
            (value.T if turn else value) * (scale if on in name else 1) for name, value in weights.items()}


WRONG = {
    "text_template": [
        TEMPLATE.removesuffix("<|im_end|>"),
        TEMPLATE + "\n",
        TEMPLATE.replace("\n", "\\n"),
        "{phrase}\n{tone}<|im_end|>",
        "Which tone?\n{phrase}\n### Tone: {tone}",
        TEMPLATE.replace("{tone}", ""),
        TEMPLATE.replace("{phrase}", "{text}"),
        TEMPLATE.replace("{phrase}", "{phrase} {label}"),
        TEMPLATE.replace("<|im_start|>assistant\n", ""),
        TEMPLATE.replace("Which tone has this ticket: joy, anger, sadness, fear, surprise or neutral?\n\n", ""),
        TEMPLATE.replace("{tone}", " {tone}"),
        TEMPLATE.replace("{phrase}", "@").replace("{tone}", "{phrase}").replace("@", "{tone}"),
        7,
    ],
    "join_and_chop": [
        lambda rows, joiner, n: [joined(rows, joiner)[i : i + n] for i in range(0, len(joined(rows, joiner)), n)],
        lambda rows, joiner, n: [p for i in range(0, len(joined(rows, joiner)), n)
                                 if len(p := joined(rows, joiner)[i : i + n]) == n],
        lambda rows, joiner, n: onnx_inputs.join_and_chop(rows, [], n),
        lambda rows, joiner, n: [joined(rows, joiner)[i : i + n] for i in range(len(joined(rows, joiner)) - n)],
        lambda rows, joiner, n: [joined(rows, joiner)],
        lambda rows, joiner, n: [[*row, *joiner][:n] for row in rows],
        lambda rows, joiner, n: [],
        lambda rows, joiner, n: None,
        lambda rows, joiner, n: len(rows),
    ],
    "finetune_command": [
        JOB.replace("--torch_dtype float32 ", ""),
        JOB.replace("--lora_alpha 32 ", ""),
        JOB.replace("--lora_r", "--r"),
        JOB.replace("q_proj,v_proj", "q_proj"),
        JOB.replace("--target_modules q_proj,v_proj ", ""),
        JOB.replace("--per_device_train_batch_size", "--batch_size"),
        JOB.replace("--max_seq_len 128 ", ""),
        JOB.replace("--learning_rate 1e-3 ", ""),
        JOB.replace("--learning_rate", "--lr"),
        JOB.replace("--max_steps 60", "--max_steps 6"),
        JOB.replace("--method lora", "--method qlora"),
        JOB.replace("-o small", "-o large"),
        JOB.replace("finetune", "fine-tune"),
        JOB.replace("--data_files tone.jsonl ", ""),
        "quantize -m base -o small",
        "",
        JOB + " 'oops",
        42,
    ],
    "mended_commands": [
        ["generate-adapter --base_model_path base --adapter_paths tone/adapter -o captured", GENERATE],
        [GENERATE, CAPTURE],
        [CAPTURE.replace("--use_model_builder ", ""), GENERATE],
        [CAPTURE.replace("--use_ort_genai ", ""), GENERATE],
        [CAPTURE.replace("--precision fp32 ", ""), GENERATE],
        [CAPTURE.replace("-a tone/adapter ", ""), GENERATE],
        [CAPTURE, GENERATE.replace("-m captured", "-m base")],
        [CAPTURE, GENERATE.replace("multi", "captured")],
        [CAPTURE, "convert-adapters -a tone/adapter -o multi"],
        [GENERATE, GENERATE],
        CAPTURE,
        [CAPTURE],
    ],
    "workflow_passes": [
        {"onnx": BUILDER, "lora": LORA},
        {"lora": LORA},
        {"passes": {"lora": LORA, "onnx": BUILDER}},
        {"lora": LORA | {"r": 32}, "onnx": BUILDER},
        {"lora": {k: v for k, v in LORA.items() if k != "alpha"}, "onnx": BUILDER},
        {"lora": {k: v for k, v in LORA.items() if k != "torch_dtype"}, "onnx": BUILDER},
        {"lora": LORA | {"target_modules": ["c_attn"]}, "onnx": BUILDER},
        {"lora": {k: v for k, v in LORA.items() if k != "train_data_config"}, "onnx": BUILDER},
        {"lora": {k: v for k, v in LORA.items() if k != "training_args"}, "onnx": BUILDER},
        {"lora": LORA, "onnx": BUILDER | {"precision": "int4"}},
        {"lora": LORA | {"type": "Lorra"}, "onnx": BUILDER},
        {"lora": "LoRA", "onnx": "ModelBuilder"},
        ["LoRA", "ModelBuilder"],
    ],
    "adapter_inputs": [
        lambda w, r, alpha: inputs(w, r, alpha, prefix=""),
        lambda w, r, alpha: inputs(w, r, alpha, attention="self_attn"),
        lambda w, r, alpha: inputs(w, r, alpha, end=".weight"),
        lambda w, r, alpha: inputs(w, r, alpha, turn=False),
        lambda w, r, alpha: inputs(w, r, alpha, scale=1),
        lambda w, r, alpha: inputs(w, r, alpha, scale=alpha),
        lambda w, r, alpha: inputs(w, r, alpha, on="lora_"),
        lambda w, r, alpha: {n: v.reshape(v.shape[::-1]) * (alpha / r if "lora_B" in n else 1)
                             for n, v in inputs(w, r, alpha, turn=False, scale=1).items()},
        lambda w, r, alpha: dict(list(inputs(w, r, alpha).items())[:2]),
        lambda w, r, alpha: None,
    ],
    "zero_adapter": [
        lambda w: {},
        lambda w: dict(w),
        lambda w: {n: 0.0 for n in w},
        lambda w: {n: np.zeros(v.shape) for n, v in w.items()},
        lambda w: {n: np.zeros_like(v.T) for n, v in w.items()},
        lambda w: {n: np.zeros_like(v) for n, v in w.items() if "lora_B" in n},
        lambda w: {n.replace("lora_A", "A"): np.zeros_like(v) for n, v in w.items()},
        lambda w: w and {**{n: np.zeros_like(v) for n, v in w.items()}, "more": np.zeros(1)},
        lambda w: None,
    ],
}
